"""Batches over HTTP, in OpenAI's format, and as jobs.

run_batch ─┬ plan ── lanes ── finish
           │            └ batch_lane ── its shards one after the other, each as long as lines are left
           └ plan ── prepare ── submit ── poll … ── collect ── finish, where a deployment takes batches
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from typing import Annotated, Any, Literal

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.activities import Context, Payload, StepFailed, activity, call, given
from functions.files import checked_expiry, page
from functions.http import Call, Model, validated
from functions.jobs import job_id_for, start_job
from functions.openai_surface import AZURE, serve
from functions.openai_wire import read_object
from functions.services import services
from shared.errors import Conflict, InvalidParameter
from shared.files import DEFAULT_EXPIRY_SECONDS
from shared.inferencing.batches import ENDPOINTS, WINDOWS, Asked, Batch, full_endpoint
from shared.jobs import Job, Ticket

blueprint = df.Blueprint()

# A look with its wait, or a run of lines, leaves less than a kilobyte of history; then a new one begins.
LOOKS_PER_HISTORY = 200
RUNS_PER_HISTORY = 200

# As OpenAI's list of batches.
PAGE_BATCHES, MOST_PAGE_BATCHES = 20, 100
# As OpenAI's metadata: 16 pairs.
MetadataName = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class OutputExpiry(Model):
    """When the files that a batch makes expire."""

    anchor: Literal["created_at"]
    seconds: int


class BatchBody(Model):
    """OpenAI's request for a batch."""

    input_file_id: str = Field(max_length=64)
    endpoint: str = Field(max_length=64)
    completion_window: str = Field(max_length=16)
    metadata: dict[MetadataName, MetadataValue] | None = Field(None, max_length=16)
    output_expires_after: OutputExpiry | None = None


# --- HTTP ---


@serve("POST", "/batches", AZURE, BatchBody, on=blueprint, durable=True, keyed=True)
async def create_batch(call: Call) -> Response:
    """Run the requests of a file as a batch."""
    asked = _asked(validated(BatchBody, await read_object(call)))
    job = await services().batches.create(call.principal, asked, job_id=await job_id_for(call))
    await start_job(call.client, job)
    batch = await services().batches.records.read(job.tenant, job.id)
    return JSONResponse(await services().batches.document(batch, job))


def _asked(body: BatchBody) -> Asked:
    endpoint = full_endpoint(body.endpoint)
    if endpoint is None:
        raise InvalidParameter(f"'endpoint' must be one of: {', '.join(ENDPOINTS)}.", parameter="endpoint")
    if body.completion_window not in WINDOWS:
        raise InvalidParameter(
            f"'completion_window' must be one of: {', '.join(WINDOWS)}.", parameter="completion_window"
        )
    expiry = body.output_expires_after
    return Asked(
        endpoint=endpoint,
        input_file=body.input_file_id,
        window=body.completion_window,
        metadata=body.metadata or {},
        output_expiry_seconds=checked_expiry(
            expiry.seconds if expiry else DEFAULT_EXPIRY_SECONDS, "output_expires_after"
        ),
    )


@serve("GET", "/batches", AZURE, on=blueprint)
async def list_batches(call: Call) -> Response:
    """The caller's batches, newest first."""
    found, more = await services().batches.records.newest(
        call.principal,
        after=call.query("after"),
        limit=call.number("limit", PAGE_BATCHES, MOST_PAGE_BATCHES),
    )
    shown = [(batch, await services().jobs.find(call.principal.tenant, batch.job)) for batch in found]
    documents = [await services().batches.document(batch, job) for batch, job in shown if job]
    return JSONResponse(page(documents, more))


@serve("GET", "/batches/{batch_id}", AZURE, on=blueprint)
async def get_batch(call: Call) -> Response:
    """One batch: its state, counts and files."""
    batch, job = await _batch(call)
    return JSONResponse(await services().batches.document(batch, job))


@serve("POST", "/batches/{batch_id}/cancel", AZURE, on=blueprint)
async def cancel_batch(call: Call) -> Response:
    """Stop a batch; what is done by then is kept."""
    batch, job = await _batch(call)
    if job.state.final:
        raise Conflict(f"The batch has ended: it is {batch.status(job)}.", state=batch.status(job))
    job = await services().jobs.request_cancel(job.tenant, job.id)
    await services().batches.records.note_cancelling(batch)
    return JSONResponse(await services().batches.document(batch, job))


async def _batch(call: Call) -> tuple[Batch, Job]:
    batch = await services().batches.records.get(call.principal, call.path("batch_id"))
    return batch, await services().jobs.get(call.principal.tenant, batch.job)


# --- orchestrations ---


