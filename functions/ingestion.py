"""Ingestion and deletion: HTTP, blob and queue events in; orchestrations that fan the work out.

ingest ── plan ── waves of shards ── finish
                    └ ingest_shard ── prepare ── embed, batch by batch ── commit
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Generator
from typing import Annotated, Any

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import Response
from pydantic import Field

from functions.activities import Context, StepFailed, activity, call, given
from functions.collections import MAX_READERS, Reader
from functions.http import Call, Client, Model, accepted, route, validated
from functions.jobs import job_id_for, start_job
from functions.services import services
from shared.errors import (
    Conflict,
    GroundworkError,
    InternalError,
    InvalidParameter,
    InvalidRequest,
    MalformedJson,
)
from shared.identity import Role, check_name
from shared.jobs import Job, Kind, State, Ticket, derived_id
from shared.knowledge.documents import check_id
from shared.knowledge.ingestion import Incoming
from shared.outgoing import URL_MAX_CHARACTERS
from shared.storage import INBOX, INGESTION_QUEUE

log = logging.getLogger("groundwork.ingestion")
blueprint = df.Blueprint()

# One request carries at most this many documents; larger sets go by blobs or several requests.
MAX_INLINE_DOCUMENTS = 1000
# Tries of a message, as host.json sets them.
MAX_DEQUEUE_COUNT = 5
MAX_TAGS = 32
MAX_TAG_CHARACTERS = 200
# A shard is prepared anew where its collection has got another layout meanwhile: as often as that happens.
PREPARATIONS = 3
LAYOUTS_KEEP_COMING = {
    "code": Conflict.code,
    "message": "The collection is being reindexed again and again.",
    "retryable": True,
}
Tag = Annotated[str, Field(max_length=MAX_TAG_CHARACTERS)]


class InlineDocument(Model):
    """One document of a request: as text, in base64, or by the address to fetch it from."""

    id: str = Field(max_length=1000)
    content: str | None = None
    content_base64: str | None = None
    url: str | None = Field(None, min_length=1, max_length=URL_MAX_CHARACTERS)
    content_type: str | None = Field(None, max_length=200)
    title: str = Field("", max_length=500)
    source: str = Field("", max_length=500)
    tags: tuple[Tag, ...] = Field((), max_length=MAX_TAGS)
    readers: tuple[Reader, ...] | None = Field(None, max_length=MAX_READERS)

    def incoming(self) -> Incoming:
        if [self.content, self.content_base64, self.url].count(None) != 2:
            raise InvalidRequest(
                f"The document {self.id!r} needs one of 'content', 'content_base64' and 'url'."
            )
        try:
            content = (
                self.content.encode()
                if self.content is not None
                else base64.b64decode(self.content_base64 or "", validate=True)
            )
        except (binascii.Error, ValueError):
            raise InvalidRequest(f"'content_base64' of the document {self.id!r} is not base64.") from None
        return Incoming(
            id=self.id,
            content=content,
            content_type=self.content_type,
            title=self.title,
            source=self.source,
            tags=self.tags,
            readers=self.readers,
            url=self.url or "",
        )


class IngestionRequest(Model):
    """Many documents: given here, or the blobs of the collection's inbox under a prefix."""

    documents: tuple[InlineDocument, ...] | None = Field(None, max_length=MAX_INLINE_DOCUMENTS)
    inbox_prefix: str | None = Field(None, max_length=900)


# --- HTTP ---


