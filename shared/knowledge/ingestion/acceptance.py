"""Acceptance: from a caller's bytes to a job that will not be lost. Accepted means durable."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.errors import Contended, InvalidRequest, PayloadTooLarge
from shared.identity import check_readers
from shared.jobs import Job, Jobs, Kind, Ticket
from shared.knowledge.arrivals import arrival_job
from shared.knowledge.documents import PROBED, Upload, check_id
from shared.knowledge.index.protocol import document_key
from shared.knowledge.ingestion.shards import in_shards, shard_name
from shared.knowledge.media import detect
from shared.storage import INBOX, RAW, in_turns

if TYPE_CHECKING:
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Accepted, Document, Documents
    from shared.knowledge.ingestion.shards import Shards
    from shared.outgoing import Outgoing
    from shared.quotas import Hold
    from shared.storage import Storage

HEAD_BYTES = 4096
# An upload is one property of its record: Azure Tables holds 64 KiB of UTF-16 in one.
UPLOAD_BYTES = 60_000


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document as a caller hands it over, not yet accepted: its bytes, or the address to fetch it from.

    ``event`` is when a blob was written or a message sent, 0 for a request.
    """

    id: str
    content: bytes
    content_type: str | None = None
    title: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    readers: tuple[str, ...] | None = None
    url: str = ""
    event: float = 0.0


