"""What a tenant holds and runs, counted against its limits.

One row a tenant. Every change of it is conditional on the row as it was read, so that no two writers can
both take the last place; changes that one process wants at the same time go in one write. What is to be
added is counted before it is made and what was removed after, so a killed process can only leave too much
counted, never too little; `recount` puts the truth in its place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, Overloaded, QuotaExceeded, QuotaExhausted, StorageUnavailable
from shared.storage import Changed, Exists

if TYPE_CHECKING:
    from shared.limits import Limits, TenantLimits
    from shared.storage import Row, Storage

log = logging.getLogger("groundwork.quotas")

TABLE = "quotas"
USAGE = "usage"
TENANTS = "_tenants"
# Each process writes once at a time; as many processes as that meet seldom.
WRITE_TRIES = 20
RECOUNT_TRIES = 3
DAY_SECONDS = 86_400
# Running jobs end within minutes; asking more often than this helps nobody.
RETRY_SECONDS = 10
# The sum over all tenants is read by a scan: it may be older by this much.
IN_ALL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What is counted, or a change of it. ``jobs_per_day`` are those begun since ``day`` (UTC) began.

    ``unfinished_documents`` are those of ingestions that have not ended.
    """

    documents: int = 0
    bytes: int = 0
    running_jobs: int = 0
    jobs_per_day: int = 0
    unfinished_documents: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, each) + getattr(other, each) for each in COUNTED))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, each) - getattr(other, each) for each in COUNTED))

    def __bool__(self) -> bool:
        return any(getattr(self, each) for each in COUNTED)


COUNTED = tuple(each.name for each in fields(Usage))


@dataclass(slots=True)
class Hold:
    """Room in a tenant's quotas that was taken for what is on its way."""

    left: Usage = field(default_factory=Usage)


@dataclass(slots=True, eq=False)
class _Wish:
    """A change that waits to be written; refused where it would pass one of ``limits``."""

    change: Usage
    limits: Limits | None
    done: asyncio.Future[None]


