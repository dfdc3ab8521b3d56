"""Reindexing over HTTP and as an orchestration: another layout, compared, swapped, taken back.

reindex ── survey a page ── waves of shards ── next page, next pass … ── compare ── swap
                             └ reindex_shard ── prepare ── embed, batch by batch ── commit
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.activities import Context, StepFailed, activity, call, given
from functions.collections import embedding_model
from functions.http import Call, Model, accepted, route
from functions.jobs import job_id_for, start_job
from functions.services import services
from shared.errors import Conflict, NotFound
from shared.identity import Role
from shared.jobs import Ticket
from shared.knowledge.layouts import MAX_CHUNK_CHARACTERS, MIN_CHUNK_CHARACTERS

blueprint = df.Blueprint()

MAX_QUESTIONS = 1000
MAX_KEEP_SECONDS = 90 * 86_400
DAY_SECONDS = 86_400
# Each pass but the last puts something into the new layout. What comes in meanwhile goes there by itself, so
# the second pass finds what the first one could not see, and more than a few mean a fault.
MAX_PASSES = 10
NEVER_CAUGHT_UP = {
    "code": Conflict.code,
    "message": "The new layout did not catch up with the old one.",
    "retryable": True,
}
DocumentName = Annotated[str, Field(min_length=1, max_length=1000)]


class GoldenQuestion(Model):
    """A question, and the documents that answer it."""

    question: str = Field(min_length=1, max_length=4000)
    documents: tuple[DocumentName, ...] = Field(min_length=1, max_length=50)


class GoldenSet(Model):
    """The questions by which layouts of a collection are compared."""

    questions: tuple[GoldenQuestion, ...] = Field(max_length=MAX_QUESTIONS)


class Minimum(Model):
    """What the new layout must reach: means over the golden set, at ten documents."""

    ndcg: float | None = Field(None, ge=0, le=1)
    recall: float | None = Field(None, ge=0, le=1)
    mrr: float | None = Field(None, ge=0, le=1)


class ReindexBody(Model):
    """How the collection is to be cut and embedded; what is left out stays as it is."""

    embedding_model: str | None = Field(None, max_length=64)
    chunk_characters: int | None = Field(None, ge=MIN_CHUNK_CHARACTERS, le=MAX_CHUNK_CHARACTERS)
    keep_seconds: int = Field(DAY_SECONDS, ge=0, le=MAX_KEEP_SECONDS)
    golden: tuple[GoldenQuestion, ...] = Field((), max_length=MAX_QUESTIONS)
    minimum: Minimum | None = None
    allowed_loss: float | None = Field(None, ge=0, le=1)


class RollbackBody(Model):
    """Which kept layout is to serve; the newest one where none is named."""

    layout: int | None = Field(None, ge=1)


# --- HTTP ---


@route(
    blueprint,
    "POST",
    "/api/collections/{collection}/reindex",
    role=Role.ADMINISTRATOR,
    durable=True,
    body=ReindexBody,
    statuses=(202, 409),
    keyed=True,
)
async def reindex_collection(call: Call) -> Response:
    """Build another layout of a collection beside the serving one, compare the two, and swap them."""
    from shared.knowledge.reindexing import Wish

    await services().collections.get(call.principal.tenant, call.path("collection"))
    body = await call.json(ReindexBody)
    if body.embedding_model is not None:
        embedding_model(body.embedding_model)
    minimum = None if body.minimum is None else body.minimum.model_dump(exclude_none=True)
    job = await services().reindexing.accept(
        call.principal,
        call.path("collection"),
        Wish(
            embedding_model=body.embedding_model,
            chunk_characters=body.chunk_characters,
            keep_seconds=body.keep_seconds,
            golden=_questions(body.golden),
            minimum=minimum or None,
            allowed_loss=body.allowed_loss,
        ),
        job_id=await job_id_for(call),
    )
    await start_job(call.client, job)
    return accepted(call, job)


@route(
    blueprint,
    "POST",
    "/api/collections/{collection}/rollback",
    role=Role.ADMINISTRATOR,
    body=RollbackBody,
    statuses=(200, 409),
)
async def roll_back_collection(call: Call) -> Response:
    """Let the layout that served before serve again, at once."""
    body = await call.json(RollbackBody)
    collection = await services().reindexing.roll_back(
        call.principal.tenant, call.path("collection"), body.layout
    )
    return JSONResponse(collection.to_document())


@route(
    blueprint,
    "DELETE",
    "/api/collections/{collection}/layouts/{layout}",
    role=Role.ADMINISTRATOR,
    statuses=(200, 409),
)
async def retire_layout(call: Call) -> Response:
    """Give up a kept layout before its time; its chunks are removed a little later."""
    await services().collections.get(call.principal.tenant, call.path("collection"))
    number = call.path("layout")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise NotFound("layout", number)
    collection = await services().reindexing.retire(
        call.principal.tenant, call.path("collection"), int(number)
    )
    return JSONResponse(collection.to_document())


@route(
    blueprint,
    "PUT",
    "/api/collections/{collection}/golden-set",
    role=Role.CONTRIBUTOR,
    body=GoldenSet,
)
async def put_golden_set(call: Call) -> Response:
    """Keep the questions by which layouts of a collection are compared."""
    tenant, collection = call.principal.tenant, call.path("collection")
    await services().collections.get(tenant, collection)
    body = await call.json(GoldenSet)
    await services().golden.put(tenant, collection, _questions(body.questions))
    return JSONResponse({"questions": len(body.questions)})


@route(blueprint, "GET", "/api/collections/{collection}/golden-set", role=Role.CONTRIBUTOR)
async def get_golden_set(call: Call) -> Response:
    """The questions that a collection keeps."""
    tenant, collection = call.principal.tenant, call.path("collection")
    await services().collections.get(tenant, collection)
    questions = await services().golden.get(tenant, collection)
    return JSONResponse({"questions": [question.to_dict() for question in questions]})


def _questions(given: tuple[GoldenQuestion, ...]) -> tuple[Any, ...]:
    from shared.knowledge.golden import Question

    return tuple(Question(each.question, tuple(dict.fromkeys(each.documents))) for each in given)


# --- orchestrations ---


@blueprint.orchestration_trigger(context_name="context")
def reindex(context: Context) -> Generator[Any, Any, Any]:
    """A reindexing: pages of the collection in passes until nothing is behind, then compare and swap.

    Each page is a history of its own; what was done so far is in the input.
    """
    state = {"pass": 0, "after": "", "shards": 0, "worked": 0, "failed": 0, **given(context)}
    ticket = {name: state[name] for name in ("tenant", "job", "attempt")}
    try:
        if not state["pass"]:
            yield from call(context, "begin_reindexing", ticket)
            state["pass"] = 1
        page = yield from call(context, "survey_collection", state)
        numbers = range(state["shards"], state["shards"] + page["shards"])
        shards = [{"ticket": ticket, "shard": number} for number in numbers]
        for first in range(0, len(shards), page["in_flight"]):
            wave = shards[first : first + page["in_flight"]]
            ends = yield context.task_all(
                [context.call_sub_orchestrator("reindex_shard", shard) for shard in wave]
            )
            for end in ends:
                if "error" in end:
                    raise StepFailed(end["error"])
                state["failed"] += end["value"]
        state["shards"] += len(shards)
        state["worked"] += len(shards)
        if page["next"] is not None:
            context.continue_as_new({**state, "after": page["next"]})
            return
        if state["failed"]:
            yield from call(context, "stop_reindexing", {"ticket": ticket, "shards": state["shards"]})
            return
        if state["worked"] and state["pass"] == MAX_PASSES:
            raise StepFailed(NEVER_CAUGHT_UP)
        if state["worked"]:
            context.continue_as_new({**state, "after": "", "pass": state["pass"] + 1, "worked": 0})
            return
        question = 0
        while question is not None:
            question = yield from call(context, "compare_layouts", {"ticket": ticket, "first": question})
        yield from call(context, "swap_layouts", ticket)
    except StepFailed as failed:
        yield from call(context, "give_up_reindexing", {"ticket": ticket, "error": failed.error})


@blueprint.orchestration_trigger(context_name="context")
def reindex_shard(context: Context) -> Generator[Any, Any, Any]:
    """One shard: cut its texts anew, embed them batch by batch, note where they are now.

    The value is the number of documents that failed, or the error of the shard as a whole.
    """
    shard = given(context)
    failed: dict[str, Any] = {}
    try:
        batches = yield from call(context, "recut_shard", shard)
        for batch in range(batches):
            try:
                yield from call(context, "embed_batch", {**shard, "batch": batch})
            except StepFailed as error:
                failed[str(batch)] = error.error
                if error.error["code"] == "cancelled":
                    raise
        return {"value": (yield from call(context, "note_shard", {**shard, "failed": failed}))}
    except StepFailed as error:
        return {"error": error.error}


# --- activities ---


@activity(blueprint)
async def begin_reindexing(payload: dict[str, Any]) -> int:
    """Name the new layout."""
    return await services().reindexing.begin(Ticket.from_dict(payload))


@activity(blueprint)
async def survey_collection(payload: dict[str, Any]) -> dict[str, Any]:
    """Lay out what a page of documents lacks."""
    ticket = Ticket.from_dict(payload)
    first_pass = payload["pass"] == 1
    return await services().reindexing.survey(ticket, payload["after"], first_pass, payload["shards"])


@activity(blueprint)
async def recut_shard(payload: dict[str, Any]) -> int:
    """Cut a shard's texts; the number of embedding batches."""
    return await services().reindexing.prepare(Ticket.from_dict(payload["ticket"]), payload["shard"])


@activity(blueprint)
async def note_shard(payload: dict[str, Any]) -> int:
    """Note that the new layout has a shard's documents; the number of those that failed."""
    failed = {int(batch): error for batch, error in payload["failed"].items()}
    return await services().reindexing.commit(Ticket.from_dict(payload["ticket"]), payload["shard"], failed)


@activity(blueprint)
async def compare_layouts(payload: dict[str, Any]) -> int | None:
    """Ask both layouts some questions; where the next ones begin."""
    return await services().reindexing.compare(Ticket.from_dict(payload["ticket"]), payload["first"])


@activity(blueprint)
async def swap_layouts(payload: dict[str, Any]) -> None:
    """Let the new layout serve."""
    await services().reindexing.swap(Ticket.from_dict(payload))


@activity(blueprint)
async def stop_reindexing(payload: dict[str, Any]) -> None:
    """End a job some of whose documents failed."""
    ticket = Ticket.from_dict(payload["ticket"])
    await services().reindexing.stop_where_documents_failed(ticket, payload["shards"])


@activity(blueprint)
async def give_up_reindexing(payload: dict[str, Any]) -> None:
    """End a job that cannot go on."""
    await services().reindexing.give_up(Ticket.from_dict(payload["ticket"]), payload["error"])