class _AcceptedMeanwhile(Exception):
    """The same request was accepted by another process."""


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
        outgoing: Outgoing,
        max_document_bytes: int,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._shards = shards
        self._outgoing = outgoing
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
        before: Mapping[str, Document] | None = None,
        refusable: bool = True,
    ) -> Job:
        """Keep the documents and announce a job for them; the caller may be answered after this.

        Everything is checked before anything is stored. Raises `NotFound` for the collection,
        `PayloadTooLarge`, `UnsupportedMediaType`, `InvalidName`, `UrlRefused` and `QuotaExceeded`; quotas of
        jobs refuse only what is ``refusable``. The same id again gives the job that is there and changes
        nothing; only an acceptance that was broken off is completed. What others put meanwhile is newer.

        ``before`` are the documents' records from before their content was read, where that was not just
        now: raises `Contended` where one of them has changed since.
        """
        within = await self._collections.get(tenant, collection)
        ticket = Ticket(tenant, job_id)
        if done := await self._accepted_before(ticket):
            return done
        uploads = [replace(self.check(document), owner=owner) for document in incoming]
        if before is not None:
            records, unread = before, frozenset[str]()
        else:
            records, unread = await self._present(tenant, collection, uploads)
        uploads = [
            replace(upload, base=None)
            if upload.id in unread
            else replace(upload, base=records[upload.id].version if upload.id in records else 0)
            for upload in uploads
        ]
        contents = {
            upload.sha256: document.content for upload, document in zip(uploads, incoming, strict=True)
        }

        async def lay_out(number: int, shard: list[Upload]) -> list[Upload]:
            kept = await self.keep(ticket, collection, number, shard, contents)
            await self._shards.put_manifest(ticket, number, kept)
            return kept

        shards = list(in_shards(uploads))
        here = [upload for upload in uploads if not upload.is_awaited]
        begun = Jobs.begun(Kind.INGESTION, len(uploads))
        hold = await self._documents.hold(tenant, here, records, job_id, beside=begun, refusable=refusable)
        try:
            shards = await in_turns(lay_out(*each) for each in enumerate(shards))
            failpoints.passed("accept.kept")
            job = await self._announce(within, job_id, owner, title, len(uploads), hold=hold)
            failpoints.passed("accept.announced")
            # A process that was stopped in here must not put a request, which was sent again and accepted
            # elsewhere meanwhile, over what its sender has put since.
            guard: dict[str, Any] = {"guarded": True, "known": records, "hold": hold}
            if unread:
                guard["meanwhile"] = lambda: self._stop_if_accepted(ticket)
            records_after: list[Mapping[str, Document]] = []
            for shard in shards:
                accepted = await self._accept_versions(tenant, collection, shard, job_id, **guard)
                if accepted.overtaken and before is not None:
                    raise Contended("The document was changed by others.", retry_after=1)
                records_after.append(accepted.records)
        except _AcceptedMeanwhile:
            return await self._jobs.get(tenant, job_id)
        finally:
            await self._documents.release(tenant, hold)
        failpoints.passed("accept.recorded")
        # The plan comes last: it tells that every document has its version. The records only save looking up.
        await asyncio.gather(
            self._shards.put_plan(ticket, len(shards), len(uploads)),
            in_turns(self._shards.put_records(ticket, *each) for each in enumerate(records_after)),
        )
        return job

    async def _present(
        self, tenant: str, collection: str, uploads: Sequence[Upload]
    ) -> tuple[dict[str, Document], frozenset[str]]:
        """The records of documents, and the names of those that were not looked for.

        Where the first of many are new, the others are taken to be: an insert finds out. What is yet to be
        fetched has to be looked for, since its bytes come later.
        """
        ids = [upload.id for upload in uploads]
        records = await self._documents.find_if_any(tenant, collection, ids)
        if records or len(ids) <= PROBED:
            return records, frozenset()
        awaited = [upload.id for upload in uploads[PROBED:] if upload.is_awaited]
        records = await self._documents.find_all(tenant, collection, awaited) if awaited else {}
        return records, frozenset(ids[PROBED:]) - {*awaited}

    async def keep(
        self,
        ticket: Ticket,
        collection: str,
        number: int,
        uploads: Sequence[Upload],
        contents: Mapping[str, bytes],
    ) -> list[Upload]:
        """Keep the bytes of a shard's uploads; the uploads with the claims to them.

        Uploads whose bytes are awaited stay as they are.
        """
        awaited = [upload for upload in uploads if upload.is_awaited]
        uploads = [upload for upload in uploads if not upload.is_awaited]
        pieces: dict[str, bytes] = {}
        names: list[str] = []
        for upload in uploads:
            key = document_key(ticket.tenant, collection, upload.id)
            # Two blobs of an inbox may name one document, in different forms of Unicode.
            names.append(f"{key}.{upload.sha256[:12]}")
            pieces[names[-1]] = contents[upload.sha256]
        origin = f"{ticket.job}/{shard_name(number)}"
        claims = await self._content.put(ticket.tenant, collection, RAW, origin, pieces)
        kept = [replace(upload, content=claims[name]) for upload, name in zip(uploads, names, strict=True)]
        return kept + awaited

    async def _accept_versions(
        self, tenant: str, collection: str, uploads: Sequence[Upload], job: str, **guard: Any
    ) -> Accepted:
        """A version for each upload whose bytes are there; the others get theirs when they have come."""
        here = [upload for upload in uploads if not upload.is_awaited]
        return await self._documents.accept(tenant, collection, here, job, **guard)

    async def accept_inbox(
        self,
        tenant: str,
        collection: str,
        prefix: str,
        *,
        job_id: str,
        owner: str,
        title: str,
        refusable: bool = True,
    ) -> Job:
        """Announce a job for all blobs of the collection's inbox whose paths begin with ``prefix``."""
        within = await self._collections.get(tenant, collection)
        ticket = Ticket(tenant, job_id)
        if before := await self._accepted_before(ticket):
            return before
        await self._shards.put_inbox_plan(ticket, prefix)
        return await self._announce(within, job_id, owner, title, refusable=refusable)

    async def _announce(
        self,
        within: Collection,
        job_id: str,
        owner: str,
        title: str,
        total: int | None = None,
        *,
        refusable: bool = True,
        hold: Hold | None = None,
    ) -> Job:
        """The job of that id, which is made where there is none."""
        job = await self._jobs.create(
            within.tenant,
            Kind.INGESTION,
            job_id=job_id,
            title=title,
            collection=within.name,
            owner=owner,
            refusable=refusable,
            hold=hold,
            generation=within.generation,
            total=total,
        )
        if job.generation == within.generation:
            return job
        # It was announced, or refused, before the collection was there in its present form.
        changes = {"generation": within.generation, "total": total, "title": title}
        return await self._jobs.change(within.tenant, job_id, **changes)

    async def accept_arrival(
        self, tenant: str, collection: str, document: str, blob: str, *, job_id: str = ""
    ) -> Job | None:
        """The job for one blob of the inbox as it is now; None where it is gone.

        The same blob of the same ETag has the same job, unless another id is given. Raises as `accept`
        does, also `Contended` where something newer was accepted for the document meanwhile.
        """
        # In this order, a record that is still as it was tells that nothing newer was accepted meanwhile.
        before = await self._documents.find_all(tenant, collection, [document])
        found = await self._storage.get_tagged_blob(INBOX, blob)
        if found is None:
            return None
        return await self.accept(
            tenant,
            collection,
            [Incoming(document, found.data, found.content_type, source="inbox", event=found.written)],
            job_id=job_id or arrival_job(blob, found.etag),
            owner="event",
            title=f"Ingest {document}",
            before=before,
            refusable=False,
        )

    async def _accepted_before(self, ticket: Ticket) -> Job | None:
        """The job of an acceptance that was completed."""
        job = await self._jobs.find(ticket.tenant, ticket.job)
        if job is None or await self._shards.plan(ticket) is None:
            return None
        return job

    async def _stop_if_accepted(self, ticket: Ticket) -> None:
        if await self._shards.plan(ticket) is not None:
            raise _AcceptedMeanwhile

    async def complete(self, ticket: Ticket, job: Job) -> dict[str, Any]:
        """The plan of a job whose acceptance was broken off after it had been announced.

        What has been accepted for a document since then is newer, and stays.
        """
        shards = await self._shards.count_manifests(ticket)
        documents = 0
        for number in range(shards):
            manifest = await self._shards.manifest(ticket, number)
            await self._accept_versions(ticket.tenant, job.collection, manifest, ticket.job, guarded=True)
            documents += len(manifest)
        return await self._shards.put_plan(ticket, shards, documents)

    def check(self, document: Incoming) -> Upload:
        """What there is to note of a document; raises where it cannot be taken."""
        if document.url:
            return self._check_source(document)
        if len(document.content) > self._max_document_bytes:
            raise PayloadTooLarge(
                f"The document {document.id!r} has {len(document.content)} bytes; "
                f"the limit is {self._max_document_bytes}.",
                limit=self._max_document_bytes,
            )
        check_readers(document.readers or ())
        return self._sized(
            Upload(
                id=check_id(document.id),
                sha256=hashlib.sha256(document.content).hexdigest(),
                size=len(document.content),
                media=detect(document.id, document.content_type, document.content[:HEAD_BYTES]).value,
                title=document.title,
                source=document.source,
                tags=document.tags,
                readers=document.readers,
                event=document.event,
            )
        )

    def _check_source(self, document: Incoming) -> Upload:
        """A document that is to be fetched. What follows the path of its address may be a secret."""
        parts = self._outgoing.check(document.url)
        check_readers(document.readers or ())
        return self._sized(
            Upload(
                id=check_id(document.id),
                sha256="",
                size=0,
                media=document.content_type or "",
                title=document.title,
                source=document.source or f"{parts.scheme}://{parts.netloc}{parts.path}",
                tags=document.tags,
                readers=document.readers,
                url=document.url,
                event=document.event,
            )
        )

    def _sized(self, upload: Upload) -> Upload:
        if len(json.dumps(upload.to_dict(), ensure_ascii=False).encode("utf-16-le")) > UPLOAD_BYTES:
            raise InvalidRequest(f"Title, source, tags and readers of {upload.id!r} are too long together.")
        return upload
