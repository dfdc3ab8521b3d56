"""Jobs over HTTP: list, status, result, live events, cancel, retry; and what keeps them from being stuck."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions.activities import activity
from functions.http import Call, Client, accepted, ended_by_error, event_stream, route, sse
from functions.services import services
from shared import failpoints
from shared.errors import Cancelled, Conflict, Hidden, InvalidParameter, NotFound, StorageUnavailable
from shared.identity import Principal, Role
from shared.inferencing.batches import Counts
from shared.jobs import POLL_SECONDS, Job, Kind, State, Ticket, derived_id, new_id, status_document

log = logging.getLogger("groundwork.jobs")
blueprint = df.Blueprint()

ORCHESTRATOR = {
    Kind.INGESTION: "ingest",
    Kind.DELETION: "delete",
    Kind.ANSWER: "answer_later",
    Kind.REINDEXING: "reindex",
    Kind.RECONCILIATION: "reconcile",
    Kind.ERASURE: "erase",
    Kind.BATCH: "run_batch",
}
# Proxies close connections that are silent for long; Azure's load balancer after 4 minutes.
EVENT_SILENCE_SECONDS = 15.0
# An announced job that has not been started by then was left behind by a process that died.
START_GRACE_SECONDS = 30.0
# A running job whose row has been still for this long is checked against its orchestration.
STILL_SECONDS = 60.0
# Without an orchestration for this long, and nobody who will start one, a job is lost.
LOST_SECONDS = 600.0
_ENDED = ("Failed", "Terminated", "Canceled", "Completed")
RESULT_PAGE_SHARDS = 4


async def start_job(client: Client | None, job: Job) -> None:
    """Start the orchestration of a job's present attempt; once started, doing so again changes nothing."""
    assert client is not None
    if job.state is State.QUEUED and not await _exists(client, job.ticket.instance):
        try:
            await client.start_new(ORCHESTRATOR[job.kind], job.ticket.instance, job.ticket.to_dict())
        except Exception as error:
            # The client raises bare exceptions. The instance may have been started by someone else
            # meanwhile; if it was not, the announcement stands and the timer tries again.
            if not await _exists(client, job.ticket.instance):
                raise StorageUnavailable("The job could not be started yet.", retry_after=5) from error
    failpoints.passed("start.created")
    await services().jobs.started(job.id)


async def _exists(client: Client, instance: str) -> bool:
    status = await client.get_status(instance)
    return bool(status and status.instance_id)


def keyed_id(call: Call) -> str:
    """A new id, or the one that the caller's Idempotency-Key has always had on this route."""
    assert call.keyed, f"the contract says nothing of an Idempotency-Key for {call.action}"
    key = call.idempotency_key
    if key is None:
        return new_id()
    if not 1 <= len(key) <= 200:
        raise InvalidParameter("An Idempotency-Key has 1 to 200 characters.", parameter="idempotency-key")
    who = call.principal
    return derived_id("http", who.tenant, who.user, call.request.method, call.request.url.path, key)


async def job_id_for(call: Call) -> str:
    """The id of the job that the call asks for, whose body has been read.

    Raises `IdempotencyKeyReused` where the key came with another query, content type or body before.
    """
    job_id = keyed_id(call)
    if call.idempotency_key is not None:
        await call.claim(job_id)
    return job_id


def may_see(principal: Principal, job: Job) -> bool:
    """A job is its owner's; those of documents also of whoever may change documents, all of operators.

    A credential that is limited to collections sees the jobs of these alone.
    """
    names = filter(None, job.collection.split(", "))
    if not all(principal.reaches(name) for name in names):
        return False
    if job.owner == principal.user or principal.may(Role.OPERATOR):
        return True
    return job.kind not in (Kind.ANSWER, Kind.BATCH) and principal.may(Role.CONTRIBUTOR)


async def _job(call: Call) -> Job:
    """The job that the path names; `NotFound` where the caller may not see it."""
    job = await services().jobs.get(call.principal.tenant, call.path("job"))
    if not may_see(call.principal, job):
        raise Hidden("job", job.id)
    return job


# --- HTTP ---


@route(blueprint, "GET", "/api/jobs")
async def list_jobs(call: Call) -> Response:
    """The jobs that the caller may see, newest first; a page may hold fewer than asked for."""
    jobs, following = await services().jobs.newest(
        call.principal.tenant, after=call.query("after"), limit=call.number("limit", 50, 200)
    )
    seen = (job for job in jobs if may_see(call.principal, job))
    items = [status_document(job, None, call.base_url) for job in seen]
    return JSONResponse({"items": items, "next": following})


