"""What a hostile file is, and the register of those that are built by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file's name, which tells its type, and its bytes."""

    name: str
    content: bytes


Attack = Callable[[], bytes]
ATTACKS: dict[str, Attack] = {}


def attack(name: str) -> Callable[[Attack], Attack]:
    """Register a file under a name that ends in its extension."""

    def register(make: Attack) -> Attack:
        assert name not in ATTACKS
        ATTACKS[name] = make
        return make

    return register


def repeated(name: str, piece: bytes, times: int, end: bytes = b"", start: bytes = b"") -> None:
    """Register a file that is a piece over and over."""
    attack(name)(lambda: start + piece * times + end)


def attacks(part: str = "") -> Iterator[HostileFile]:
    """Every file that is built by hand whose name has ``part`` in it, one after another: some are large."""
    for name, make in ATTACKS.items():
        if part in name:
            yield HostileFile(name, make())
