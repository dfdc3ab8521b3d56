"""Markdown and plain text, and the decoding of bytes whose encoding is not known."""

from __future__ import annotations

import codecs
import re

from shared.errors import CorruptDocument
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import (
    ParsedDocument,
    check_output,
    first_title,
    markdown_headings,
    normalise,
)
from shared.knowledge.parsing.limits import ParseLimits

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Enough for a guess: charset-normalizer itself judges by a few blocks of 512 bytes.
_GUESS_BYTES = 64 * 1024


def decode(content: bytes, declared: str | None = None) -> str:
    """Return the text of ``content``: by its byte order mark, as UTF-8, as declared, or as best guessed."""
    for bom, encoding in _BOMS:
        if content.startswith(bom):
            return content[len(bom) :].decode(encoding, "replace")
    if (wide := _utf16_without_bom(content)) is not None:
        return content.decode(wide, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if declared and (text := _decode_as(content, declared)) is not None:
        return text
    lenient = content.decode("utf-8", "replace")
    broken = lenient.count("\ufffd")
    if broken < sum(map(len, re.findall("[\x80-\ufffc\U00010000-\U0010ffff]+", lenient))):
        return lenient  # UTF-8 that was cut or damaged in a few places
    return _guess(content)


def _utf16_without_bom(content: bytes) -> str | None:
    sample = content[:4096]
    half = len(sample) // 2
    if half < 2 or b"\x00" not in sample:
        return None
    even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    if even > 0.3 and odd < 0.05:
        return "utf-16-be"
    return None


def _decode_as(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except (LookupError, ValueError):
        return None


def _guess(content: bytes) -> str:
    from charset_normalizer import from_bytes

    telling = re.search(rb"[\x80-\xff]", content)
    first = max(0, telling.start() - _GUESS_BYTES // 4) if telling else 0
    matches = from_bytes(content[first : first + _GUESS_BYTES])
    best = matches.best()
    if best is None:
        return content.decode("cp1252", "replace")
    # Western and Central European look alike to its statistics: of equals, the more common one.
    equals = [
        match.encoding for match in matches if match.chaos <= best.chaos and match.coherence >= best.coherence
    ]
    encoding = "cp1252" if "cp1252" in equals else best.encoding
    text = _decode_as(content, encoding)
    return text if text is not None else content.decode("cp1252", "replace")


# UTF-32 takes four bytes for any character; no encoding takes more.
_MOST_BYTES_PER_CHAR = 4


def read_text(content: bytes, limits: ParseLimits) -> str:
    """Decode and normalise; raises `CorruptDocument` for what is no text in any encoding."""
    check_output(len(content) // _MOST_BYTES_PER_CHAR, limits)
    text = decode(content)
    sample = text[:100_000]
    controls = len(re.findall("[\x00-\x08\x0e-\x1a\x1c-\x1f\ufffd]", sample))
    if controls > max(4, len(sample) // 20):
        raise CorruptDocument("The content is not text in any encoding known.")
    return normalise(text)


_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FIELD = r"^{}:[ \t]*(.+?)[ \t]*$"


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    """Read Markdown or plain text. Front matter is metadata: of it, title and description are kept."""
    text = read_text(content, limits)
    check_output(len(text), limits)
    if media is Media.TEXT:
        return ParsedDocument(text.strip("\n"), None, (), (), (), media)
    title = description = None
    if front := _FRONT_MATTER.match(text):
        title, description = (_front_matter_field(front[1], name) for name in ("title", "description"))
        text = text[front.end() :]
    text = "\n\n".join(filter(None, (description, text.strip("\n"))))
    headings = markdown_headings(text)
    return ParsedDocument(text, title or first_title(headings), (), headings, (), media)


def _front_matter_field(block: str, name: str) -> str | None:
    match = re.search(_FIELD.format(name), block, re.M)
    value = match[1].strip("\"'") if match else ""
    return value if value and value not in (">", "|", ">-", "|-") else None
