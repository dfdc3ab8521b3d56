"""Batches: from a file of requests to a file of answers, in steps that may be killed and repeated.

    create     the record of what is asked, the job
    plan       one pass over the input: its shards, or why it cannot be run
    run        the lines of one shard, as far as one activity goes; `offload.py` hands all of them elsewhere
    finish     put the outputs together, note the end

A step that is run again does the same thing again. What became of a line is noted once, in the ledger of its
shard; the files are made of the blocks that the ledgers name, by the storage service, without being read.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.errors import Conflict, InternalError, InvalidParameter, NotFound
from shared.files import File, blob_name
from shared.jobs import STATUS_ERRORS, Job, Kind, State, Ticket
from shared.storage import FILES, Changed

from .ledger import entries, errors_blob, ledger_of, output_blob
from .lines import LineSplitter, error_of, parse_line
from .offload import Offload
from .plans import (
    MAX_LINES,
    MOST_ERRORS,
    Indexer,
    Plan,
    digest,
    duplicates,
    file_error,
    numbered_lines,
    plan_of,
)
from .records import Batch, BatchRecords
from .runs import CANCELLED, EXPIRED, Answerer, Left, Run, Stop, Work

if TYPE_CHECKING:
    from shared.files import Files
    from shared.identity import Principal
    from shared.jobs import Jobs
    from shared.storage import Storage

    from ..batch_api import BatchApi
    from ..catalogue import Deployment
    from ..gateway import Gateway

PURPOSE = "batch"
OUTPUT_PURPOSE = "batch_output"
# The only one that OpenAI offers ("Batch API").
WINDOWS = {"24h": 24 * 3600}
# An input may be deleted so long after its batch's window, whatever became of the batch: by then the
# blocks of an output that was never put together are gone too ("Put Block", Azure Storage).
HOLD_SECONDS = 7 * 24 * 3600
# The first errors of a batch are shown with its job; its errors file has all of them.
SHOWN_ERRORS_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks of a new batch; checked by `create`."""

    endpoint: str
    input_file: str
    window: str
    metadata: Mapping[str, str]
    output_expiry_seconds: int


class Counts(NamedTuple):
    """Lines of a batch; ``before`` of those answered were so before the present attempt."""

    answered: int
    failed: int
    before: int = 0