@route(
    blueprint,
    "PUT",
    "/api/collections/{collection}/documents/{*document}",
    role=Role.CONTRIBUTOR,
    durable=True,
    statuses=(202,),
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
)
async def post_ingestion(call: Call) -> Response:
    """Ingest many documents as one job."""
    collection = call.path("collection")
    await services().collections.get(call.principal.tenant, collection)
    request = await call.json(IngestionRequest)
    if (request.documents is None) == (request.inbox_prefix is None):
        raise InvalidRequest("Give either 'documents' or 'inbox_prefix'.")
    if request.documents is not None:
        incoming = [document.incoming() for document in request.documents]
        _check_distinct(incoming)
        return await _accept(call, collection, incoming, f"Ingest {len(incoming)} documents")
    job = await services().ingestion.acceptance.accept_inbox(
        call.principal.tenant,
        collection,
        request.inbox_prefix or "",
        job_id=job_id_for(call),
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
)
async def delete_document(call: Call) -> Response:
    """Take a document out of sight at once, and remove it as a job."""
    job = await services().deletion.accept_document(
        call.principal.tenant,
        call.path("collection"),
        check_id(call.path("document")),
        job_id=job_id_for(call),
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
)
async def delete_collection(call: Call) -> Response:
    """Close a collection at once, and remove it with all its documents as a job."""
    job = await services().deletion.accept_collection(
        call.principal.tenant, call.path("collection"), job_id=job_id_for(call), owner=call.principal.user
    )
    await start_job(call.client, job)
    return accepted(call, job)


async def _accept(call: Call, collection: str, incoming: list[Incoming], title: str) -> Response:
    job = await services().ingestion.acceptance.accept(
        call.principal.tenant,
        collection,
        incoming,
        job_id=job_id_for(call),
        owner=call.principal.user,
        title=title,
    )
    await start_job(call.client, job)
    return accepted(call, job)


def _check_distinct(incoming: list[Incoming]) -> None:
    if not incoming:
        raise InvalidRequest("'documents' is empty.")
    seen: set[str] = set()
    for document in incoming:
        name = check_id(document.id)
        if name in seen:
            raise InvalidRequest(f"The document {name!r} is given twice.")
        seen.add(name)


# --- events ---


@blueprint.blob_trigger(
    arg_name="blob",
    path=f"{INBOX}/{{name}}",
    connection="GroundworkStorage",
    source=func.BlobSource.EVENT_GRID,
)
@blueprint.durable_client_input(client_name="client")
async def blob_arrived(blob: func.InputStream, client: Client) -> None:
    """A blob at ``inbox/{tenant}/{collection}/{path}`` is the document ``path`` of that collection."""
    path = (blob.name or "").removeprefix(f"{INBOX}/")
    tenant, _, rest = path.partition("/")
    collection, _, document = rest.partition("/")
    try:
        check_name("tenant", tenant)
        check_name("collection", collection)
        check_id(document)
    except GroundworkError as error:
        # No tenant to show it to: the operator finds it in the log, the blob stays where it is.
        log.warning("inbox_blob_ignored", extra={"code": error.code})
        return
    info = await services().storage.blob_info(INBOX, path)
    if info is None:
        return
    content = blob.read()
    # The blob may have been written again between the event and the look at it: the ETag alone could
    # stand for content that this event has not brought.
    job_id = derived_id("blob", path, info.etag, hashlib.sha256(content).hexdigest())
    incoming = Incoming(document, content, info.content_type, source="inbox")
    try:
        job = await services().ingestion.acceptance.accept(
            tenant,
            collection,
            [incoming],
            job_id=job_id,
            owner="event",
            title=f"Ingest {document}",
            refusable=False,
        )
    except GroundworkError as error:
        if error.retryable:
            raise
        await _record_refusal(tenant, collection, document, job_id, error)
        return
    await start_job(client, job)


@blueprint.queue_trigger(arg_name="message", queue_name=INGESTION_QUEUE, connection="GroundworkStorage")
@blueprint.durable_client_input(client_name="client")
async def message_arrived(message: func.QueueMessage, client: Client) -> None:
    """A message ``{tenant, collection, documents | inbox_prefix, id?}`` starts an ingestion.

    The same ``id`` (or the same message, delivered twice) has the same job.
    """
    try:
        body = json.loads(message.get_body())
        tenant = check_name("tenant", body.pop("tenant"))
        collection = check_name("collection", body.pop("collection"))
        own_id = str(body.pop("id", "") or message.id)
    except (ValueError, KeyError, TypeError, AttributeError):
        # It names no tenant who could be told: after its tries it lies in the poison queue.
        raise MalformedJson("An ingestion message is JSON with 'tenant' and 'collection'.") from None
    job_id = derived_id("queue", tenant, collection, own_id)
    try:
        job = await _accept_message(tenant, collection, validated(IngestionRequest, body), job_id)
    except Exception as error:
        final = isinstance(error, GroundworkError) and not error.retryable
        if final or (message.dequeue_count or 1) >= MAX_DEQUEUE_COUNT:
            reason = error if isinstance(error, GroundworkError) else InternalError()
            await _record_refusal(tenant, collection, "", job_id, reason)
        if not final:
            raise  # to be tried again; after the last try the host keeps it in the poison queue
        return
    await start_job(client, job)


