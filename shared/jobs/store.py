"""Jobs: the one contract of everything that takes long.

A job has a row in its tenant's partition of the table ``jobs`` and a line in the list of newest jobs; both
change in one transaction. Its progress lies in rows of its own, one a shard, so that activities which run
at the same time never write the same row. Its input and its outcomes are blobs: neither the rows nor the
history of an orchestration ever hold content.

A job whose caller names it by an Idempotency-Key has a row that tells which request had the key first.

A job that has been announced but not yet started is in the table's ``_announced`` partition; a timer
starts what a killed process left there.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, Contended, IdempotencyKeyReused, InvalidParameter, NotFound
from shared.jobs.job import Job, Kind, State, Ticket
from shared.quotas import Usage
from shared.storage import JOBS, REPLACED, Changed, Exists, newest_first

if TYPE_CHECKING:
    from shared.quotas import Hold, Quotas
    from shared.storage import Row, Storage

TABLE = "jobs"
PROGRESS_TABLE = "progress"
ANNOUNCED = "_announced"
# Errors that the status document itself shows; the result holds all of them.
STATUS_ERRORS = 50
# They lie in one property of the row, which holds 32,768 characters (Azure Tables).
STATUS_ERRORS_CHARACTERS = 30_000
PAGE_JOBS = 50
# Conflicts of two writers of one job row resolve at the next try; more tries mean a fault.
WRITE_TRIES = 8
# Clocks of machines that keep time differ by less; a later time was told by one that did not.
CLOCKS_APART_SECONDS = 60.0


async def _nobody(ticket: Ticket) -> None:
    """Nobody waits for the ends of jobs."""


class Jobs:
    """The jobs of all tenants."""

    def __init__(
        self,
        storage: Storage,
        expect_end: Callable[[Ticket], Awaitable[None]] = _nobody,
        quotas: Quotas | None = None,
    ) -> None:
        """``expect_end`` is awaited before a job ends: whoever must not miss its end notes it there.

        Jobs are counted in ``quotas`` where given.
        """
        self._storage = storage
        self._expect_end = expect_end
        self._quotas = quotas

    # --- life of a job ---

    async def create(
        self,
        tenant: str,
        kind: Kind,
        *,
        job_id: str,
        title: str,
        collection: str,
        owner: str,
        generation: str = "",
        total: int | None = None,
        refusable: bool = True,
        hold: Hold | None = None,
    ) -> Job:
        """Announce a new job, in state queued. The same id again gives the job that is there.

        Raises `QuotaExhausted` where the tenant's quotas have no room, unless the job is not ``refusable``:
        what frees room must not be refused for want of it, and an event has nobody who would come again.
        Where room has been taken before, the job is taken from that ``hold``.
        """
        counted = hold is None and self._quotas is not None
        if counted and (before := await self.find(tenant, job_id)) is not None:
            return before
        now = time.time()
        job = Job(
            tenant,
            job_id,
            kind,
            State.QUEUED,
            title,
            collection,
            owner,
            attempt=1,
            created=now,
            updated=now,
            total=total,
            generation=generation,
        )
        begun = self.begun(kind, total)
        if counted:
            await self._count(tenant, begun, refusable)
        await self._storage.put_row(
            TABLE, {"PartitionKey": ANNOUNCED, "RowKey": job_id, "tenant": tenant, "since": now}
        )
        try:
            await self._storage.swap_rows(
                TABLE, [(job.to_row(), None), ({**job.to_row(), "RowKey": job.list_key}, None)]
            )
        except Changed:
            if counted:
                await self._give_back(tenant, begun)
            return await self.get(tenant, job_id)
        if hold is not None:
            hold.left -= begun
        return job

    @staticmethod
    def begun(kind: Kind, total: int | None) -> Usage:
        """What a new job counts for in its tenant's quotas."""
        return _running(kind, total) + Usage(jobs_per_day=1)

    # --- keys that callers name jobs by ---

    async def claim_key(self, tenant: str, job_id: str, fingerprint: str) -> bool:
        """Tie the id of a job to come to the one request that may make it; whether that is new.

        Raises `IdempotencyKeyReused` where another request had the key first. The job's own creation is
        repeatable: requests of one key at the same time get the same job.
        """
        row: Row = {"PartitionKey": tenant, "RowKey": f"key:{job_id}", "fingerprint": fingerprint}
        try:
            await self._storage.insert_row(TABLE, {**row, "claimed": time.time()})
            return True
        except Exists:
            first = await self._storage.get_row(TABLE, tenant, row["RowKey"])
        if first is not None and first["fingerprint"] != fingerprint:
            raise IdempotencyKeyReused("The Idempotency-Key came with another request before.")
        return False

    async def release_key(self, tenant: str, job_id: str) -> None:
        """Forget a key whose request was refused before it made a job."""
        if await self.find(tenant, job_id) is None:
            await self._storage.delete_row(TABLE, tenant, f"key:{job_id}")

    async def forget_keys(self, moment: float, most: int) -> int:
        """Forget keys that were claimed before ``moment``, ``most`` of them; their number."""
        forgotten = 0
        rows = self._storage.scan_rows(TABLE, first="key:", last="key;")
        async for row in rows:
            if row["claimed"] < moment and forgotten < most:
                await self._storage.delete_row(TABLE, row["PartitionKey"], row["RowKey"])
                forgotten += 1
        return forgotten

    async def _count(self, tenant: str, begun: Usage, refusable: bool) -> None:
        if self._quotas is not None:
            await (self._quotas.reserve if refusable else self._quotas.add)(tenant, begun)

    async def _give_back(self, tenant: str, ended: Usage) -> None:
        if self._quotas is not None:
            await self._quotas.give_back(tenant, ended)

    async def usage(self, tenant: str) -> Usage:
        """What the tenant's jobs count for that have not ended."""
        shown = ["state", "kind", "total"]
        rows = self._storage.query_rows(TABLE, tenant, first="list:", last="list;", select=shown)
        counted = [
            _running(Kind(row["kind"]), row.get("total"))
            async for row in rows
            if not State(row["state"]).final
        ]
        return sum(counted, Usage())

    async def started(self, job_id: str) -> None:
        """The job's orchestration exists: the announcement has done its service."""
        await self._storage.delete_row(TABLE, ANNOUNCED, job_id)

    async def is_announced(self, job_id: str) -> bool:
        """Whether the job waits for its start."""
        return await self._storage.get_row(TABLE, ANNOUNCED, job_id) is not None

    async def announced_before(self, moment: float) -> AsyncIterator[Job | str]:
        """Jobs announced before ``moment`` and not started; an id alone where there is no job to it.

        So are jobs that a clock announced which was ahead: nobody knows since when they wait.
        """
        latest = time.time() + CLOCKS_APART_SECONDS
        async for row in self._storage.query_rows(TABLE, ANNOUNCED):
            if not moment <= row["since"] <= latest:
                found = await self.find(row["tenant"], row["RowKey"])
                yield found if found is not None else row["RowKey"]

    async def find(self, tenant: str, job_id: str) -> Job | None:
        row = await self._storage.get_row(TABLE, tenant, f"job:{job_id}")
        return Job.from_row(row) if row else None

    async def get(self, tenant: str, job_id: str) -> Job:
        """The job; `NotFound` where the tenant has none of that id."""
        if not job_id.isalnum() or (job := await self.find(tenant, job_id)) is None:
            raise NotFound("job", job_id[:64])
        return job

    async def newest(
        self, tenant: str, *, after: str = "", limit: int = PAGE_JOBS
    ) -> tuple[list[Job], str | None]:
        """A page of the tenant's jobs, newest first, and where the next page begins."""
        if after and not after.startswith("list:"):
            raise InvalidParameter("'after' is the 'next' of an earlier page.", parameter="after")
        rows = [
            row
            async for row in self._storage.query_rows(
                TABLE, tenant, first=after or "list:", last="list;", limit=limit + 1
            )
        ]
        following = rows[limit]["RowKey"] if len(rows) > limit else None
        return [Job.from_row(row) for row in rows[:limit]], following

    async def change(
        self,
        tenant: str,
        job_id: str,
        *,
        attempt: int | None = None,
        known: Job | None = None,
        **changes: Any,
    ) -> Job:
        """Set fields of a job that has not ended; one that has ended stays as it is.

        So does one whose present attempt is another than ``attempt``, where that is given. ``known`` is the
        job as it was just read.
        """
        for _ in range(WRITE_TRIES):
            job, known = known or await self.get(tenant, job_id), None
            if job.state.final or attempt not in (None, job.attempt):
                return job
            try:
                changed = await self._write(job, replace(job, updated=time.time(), **changes))
            except Changed:
                continue
            after = Usage() if changed.state.final else _running(changed.kind, changed.total)
            if freed := _running(job.kind, job.total) - after:
                await self._give_back(tenant, freed)
            return changed
        raise Contended(f"The job {job_id!r} is being changed by others.", retry_after=1)

    async def begin(self, ticket: Ticket, *, total: int | None = None, known: Job | None = None) -> Job:
        """The job runs now. ``total`` is the number of its items, where it is known by now.

        ``known`` is as in `change`.
        """
        job = known or await self.get(ticket.tenant, ticket.job)
        changes: dict[str, Any] = {"state": State.RUNNING, "started": job.started or time.time()}
        if total is not None:
            changes["total"] = total
        return await self.change(ticket.tenant, ticket.job, attempt=ticket.attempt, known=job, **changes)

    async def finish(
        self,
        ticket: Ticket,
        state: State,
        *,
        counts: Mapping[str, int] | None = None,
        errors: Iterable[Mapping[str, Any]] = (),
        known: Job | None = None,
    ) -> Job:
        """The job has ended. Only an attempt that is the job's present one can end it.

        ``known`` is as in `change`.
        """
        job = known or await self.get(ticket.tenant, ticket.job)
        if job.attempt != ticket.attempt or job.state.final:
            return job
        await self._expect_end(ticket)
        return await self.change(
            ticket.tenant,
            ticket.job,
            attempt=ticket.attempt,
            known=job,
            state=state,
            counts=counts or {},
            errors=_shown(errors),
        )

    async def request_cancel(self, tenant: str, job_id: str) -> Job:
        """Ask the job to stop; its activities see it before their next step. `Conflict` after its end."""
        job = await self.get(tenant, job_id)
        if job.state is State.CANCELLED:
            return job
        if job.state.final:
            raise Conflict(f"The job has ended: it is {job.state.value}.", state=job.state.value)
        return await self.change(tenant, job_id, cancel_requested=True)

    async def cancel_requested(self, ticket: Ticket) -> bool:
        job = await self.find(ticket.tenant, ticket.job)
        return job is None or job.cancel_requested or job.attempt != ticket.attempt

    async def retry(self, tenant: str, job_id: str) -> Job:
        """A new attempt at what failed. `Conflict` where nothing did or the job still runs."""
        job = await self.get(tenant, job_id)
        if job.state not in (State.FAILED, State.PARTIAL, State.CANCELLED):
            raise Conflict(f"Nothing to retry: the job is {job.state.value}.", state=job.state.value)
        begun = _running(job.kind, job.total)
        await self._count(tenant, begun, refusable=True)
        now = time.time()
        await self._storage.put_row(
            TABLE, {"PartitionKey": ANNOUNCED, "RowKey": job_id, "tenant": tenant, "since": now}
        )
        again = replace(
            job,
            state=State.QUEUED,
            attempt=job.attempt + 1,
            updated=now,
            started=None,
            cancel_requested=False,
            counts={},
            errors=(),
        )
        try:
            return await self._write(job, again)
        except Changed:
            await self._give_back(tenant, begun)
            raise Contended("The job is being changed by others.", retry_after=1) from None

    # --- what is over ---

    async def ended_before(self, moment: float) -> AsyncIterator[Job]:
        """The jobs of all tenants that were ended by then, oldest last."""
        first = f"list:{newest_first(moment)}"
        async for row in self._storage.scan_rows(TABLE, first=first, last="list;"):
            job = Job.from_row(row)
            if job.state.final and job.updated < moment:
                yield job

    async def every(self, tenant: str) -> AsyncIterator[Job]:
        """All jobs of a tenant, newest first."""
        async for row in self._storage.query_rows(TABLE, tenant, first="list:", last="list;"):
            yield Job.from_row(row)

    async def unfinished(self) -> AsyncIterator[Job]:
        """The jobs of all tenants that have not ended."""
        async for row in self._storage.scan_rows(TABLE, first="list:", last="list;"):
            if not State(row["state"]).final:
                yield Job.from_row(row)

    async def remove(self, job: Job) -> None:
        """Remove a job that has ended, with its blobs and its progress; its row goes last."""
        await self._storage.delete_blobs(JOBS, f"{job.tenant}/{job.id}/")
        for attempt in range(1, job.attempt + 1):
            instance = replace(job.ticket, attempt=attempt).instance
            await self._storage.delete_partition(PROGRESS_TABLE, instance)
        await self._storage.delete_row(TABLE, job.tenant, job.list_key)
        await self._storage.delete_row(TABLE, job.tenant, f"job:{job.id}")

    async def _write(self, job: Job, changed: Job) -> Job:
        """Replace the row and its line in the list together; raises `Changed`."""
        row = changed.to_row()
        # Nobody writes the line but with the row: the row's condition holds for both.
        line = {**row, "RowKey": job.list_key}
        etags = await self._storage.swap_rows(TABLE, [(row, job.etag), (line, REPLACED)])
        return replace(changed, etag=etags[0])

    # --- progress: one row a shard ---

    async def report(self, ticket: Ticket, shard: str, **numbers: int) -> None:
        """Set numbers of a shard's progress; other numbers of that shard stay."""
        await self._storage.merge_row(
            PROGRESS_TABLE, {"PartitionKey": ticket.instance, "RowKey": shard, **numbers}
        )

    async def progress(self, ticket: Ticket) -> dict[str, int]:
        """The sums of all numbers that the attempt's shards have reported."""
        sums: dict[str, int] = {}
        async for row in self._storage.query_rows(PROGRESS_TABLE, ticket.instance):
            for name, number in row.items():
                if isinstance(number, int) and not isinstance(number, bool):
                    # "embedded_0007" is the seventh batch's share of "embedded"
                    kind = name.partition("_")[0]
                    sums[kind] = sums.get(kind, 0) + number
        return sums

    # --- blobs of an attempt ---

    async def put(self, ticket: Ticket, name: str, value: Any, *, first: bool = False) -> None:
        """Keep a JSON value of this attempt under ``name``.

        Raises `Exists` where it is to be the ``first`` of that name and there is one.
        """
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        write = self._storage.insert_blob if first else self._storage.put_blob
        await write(JOBS, f"{ticket.prefix}/{name}.json", data, content_type="application/json")

    async def fetch(self, ticket: Ticket, name: str) -> Any:
        """The JSON value under ``name``, or None."""
        data = await self._storage.get_blob(JOBS, f"{ticket.prefix}/{name}.json")
        return None if data is None else json.loads(data)


def _running(kind: Kind, total: int | None) -> Usage:
    """What a job counts for until it has ended."""
    return Usage(running_jobs=1, unfinished_documents=(total or 0) if kind is Kind.INGESTION else 0)


def _shown(errors: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The errors that the job's row has room for, from the first on."""
    shown: list[Mapping[str, Any]] = []
    room = STATUS_ERRORS_CHARACTERS
    for error in islice(errors, STATUS_ERRORS):
        room -= len(json.dumps(dict(error)))
        if room < 0:
            break
        shown.append(error)
    return tuple(shown)