@route(blueprint, "GET", "/api/jobs/{job}", durable=True)
async def get_job(call: Call) -> Response:
    """A job's status: state, progress in stages, errors, links."""
    job = await _job(call)
    job = await checked_against_orchestration(call.client, job)
    headers = {} if job.state.final else {"Retry-After": str(POLL_SECONDS)}
    return JSONResponse(await _status(job, call.base_url), headers=headers)


@route(blueprint, "GET", "/api/jobs/{job}/result", statuses=(200, 409))
async def get_job_result(call: Call) -> Response:
    """What a job has come to: the outcome of each document, page by page, or the answer."""
    job = await _job(call)
    if job.kind in (Kind.ANSWER, Kind.BATCH) and job.owner != call.principal.user:
        raise Hidden("job", job.id)  # it was made from what its owner may read
    if not job.state.final:
        raise Conflict("The job has not ended yet.", state=job.state.value, retry_after=POLL_SECONDS)
    if job.kind is Kind.ANSWER:
        answer = await services().jobs.fetch(job.ticket, "answer")
        if answer is None:
            raise NotFound("answer of the job", job.id)
        return JSONResponse(answer)
    if job.kind in (Kind.REINDEXING, Kind.RECONCILIATION, Kind.ERASURE):
        result = await services().jobs.fetch(job.ticket, "result") or {}
        return JSONResponse({"state": job.state.value, "counts": dict(job.counts or {}), **result})
    if job.kind is Kind.BATCH:
        batch = await services().batches.records.read(job.tenant, job.id)
        return JSONResponse({"state": job.state.value, **await services().batches.document(batch, job)})
    first = call.number("page", 1, 1_000_000)
    items, more = await services().ingestion.shards.outcome_page(
        job.ticket, (first - 1) * RESULT_PAGE_SHARDS, RESULT_PAGE_SHARDS
    )
    return JSONResponse(
        {
            "state": job.state.value,
            "counts": dict(job.counts or {}),
            "items": [item.to_dict() for item in items],
            "next": str(first + 1) if more else None,
        }
    )


@route(blueprint, "GET", "/api/jobs/{job}/events", durable=True)
async def get_job_events(call: Call) -> Response:
    """The job's status as server-sent events, at every change, until it has ended."""
    job = await _job(call)
    services().followers.check_room(job.tenant)
    return event_stream(ended_by_error(call, _followed(call, job)))


async def _followed(call: Call, job: Job) -> AsyncGenerator[bytes, None]:
    with services().followers.one_more(job.tenant):
        async with aclosing(_status_events(call, job)) as events:
            async for event in events:
                yield event


async def _status_events(call: Call, job: Job) -> AsyncGenerator[bytes, None]:
    last: dict[str, Any] = {}
    silent_since = time.monotonic()
    while True:
        current = await services().jobs.get(job.tenant, job.id)
        current = await checked_against_orchestration(call.client, current)
        status = await _status(current, call.base_url)
        if status != last:
            yield sse("status", status)
            last, silent_since = status, time.monotonic()
        elif time.monotonic() - silent_since > EVENT_SILENCE_SECONDS:
            yield b": still running\n\n"
            silent_since = time.monotonic()
        if current.state.final:
            return
        await asyncio.sleep(services().followers.look_seconds)


@route(blueprint, "POST", "/api/jobs/{job}/cancel", role=Role.CONTRIBUTOR, statuses=(202, 409))
async def cancel_job(call: Call) -> Response:
    """Ask a job to stop; it does so before its next step."""
    job = await _job(call)
    return accepted(call, await services().jobs.request_cancel(job.tenant, job.id))


@route(blueprint, "POST", "/api/jobs/{job}/retry", role=Role.CONTRIBUTOR, durable=True, statuses=(202, 409))
async def retry_job(call: Call) -> Response:
    """Run again what failed or was cancelled, and only that."""
    jobs = services().jobs
    job = await _job(call)
    first = Ticket(job.tenant, job.id)
    begun = await jobs.fetch(first, "plan") or await jobs.fetch(first, "event")
    if job.kind is Kind.INGESTION and begun is None:
        raise Conflict("The job was refused before it began: send its document again.")
    job = await jobs.retry(job.tenant, job.id)
    await start_job(call.client, job)
    return accepted(call, job)


async def _status(job: Job, base_url: str) -> dict[str, Any]:
    from shared.inferencing.budgets import UNITS_OF_MONEY

    sums, now = await services().jobs.progress(job.ticket), time.time()
    if job.kind is Kind.BATCH:
        progress = batch_progress(job, await services().batches.counts(job, sums), now)
    else:
        progress = progress_of(job, sums, now)
    status = status_document(job, progress, base_url)
    return {**status, "estimated_cost": sums.get("spent", 0) / UNITS_OF_MONEY}


