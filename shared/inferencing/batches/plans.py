"""What an attempt at a batch has to do: its input in shards of bytes, found in one pass over the file."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shared.errors import NotFound

from .lines import Line, LineSplitter, RawLine, parse_line

if TYPE_CHECKING:
    from shared.jobs import Jobs, Ticket

# As OpenAI's: of one batch ("Batch API").
MAX_LINES = 50_000
# A shard is what one activity works on. Its lines are held, so bytes bound it too.
SHARD_LINES = 250
SHARD_BYTES = 1024 * 1024
# Errors of a file that are told; the rest are of the same kind.
MOST_ERRORS = 50


@dataclass(frozen=True, slots=True)
class Shard:
    """Lines of the input by their bytes. ``done`` has a bit for each line that needs no more work."""

    start: int
    end: int
    first_line: int
    lines: int
    done: int = 0

    @property
    def pending(self) -> int:
        return ((1 << self.lines) - 1) & ~self.done

    def to_list(self) -> list[Any]:
        return [self.start, self.end, self.first_line, self.lines, f"{self.done:x}"]

    @classmethod
    def from_list(cls, data: list[Any]) -> Shard:
        start, end, first_line, lines, done = data
        return cls(start, end, first_line, lines, int(done, 16))


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one attempt. ``answered`` lines lie in the ``blocks`` of the output already.

    ``output_etag`` is the output's version before the attempt: none but the attempt itself may replace it.
    ``offloaded`` names the deployment whose own Batch API runs the attempt; empty where it runs here.
    """

    total: int
    shards: tuple[Shard, ...]
    models: tuple[str, ...]
    answered: int = 0
    blocks: tuple[str, ...] = ()
    output_etag: str = ""
    offloaded: str = ""

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {"shards": [shard.to_list() for shard in self.shards]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        return cls(
            **{
                **data,
                "shards": tuple(Shard.from_list(shard) for shard in data["shards"]),
                "models": tuple(data["models"]),
                "blocks": tuple(data["blocks"]),
            }
        )


async def plan_of(jobs: Jobs, ticket: Ticket) -> Plan:
    """What was laid out for an attempt."""
    data = await jobs.fetch(ticket, "plan")
    if data is None:
        raise NotFound("plan of the job", ticket.job)
    return Plan.from_dict(data)


def digest(custom_id: str) -> int:
    """64 bits that stand for a custom_id."""
    return int.from_bytes(hashlib.blake2b(custom_id.encode(), digest_size=8).digest(), "big")


@dataclass
class Indexer:
    """Finds the shards of an input while it streams by; holds one line and eight bytes for each other."""

    endpoint: str
    shards: list[Shard] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    total: int = 0

    def __post_init__(self) -> None:
        self._splitter = LineSplitter()
        self._digests: array[int] = array("Q")
        self._start = self._end = 0
        self._first_line = 1
        self._lines = 0

    @property
    def is_full(self) -> bool:
        return self.total > MAX_LINES

    def feed(self, data: bytes) -> None:
        for raw in self._splitter.feed(data):
            self._add(raw)

    def end(self) -> None:
        for raw in self._splitter.end():
            self._add(raw)
        self._close_shard()

    def suspects(self) -> set[int]:
        """Digests that several lines have: their custom_ids are, but for a miracle, the same."""
        ordered = sorted(self._digests)
        return {one for one, other in pairwise(ordered) if one == other}

    def _add(self, raw: RawLine) -> None:
        if raw.is_blank or self.is_full:
            return
        self.total += 1
        if self._lines == SHARD_LINES or (self._lines and raw.end - self._start > SHARD_BYTES):
            self._close_shard()
        if not self._lines:
            self._start, self._first_line = raw.start, self.total
        self._lines += 1
        self._end = raw.end
        line = parse_line(raw.data, self.endpoint)
        if line.custom_id is not None:
            self._digests.append(digest(line.custom_id))
        if line.model and len(self.models) < 2:
            self.models.add(line.model)

    def _close_shard(self) -> None:
        if self._lines:
            self.shards.append(Shard(self._start, self._end, self._first_line, self._lines))
            self._lines = 0


async def numbered_lines(
    stream: AsyncIterator[bytes], start: int, first_line: int
) -> AsyncIterator[tuple[int, RawLine]]:
    """The lines of a part of the input with their numbers; blank ones have none and are left out."""
    splitter = LineSplitter(start)
    number = first_line
    async for data in stream:
        for raw in splitter.feed(data):
            if not raw.is_blank:
                yield number, raw
                number += 1
    for raw in splitter.end():
        if not raw.is_blank:
            yield number, raw


def duplicates(lines: Iterable[tuple[int, Line]], seen: dict[str, int]) -> list[dict[str, Any]]:
    """The errors of the lines whose custom_id an earlier one has."""
    found: list[dict[str, Any]] = []
    for number, line in lines:
        if line.custom_id is None:
            continue
        if line.custom_id in seen:
            message = f"The custom_id of line {number} is that of line {seen[line.custom_id]}."
            found.append(file_error("duplicate_custom_id", message, number, "custom_id"))
        seen.setdefault(line.custom_id, number)
    return found


def file_error(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    """Why a batch cannot be run, as the batch's ``errors`` tell it."""
    return {"code": code, "message": message, "line": line, "param": param}