async def _accept_message(tenant: str, collection: str, request: IngestionRequest, job_id: str) -> Job:
    if request.inbox_prefix is not None:
        return await services().ingestion.acceptance.accept_inbox(
            tenant,
            collection,
            request.inbox_prefix,
            job_id=job_id,
            owner="queue",
            title=f"Ingest inbox/{request.inbox_prefix}",
            refusable=False,
        )
    incoming = [document.incoming() for document in request.documents or ()]
    _check_distinct(incoming)
    title = f"Ingest {len(incoming)} documents"
    return await services().ingestion.acceptance.accept(
        tenant, collection, incoming, job_id=job_id, owner="queue", title=title, refusable=False
    )


async def _record_refusal(
    tenant: str, collection: str, document: str, job_id: str, error: GroundworkError
) -> None:
    """An event has no caller who could be told: its refusal is a failed job, for the tenant to see.

    The refusal has an id of its own, so that the event can be played again once its reason is gone.
    """
    jobs = services().jobs
    job = await jobs.create(
        tenant,
        Kind.INGESTION,
        job_id=derived_id("refused", job_id),
        title=f"Refused: {document or 'message'}",
        collection=collection,
        owner="event",
        total=1,
        refusable=False,
    )
    reason = {"item": document, "code": error.code, "message": error.detail, "retryable": False}
    await jobs.finish(job.ticket, State.FAILED, counts={"failed": 1}, errors=[reason])
    await jobs.started(job.id)


# --- orchestrations ---


@blueprint.orchestration_trigger(context_name="context")
def ingest(context: Context) -> Generator[Any, Any, Any]:
    """An ingestion: plan the shards, work through them in waves, sum up."""
    ticket = given(context)
    try:
        plan = yield from call(context, "plan_ingestion", ticket)
        shards = [{"ticket": ticket, "shard": number} for number in range(plan["shards"])]
        for first in range(0, len(shards), plan["in_flight"]):
            wave = shards[first : first + plan["in_flight"]]
            ends = yield context.task_all(
                [context.call_sub_orchestrator("ingest_shard", shard) for shard in wave]
            )
            for error in filter(None, ends):
                raise StepFailed(error)
        return (yield from call(context, "finish_ingestion", ticket))
    except StepFailed as failed:
        yield from call(context, "fail_job", {"ticket": ticket, "error": failed.error})
        return None


@blueprint.orchestration_trigger(context_name="context")
def ingest_shard(context: Context) -> Generator[Any, Any, Any]:
    """One shard: read its documents, embed them batch by batch, make them visible.

    What became of each document is in its outcome; the value is the error where that could not be noted.
    """
    shard = given(context)
    for _ in range(PREPARATIONS):
        failed: dict[str, Any] = {}
        try:
            batches = yield from call(context, "prepare_shard", shard)
        except StepFailed as error:
            batches, failed["-1"] = 0, error.error
        for batch in range(batches):
            try:
                yield from call(context, "embed_batch", {**shard, "batch": batch})
            except StepFailed as error:
                failed[str(batch)] = error.error
                if error.error["code"] == "cancelled":
                    break
        try:
            settled = yield from call(context, "commit_shard", {**shard, "failed": failed})
        except StepFailed as error:
            return error.error
        if settled is not False:
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
async def plan_ingestion(payload: dict[str, Any]) -> dict[str, int]:
    """Lay out the shards of an attempt."""
    return await services().ingestion.planning.plan(Ticket.from_dict(payload))


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
