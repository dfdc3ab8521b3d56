"""Acceptance: from a caller's bytes to a job that will not be lost. Accepted means durable."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.errors import GroundworkError, InvalidRequest, NotFound, PayloadTooLarge
from shared.identity import check_readers
from shared.jobs import Job, Kind, Ticket
from shared.knowledge.documents import Upload, check_id
from shared.knowledge.ingestion.outcomes import Outcome
from shared.knowledge.ingestion.shards import in_shards
from shared.knowledge.media import detect
from shared.storage import INBOX

if TYPE_CHECKING:
    from shared.jobs import Jobs
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Documents
    from shared.knowledge.ingestion.shards import Shards
    from shared.storage import Storage

# Raw blobs written at a time; Azurite and one storage account serve more, memory is what bounds it.
WRITES_IN_FLIGHT = 8
HEAD_BYTES = 4096
# An upload is one property of its record: Azure Tables holds 64 KiB of UTF-16 in one.
UPLOAD_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document as a caller hands it over, not yet accepted."""

    id: str
    content: bytes
    content_type: str | None = None
    title: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    readers: tuple[str, ...] | None = None


class Acceptance:
    """Takes documents in."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        shards: Shards,
        max_document_bytes: int,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._shards = shards
        self._max_document_bytes = max_document_bytes

    async def accept(
        self,
        tenant: str,
        collection: str,
        incoming: Sequence[Incoming],
        *,
        job_id: str,
        owner: str,
        title: str,
    ) -> Job:
        """Keep the documents and announce a job for them; the caller may be answered after this.

        Everything is checked before anything is stored. Raises `NotFound` for the collection,
        `PayloadTooLarge`, `UnsupportedMediaType` and `InvalidName`. The same id again gives the job that
        is there and changes nothing; only an acceptance that was broken off is completed.
        """
        within = await self._collections.get(tenant, collection)
        ticket = Ticket(tenant, job_id)
        if before := await self._accepted_before(ticket):
            return before
        uploads = [self._checked(document) for document in incoming]
        gate = asyncio.Semaphore(WRITES_IN_FLIGHT)

        async def keep(document: Incoming, upload: Upload) -> None:
            async with gate:
                await self._content.put_raw(tenant, collection, upload, document.content)

        await asyncio.gather(*(keep(*pair) for pair in zip(incoming, uploads, strict=True)))
        shards = list(in_shards(uploads))
        for number, shard in enumerate(shards):
            await self._shards.put_manifest(ticket, number, shard)
        failpoints.passed("accept.kept")
        job = await self._jobs.create(
            tenant,
            Kind.INGESTION,
            job_id=job_id,
            title=title,
            collection=collection,
            owner=owner,
            generation=within.generation,
            total=len(uploads),
        )
        failpoints.passed("accept.announced")
        revived: set[str] = set()
        for shard in shards:
            revived |= await self._documents.accept(tenant, collection, shard, job_id)
        # A deletion at work may have removed the bytes of what was accepted only after that.
        pairs = zip(incoming, uploads, strict=True)
        await asyncio.gather(*(keep(*pair) for pair in pairs if pair[1].id in revived))
        failpoints.passed("accept.recorded")
        # The plan comes last: it tells that every document has its version.
        await self._shards.put_plan(ticket, len(shards), len(uploads))
        return job

    async def accept_inbox(
        self, tenant: str, collection: str, prefix: str, *, job_id: str, owner: str, title: str
    ) -> Job:
        """Announce a job for all blobs of the collection's inbox whose paths begin with ``prefix``."""
        within = await self._collections.get(tenant, collection)
        ticket = Ticket(tenant, job_id)
        if before := await self._accepted_before(ticket):
            return before
        await self._shards.put_inbox_plan(ticket, prefix)
        return await self._jobs.create(
            tenant,
            Kind.INGESTION,
            job_id=job_id,
            title=title,
            collection=collection,
            generation=within.generation,
            owner=owner,
        )

    async def _accepted_before(self, ticket: Ticket) -> Job | None:
        """The job of an acceptance that was completed."""
        job = await self._jobs.find(ticket.tenant, ticket.job)
        if job is None or await self._shards.plan(ticket) is None:
            return None
        return job

    async def complete(self, ticket: Ticket, job: Job) -> dict[str, Any]:
        """The plan of a job whose acceptance was broken off after it had been announced."""
        shards = await self._shards.count_manifests(ticket)
        documents = 0
        for number in range(shards):
            manifest = await self._shards.manifest(ticket, number)
            await self._documents.accept(ticket.tenant, job.collection, manifest, ticket.job)
            documents += len(manifest)
        return await self._shards.put_plan(ticket, shards, documents)

    async def copy_from_inbox(
        self, ticket: Ticket, collection: Collection, uploads: list[Upload]
    ) -> tuple[list[Upload], list[Outcome]]:
        """Bring blobs of the inbox into the store of raw documents and give them their versions."""
        if not any(upload.inbox for upload in uploads):
            return uploads, []
        outcomes: list[Outcome] = []

        async def copy(upload: Upload) -> Upload | None:
            try:
                if upload.size > self._max_document_bytes:
                    raise PayloadTooLarge(
                        f"The document has {upload.size} bytes; the limit is {self._max_document_bytes}."
                    )
                content = await self._storage.get_blob(INBOX, upload.inbox)
                if content is None:
                    raise NotFound("blob", upload.inbox)
                checked = self._checked(Incoming(upload.id, content, upload.media, source="inbox"))
                await self._content.put_raw(ticket.tenant, collection.name, checked, content)
                return checked
            except GroundworkError as error:
                if error.retryable:
                    raise
                outcomes.append(Outcome.failed(upload.id, error))
                return None

        copied = [upload for upload in [await copy(upload) for upload in uploads] if upload is not None]
        revived = await self._documents.accept(ticket.tenant, collection.name, copied, ticket.job)
        for upload in uploads:
            if upload.id in revived:
                await copy(upload)  # see `accept`: a deletion may have removed it
        return copied, outcomes

    def _checked(self, document: Incoming) -> Upload:
        if len(document.content) > self._max_document_bytes:
            raise PayloadTooLarge(
                f"The document {document.id!r} has {len(document.content)} bytes; "
                f"the limit is {self._max_document_bytes}.",
                limit=self._max_document_bytes,
            )
        check_readers(document.readers or ())
        upload = Upload(
            id=check_id(document.id),
            sha256=hashlib.sha256(document.content).hexdigest(),
            size=len(document.content),
            media=detect(document.id, document.content_type, document.content[:HEAD_BYTES]).value,
            title=document.title,
            source=document.source,
            tags=document.tags,
            readers=document.readers,
        )
        if len(json.dumps(upload.to_dict(), ensure_ascii=False).encode("utf-16-le")) > UPLOAD_BYTES:
            raise InvalidRequest(f"Title, source, tags and readers of {upload.id!r} are too long together.")
        return upload