@blueprint.orchestration_trigger(context_name="context")
def run_batch(context: Context) -> Generator[Any, Any, Any]:
    """A batch: plan its shards, work through them in lanes, put the outputs together."""
    state = given(context)
    ticket = {name: state[name] for name in ("tenant", "job", "attempt")}
    try:
        plan = {"offloaded": True}
        if "handed_in" not in state:
            plan = yield from call(context, "plan_batch", ticket)
            if plan["refused"]:
                return
        if plan.get("offloaded"):  # plans of before have no such member
            fetched = yield from _run_elsewhere(context, ticket, state)
            if not fetched:
                return
        else:
            yield from _run_in_lanes(context, ticket, plan)
        yield from call(context, "finish_batch", ticket)
    except StepFailed as failed:
        yield from call(context, "fail_batch", {"ticket": ticket, "error": failed.error})


def _run_in_lanes(context: Context, ticket: Payload, plan: Payload) -> Generator[Any, Any, None]:
    lanes = [
        {"ticket": ticket, "shards": list(range(lane, plan["shards"], plan["lanes"]))}
        for lane in range(plan["lanes"])
    ]
    ends = yield context.task_all([context.call_sub_orchestrator("batch_lane", lane) for lane in lanes])
    for error in filter(None, ends):
        raise StepFailed(error)


def _run_elsewhere(context: Context, ticket: Payload, state: Payload) -> Generator[Any, Any, bool]:
    """Hand the lines to the service's own batch, wait for its end, fetch; whether the outputs are there.

    They are not where the batch was refused, and where the waiting goes on in a new history.
    """
    handed_in, looks = state.get("handed_in"), state.get("looks", 0)
    if handed_in is None:
        yield from call(context, "prepare_offload", ticket)
        submitted = yield from call(context, "submit_offload", ticket)
        handed_in = {"ticket": ticket, "batch": submitted["batch"]}
    last, ended = looks + LOOKS_PER_HISTORY, not handed_in["batch"]
    while not ended:
        if looks == last:
            context.continue_as_new({**ticket, "handed_in": handed_in, "looks": looks})
            return False
        look = yield from call(context, "poll_offload", {**handed_in, "looks": looks})
        looks, ended = looks + 1, look["ended"]
        if not ended:
            wait = timedelta(seconds=look["wait_seconds"])
            yield context.create_timer(context.current_utc_datetime + wait)
    collected = yield from call(context, "collect_offload", handed_in)
    return not collected["refused"]


@blueprint.orchestration_trigger(context_name="context")
def batch_lane(context: Context) -> Generator[Any, Any, Any]:
    """Some shards of a batch, one after the other; the value is the error that ended it, if one did."""
    lane = given(context)
    runs = 0
    try:
        for place, shard in enumerate(lane["shards"]):
            left = 1
            while left:
                if runs == RUNS_PER_HISTORY:
                    context.continue_as_new({**lane, "shards": lane["shards"][place:]})
                    return None
                runs += 1
                run = yield from call(context, "run_lines", {"ticket": lane["ticket"], "shard": shard})
                left = run["left"]
                if left and run["wait_seconds"]:
                    wait = timedelta(seconds=run["wait_seconds"])
                    yield context.create_timer(context.current_utc_datetime + wait)
    except StepFailed as failed:
        return failed.error
    return None


# --- activities ---


@activity(blueprint)
async def plan_batch(payload: dict[str, Any]) -> dict[str, Any]:
    """Lay out the shards of an attempt."""
    return await services().batches.plan(Ticket.from_dict(payload))


@activity(blueprint)
async def run_lines(payload: dict[str, Any]) -> dict[str, Any]:
    """Work on the lines of a shard."""
    return await services().batches.run(Ticket.from_dict(payload["ticket"]), payload["shard"])


@activity(blueprint)
async def prepare_offload(payload: dict[str, Any]) -> None:
    """Lay out the lines for a service's own batch."""
    await services().batches.offload.prepare(Ticket.from_dict(payload))


@activity(blueprint)
async def submit_offload(payload: dict[str, Any]) -> dict[str, Any]:
    """Begin a service's own batch, once."""
    return await services().batches.offload.submit(Ticket.from_dict(payload))


@activity(blueprint)
async def poll_offload(payload: dict[str, Any]) -> dict[str, Any]:
    """See how far the service's batch is."""
    ticket = Ticket.from_dict(payload["ticket"])
    return await services().batches.offload.poll(ticket, payload["batch"], payload["looks"])


@activity(blueprint)
async def collect_offload(payload: dict[str, Any]) -> dict[str, Any]:
    """Fetch the answers of the service's batch."""
    return await services().batches.offload.collect(Ticket.from_dict(payload["ticket"]), payload["batch"])


@activity(blueprint)
async def finish_batch(payload: dict[str, Any]) -> None:
    """Put the outputs together."""
    await services().batches.finish(Ticket.from_dict(payload))


@activity(blueprint)
async def fail_batch(payload: dict[str, Any]) -> None:
    """End a batch that cannot go on."""
    await services().batches.fail(Ticket.from_dict(payload["ticket"]), payload["error"])