class Quotas:
    """The counts of all tenants."""

    def __init__(
        self,
        storage: Storage,
        limits: TenantLimits,
        clock: Callable[[], float] = time.time,
        *,
        max_unfinished_documents: int | None = None,
    ) -> None:
        """``max_unfinished_documents`` is a bound of all tenants together, beside that of each."""
        self._storage = storage
        self._limits = limits
        self._clock = clock
        self._max_unfinished = max_unfinished_documents
        self._in_all = (0.0, 0)
        self._waiting: dict[str, list[_Wish]] = {}
        self._writing: dict[str, asyncio.Lock] = {}

    async def reserve(self, tenant: str, wanted: Usage, *, but: Usage | None = None) -> None:
        """Count ``wanted``; raises `QuotaExceeded` or `QuotaExhausted` where a limit has no room for it.

        Raises `Overloaded` where all tenants together have too many unfinished documents. What ``but``
        holds is counted too and refused by nothing.
        """
        if wanted.unfinished_documents > 0:
            await self._refuse_overload()
        limits = await self._limits.of(tenant)
        if but is not None:
            limits = limits.changed_by({name: None for name in COUNTED if getattr(but, name)})
            wanted += but
        await self._apply(tenant, wanted, limits)

    async def _refuse_overload(self) -> None:
        if self._max_unfinished is None:
            return
        now = self._clock()
        if not now - IN_ALL_SECONDS < self._in_all[0] <= now:
            self._in_all = (now, await self._count_in_all())
        if self._in_all[1] >= self._max_unfinished:
            raise Overloaded(
                f"{self._in_all[1]} documents are accepted and not finished.", retry_after=RETRY_SECONDS
            )

    async def _count_in_all(self) -> int:
        rows = self._storage.scan_rows(TABLE, first=USAGE, last=f"{USAGE}!")
        return sum(
            [self._read(row).unfinished_documents async for row in rows if row["PartitionKey"] != TENANTS]
        )

    async def add(self, tenant: str, change: Usage) -> None:
        """Count ``change``, whatever the limits say."""
        if change:
            await self._apply(tenant, change, None)

    async def give_back(self, tenant: str, freed: Usage) -> None:
        """Count less. Where that cannot be written, the next recount will tell."""
        try:
            await self.add(tenant, Usage() - freed)
        except (StorageUnavailable, Conflict):
            log.warning("quota_not_given_back", extra={"tenant": tenant})

    async def usage(self, tenant: str) -> Usage:
        """What is counted now."""
        return self._read(await self._storage.get_row(TABLE, tenant, USAGE))

    async def tenants(self) -> AsyncIterator[str]:
        """Every tenant that something was ever counted for."""
        async for row in self._storage.query_rows(TABLE, TENANTS):
            yield row["RowKey"]

    async def recount(self, tenant: str, count: Callable[[str], Awaitable[Usage]]) -> bool:
        """Put what ``count`` finds in the place of what is counted; today's jobs stay.

        False where the tenant was never still for as long as the counting took.
        """
        for _ in range(RECOUNT_TRIES):
            row = await self._storage.get_row(TABLE, tenant, USAGE)
            found = replace(await count(tenant), jobs_per_day=self._read(row).jobs_per_day)
            try:
                await self._write(tenant, found, row)
            except Changed:
                continue
            if row is not None and found != self._read(row):
                log.warning("quota_corrected", extra={"tenant": tenant})
            return True
        return False

    async def _apply(self, tenant: str, change: Usage, limits: Limits | None) -> None:
        wish = _Wish(change, limits, asyncio.get_running_loop().create_future())
        waiting = self._waiting.setdefault(tenant, [])
        waiting.append(wish)
        async with self._writing.setdefault(tenant, asyncio.Lock()):
            if wish in waiting:  # nobody has taken it along
                batch = waiting[:]
                waiting.clear()
                # Others wait for it too: it goes on where this caller is cancelled.
                await asyncio.shield(asyncio.ensure_future(self._settle(tenant, batch)))
        await wish.done

    async def _settle(self, tenant: str, batch: list[_Wish]) -> None:
        try:
            await self._commit(tenant, batch)
        except Exception as error:
            for wish in batch:
                if not wish.done.done():
                    wish.done.set_exception(error)

    async def _commit(self, tenant: str, batch: list[_Wish]) -> None:
        for _ in range(WRITE_TRIES):
            row = await self._storage.get_row(TABLE, tenant, USAGE)
            usage, granted, refused = self._read(row), [], {}
            for wish in batch:
                if error := wish.limits and self._passed(usage, wish):
                    refused[id(wish)] = error
                else:
                    usage += wish.change
                    granted.append(wish)
            try:
                if granted:
                    await self._write(tenant, usage, row)
            except Changed:
                continue
            for wish in batch:
                if wish.done.done():
                    continue  # cancelled by who wanted it
                if error := refused.get(id(wish)):
                    wish.done.set_exception(error)
                else:
                    wish.done.set_result(None)
            return
        raise Conflict("The tenant's quotas are being changed by others.", retry_after=1)

    def _passed(self, usage: Usage, wish: _Wish) -> QuotaExceeded | None:
        """The error where a change that adds to a count would pass its limit."""
        for name in COUNTED:
            limit, more = getattr(wish.limits, name), getattr(wish.change, name)
            present = getattr(usage, name)
            if limit is None or more <= 0 or present + more <= limit:
                continue
            if name == "unfinished_documents" and not present:
                continue  # a request larger than the limit would otherwise be told for ever to come later
            told = {"quota": name, "limit": int(limit), "present": present}
            what = name.replace("_", " ")
            detail = f"The tenant has {present} {what} of {int(limit)}; this would add {more}."
            if name in ("running_jobs", "unfinished_documents"):
                return QuotaExhausted(detail, retry_after=RETRY_SECONDS, **told)
            if name == "jobs_per_day":
                return QuotaExhausted(detail, retry_after=DAY_SECONDS - self._clock() % DAY_SECONDS, **told)
            return QuotaExceeded(detail, **told)
        return None

    def _read(self, row: Mapping[str, Any] | None) -> Usage:
        if row is None:
            return Usage()
        usage = Usage(*(int(row.get(name, 0)) for name in COUNTED))
        return usage if row["day"] == self._today() else replace(usage, jobs_per_day=0)

    async def _write(self, tenant: str, usage: Usage, row: Row | None) -> None:
        # As texts: Azure Tables would take a number of bytes above 2 GiB for another type.
        values = {name: str(max(0, count)) for name, count in asdict(usage).items()}
        changed = {"PartitionKey": tenant, "RowKey": USAGE, "day": self._today(), **values}
        if row is not None:
            await self._storage.replace_row(TABLE, changed, row["etag"])
            return
        await self._storage.put_row(TABLE, {"PartitionKey": TENANTS, "RowKey": tenant})
        try:
            await self._storage.insert_row(TABLE, changed)
        except Exists:
            raise Changed from None

    def _today(self) -> int:
        return int(self._clock() // DAY_SECONDS)
