"""Events: blobs of the inbox and messages of the queue become jobs, and none of them vanishes.

An event has no caller who could be told. One that is refused, or that nothing came of in all its tries, is a
failed job of its tenant; one that names no tenant is a job of the operators. The job keeps the event, so that
a retry plays it again.
"""

from __future__ import annotations

import base64
import json
import logging
from dataclasses import dataclass, replace
from typing import Any

import azure.durable_functions as df
import azure.functions as func

from functions.http import Client, validated
from functions.ingestion_request import IngestionRequest
from functions.jobs import start_job
from functions.services import services
from shared.errors import GroundworkError, MalformedJson, NotFound, Poisoned, typed
from shared.identity import OPERATORS_TENANT, check_name
from shared.jobs import Job, Kind, State, Ticket, derived_id
from shared.knowledge.arrivals import refusal_job
from shared.knowledge.documents import check_id
from shared.storage import BLOB_POISON_QUEUE, INBOX, INGESTION_POISON_QUEUE, INGESTION_QUEUE

log = logging.getLogger("groundwork.events")
blueprint = df.Blueprint()

# Tries of a message, as host.json sets them.
MAX_DEQUEUE_COUNT = 5


@dataclass(frozen=True, slots=True)
class Arrival:
    """A blob of the inbox, whose path names what it is to be: tenant, collection, document."""

    tenant: str
    collection: str
    document: str
    blob: str

    @classmethod
    def of(cls, path: str) -> Arrival:
        """Raises `InvalidName` for a path that names no document."""
        tenant, _, rest = path.partition("/")
        collection, _, document = rest.partition("/")
        return cls(
            check_name("tenant", tenant), check_name("collection", collection), check_id(document), path
        )

    async def accept(self, job_id: str = "") -> Job | None:
        """The job for the blob as it is now, None where it is gone. An ETag has one job."""
        return await services().ingestion.acceptance.accept_arrival(
            self.tenant, self.collection, self.document, self.blob, job_id=job_id
        )


@dataclass(frozen=True, slots=True)
class Order:
    """A message that names its tenant: what it asks for is checked when it is accepted."""

    tenant: str
    collection: str
    job_id: str
    body: dict[str, Any]
    sent: float = 0.0

    @classmethod
    def of(cls, data: bytes, message_id: str, sent: float = 0.0) -> Order:
        """``sent`` is when the message was put on the queue (UTC seconds).

        Raises `MalformedJson` for a message that does not say whom it is for.
        """
        try:
            body = json.loads(data)
            tenant = check_name("tenant", body.pop("tenant"))
            collection = check_name("collection", body.pop("collection"))
            own_id = str(body.pop("id", "") or message_id)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, GroundworkError):
            raise MalformedJson("An ingestion message is JSON with 'tenant' and 'collection'.") from None
        return cls(tenant, collection, derived_id("queue", tenant, collection, own_id), body, sent)

    async def accept(self, job_id: str = "") -> Job:
        request = validated(IngestionRequest, self.body)
        acceptance = services().ingestion.acceptance
        job_id = job_id or self.job_id
        if request.inbox_prefix is not None:
            return await acceptance.accept_inbox(
                self.tenant,
                self.collection,
                request.inbox_prefix,
                job_id=job_id,
                owner="queue",
                title=f"Ingest inbox/{request.inbox_prefix}",
                refusable=False,
            )
        incoming = [replace(document, event=self.sent) for document in request.incoming()]
        return await acceptance.accept(
            self.tenant,
            self.collection,
            incoming,
            job_id=job_id,
            owner="queue",
            title=f"Ingest {len(incoming)} documents",
            refusable=False,
        )


# --- what arrives ---


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
    await services().intake.room()
    try:
        job = await Arrival.of(path).accept()
    except GroundworkError as error:
        if error.retryable:
            raise
        await _refuse_blob(path, error)
        return
    if job is not None:
        services().intake.begun(job)
        await start_job(client, job)


