"""Batches that a service runs in a batch of its own: handed in once, looked at now and then, fetched.

    prepare    the lines as the service is to get them, in a blob; those that are refused are noted
    submit     the blob as the service's file, a batch over it; once, see `submission.py`
    poll       how far the service is; asks it to stop where the job has to
    collect    the service's answers into the ledgers, and why there is none for the other lines

The service knows a line by its number in the input alone. A step that is run again does the same thing again:
the job and its attempt are in the name of the service's file and in the metadata of its batch.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.errors import GroundworkError, InvalidRequest, ModelsUnavailable, NotFound
from shared.files import blob_name
from shared.jobs import State, Ticket
from shared.storage import FILES, JOBS, Changed

from ..batch_api import BatchApi, Document, Upload
from ..calls import CallRecord, Usage
from ..catalogue import Deployment, Kind, Model
from .collection import LOST, Collection, answer_lines
from .ledger import Ledger, Outcome, ledger_of
from .lines import answered_line, encode, failed_line, parse_line, request_id
from .plans import MOST_ERRORS, Plan, file_error, numbered_lines, plan_of
from .runs import CANCELLED, EXPIRED, Answerer, Stop, call_of
from .submission import CREATE_SECONDS, Submission

if TYPE_CHECKING:
    from shared.jobs import Jobs
    from shared.storage import Storage

    from ..gateway import Gateway
    from .execution import Batches
    from .records import Batch

# What a service is asked as it is here; a response is made of a chat here.
KINDS = {"/v1/chat/completions": Kind.CHAT, "/v1/embeddings": Kind.EMBEDDING}
METADATA = "groundwork"
MEMBERS_OF_FILES = ("input_file_id", "output_file_id", "error_file_id")
# Between two looks: a small batch ends within seconds, none is known later than this.
FIRST_WAIT_SECONDS = 1.0
WAIT_GROWTH = 1.5
LONGEST_WAIT_SECONDS = 180.0
# A service may take 10 minutes to cancel ("Batch API", OpenAI), and be away for as long again.
GRACE_SECONDS = 3600.0
# Our clock and the service's.
CLOCK_SKEW_SECONDS = 3600.0
# A file that Azure still reads cannot be a batch's input.
UNREADY, UNREADABLE = ("pending", "running", "notRunning"), ("error", "failed")
READ_AGAIN_SECONDS = 5.0
RUNNING = ("validating", "in_progress")
# Answers that are held before they are noted.
HELD_BYTES = 8 * 1024 * 1024
# Errors that pass, such as too many tokens in the service's queue at this moment ("Batch", Azure OpenAI).
PASSING = frozenset({"token_limit_exceeded", "rate_limit_exceeded", "server_error"})
# The progress row of what the service says it has done and we have not fetched.
PROGRESS_ROW = "offload"


class Offload:
    """The steps of batches that run elsewhere."""

    def __init__(
        self,
        batches: Batches,
        *,
        storage: Storage,
        jobs: Jobs,
        answer: Answerer,
        gateway: Gateway,
        apis: Callable[[Deployment], BatchApi],
    ) -> None:
        self._batches = batches
        self._storage = storage
        self._jobs = jobs
        self._answer = answer
        self._gateway = gateway
        self._apis = apis

    async def target(self, ticket: Ticket, batch: Batch, models: tuple[str, ...]) -> str:
        """The deployment that a batch of these models is handed to; nothing where it runs here.

        Where the cost of jobs has a ceiling it runs here: what it costs elsewhere is known at its end.
        """
        model = self._gateway.catalogue.models.get(models[0]) if len(models) == 1 else None
        deployment = model.batch_deployment() if model and KINDS.get(batch.endpoint) is model.kind else None
        if deployment is None or await self._gateway.has_cost_ceiling(call_of(batch.principal, ticket, "")):
            return ""
        return deployment.name

    # --- prepare ---

    async def prepare(self, ticket: Ticket) -> None:
        """Lay out what the service is to get."""
        plan, batch = await self._read(ticket)
        if await self._storage.blob_info(JOBS, _input_blob(ticket)):
            return
        deployment, blocks = self._deployment(plan)[1], []
        for number in range(len(plan.shards)):
            ledger = await ledger_of(self._storage, ticket, number)
            part, refused = bytearray(), list[Outcome]()
            async for line_number, index, data in self._pending(plan, batch, ledger):
                line = await self._prepared(ticket, batch, deployment, line_number, index, data)
                if isinstance(line, Outcome):
                    refused.append(line)
                else:
                    part += line
            await ledger.append(refused)
            if part:
                blocks.append(await self._storage.stage_block(JOBS, _input_blob(ticket), bytes(part), number))
        with suppress(Changed):
            await self._storage.commit_blocks(
                JOBS, _input_blob(ticket), blocks, content_type="application/jsonl", replaces=""
            )

    async def _prepared(
        self,
        ticket: Ticket,
        batch: Batch,
        deployment: Deployment,
        number: int,
        index: int,
        data: bytes | None,
    ) -> bytes | Outcome:
        line = parse_line(data, batch.endpoint)
        if line.fault is not None:
            fault = line.fault
            told = failed_line(ticket.job, number, line.custom_id, fault.code, fault.message, fault.param)
            return Outcome(index, told, False)
        own_id = request_id(ticket.job, number)
        try:
            body = await self._answer.asked(
                batch.principal, batch.endpoint, line.body, ticket=ticket, request=own_id
            )
        except GroundworkError as error:
            if error.retryable:
                raise
            status, refusal = self._answer.refusal(error, own_id)
            told = answered_line(ticket.job, number, line.custom_id or "", status, refusal)
            return Outcome(index, told, False)
        request = {
            "custom_id": str(number),
            "method": "POST",
            "url": self._apis(deployment).endpoint(batch.endpoint),
            "body": {**body, "model": deployment.deployment},
        }
        return encode(request) + b"\n"

    async def _pending(
        self, plan: Plan, batch: Batch, ledger: Ledger
    ) -> AsyncIterator[tuple[int, int, bytes | None]]:
        """Number, place in the shard and bytes of the lines that have no outcome."""
        shard = plan.shards[ledger.shard]
        pending = shard.pending & ~ledger.done
        if not pending:
            return
        blob = blob_name(batch.principal.tenant, batch.input_file)
        source = self._storage.read_blob(FILES, blob, shard.start, shard.end)
        async for number, raw in numbered_lines(source, shard.start, shard.first_line):
            index = number - shard.first_line
            if pending >> index & 1:
                yield number, index, raw.data

    # --- submit ---

    async def submit(self, ticket: Ticket) -> dict[str, Any]:
        """Hand the lines in; the service's batch, or none where there is nothing to hand in."""
        plan, batch = await self._read(ticket)
        api = self._apis(self._deployment(plan)[1])
        submission = Submission(self._storage, ticket)
        name = await submission.claim()
        if not name:
            try:
                name = await self._submit(api, ticket, batch, submission)
            except GroundworkError as error:
                # A batch whose request was not answered may be there in a moment.
                if not submission.is_asked or error.extra.get("upstream_status"):
                    await submission.release()
                raise
        return {"batch": name}

    async def _submit(self, api: BatchApi, ticket: Ticket, batch: Batch, submission: Submission) -> str:
        found = await self._submitted(api, ticket, batch)
        made = found or await self._create(api, ticket, batch, submission)
        if made is None:
            return ""
        name = str(made["id"])
        counts = await submission.decide(name)
        if counts != name:
            with suppress(GroundworkError):
                await api.cancel(name)
        if not counts:
            raise ModelsUnavailable("Another run of this step hands the lines in.", retry_after=1)
        return counts

    async def _create(
        self, api: BatchApi, ticket: Ticket, batch: Batch, submission: Submission
    ) -> Document | None:
        """A new batch at the service; None where there is nothing to hand in."""
        info = await self._storage.blob_info(JOBS, _input_blob(ticket))
        if info is None:
            raise NotFound("input of the batch", ticket.job)
        if not info.size or await self._batches.stop(ticket, batch):
            return None
        file = await self._handed_in(api, ticket, info.size)
        if file.get("status") in UNREADY:
            raise ModelsUnavailable("The service still reads the input.", retry_after=READ_AGAIN_SECONDS)
        try:
            if file.get("status") in UNREADABLE:
                raise InvalidRequest("The service could not read the input of the batch.")
            await submission.renew()
            return await api.create(
                str(file["id"]), batch.endpoint, {METADATA: ticket.instance}, seconds=CREATE_SECONDS
            )
        except InvalidRequest:
            with suppress(GroundworkError):
                await api.delete(str(file["id"]))
            raise

    async def _submitted(self, api: BatchApi, ticket: Ticket, batch: Batch) -> Document | None:
        async for found in api.batches(since=batch.created - CLOCK_SKEW_SECONDS):
            if (found.get("metadata") or {}).get(METADATA) == ticket.instance:
                return found
        return None

    async def _handed_in(self, api: BatchApi, ticket: Ticket, size: int) -> Document:
        async for found in api.files():
            if found.get("filename") == _input_name(ticket) and found.get("bytes") in (size, None):
                return found
        parts = self._storage.read_blob(JOBS, _input_blob(ticket), 0, size)
        return await api.upload(Upload(_input_name(ticket), size, parts))

    # --- poll ---

    async def poll(self, ticket: Ticket, name: str, looks: int) -> dict[str, Any]:
        """Whether the service is done, and how long to wait before the next look."""
        plan, batch = await self._read(ticket)
        api = self._apis(self._deployment(plan)[1])
        wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * WAIT_GROWTH ** min(looks, 20))
        over = time.time() >= batch.expires + GRACE_SECONDS
        try:
            remote = await api.batch(name)
        except ModelsUnavailable as error:
            # It works on while it does not answer: the job must not end over that.
            asked = min(LONGEST_WAIT_SECONDS, error.retry_after or 0.0)
            return {"ended": over, "wait_seconds": max(wait, asked)}
        status = remote.get("status")
        if status in RUNNING and await self._batches.stop(ticket, batch):
            # One that has just ended cannot be cancelled any more: the next look sees it.
            with suppress(InvalidRequest, ModelsUnavailable):
                await api.cancel(name)
        answered, failed = _counts(remote)
        await self._jobs.report(ticket, PROGRESS_ROW, answered=answered, failed=failed)
        return {"ended": over or status not in (*RUNNING, "finalizing", "cancelling"), "wait_seconds": wait}

    # --- collect ---

    async def collect(self, ticket: Ticket, name: str) -> dict[str, Any]:
        """Note what became of each line; a batch that the service has refused as a whole ends here."""
        plan, batch = await self._read(ticket)
        model, deployment = self._deployment(plan)
        api = self._apis(deployment)
        collection = await self._collection(ticket, plan, batch)
        remote: Document = {}
        if name:
            remote = await api.batch(name)
            if remote.get("status") == "failed":
                await self._clean(api, ticket, remote)
                await self._refuse(ticket, plan, batch, remote, [*collection.custom_ids])
                return {"refused": True}
        if collection.is_open:
            record = _Recorded(self._gateway, ticket, batch, model, deployment)
            for file in filter(None, (remote.get("output_file_id"), remote.get("error_file_id"))):
                async for line in answer_lines(api.content(str(file))):
                    if collection.take(line) and collection.bytes >= HELD_BYTES:
                        await self._note(ticket, collection, record, remote)
            collection.give_up(await self._reason(ticket, batch, remote))
            await self._note(ticket, collection, record, remote)
        await self._jobs.report(ticket, PROGRESS_ROW, answered=0, failed=0)
        await self._clean(api, ticket, remote)
        return {"refused": False}

    async def _collection(self, ticket: Ticket, plan: Plan, batch: Batch) -> Collection:
        collection = Collection(ticket.job, plan)
        for number in range(len(plan.shards)):
            ledger = await ledger_of(self._storage, ticket, number)
            collection.ledgers.append(ledger)
            async for line_number, _, data in self._pending(plan, batch, ledger):
                collection.custom_ids[line_number] = parse_line(data, batch.endpoint).custom_id or ""
        return collection

    async def _note(
        self, ticket: Ticket, collection: Collection, record: _Recorded, remote: Document
    ) -> None:
        held, usages = collection.drain()
        collection.answered += sum(outcome.answered for some in held.values() for outcome in some)
        collection.failed += sum(not outcome.answered for some in held.values() for outcome in some)
        answered, failed = _counts(remote)
        # First what is about to be noted: a line counts once, or for a moment not at all.
        await self._jobs.report(
            ticket,
            PROGRESS_ROW,
            answered=max(0, answered - collection.answered),
            failed=max(0, failed - collection.failed),
        )
        for shard, outcomes in held.items():
            first = collection.plan.shards[shard].first_line
            for outcome in await collection.ledgers[shard].append(outcomes):
                if usage := usages.get(first + outcome.index):
                    await record(first + outcome.index, usage)

    async def _reason(self, ticket: Ticket, batch: Batch, remote: Document) -> Stop:
        """Why a line has no answer."""
        stop = await self._batches.stop(ticket, batch)
        if remote.get("status") == "completed":
            return LOST
        if remote.get("status") == "expired":
            return EXPIRED
        return stop or (CANCELLED if remote.get("status") == "cancelled" else LOST)

    async def _refuse(
        self, ticket: Ticket, plan: Plan, batch: Batch, remote: Document, numbers: list[int]
    ) -> None:
        faults = []
        for error in ((remote.get("errors") or {}).get("data") or [])[:MOST_ERRORS]:
            place = error.get("line")
            known = isinstance(place, int) and 1 <= place <= len(numbers)
            code = str(error.get("code") or "batch_failed")
            message = str(error.get("message") or "The service refused the batch.")
            fault = file_error(code, message, numbers[place - 1] if known else None, error.get("param"))
            item = f"line {fault['line']}" if known else ""
            faults.append({"item": item, "retryable": code in PASSING, **fault})
        if not faults:
            fault = file_error("batch_failed", "The service refused the batch and gave no reason.")
            faults = [{"item": "", "retryable": True, **fault}]
        await self._jobs.report(ticket, PROGRESS_ROW, answered=0, failed=0)
        await self._batches.end(ticket, batch, State.FAILED, {"answered": plan.answered}, faults)

    async def abandon(self, ticket: Ticket, batch: Batch) -> None:
        """Stop what the service may still run for an attempt that has failed; nobody would fetch it."""
        with suppress(GroundworkError):
            plan = await plan_of(self._jobs, ticket)
            if plan.offloaded:
                api = self._apis(self._deployment(plan)[1])
                found = await self._submitted(api, ticket, batch)
                if found is not None and found.get("status") in RUNNING:
                    await api.cancel(str(found["id"]))

    async def _clean(self, api: BatchApi, ticket: Ticket, remote: Document) -> None:
        """Remove what was handed in, how often so ever, and what came of it: it is the tenant's text."""
        files = {str(remote.get(member) or "") for member in MEMBERS_OF_FILES}
        with suppress(GroundworkError):
            async for found in api.files():
                if found.get("filename") == _input_name(ticket):
                    files.add(str(found.get("id")))
        for file in files - {""}:
            with suppress(GroundworkError):
                await api.delete(file)
        await self._storage.delete_blob(JOBS, _input_blob(ticket))

    async def _read(self, ticket: Ticket) -> tuple[Plan, Batch]:
        plan = await plan_of(self._jobs, ticket)
        return plan, await self._batches.records.read(ticket.tenant, ticket.job)

    def _deployment(self, plan: Plan) -> tuple[Model, Deployment]:
        """Model and deployment of a plan; `NotFound` where the catalogue has changed since."""
        model = self._gateway.catalogue.models.get(plan.models[0])
        for deployment in model.batch_deployments if model else ():
            if model and deployment.name == plan.offloaded:
                return model, deployment
        raise NotFound("deployment", plan.offloaded)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Records the usage of lines, at the price of the deployment that ran them."""

    gateway: Gateway
    ticket: Ticket
    batch: Batch
    model: Model
    deployment: Deployment

    async def __call__(self, number: int, usage: Usage) -> None:
        cost = self.deployment.cost(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        await self.gateway.note_answered(
            CallRecord(
                call=call_of(self.batch.principal, self.ticket, request_id(self.ticket.job, number)),
                model=self.model.name,
                kind=self.model.kind.value,
                model_version=self.deployment.version,
                deployment=self.deployment.name,
                outcome="ok",
                usage=usage,
                estimated_cost=cost,
                upstream_calls=1,
                seconds=time.time() - self.batch.in_progress,
                seconds_to_first_token=None,
            )
        )


def _counts(remote: Document) -> tuple[int, int]:
    counts = remote.get("request_counts") or {}
    return int(counts.get("completed") or 0), int(counts.get("failed") or 0)


def _input_name(ticket: Ticket) -> str:
    """The name of the service's file."""
    return f"groundwork-{ticket.instance}.jsonl"


def _input_blob(ticket: Ticket) -> str:
    return f"{ticket.prefix}/offload.jsonl"
