"""Documents that tell what they are: every piece of text shows which document and which writing it is from.

A `Line` is what one document goes through: writings are numbered by serials, in the order in which the
service accepted them. What readers see is held against it, so that a mixed, a stale, a missing and a
resurrected version are each told apart.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

WORDS = (
    "anchor",
    "barge",
    "cargo",
    "dock",
    "ebb",
    "ferry",
    "gale",
    "harbour",
    "jetty",
    "keel",
    "mast",
    "quay",
)
# About one chunk each (the chunker aims at 1,000 characters).
PART_WORDS = 130


def text_of(name: str, serial: int, seed: int) -> str:
    """One writing of a document: one to four parts, the same for the same arguments."""
    random = Random(f"{seed}/{name}/{serial}")
    parts = []
    for number in range(random.randint(1, 4)):
        words = " ".join(random.choice(WORDS) for _ in range(PART_WORDS))
        parts.append(f"Part {number} of {name} as written at {serial}. {words}.")
    return "\n\n".join(parts)


@dataclass
class Snapshot:
    """What must be true of a query that begins now."""

    floor: int
    gone: int
    deletions: int
    deleting: bool


@dataclass
class Line:
    """One document's life so far. ``floor`` is the newest serial that is known to be visible."""

    name: str
    seed: int
    serial: int = 0
    floor: int = 0
    gone: int = 0
    deletions: int = 0
    deleting: bool = False
    deleted_last: bool = False
    texts: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self) -> str:
        """The text of the next writing, which is about to be sent."""
        with self.lock:
            self.serial += 1
            self.texts[self.serial] = text_of(self.name, self.serial, self.seed)
            self.deleted_last = False
            return self.texts[self.serial]

    def again(self) -> str:
        """The text of the last writing once more."""
        return self.texts[self.serial]

    def deletion_begins(self) -> None:
        with self.lock:
            self.deletions += 1
            self.deleting = True

    def deletion_accepted(self) -> None:
        with self.lock:
            self.gone, self.deleted_last, self.deleting = self.serial, True, False

    @property
    def expected(self) -> int:
        """The serial that is visible when all is done; 0 for none."""
        return 0 if self.deleted_last else self.serial

    def snapshot(self) -> Snapshot:
        with self.lock:
            return Snapshot(self.floor, self.gone, self.deletions, self.deleting)

    def faults(self, before: Snapshot, hits: Sequence[Mapping[str, Any]]) -> list[str]:
        """What is wrong about what a query found that began at ``before``."""
        if not hits:
            undisturbed = self.deletions == before.deletions and not before.deleting
            if before.floor > before.gone and undisturbed:
                return [f"lost: nothing of {self.name} is visible, and serial {before.floor} was"]
            return []
        if len({hit["version"] for hit in hits}) > 1:
            versions = sorted((hit["version"], hit["start"]) for hit in hits)
            return [f"{self.name}: mixed versions {versions}"]
        serial = self.serial_of(hits)
        if serial is None:
            return [f"{self.name}: chunks that are not the whole of one writing: {spans(hits)}"]
        if serial <= before.gone:
            return [f"{self.name}: serial {serial} is visible after its deletion"]
        if serial < before.floor:
            return [f"{self.name}: serial {serial} is visible after serial {before.floor}"]
        with self.lock:
            self.floor = max(self.floor, serial)
        return []

    def serial_of(self, hits: Sequence[Mapping[str, Any]]) -> int | None:
        """The serial whose text ``hits`` make up, each piece once; None where they make up none."""
        for serial in sorted(self.texts, reverse=True):
            if makes_up(hits, self.texts[serial]):
                return serial
        return None


def makes_up(hits: Sequence[Mapping[str, Any]], text: str) -> bool:
    """Whether the hits are exact pieces of ``text``, cover it but for white space, and none comes twice."""
    if any(text[hit["start"] : hit["end"]] != hit["text"] for hit in hits):
        return False
    if len({hit["start"] for hit in hits}) < len(hits):
        return False
    covered = [False] * len(text)
    for hit in hits:
        covered[hit["start"] : hit["end"]] = [True] * (hit["end"] - hit["start"])
    return all(done or character.isspace() for done, character in zip(covered, text, strict=True))


def spans(hits: Iterable[Mapping[str, Any]]) -> list[tuple[int, int, int, str]]:
    return sorted((hit["version"], hit["start"], hit["end"], hit["text"][:40]) for hit in hits)
