"""Ingestion and deletion: HTTP in; orchestrations that fan the work out. Events are in `functions.events`.

ingest ── plan, which does at once what is little ── waves of shards ── finish
                    └ ingest_shard ── prepare ── embed, batch by batch ── commit
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import Response

from functions.activities import Context, StepFailed, activity, after, back_off_seconds, call, given
from functions.events import accept_again
from functions.http import Call, accepted, route
from functions.ingestion_request import MAX_TAG_CHARACTERS, MAX_TAGS, IngestionRequest
from functions.jobs import job_id_for, start_job
from functions.services import services
from shared.errors import Conflict, InvalidParameter, InvalidRequest
from shared.identity import Role
from shared.jobs import Ticket
from shared.knowledge.documents import check_id
from shared.knowledge.ingestion import Incoming

blueprint = df.Blueprint()

# A shard is prepared anew where its collection has got another layout meanwhile. One reindexing after the
# other may go on doing that to a collection that is small: after some preparations each further one waits,
# for five minutes in all.
PREPARATIONS_AT_ONCE = 3
PREPARATIONS = 12
# What one execution leaves of history: about a kilobyte a shard, half of one a batch. Then a new one begins.
SHARDS_PER_HISTORY = 200
BATCHES_PER_HISTORY = 200
LAYOUTS_KEEP_COMING = {
    "code": Conflict.code,
    "message": "The collection is being reindexed again and again.",
    "retryable": True,
}

# --- HTTP ---


@route(
    blueprint,
    "PUT",
    "/api/collections/{collection}/documents/{*document}",
    role=Role.CONTRIBUTOR,
    durable=True,
    statuses=(202,),
    keyed=True,
)
async def put_document(call: Call) -> Response:
    """Store one document, whose bytes are the body, and ingest it as a job."""
    tenant, collection = call.principal.tenant, call.path("collection")
    await services().collections.get(tenant, collection)
    tags = tuple(call.request.query_params.getlist("tag"))
    if len(tags) > MAX_TAGS or any(len(tag) > MAX_TAG_CHARACTERS for tag in tags):
        raise InvalidParameter(
            f"A document has at most {MAX_TAGS} tags of {MAX_TAG_CHARACTERS} characters.", parameter="tag"
        )
    incoming = Incoming(
        id=check_id(call.path("document")),
        content=await call.body(services().settings.max_document_bytes),
        content_type=call.request.headers.get("content-type"),
        title=call.query("title")[:500],
        source=call.query("source")[:500],
        tags=tags,
    )
    return await _accept(call, collection, [incoming], f"Ingest {incoming.id}")


@route(
    blueprint,
    "POST",
    "/api/collections/{collection}/ingestions",
    role=Role.CONTRIBUTOR,
    durable=True,
    body=IngestionRequest,
    statuses=(202,),
    keyed=True,
)
async def post_ingestion(call: Call) -> Response:
    """Ingest many documents as one job."""
    collection = call.path("collection")
    await services().collections.get(call.principal.tenant, collection)
    request = await call.json(IngestionRequest)
    if (request.documents is None) == (request.inbox_prefix is None):
        raise InvalidRequest("Give either 'documents' or 'inbox_prefix'.")
    if request.documents is not None:
        incoming = request.incoming()
        return await _accept(call, collection, incoming, f"Ingest {len(incoming)} documents")
    job = await services().ingestion.acceptance.accept_inbox(
        call.principal.tenant,
        collection,
        request.inbox_prefix or "",
        job_id=await job_id_for(call),
        owner=call.principal.user,
        title=f"Ingest inbox/{request.inbox_prefix}",
    )
    await start_job(call.client, job)
    return accepted(call, job)


@route(
    blueprint,
    "DELETE",
    "/api/collections/{collection}/documents/{*document}",
    role=Role.CONTRIBUTOR,
    durable=True,
    statuses=(202,),
    keyed=True,
)
async def delete_document(call: Call) -> Response:
    """Take a document out of sight at once, and remove it as a job."""
    job = await services().deletion.accept_document(
        call.principal.tenant,
        call.path("collection"),
        check_id(call.path("document")),
        job_id=await job_id_for(call),
        owner=call.principal.user,
    )
    await start_job(call.client, job)
    return accepted(call, job)


@route(
    blueprint,
    "DELETE",
    "/api/collections/{collection}",
    role=Role.ADMINISTRATOR,
    durable=True,
    statuses=(202,),
    keyed=True,
)
async def delete_collection(call: Call) -> Response:
    """Close a collection at once, and remove it with all its documents as a job."""
    job = await services().deletion.accept_collection(
        call.principal.tenant,
        call.path("collection"),
        job_id=await job_id_for(call),
        owner=call.principal.user,
    )
    await start_job(call.client, job)
    return accepted(call, job)


async def _accept(call: Call, collection: str, incoming: list[Incoming], title: str) -> Response:
    job = await services().ingestion.acceptance.accept(
        call.principal.tenant,
        collection,
        incoming,
        job_id=await job_id_for(call),
        owner=call.principal.user,
        title=title,
    )
    await start_job(call.client, job)
    return accepted(call, job)


# --- orchestrations ---


@blueprint.orchestration_trigger(context_name="context")
def ingest(context: Context) -> Generator[Any, Any, Any]:
    """An ingestion: plan the shards, work through them in waves, sum up. What is little ends with the plan.

    After many shards a new history begins, with what was planned in its input.
    """
    state = {"first": 0, **given(context)}
    ticket = {name: state[name] for name in ("tenant", "job", "attempt")}
    try:
        plan = state.get("plan") or (yield from call(context, "plan_ingestion", ticket))
        if ended := plan.get("ended"):
            return ended
        last = min(plan["shards"], state["first"] + SHARDS_PER_HISTORY)
        for first in range(state["first"], last, plan["in_flight"]):
            numbers = range(first, min(first + plan["in_flight"], last))
            wave = [{"ticket": ticket, "shard": number} for number in numbers]
            ends = yield context.task_all(
                [context.call_sub_orchestrator("ingest_shard", shard) for shard in wave]
            )
            for error in filter(None, ends):
                raise StepFailed(error)
        if last < plan["shards"]:
            context.continue_as_new({**ticket, "first": last, "plan": plan})
            return None
        return (yield from call(context, "finish_ingestion", ticket))
    except StepFailed as failed:
        yield from call(context, "fail_job", {"ticket": ticket, "error": failed.error})
        return None


@blueprint.orchestration_trigger(context_name="context")
def ingest_shard(context: Context) -> Generator[Any, Any, Any]:
    """One shard: read its documents, embed them batch by batch, make them visible.

    What became of each document is in its outcome; the value is the error where that could not be noted.
    After many batches a new history begins, with the batches that are done in its input.
    """
    state = given(context)
    shard = {name: state[name] for name in ("ticket", "shard")}
    going_on = state if "batches" in state else None
    for preparation in range(state.get("preparation", 0), PREPARATIONS):
        if going_on is not None:
            batches, first, failed = going_on["batches"], going_on["first"], going_on["failed"]
            going_on = None
        else:
            first, failed = 0, {}
            try:
                batches = yield from call(context, "prepare_shard", shard)
            except StepFailed as error:
                batches, failed["-1"] = 0, error.error
        last = min(batches, first + BATCHES_PER_HISTORY)
        for batch in range(first, last):
            try:
                yield from call(context, "embed_batch", {**shard, "batch": batch})
            except StepFailed as error:
                failed[str(batch)] = error.error
                if error.error["code"] == "cancelled":
                    last = batches
                    break
        if last < batches:
            done = {"preparation": preparation, "batches": batches, "first": last, "failed": failed}
            context.continue_as_new({**shard, **done})
            return None
        try:
            settled = yield from call(context, "commit_shard", {**shard, "failed": failed})
        except StepFailed as error:
            return error.error
        if settled is not False:
            return None
        if PREPARATIONS_AT_ONCE <= preparation + 1 < PREPARATIONS:
            yield after(context, back_off_seconds(preparation + 2 - PREPARATIONS_AT_ONCE))
            context.continue_as_new({**shard, "preparation": preparation + 1})
            return None
    return LAYOUTS_KEEP_COMING


@blueprint.orchestration_trigger(context_name="context")
def delete(context: Context) -> Generator[Any, Any, Any]:
    """A deletion: remove what the job names."""
    ticket = given(context)
    try:
        yield from call(context, "remove", ticket)
    except StepFailed as failed:
        yield from call(context, "fail_job", {"ticket": ticket, "error": failed.error})


# --- activities ---


@activity(blueprint)
async def plan_ingestion(payload: dict[str, Any]) -> dict[str, Any]:
    """Lay out the shards of an attempt; accept first what an event brought and was refused before."""
    ticket = Ticket.from_dict(payload)
    await accept_again(ticket)
    return await services().ingestion.begin(ticket)


@activity(blueprint)
async def prepare_shard(payload: dict[str, Any]) -> int:
    """Read and chunk a shard's documents; the number of embedding batches."""
    return await services().ingestion.preparation.prepare(
        Ticket.from_dict(payload["ticket"]), payload["shard"]
    )


@activity(blueprint)
async def embed_batch(payload: dict[str, Any]) -> None:
    """Embed one batch into the index."""
    await services().ingestion.embedding.embed(
        Ticket.from_dict(payload["ticket"]), payload["shard"], payload["batch"]
    )


@activity(blueprint)
async def commit_shard(payload: dict[str, Any]) -> bool:
    """Make a shard's new versions visible; False where it has to be prepared anew."""
    failed = {int(batch): error for batch, error in payload["failed"].items()}
    return await services().ingestion.settlement.commit(
        Ticket.from_dict(payload["ticket"]), payload["shard"], failed
    )


@activity(blueprint)
async def finish_ingestion(payload: dict[str, Any]) -> dict[str, Any]:
    """Sum up an attempt."""
    return await services().ingestion.settlement.finish(Ticket.from_dict(payload))


@activity(blueprint)
async def remove(payload: dict[str, Any]) -> None:
    """Remove what a deletion names."""
    await services().deletion.run(Ticket.from_dict(payload))
