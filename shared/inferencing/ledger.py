"""Usage of models: counted in memory, kept in a table by the hour, summed up when somebody asks.

A row belongs to one tenant, hour and process, and holds what that process has counted in that hour so far.
Writing it again changes nothing, and no two processes ever write the same row: however many instances run,
none loses another's counts, and no model call costs a write of its own. What was counted within
`FLUSH_SECONDS` before a process is killed is lost.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from shared.write_behind import WriteBehind

from .calls import CallRecord

if TYPE_CHECKING:
    from shared.storage import Storage

TABLE = "usage"
# What a killed process loses at most.
FLUSH_SECONDS = 5.0
HOUR_SECONDS = 3600
# A property of a row holds 32,768 characters (Azure Tables).
ROW_CHARACTERS = 30_000
# Rows written at a time: a process seldom serves more tenants within a few seconds.
WRITES_IN_FLIGHT = 8
# Room for the numbers of one entry, all of them at their largest.
NUMBERS_CHARACTERS = 400

Numbers = dict[str, float]


class Source(NamedTuple):
    """What usage is counted for, besides tenant and hour."""

    user: str
    purpose: str
    model: str
    model_version: str
    prompt_version: str


@dataclass(frozen=True, slots=True)
class Line:
    """What one process has counted for one source in one hour; ``hour`` counts from 1970."""

    hour: int
    source: Source
    numbers: Mapping[str, float]


@dataclass(slots=True)
class _Sheet:
    """The counts of one tenant and hour, laid out in rows; an entry stays in its row."""

    entries: dict[Source, Numbers] = field(default_factory=dict)
    row_of: dict[Source, int] = field(default_factory=dict)
    room: list[int] = field(default_factory=list)
    unwritten: set[int] = field(default_factory=set)

    def numbers(self, source: Source) -> Numbers:
        """The numbers of ``source``, which are about to be changed."""
        found = self.entries.get(source)
        if found is None:
            found = self.entries[source] = {}
            size = len(json.dumps(source)) + NUMBERS_CHARACTERS
            if not self.room or self.room[-1] < size:
                self.room.append(ROW_CHARACTERS)
            self.room[-1] -= size
            self.row_of[source] = len(self.room) - 1
        self.unwritten.add(self.row_of[source])
        return found

    def rename(self, user: str, name: str) -> None:
        """Give a user's entries another name."""
        for source in [source for source in self.entries if source.user == user]:
            counted = self.entries.pop(source)
            self.unwritten.add(self.row_of.pop(source))
            sums = self.numbers(source._replace(user=name))
            for number, amount in counted.items():
                sums[number] = sums.get(number, 0) + amount

    def row(self, number: int) -> str:
        """The entries of one row as they are kept."""
        members = [source for source, row in self.row_of.items() if row == number]
        return json.dumps([[*source, self.entries[source]] for source in members], separators=(",", ":"))