class Batches:
    """The steps of batches over one storage account."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: Jobs,
        files: Files,
        answer: Answerer,
        gateway: Gateway,
        apis: Callable[[Deployment], BatchApi],
        lanes: int,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._files = files
        self._answer = answer
        self._lanes = lanes
        self.records = BatchRecords(storage)
        self.offload = Offload(self, storage=storage, jobs=jobs, answer=answer, gateway=gateway, apis=apis)

    # --- create ---

    async def create(self, principal: Principal, asked: Asked, *, job_id: str) -> Job:
        """Keep what is asked and announce a job for it; the same id again gives the job that is there.

        Raises `NotFound` for a file that is not the caller's, `InvalidParameter` for one that is no input.
        """
        if before := await self._jobs.find(principal.tenant, job_id):
            return before
        file = await self._files.get(principal, asked.input_file)
        if file.purpose != PURPOSE:
            raise InvalidParameter(
                f"The file's purpose must be {PURPOSE!r}, not {file.purpose!r}.", parameter="input_file_id"
            )
        now = time.time()
        batch = await self.records.add(
            Batch(
                job=job_id,
                principal=principal,
                endpoint=asked.endpoint,
                input_file=file.id,
                window=asked.window,
                created=now,
                expires=now + WINDOWS[asked.window],
                metadata=asked.metadata,
                output_expiry_seconds=asked.output_expiry_seconds,
            )
        )
        await self._hold_input(batch)
        return await self._jobs.create(
            principal.tenant,
            Kind.BATCH,
            job_id=job_id,
            title=f"Batch of {batch.endpoint}",
            collection=", ".join(principal.collections or ()),
            owner=principal.user,
        )

    async def _hold_input(self, batch: Batch) -> None:
        until = batch.expires + HOLD_SECONDS
        await self._files.hold(batch.principal.tenant, batch.input_file, batch.job, until)

    async def end(
        self,
        ticket: Ticket,
        batch: Batch,
        state: State,
        counts: Mapping[str, int],
        errors: Iterable[Mapping[str, Any]],
    ) -> None:
        await self._files.let_go(ticket.tenant, batch.input_file, batch.job)
        await self._jobs.finish(ticket, state, counts=counts, errors=errors)

    async def fail(self, ticket: Ticket, error: Mapping[str, Any]) -> None:
        """End a job that cannot go on; what its ledgers hold is there for another attempt."""
        batch = await self.records.read(ticket.tenant, ticket.job)
        await self.offload.abandon(ticket, batch)
        answered, failed, _ = await self.counts(await self._jobs.get(ticket.tenant, ticket.job))
        reason = {"item": "", **{name: error[name] for name in ("code", "message", "retryable")}}
        await self.end(ticket, batch, State.FAILED, {"answered": answered, "failed": failed}, [reason])

    # --- plan ---

    async def plan(self, ticket: Ticket) -> dict[str, Any]:
        """Lay out what this attempt has to do; how many shards there are, and how many run at a time.

        A file that cannot be run is refused: its job ends here.
        """
        batch = await self.records.read(ticket.tenant, ticket.job)
        if ticket.attempt > 1:
            batch = replace(batch, expires=time.time() + WINDOWS[batch.window])
            await self.records.note(batch, expires=batch.expires)
            await self._hold_input(batch)
        plan = await self._plan_again(ticket, batch)
        if plan is None:
            plan = await self._plan_first(ticket, batch)
        if plan is None:
            return {"refused": True}
        plan = replace(plan, offloaded=await self.offload.target(ticket, batch, plan.models))
        await self._jobs.put(ticket, "plan", plan.to_dict())
        await self._jobs.begin(ticket, total=plan.total)
        await self.records.note(batch, in_progress=time.time(), finalizing=0.0, ended="")
        return {
            "refused": False,
            "shards": len(plan.shards),
            "lanes": min(self._lanes, len(plan.shards)),
            "offloaded": bool(plan.offloaded),
        }

    async def _plan_first(self, ticket: Ticket, batch: Batch) -> Plan | None:
        """The plan of the whole input; None where the job has ended because of it."""
        await self._jobs.begin(ticket)
        file = await self._files.find(ticket.tenant, batch.input_file)
        if file is None:
            raise NotFound("file", batch.input_file)
        indexer = Indexer(batch.endpoint)
        async for data in self._files.read(file):
            # Parsing takes as long as the lines are many: other callers' requests go on meanwhile.
            await asyncio.to_thread(indexer.feed, data)
            if indexer.is_full:
                break
        await asyncio.to_thread(indexer.end)
        faults = await self._file_faults(file, indexer)
        if faults:
            shown = [{"item": where(fault), "retryable": False, **fault} for fault in faults]
            await self.end(ticket, batch, State.FAILED, {}, shown)
            return None
        return Plan(indexer.total, tuple(indexer.shards), tuple(sorted(indexer.models)))

    async def _file_faults(self, file: File, indexer: Indexer) -> list[dict[str, Any]]:
        if indexer.total == 0:
            return [file_error("empty_batch", "The file has no requests.")]
        if indexer.is_full:
            return [file_error("too_many_tasks", f"The file has more than {MAX_LINES} requests.")]
        suspects = await asyncio.to_thread(indexer.suspects)
        return await self._duplicates(file, indexer.endpoint, suspects) if suspects else []

    async def _duplicates(self, file: File, endpoint: str, suspects: set[int]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        seen: dict[str, int] = {}
        async for number, raw in numbered_lines(self._files.read(file), 0, 1):
            line = parse_line(raw.data, endpoint)
            if line.custom_id is not None and digest(line.custom_id) in suspects:
                found += duplicates([(number, line)], seen)
            if len(found) >= MOST_ERRORS:
                break
        return found

    async def _plan_again(self, ticket: Ticket, batch: Batch) -> Plan | None:
        """What the attempts before have left undone or failed; None where none of them had a plan."""
        for attempt in range(ticket.attempt - 1, 0, -1):
            before = replace(ticket, attempt=attempt)
            if data := await self._jobs.fetch(before, "plan"):
                return await self._remainder(before, batch, Plan.from_dict(data))
        return None

    async def _remainder(self, before: Ticket, batch: Batch, plan: Plan) -> Plan:
        answered = [0] * len(plan.shards)
        blocks = [*plan.blocks]
        async for entry in entries(self._storage, before):
            answered[entry.shard] |= entry.answered
            blocks += [entry.output] if entry.output else []
        shards = [
            replace(shard, done=shard.done | mask) for shard, mask in zip(plan.shards, answered, strict=True)
        ]
        info = await self._storage.blob_info(FILES, output_blob(before))
        if info is None and batch.output_file:
            raise Conflict("The batch's output file was deleted: its answers cannot be completed.")
        return Plan(
            total=plan.total,
            shards=tuple(shard for shard in shards if shard.pending),
            models=plan.models,
            answered=plan.answered + sum(mask.bit_count() for mask in answered),
            blocks=tuple(blocks),
            output_etag=info.etag if info else "",
        )

    # --- run ---

    async def run(self, ticket: Ticket, number: int) -> dict[str, Any]:
        """Work on the lines of a shard: how many are left, and how long to wait before going on."""
        plan = await plan_of(self._jobs, ticket)
        shard = plan.shards[number]
        ledger = await ledger_of(self._storage, ticket, number)
        pending = shard.pending & ~ledger.done
        left = Left(0)
        if pending:
            batch = await self.records.read(ticket.tenant, ticket.job)
            work = Work(ticket, batch.endpoint, batch.principal, shard.first_line)
            source = self._storage.read_blob(
                FILES, blob_name(ticket.tenant, batch.input_file), shard.start, shard.end
            )
            run = Run(work, ledger, self._answer, lambda: self.stop(ticket, batch))
            left = await run.through(numbered_lines(source, shard.start, shard.first_line), pending)
        return {"left": left.lines, "wait_seconds": left.wait_seconds}

    async def stop(self, ticket: Ticket, batch: Batch) -> Stop | None:
        if time.time() >= batch.expires:
            return EXPIRED
        return CANCELLED if await self._jobs.cancel_requested(ticket) else None

    # --- finish ---

    async def finish(self, ticket: Ticket) -> None:
        """Put the outputs together and end the job."""
        plan = await plan_of(self._jobs, ticket)
        batch = await self.records.read(ticket.tenant, ticket.job)
        await self.records.note(batch, finalizing=time.time())
        output, errors = [*plan.blocks], []
        done = [shard.done for shard in plan.shards]
        answered, failed, stop = plan.answered, 0, ""
        async for entry in entries(self._storage, ticket):
            done[entry.shard] |= entry.answered | entry.failed
            output += [entry.output] if entry.output else []
            errors += [entry.errors] if entry.errors else []
            answered += entry.answered.bit_count()
            failed += entry.failed.bit_count()
            stop = stop or entry.stop
        if answered + failed != plan.total:
            raise InternalError(f"{plan.total - answered - failed} lines of the batch have no outcome.")
        output_file = await self._put_together(ticket, batch, "output", output, plan.output_etag)
        errors_file = await self._put_together(ticket, batch, "errors", errors, "")
        ended = {CANCELLED.code: "cancelled", EXPIRED.code: "expired"}.get(stop, "completed")
        await self.records.note(batch, output_file=output_file, errors_file=errors_file, ended=ended)
        counts = {"answered": answered, "failed": failed}
        shown = await self._first_errors(ticket) if errors_file else []
        await self.end(ticket, batch, _state(ended, answered, failed), counts, shown)

    async def _put_together(
        self, ticket: Ticket, batch: Batch, kind: str, blocks: list[str], etag: str
    ) -> str:
        """Make a file of the blocks; its id, or nothing where there are none."""
        if not blocks:
            return ""
        blob = output_blob(ticket) if kind == "output" else errors_blob(ticket)
        # Another version than the attempt began with is this very step's, which could not tell of it.
        with suppress(Changed):
            await self._storage.commit_blocks(
                FILES, blob, blocks, content_type="application/jsonl", replaces=etag
            )
        info = await self._storage.blob_info(FILES, blob)
        if info is None:
            raise InternalError("The output of the batch is gone.")
        now = time.time()
        file = File(
            tenant=ticket.tenant,
            id=blob.rpartition("/")[2],
            owner=batch.principal.user,
            name=f"{batch.id}_{kind}.jsonl",
            purpose=OUTPUT_PURPOSE,
            size=info.size,
            created=now,
            expires=now + batch.output_expiry_seconds,
            collections=batch.principal.collections,
        )
        await self._files.register(file)
        return file.id

    async def _first_errors(self, ticket: Ticket) -> list[dict[str, Any]]:
        blob = errors_blob(ticket)
        info = await self._storage.blob_info(FILES, blob)
        shown: list[dict[str, Any]] = []
        splitter = LineSplitter()
        end = min(info.size if info else 0, SHOWN_ERRORS_BYTES)
        async for data in self._storage.read_blob(FILES, blob, 0, end):
            for raw in splitter.feed(data):
                line = json.loads(raw.data or b"{}")
                error = error_of(line)
                item = line.get("custom_id") or f"line {error.get('line')}"
                shown.append(
                    {
                        "item": item,
                        "code": str(error.get("code") or "failed"),
                        "message": str(error.get("message") or ""),
                        "retryable": True,
                    }
                )
        return shown[:STATUS_ERRORS]

    # --- status ---

    async def document(self, batch: Batch, job: Job) -> dict[str, Any]:
        """The batch as OpenAI's API shows it."""
        status = batch.status(job)
        answered, failed, _ = await self.counts(job)
        moments = {
            "in_progress_at": batch.in_progress,
            "finalizing_at": batch.finalizing,
            "cancelling_at": batch.cancelling,
            **{f"{end}_at": job.updated if status == end else 0.0 for end in _ENDS},
        }
        faults = [
            {name: error.get(name) for name in ("code", "message", "line", "param")} for error in job.errors
        ]
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "errors": {"object": "list", "data": faults} if status == "failed" else None,
            "input_file_id": batch.input_file,
            "completion_window": batch.window,
            "status": status,
            "output_file_id": batch.output_file or None,
            "error_file_id": batch.errors_file or None,
            "created_at": int(batch.created),
            "expires_at": int(batch.expires),
            **{name: int(moment) or None for name, moment in moments.items()},
            "request_counts": {"total": job.total or 0, "completed": answered, "failed": failed},
            "metadata": dict(batch.metadata) or None,
            "job_id": batch.job,
        }

    async def counts(self, job: Job, sums: Mapping[str, int] | None = None) -> Counts:
        """How many lines are answered and have failed so far; ``sums`` is the job's progress, if known."""
        if job.state.final:
            counts = job.counts or {}
            return Counts(counts.get("answered", 0), counts.get("failed", 0))
        sums = await self._jobs.progress(job.ticket) if sums is None else sums
        plan = await self._jobs.fetch(job.ticket, "plan") if job.attempt > 1 else None
        before = (plan or {}).get("answered", 0)
        return Counts(before + sums.get("answered", 0), sums.get("failed", 0), before)


_ENDS = ("completed", "failed", "expired", "cancelled")


def where(fault: Mapping[str, Any]) -> str:
    return f"line {fault['line']}" if fault["line"] else ""


def _state(ended: str, answered: int, failed: int) -> State:
    if ended == "cancelled":
        return State.CANCELLED
    if not failed:
        return State.SUCCEEDED
    return State.PARTIAL if answered else State.FAILED
