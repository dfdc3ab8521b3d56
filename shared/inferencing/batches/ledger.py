"""What has become of a shard's lines: a log that only grows, so that no line is ever noted twice.

Entry ``n + 1`` can be written by one who has read all entries up to ``n``, and by one alone: its row is
inserted, never replaced. A second run of the same shard, or one that outlived its host's patience, finds the
row taken, reads what is there and leaves out what it would have doubled. Blocks that no entry names are never
part of a file.

The rows lie where the progress of jobs lies: the sums of ``ok`` and ``failed`` are the progress.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.errors import StorageUnavailable
from shared.files import blob_name
from shared.jobs import PROGRESS_TABLE, Ticket
from shared.storage import FILES, Exists

if TYPE_CHECKING:
    from shared.storage import Storage

ROW_PREFIX = "lines:"
# Answers have been paid for: a moment without storage must not lose them.
WRITE_TRIES = 4
WRITE_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines that came to an end together: masks of those answered and those failed, and their blocks.

    ``stop`` is the code under which lines were given up, if they were.
    """

    shard: int
    answered: int
    failed: int
    output: str = ""
    errors: str = ""
    stop: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Entry:
        return cls(
            shard=int(row["RowKey"].split(":")[1]),
            answered=int(row["answered_mask"], 16),
            failed=int(row["failed_mask"], 16),
            output=row["output"],
            errors=row["errors"],
            stop=row["stop"],
        )


@dataclass(slots=True)
class Outcome:
    """One line that came to an end: its place in the shard and its line of the output or of the errors."""

    index: int
    data: bytes
    answered: bool
    stop: str = ""


@dataclass
class Ledger:
    """The log of one shard in one attempt."""

    storage: Storage
    ticket: Ticket
    shard: int
    output_blob: str
    errors_blob: str
    done: int = 0
    _length: int = field(default=0)

    async def read(self) -> None:
        """See what has been noted so far."""
        self.done = self._length = 0
        async for entry in entries(self.storage, self.ticket, self.shard):
            self.done |= entry.answered | entry.failed
            self._length += 1

    async def append(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Note outcomes and keep their lines; those of lines that are noted already are dropped.

        The value is what this call has noted.
        """
        for _ in range(WRITE_TRIES - 1):
            try:
                return await self._append(outcomes)
            except StorageUnavailable:
                await asyncio.sleep(WRITE_PAUSE_SECONDS)
        return await self._append(outcomes)

    async def _append(self, outcomes: list[Outcome]) -> list[Outcome]:
        while new := [outcome for outcome in outcomes if not self.done >> outcome.index & 1]:
            output = [outcome.data for outcome in new if outcome.answered]
            errors = [outcome.data for outcome in new if not outcome.answered]
            row = {
                "PartitionKey": self.ticket.instance,
                "RowKey": f"{ROW_PREFIX}{self.shard:05d}:{self._length:05d}",
                "tenant": self.ticket.tenant,
                "answered": len(output),
                "failed": len(errors),
                "answered_mask": f"{sum(1 << o.index for o in new if o.answered):x}",
                "failed_mask": f"{sum(1 << o.index for o in new if not o.answered):x}",
                "output": await self._stage(self.output_blob, output),
                "errors": await self._stage(self.errors_blob, errors),
                "stop": next((outcome.stop for outcome in new if outcome.stop), ""),
            }
            try:
                await self.storage.insert_row(PROGRESS_TABLE, row)
            except Exists:
                await self.read()  # another run of the shard was faster, or our answer was lost
                continue
            self.done |= sum(1 << outcome.index for outcome in new)
            self._length += 1
            return new
        return []

    async def _stage(self, blob: str, lines: list[bytes]) -> str:
        return await self.storage.stage_block(FILES, blob, b"".join(lines)) if lines else ""


def output_blob(ticket: Ticket) -> str:
    """All attempts write to one output: a later one goes on from what is there."""
    return blob_name(ticket.tenant, _file_id(ticket.job, "output"))


def errors_blob(ticket: Ticket) -> str:
    return blob_name(ticket.tenant, _file_id(ticket.job, f"errors:{ticket.attempt}"))


def _file_id(job: str, kind: str) -> str:
    return f"file-{hashlib.sha256(f'{job}:{kind}'.encode()).hexdigest()[:32]}"


async def ledger_of(storage: Storage, ticket: Ticket, shard: int) -> Ledger:
    """The log of a shard with what has been noted so far."""
    ledger = Ledger(storage, ticket, shard, output_blob(ticket), errors_blob(ticket))
    await ledger.read()
    return ledger


async def entries(storage: Storage, ticket: Ticket, shard: int | None = None) -> AsyncIterator[Entry]:
    """The entries of an attempt, or of one of its shards, in the order of the input's shards."""
    of_shard = "" if shard is None else f"{shard:05d}:"
    first = f"{ROW_PREFIX}{of_shard}"
    last = f"{first[:-1]};"
    async for row in storage.query_rows(PROGRESS_TABLE, ticket.instance, first=first, last=last):
        yield Entry.from_row(row)