class UsageLedger:
    """Counts the usage of all tenants in this process, and reads what all processes have counted."""

    def __init__(
        self, storage: Storage, *, clock: Callable[[], float] = time.time, process: str | None = None
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._process = process or secrets.token_hex(8)
        self._sheets: dict[tuple[str, int], _Sheet] = {}
        self._hour = 0
        self._writer = WriteBehind(self.flush, FLUSH_SECONDS)

    def record(self, record: CallRecord) -> None:
        """Count one model call; a recorder of the gateway."""
        call, usage = record.call, record.usage
        numbers: Numbers = {"calls": 1, "upstream_calls": record.upstream_calls}
        if record.outcome != "ok":
            numbers["refused" if record.outcome in _REFUSALS else "failed"] = 1
        numbers["prompt_tokens"] = usage.prompt_tokens
        numbers["completion_tokens"] = usage.completion_tokens
        numbers["cached_tokens"] = usage.cached_tokens
        numbers["estimated_cost"] = record.estimated_cost
        source = Source(
            call.user or "", call.purpose, record.model, record.model_version, call.prompt_version or ""
        )
        self.count(call.tenant, source, numbers)

    def count(self, tenant: str, source: Source, numbers: Mapping[str, float]) -> None:
        """Add ``numbers`` to those of ``source`` in the present hour."""
        # A clock that is set back must not open again what was written and forgotten.
        self._hour = max(self._hour, int(self._clock() // HOUR_SECONDS))
        sheet = self._sheets.get((tenant, self._hour))
        if sheet is None:
            sheet = self._sheets[tenant, self._hour] = _Sheet()
        sums = sheet.numbers(source)
        for name, number in numbers.items():
            if number:
                sums[name] = sums.get(name, 0) + number
        self._writer.changed()

    async def flush(self) -> None:
        """Write what has changed; raises `StorageUnavailable`, and then keeps it for the next time."""
        gate = asyncio.Semaphore(WRITES_IN_FLIGHT)

        async def write(tenant: str, hour: int, sheet: _Sheet, number: int) -> None:
            row = {
                "PartitionKey": tenant,
                "RowKey": f"{_hour_key(hour)}:{self._process}:{number:04d}",
                "entries": sheet.row(number),
            }
            # Counted meanwhile: it is written once more.
            sheet.unwritten.discard(number)
            try:
                async with gate:
                    await self._storage.put_row(TABLE, row)
            except BaseException:
                sheet.unwritten.add(number)
                raise

        written = await asyncio.gather(
            *(
                write(tenant, hour, sheet, number)
                for (tenant, hour), sheet in self._sheets.items()
                for number in sorted(sheet.unwritten)
            ),
            return_exceptions=True,
        )
        for outcome in written:
            if isinstance(outcome, BaseException):
                raise outcome
        past = [key for key, sheet in self._sheets.items() if key[1] < self._hour and not sheet.unwritten]
        for key in past:
            del self._sheets[key]

    async def lines(self, tenant: str, first: int, last: int) -> AsyncIterator[Line]:
        """What was counted for the tenant in the hours from ``first`` to ``last``, by all processes.

        What this process has not written yet is among it; of another process that is at most
        `FLUSH_SECONDS` of its counts.
        """
        own = {
            hour: [(source, dict(numbers)) for source, numbers in sheet.entries.items()]
            for (name, hour), sheet in self._sheets.items()
            if name == tenant and first <= hour <= last
        }
        for hour, entries in own.items():
            for source, numbers in entries:
                yield Line(hour, source, numbers)
        rows = self._storage.query_rows(TABLE, tenant, first=_hour_key(first), last=_hour_key(last + 1))
        async for row in rows:
            hour, process, _ = row["RowKey"].split(":")
            if process == self._process and int(hour) in own:
                continue
            for *source, numbers in json.loads(row["entries"]):
                yield Line(int(hour), Source(*source), numbers)

    async def rename_user(self, tenant: str, user: str, name: str) -> int:
        """Count what was counted for ``user`` under another name; the number of rows that told of it.

        What another process counts at this moment for the present hour it writes under the old name.
        """
        for (owner, _), sheet in self._sheets.items():
            if owner == tenant:
                sheet.rename(user, name)
        await self.flush()
        changed = 0
        async for row in self._storage.query_rows(TABLE, tenant):
            entries = json.loads(row["entries"])
            if any(entry[0] == user for entry in entries):
                for entry in entries:
                    entry[0] = name if entry[0] == user else entry[0]
                kept = {part: row[part] for part in ("PartitionKey", "RowKey")}
                packed = json.dumps(entries, separators=(",", ":"))
                await self._storage.put_row(TABLE, {**kept, "entries": packed})
                changed += 1
        return changed

    async def close(self) -> None:
        """Write what is left."""
        await self._writer.close()


_REFUSALS = frozenset({"rate_limited", "budget_exceeded"})


def _hour_key(hour: int) -> str:
    return f"{hour:08d}"