@blueprint.queue_trigger(arg_name="message", queue_name=INGESTION_QUEUE, connection="GroundworkStorage")
@blueprint.durable_client_input(client_name="client")
async def message_arrived(message: func.QueueMessage, client: Client) -> None:
    """A message ``{tenant, collection, documents | inbox_prefix, id?}`` starts an ingestion.

    The same ``id`` (or the same message, delivered twice) has the same job.
    """
    data = message.get_body()
    await services().intake.room()
    try:
        inserted = message.insertion_time
        job = await Order.of(data, message.id or "", inserted.timestamp() if inserted else 0.0).accept()
    except Exception as error:
        final = isinstance(error, GroundworkError) and not error.retryable
        if final or (message.dequeue_count or 1) >= MAX_DEQUEUE_COUNT:
            await _refuse_message(data, message.id or "", typed(error))
        if not final:
            raise  # to be tried again; after the last try the host moves it to the poison queue
        return
    services().intake.begun(job)
    await start_job(client, job)


# --- what nothing came of ---


@blueprint.queue_trigger(
    arg_name="message", queue_name=INGESTION_POISON_QUEUE, connection="GroundworkStorage"
)
async def message_poisoned(message: func.QueueMessage) -> None:
    """A message whose tries are used up: it has its failed job by now, unless each try ended the host."""
    await _refuse_message(message.get_body(), message.id or "", Poisoned("The message"))


@blueprint.queue_trigger(arg_name="message", queue_name=BLOB_POISON_QUEUE, connection="GroundworkStorage")
async def blob_poisoned(message: func.QueueMessage) -> None:
    """A blob whose tries are used up."""
    try:
        body = json.loads(message.get_body())
        container, path = str(body["ContainerName"]), str(body["BlobName"])
    except (ValueError, KeyError, TypeError):
        log.error("blob_poison_message_unreadable", extra={"message": message.id})
        return
    if container == INBOX:
        await _refuse_blob(path, Poisoned("The blob"))


async def _refuse_blob(path: str, error: GroundworkError) -> None:
    tenant, _, rest = path.partition("/")
    collection, _, document = rest.partition("/")
    try:
        check_name("tenant", tenant)
    except GroundworkError:
        tenant = OPERATORS_TENANT
    blob = await services().storage.blob_info(INBOX, path)
    refused = refusal_job(path, blob.etag if blob else "")
    await _record_refusal(tenant, collection, document or rest or path, refused, error, {"blob": path})


async def _refuse_message(data: bytes, message_id: str, error: GroundworkError) -> None:
    event = {"message": base64.b64encode(data).decode()}
    try:
        order = Order.of(data, message_id)
    except MalformedJson as unreadable:
        refused = derived_id("refused", "message", event["message"])
        await _record_refusal(OPERATORS_TENANT, "", "", refused, unreadable, event)
        return
    refused = derived_id("refused", order.job_id)
    await _record_refusal(order.tenant, order.collection, "", refused, error, event)


async def _record_refusal(
    tenant: str, collection: str, document: str, job_id: str, error: GroundworkError, event: dict[str, str]
) -> None:
    """A failed job in the place of one that could not begin.

    It has an id of its own, so that the event can also be sent again once its reason is gone.
    """
    jobs = services().jobs
    first = Ticket(tenant, job_id)
    await jobs.put(first, "event", event)
    await jobs.create(
        tenant,
        Kind.INGESTION,
        job_id=job_id,
        title=f"Refused: {document or 'message'}",
        collection=collection,
        owner="event",
        total=1,
        refusable=False,
    )
    reason = {"item": document, "code": error.code, "message": error.detail, "retryable": error.retryable}
    await jobs.finish(first, State.FAILED, counts={"failed": 1}, errors=[reason])
    await jobs.started(job_id)
    log.warning("event_refused", extra={"job": job_id, "code": error.code})


async def accept_again(ticket: Ticket) -> None:
    """Accept, for a retry, the event that the job stands for; any other job has none."""
    if ticket.attempt == 1:
        return
    first = Ticket(ticket.tenant, ticket.job)
    event = await services().jobs.fetch(first, "event")
    if event is None or await services().ingestion.shards.plan(first) is not None:
        return
    if "blob" in event:
        if await Arrival.of(event["blob"]).accept(ticket.job) is None:
            raise NotFound("blob", event["blob"])
        return
    await Order.of(base64.b64decode(event["message"]), ticket.job).accept(ticket.job)
