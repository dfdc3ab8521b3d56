"""Real documents damaged by chance, in the ways that disks and networks do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from bench.hostile_files.files import HostileFile

SAMPLES = Path(__file__).resolve().parent.parent.parent / "samples" / "documents"


def damaged(count: int, seed: int, extra: tuple[Path, ...] = (), *, first: int = 0) -> Iterator[HostileFile]:
    """``count`` documents of the samples, and of ``extra``, each damaged in one of the `_DAMAGES`.

    Those before the ``first`` are left out.
    """
    paths = [*sorted(path for path in SAMPLES.rglob("*") if path.is_file()), *extra]
    for number in range(first, count):
        chance = random.Random(f"{seed}/{number}")
        path = paths[number % len(paths)]
        damage = chance.choice(_DAMAGES)
        content = damage(bytearray(path.read_bytes()), chance)
        yield HostileFile(f"{damage.__name__.strip('_')}-{number}{path.suffix}", bytes(content))


def _cut(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randrange(1, len(content))]


def _beheaded(content: bytearray, chance: random.Random) -> bytearray:
    return content[chance.randrange(1, min(2048, len(content))) :]


def _flipped(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 3, 30, 300))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def _zeroed(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    length = min(len(content) - at, chance.choice((1, 64, 4096)))
    content[at : at + length] = bytes(length)
    return content


def _doubled(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    return content[:at] + content[: chance.randrange(1, len(content))] + content[at:]


def _shuffled(content: bytearray, chance: random.Random) -> bytearray:
    size = chance.choice((16, 512, 4096))
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    chance.shuffle(blocks)
    return bytearray(b"".join(blocks))


def _number_changed(content: bytearray, chance: random.Random) -> bytearray:
    """Lengths, counts and offsets are what readers trust: one group of digits becomes another number."""
    digits = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if digits:
        at = chance.choice(digits)
        content[at : at + 1] = chance.choice((b"0", b"-1", b"4294967295", b"99999999999999999999"))
    return content


def _inserted(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    piece = chance.choice(
        (b"\x00" * 64, b"\xff\xfe", b"<" * 1000, b"(" * 1000, b"\xed\xa0\x80", b"]]>", b"--")
    )
    return content[:at] + piece + content[at:]


_DAMAGES = (_cut, _beheaded, _flipped, _zeroed, _doubled, _shuffled, _number_changed, _inserted)