def batch_progress(job: Job, counts: Counts, now: float) -> dict[str, Any]:
    """How far a batch is, by lines; its rate is that of the present attempt."""
    done, total = counts.answered + counts.failed, job.total
    progress: dict[str, Any] = {"done": done, "total": total, "unit": "lines", "stages": []}
    progress |= {"rate": None, "eta_seconds": None}
    done_now = done - counts.before
    if job.started is None or not total or not done_now or job.state.final:
        return progress
    rate = done_now / max(now - job.started, 0.001)
    return progress | {"rate": round(rate, 3), "eta_seconds": round((total - done) / rate, 1)}


def progress_of(job: Job, sums: dict[str, int], now: float) -> dict[str, Any]:
    """How far a job is: documents done, stages, documents a second, seconds to go where that is known."""
    # A reindexing counts its documents page by page.
    total = sums.get("found", 0) if job.kind is Kind.REINDEXING else job.total
    published = sums.get("published", 0)
    progress: dict[str, Any] = {
        "done": published,
        "total": total,
        "unit": "documents" if job.kind is not Kind.ANSWER else "answers",
        "stages": [],
        "rate": None,
        "eta_seconds": None,
    }
    if job.kind not in (Kind.INGESTION, Kind.REINDEXING):
        return progress
    parsed, chunks, embedded = (sums.get(name, 0) for name in ("parsed", "chunks", "embedded"))
    progress["stages"] = [
        {"name": "read", "done": parsed, "total": total, "unit": "documents"},
        {"name": "embed", "done": embedded, "total": chunks, "unit": "chunks"},
        {"name": "publish", "done": published, "total": total, "unit": "documents"},
    ]
    if job.started is None or not total or job.state.final:
        return progress
    elapsed = max(now - job.started, 0.001)
    progress["rate"] = round(published / elapsed, 3)
    # Embedding takes nearly all of the time; chunks of documents not yet read are estimated from the rest.
    expected = chunks * total / parsed if parsed else 0
    share = embedded / expected if expected else parsed / total * 0.05
    if 0.01 < share <= 1:
        progress["eta_seconds"] = round(elapsed * (1 - share) / share, 1)
    return progress


async def checked_against_orchestration(client: Client | None, job: Job) -> Job:
    """A job whose orchestration ended without a word (terminated, broken, purged) is a failed job."""
    if job.state.final or client is None or time.time() - job.updated < STILL_SECONDS:
        return job
    status = await client.get_status(job.ticket.instance)
    if status is None or not status.instance_id:
        # Purged with its history, or never started; a job that waits for its start is announced.
        if time.time() - job.updated < LOST_SECONDS or await services().jobs.is_announced(job.id):
            return job
    elif getattr(status.runtime_status, "value", None) not in _ENDED:
        return job
    log.warning("orchestration_ended_without_its_job", extra={"job": job.id})
    reason = {
        "code": "orchestration_ended",
        "message": "The orchestration ended before the job did.",
        "retryable": True,
    }
    return await _ended_without_success(job, job.ticket, reason)


async def _ended_without_success(job: Job, ticket: Ticket, error: Mapping[str, Any]) -> Job:
    """End an attempt that cannot go on, its documents first: a job that has ended is looked at no more."""
    reason = {name: error[name] for name in ("code", "message", "retryable")}
    if job.kind is Kind.INGESTION and not job.state.final and job.attempt == ticket.attempt:
        await services().ingestion.settlement.abandon(ticket, reason)
    if reason["code"] == Cancelled.code:
        return await services().jobs.finish(ticket, State.CANCELLED)
    return await services().jobs.finish(ticket, State.FAILED, errors=[{"item": "", **reason}])


# --- background ---


@blueprint.timer_trigger(arg_name="timer", schedule="*/30 * * * * *", run_on_startup=True)
@blueprint.durable_client_input(client_name="client")
async def start_left_behind(timer: func.TimerRequest, client: Client) -> None:
    """Start the jobs that were announced by a process that then died."""
    async for found in services().jobs.announced_before(time.time() - START_GRACE_SECONDS):
        if isinstance(found, str):
            await services().jobs.started(found)
        else:
            log.warning("job_left_behind", extra={"job": found.id})
            await start_job(client, found)


@activity(blueprint)
async def fail_job(payload: dict[str, Any]) -> None:
    """End a job whose orchestration cannot go on."""
    ticket = Ticket.from_dict(payload["ticket"])
    job = await services().jobs.get(ticket.tenant, ticket.job)
    await _ended_without_success(job, ticket, payload["error"])
