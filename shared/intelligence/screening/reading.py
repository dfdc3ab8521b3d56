"""What a text says to whoever reads it: invisible characters, look-alikes and encodings undone.

A language model reads `ignore` where an attacker writes ``i‍gn0re``, ``іgnоrе`` or ``aWdub3Jl``; so has a
detector to. What is given back is for judging alone: it is never shown and never goes to a model.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

# Encodings within encodings that are undone; each round may find what the one before it uncovered.
ROUNDS = 2
# A decoded piece below this length is more likely to be a name or a number that looks like an encoding.
DECODED_MIN = 6

# Letters of other alphabets that are drawn like Latin ones (Unicode's confusables, the common part).
_CYRILLIC = dict(
    zip("аеорсухіјѕһӏԁԛԝгвнкмтьАВЕКМНОРСТХУІЈЅ", "aeopcyxijshldqwrbhkmtbABEKMHOPCTXYIJS", strict=True)
)
_GREEK = dict(zip("αβεηικνορτυχωγΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "abenikvoptuxwyABEZHIKMNOPTYX", strict=True))
_OTHERS = {"ı": "i", "ɑ": "a", "ɡ": "g", "ɩ": "i", "ɪ": "i", "ʟ": "l", "’": "'", "‘": "'", "–": "-", "—": "-"}
_ALIKE = str.maketrans({**_CYRILLIC, **_GREEK, **_OTHERS})
# Tag characters repeat ASCII invisibly: models read them, people do not.
_TAGS = {0xE0000 + code: code for code in range(0x20, 0x7F)}
_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
                        "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")  # fmt: skip
_LEET = str.maketrans("013456789@$!|+€", "oieasgtbgasiite")
_WORD = re.compile(r"\S+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SPELT = re.compile(r"(?<![^\W_])(?:[^\W\d_][ ._*-]){3,}[^\W\d_](?![^\W_])")

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{12,}={0,2}")
_HEX = re.compile(r"\b(?:(?:0x|\\x)?[0-9a-fA-F]{2}[\s,:]?){8,}")
_BINARY = re.compile(r"\b(?:[01]{8}\s?){6,}")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2}|[\w+-]){3,}")
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}){4,}")
# Words that most sentences hold, to tell whether a text turned round or rotated is one.
_COMMON = re.compile(
    r"\b(?:all?|an[dy]?|are|as|be|by|can|do|for|from|give|have|how|if|in|instructions|is|it|me|my|new|not?|now|"
    r"o[fn]|or|previous|prompt|rules|say|show|system|that|the|them|this|to|what|with|your?)\b"
)


def folded(text: str) -> str:
    """``text`` in small letters of one alphabet, with nothing invisible in it and digits read as letters."""
    plain = unicodedata.normalize("NFKC", text.translate(_TAGS))
    plain = _INVISIBLE.sub("", plain).translate(_ALIKE)
    plain = _HUMP.sub(" ", _SPELT.sub(_joined, plain))
    bare = (each for each in unicodedata.normalize("NFD", plain) if not unicodedata.combining(each))
    return _WORD.sub(_unleet, "".join(bare).lower())


def readings(text: str) -> list[str]:
    """``text`` folded, and each piece that was found encoded in it, folded too."""
    found = [text]
    newest = [text]
    for _ in range(ROUNDS):
        newest = [piece for each in newest for piece in _decoded(each) if piece not in found]
        found += newest
    return [folded(each) for each in found]


def _decoded(text: str) -> Iterator[str]:
    seen = _INVISIBLE.sub("", text.translate(_TAGS))
    for pattern, decode in _DECODERS:
        pieces = [piece for match in pattern.finditer(seen) if (piece := _read(decode, match[0]))]
        if pieces:
            yield " ".join(pieces)
    if "&" in seen and (unescaped := html.unescape(seen)) != seen:
        yield unescaped
    for turned in (codecs.encode(seen, "rot13"), seen[::-1]):
        if _sense(turned) > 2 * _sense(seen):
            yield turned


def _read(decode: Callable[[str], bytes], piece: str) -> str | None:
    """What ``piece`` says decoded, or None where that is no text."""
    try:
        text = decode(piece).decode()
    except (ValueError, binascii.Error):
        return None
    wanted = len(text) >= DECODED_MIN and text != piece
    return (
        text if wanted and sum(each.isprintable() or each.isspace() for each in text) == len(text) else None
    )


def _from_base64(piece: str) -> bytes:
    standard = piece.rstrip("=").replace("-", "+").replace("_", "/")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)


def _from_hex(piece: str) -> bytes:
    return bytes.fromhex(re.sub(r"0x|\\x|[\s,:]", "", piece))


def _from_binary(piece: str) -> bytes:
    return bytes(int(octet, 2) for octet in re.findall(r"[01]{8}", piece))


def _from_percent(piece: str) -> bytes:
    if "%" not in piece:
        raise ValueError("nothing is encoded")
    return unquote(piece.replace("+", " "), errors="strict").encode()


def _from_escapes(piece: str) -> bytes:
    return piece.encode("ascii").decode("unicode_escape").encode()


_DECODERS: tuple[tuple[re.Pattern[str], Callable[[str], bytes]], ...] = (
    (_BASE64, _from_base64),
    (_HEX, _from_hex),
    (_BINARY, _from_binary),
    (_PERCENT, _from_percent),
    (_ESCAPES, _from_escapes),
)


def _sense(text: str) -> float:
    """The share of the first words that are common ones, at least one in a hundred."""
    beginning = text[:2000].lower()
    return max(0.01, len(_COMMON.findall(beginning)) / max(1, len(beginning.split())))


def _joined(match: re.Match[str]) -> str:
    return re.sub(r"[ ._*-]", "", match[0])


def _unleet(match: re.Match[str]) -> str:
    """A word with digits among its letters, read as letters: ``1gn0re``; ``42`` and ``q3`` stay."""
    word = match[0]
    letters = sum(each.isalpha() for each in word)
    return word.translate(_LEET) if 2 <= letters < len(word.rstrip(".,;:!?)")) else word
