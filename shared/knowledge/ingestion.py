"""Ingestion: from accepted bytes to searchable chunks, in steps that may be killed and repeated.

    accept    raw bytes to blobs, a manifest in shards, the job, a version for each document
    plan      what an attempt has to do, in shards
    prepare   read and chunk a shard's documents, pack their chunks into full embedding batches
    embed     one batch: one call of the embedding model, then into the index, still out of sight
    commit    make the new versions of a shard visible, remove the old ones, note the outcomes
    finish    sum up the outcomes

Each step reads and writes blobs and rows and leaves a small outcome. A step that is run again does the
same thing again: chunk ids follow from document, version and position, a version becomes visible only if
its record still allows it, and a writer that finds itself overtaken removes what it wrote.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.errors import (
    Cancelled,
    DocumentError,
    GroundworkError,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
)
from shared.identity import check_readers
from shared.inferencing.calls import CallContext
from shared.jobs import STATUS_ERRORS, Job, Jobs, Kind, State, Ticket
from shared.knowledge.documents import (
    Document,
    Documents,
    DocumentState,
    Upload,
    check_id,
    document_key,
)
from shared.knowledge.index import IndexedChunk, VersionRange, chunk_key
from shared.knowledge.index.protocol import from_payload, to_payload
from shared.knowledge.media import Media, detect
from shared.storage import INBOX, JOBS, PARSED, RAW

if TYPE_CHECKING:
    from shared.inferencing.catalogue import Model
    from shared.inferencing.gateway import Gateway
    from shared.knowledge.chunking import Chunk, ChunkBudget
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.index import SearchIndex
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.parsing import ParsedDocument, ParserPool
    from shared.storage import Storage

# A shard is what one sub-orchestration works on: small enough to repeat, large enough to fill batches.
SHARD_DOCUMENTS = 100
SHARD_BYTES = 512 * 1024
# Raw blobs written at a time; Azurite and one storage account serve more, memory is what bounds it.
WRITES_IN_FLIGHT = 8
# A change of parsing or chunking that should make unchanged documents be read anew raises this number.
PIPELINE_VERSION = 1
HEAD_BYTES = 4096
# Content that its own process will read back within seconds: the shards in flight.
RECENT_CONTENT_BYTES = 4 * 1024 * 1024
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document in one job; its ``code`` says why it failed."""

    id: str
    state: str
    version: int = 0
    chunks: int = 0
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    code: str = ""
    message: str = ""
    retryable: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        return cls(**{**data, "pages_without_text": tuple(data["pages_without_text"])})

    @classmethod
    def failed(cls, document: str, error: GroundworkError, version: int = 0) -> Outcome:
        return cls(
            document,
            "failed",
            version,
            code=error.code,
            message=error.detail,
            retryable=error.retryable,
        )

    @property
    def good(self) -> bool:
        return self.state in ("indexed", "unchanged", "superseded")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One document of a shard, read and chunked: what commit has to know of it."""

    upload: Upload
    version: int
    digest: str
    chunks: int
    pages: int
    pages_without_text: tuple[int, ...]
    batches: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "upload": self.upload.to_dict()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> _Prepared:
        return cls(
            **{
                **data,
                "upload": Upload.from_dict(data["upload"]),
                "pages_without_text": tuple(data["pages_without_text"]),
                "batches": tuple(data["batches"]),
            }
        )


class RecentContent:
    """Bytes that were just written and will be read soon; the oldest go first.

    Names are content addresses, so what is kept here is never stale. A process that did not accept a
    document finds nothing and reads the blob.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._size = 0
        self._content: dict[str, bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        if name in self._content or len(content) > self._capacity_bytes:
            return
        self._content[name] = content
        self._size += len(content)
        while self._size > self._capacity_bytes:
            self.take(next(iter(self._content)))

    def take(self, name: str) -> bytes | None:
        """The content, which is then no longer kept."""
        content = self._content.pop(name, None)
        self._size -= len(content or b"")
        return content


def raw_blob(tenant: str, collection: str, document: str, sha256: str) -> str:
    return f"{tenant}/{collection}/{document_key(tenant, collection, document)}/{sha256}"


def parsed_blob(tenant: str, collection: str, document: str, version: int) -> str:
    return f"{tenant}/{collection}/{document_key(tenant, collection, document)}/{version:08d}.json"


def shard_name(number: int) -> str:
    return f"{number:05d}"


class Ingestion:
    """The steps of ingestion over one storage account, index and gateway."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        indexes: Indexes,
        gateway: Gateway,
        parsers: ParserPool,
        max_document_bytes: int,
        shards_in_flight: int,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._indexes = indexes
        self._gateway = gateway
        self._parsers = parsers
        self._max_document_bytes = max_document_bytes
        self._shards_in_flight = shards_in_flight
        self._recent = RecentContent(RECENT_CONTENT_BYTES)

    # --- accept ---

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
                await self._keep_raw(tenant, collection, upload, document.content)

        await asyncio.gather(*(keep(*pair) for pair in zip(incoming, uploads, strict=True)))
        shards = list(_in_shards(uploads))
        for number, shard in enumerate(shards):
            await self._put_manifest(ticket, number, shard)
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
        revived: set[str] = set()
        for shard in shards:
            revived |= await self._documents.accept(tenant, collection, shard, job_id)
        # A deletion at work may have removed the bytes of what was accepted only after that.
        pairs = zip(incoming, uploads, strict=True)
        await asyncio.gather(*(keep(*pair) for pair in pairs if pair[1].id in revived))
        # The plan comes last: it tells that every document has its version.
        await self._put_plan(ticket, len(shards), len(uploads))
        return job

    async def _accepted_before(self, ticket: Ticket) -> Job | None:
        """The job of an acceptance that was completed."""
        job = await self._jobs.find(ticket.tenant, ticket.job)
        if job is None or await self._jobs.fetch(ticket, "plan") is None:
            return None
        return job

    async def _complete_acceptance(self, ticket: Ticket, job: Job) -> dict[str, Any]:
        """The plan of a job whose acceptance was broken off after it had been announced."""
        names = [blob.name async for blob in self._storage.list_blobs(JOBS, f"{ticket.prefix}/")]
        shards = sum(name.endswith("/manifest.json") for name in names)
        documents = 0
        for number in range(shards):
            manifest = await self._get_manifest(ticket, number)
            await self._documents.accept(ticket.tenant, job.collection, manifest, ticket.job)
            documents += len(manifest)
        return await self._put_plan(ticket, shards, documents)

    async def _keep_raw(self, tenant: str, collection: str, upload: Upload, content: bytes) -> None:
        name = raw_blob(tenant, collection, upload.id, upload.sha256)
        await self._storage.put_blob(RAW, name, content, content_type=upload.media)
        self._recent.put(name, content)

    async def accept_inbox(
        self, tenant: str, collection: str, prefix: str, *, job_id: str, owner: str, title: str
    ) -> Job:
        """Announce a job for all blobs of the collection's inbox whose paths begin with ``prefix``."""
        within = await self._collections.get(tenant, collection)
        ticket = Ticket(tenant, job_id)
        if before := await self._accepted_before(ticket):
            return before
        await self._jobs.put(ticket, "plan", {"inbox": prefix})
        return await self._jobs.create(
            tenant,
            Kind.INGESTION,
            job_id=job_id,
            title=title,
            collection=collection,
            generation=within.generation,
            owner=owner,
        )

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

    # --- plan ---

    async def plan(self, ticket: Ticket) -> dict[str, int]:
        """Lay out what this attempt has to do; the number of its shards and how many run at a time."""
        job = await self._jobs.get(ticket.tenant, ticket.job)
        before, plan = await self._planned_before(ticket, job)
        if "shards" not in plan:
            plan = await self._plan_inbox(ticket, job, plan["inbox"])
        elif ticket.attempt > 1:
            plan = await self._plan_again(ticket, before, plan["shards"])
        await self._jobs.begin(ticket, total=plan["documents"])
        return {"shards": plan["shards"], "in_flight": self._shards_in_flight}

    async def _planned_before(self, ticket: Ticket, job: Job) -> tuple[Ticket, dict[str, Any]]:
        """The plan that this attempt goes on from: that of the last one before it that had one."""
        first = replace(ticket, attempt=1)
        for attempt in range(max(1, ticket.attempt - 1), 0, -1):
            before = replace(ticket, attempt=attempt)
            if plan := await self._jobs.fetch(before, "plan"):
                return before, plan
        return first, await self._complete_acceptance(first, job)

    async def _plan_inbox(self, ticket: Ticket, job: Job, prefix: str) -> dict[str, Any]:
        root = f"{ticket.tenant}/{job.collection}/"
        shard: list[Upload] = []
        size, shards, total = 0, 0, 0
        async for blob in self._storage.list_blobs(INBOX, root + prefix):
            # Names come as their file systems write them: those of macOS are decomposed.
            document = unicodedata.normalize("NFC", blob.name.removeprefix(root))
            media = blob.content_type or ""
            upload = Upload(document, "", blob.size, media, source="inbox", inbox=blob.name)
            if shard and (len(shard) == SHARD_DOCUMENTS or size + blob.size > SHARD_BYTES):
                await self._put_manifest(ticket, shards, shard)
                shard, size, shards = [], 0, shards + 1
            shard.append(upload)
            size, total = size + blob.size, total + 1
        if shard:
            await self._put_manifest(ticket, shards, shard)
            shards += 1
        return await self._put_plan(ticket, shards, total)

    async def _plan_again(self, ticket: Ticket, before: Ticket, shards_before: int) -> dict[str, Any]:
        """The uploads of the attempt ``before`` that did not end well."""
        again: list[Upload] = []
        for number in range(shards_before):
            outcomes = await self._jobs.fetch(before, f"{shard_name(number)}/outcomes") or []
            good = {outcome["id"] for outcome in outcomes if Outcome.from_dict(outcome).good}
            again += [u for u in await self._get_manifest(before, number) if u.id not in good]
        shards = list(_in_shards(again))
        for number, shard in enumerate(shards):
            await self._put_manifest(ticket, number, shard)
        return await self._put_plan(ticket, len(shards), len(again))

    async def _put_plan(self, ticket: Ticket, shards: int, documents: int) -> dict[str, Any]:
        plan = {"shards": shards, "documents": documents}
        await self._jobs.put(ticket, "plan", plan)
        return plan

    async def _put_manifest(self, ticket: Ticket, number: int, uploads: Iterable[Upload]) -> None:
        await self._jobs.put(ticket, f"{shard_name(number)}/manifest", [u.to_dict() for u in uploads])

    async def _get_manifest(self, ticket: Ticket, number: int) -> list[Upload]:
        manifest = await self._jobs.fetch(ticket, f"{shard_name(number)}/manifest")
        if manifest is None:
            raise NotFound("manifest of the job", ticket.job)
        return [Upload.from_dict(upload) for upload in manifest]

    # --- prepare ---

    async def prepare(self, ticket: Ticket, number: int) -> int:
        """Read and chunk the documents of a shard; the number of embedding batches they make."""
        shard = shard_name(number)
        collection = await self._collection_of(ticket)
        model = self._gateway.catalogue.models[collection.embedding_model]
        uploads = await self._get_manifest(ticket, number)
        await self._stop_if_cancelled(ticket)
        uploads, outcomes = await self._copied_from_inbox(ticket, collection, uploads)
        records = await self._documents.find_all(
            ticket.tenant, collection.name, [upload.id for upload in uploads]
        )

        results = await asyncio.gather(
            *(self._read(collection, model, upload, records.get(upload.id), ticket.job) for upload in uploads)
        )
        outcomes += [result for result in results if isinstance(result, Outcome)]
        read = [result for result in results if not isinstance(result, Outcome)]
        batches = _pack([chunk for _, chunks in read for chunk in chunks], model.batch_max_inputs)
        where: dict[str, set[int]] = {}
        for batch_number, batch in enumerate(batches):
            for entry in batch:
                where.setdefault(entry["chunk"]["document"], set()).add(batch_number)
            await self._jobs.put(ticket, f"{shard}/batch-{batch_number:04d}", batch)
        prepared = [
            replace(document, batches=tuple(sorted(where.get(document.upload.id, ()))))
            for document, _ in read
        ]
        plan = {
            "documents": [document.to_dict() for document in prepared],
            "outcomes": [outcome.to_dict() for outcome in outcomes],
        }
        await self._jobs.put(ticket, f"{shard}/prepared", plan)
        await self._jobs.report(
            ticket,
            shard,
            parsed=len(outcomes) + len(read),
            chunks=sum(document.chunks for document in prepared),
        )
        return len(batches)

    async def _copied_from_inbox(
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
                await self._keep_raw(ticket.tenant, collection.name, checked, content)
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

    async def _read(
        self, collection: Collection, model: Model, upload: Upload, record: Document | None, job: str
    ) -> Outcome | tuple[_Prepared, list[dict[str, Any]]]:
        if record is None or record.job != job or record.state is DocumentState.DELETED:
            return Outcome(upload.id, "superseded", record.version if record else 0)
        readers = collection.readers if upload.readers is None else upload.readers
        digest = _digest(upload, readers, model)
        if record.visible and record.visible_digest == digest:
            return Outcome(
                upload.id,
                "unchanged",
                record.visible,
                record.chunks,
                record.pages,
                record.pages_without_text,
            )
        name = raw_blob(collection.tenant, collection.name, upload.id, upload.sha256)
        content = self._recent.take(name) or await self._storage.get_blob(RAW, name)
        if content is None:
            return Outcome.failed(upload.id, NotFound("raw document", upload.id), record.version)
        try:
            made = await self._parsers.prepare(
                content,
                Media(upload.media),
                name=upload.id,
                budget=_budget(model),
                title=upload.title or None,
            )
        except DocumentError as error:
            return Outcome.failed(upload.id, error, record.version)
        document = made.document
        title = upload.title or document.title or upload.id.rpartition("/")[2]
        prepared = _Prepared(
            upload=replace(upload, title=title),
            version=record.version,
            digest=digest,
            chunks=len(made.chunks),
            pages=len(document.pages),
            pages_without_text=document.pages_without_text,
            batches=(),
        )
        await self._keep_parsed(collection, prepared, document, made.chunks)
        entries = [
            {
                "input": chunk.embedding_text(),
                "tokens": chunk.tokens,
                "chunk": _indexed(collection, prepared, chunk, readers),
            }
            for chunk in made.chunks
        ]
        return prepared, entries

    async def _keep_parsed(
        self, collection: Collection, prepared: _Prepared, document: ParsedDocument, chunks: Sequence[Chunk]
    ) -> None:
        name = parsed_blob(collection.tenant, collection.name, prepared.upload.id, prepared.version)
        spans = [[chunk.start, chunk.end] for chunk in chunks]
        kept = {"document": document.to_dict(), "chunks": spans, "readers": prepared.upload.readers}
        data = json.dumps(kept, ensure_ascii=False)
        await self._storage.put_blob(PARSED, name, data.encode(), content_type="application/json")

    # --- embed ---

    async def embed(self, ticket: Ticket, number: int, batch_number: int) -> None:
        """Embed one batch and put it into the index, where it stays out of sight until the commit."""
        shard = shard_name(number)
        await self._stop_if_cancelled(ticket)
        batch = await self._jobs.fetch(ticket, f"{shard}/batch-{batch_number:04d}")
        if batch is None:
            raise NotFound("batch of the job", ticket.job)
        collection = await self._collection_of(ticket)
        call = CallContext(tenant=ticket.tenant, purpose="ingestion")
        embedded = await self._gateway.embed(
            collection.embedding_model,
            [entry["input"] for entry in batch],
            call=call,
            tokens=[entry["tokens"] for entry in batch],
        )
        chunks = [
            replace(from_payload(entry["chunk"]), vector=vector)
            for entry, vector in zip(batch, embedded.vectors, strict=True)
        ]
        index = await self._indexes.of(collection.embedding_model)
        await index.upload(chunks)
        if await self._jobs.fetch(ticket, f"{shard}/outcomes") is not None:
            # The shard was committed while this ran: a second run of this step, overtaken by the first.
            await self._withdraw_overtaken(collection, index, chunks)
        await self._jobs.report(ticket, f"{shard}.{batch_number // 200}", **_share(batch_number, len(chunks)))

    async def _withdraw_overtaken(
        self, collection: Collection, index: SearchIndex, chunks: Sequence[IndexedChunk]
    ) -> None:
        """Remove chunks whose document has moved on meanwhile: whoever moved it may have cleaned already."""
        versions = {chunk.document: chunk.version for chunk in chunks}
        records = await self._documents.find_all(collection.tenant, collection.name, versions)
        for document, version in versions.items():
            record = records.get(document)
            if record is None or _overtaken(record, version):
                await index.delete_document(
                    collection.tenant, collection.name, document, VersionRange(only=version)
                )

    # --- commit ---

    async def commit(self, ticket: Ticket, number: int, failed: Mapping[int, Mapping[str, Any]]) -> None:
        """Make the shard's new versions visible and note what became of each document.

        ``failed`` tells the batches that could not be embedded, with the error of each.
        """
        shard = shard_name(number)
        collection = await self._collection_of(ticket)
        plan = await self._jobs.fetch(ticket, f"{shard}/prepared")
        uploads = {upload.id: upload for upload in await self._get_manifest(ticket, number)}
        documents = [_Prepared.from_dict(data) for data in plan["documents"]] if plan else []
        outcomes = [Outcome.from_dict(data) for data in plan["outcomes"]] if plan else []
        cancelled = await self._jobs.cancel_requested(ticket)
        outcomes += [_outcome_of(document, failed, cancelled) for document in documents]
        known = {outcome.id for outcome in outcomes}
        reason = failed.get(-1)
        unread = (document for document in uploads if document not in known)
        outcomes += [_unread_outcome(document, reason, cancelled) for document in unread]

        prepared = {document.upload.id: document for document in documents}
        by_id = {outcome.id: outcome for outcome in outcomes}
        # What the change decides is told through here, as the last try decided it.
        decided = dict(by_id)

        def settle(outcome: Outcome, record: Document | None) -> Document | None:
            changed, verdict = _settled(outcome, prepared.get(outcome.id), record, ticket.job)
            decided[outcome.id] = verdict
            return changed

        after = await self._documents.change_all(ticket.tenant, collection.name, by_id, settle)
        await self._clean(collection, prepared, after)
        await self._jobs.put(ticket, f"{shard}/outcomes", [outcome.to_dict() for outcome in decided.values()])
        done = list(decided.values())
        await self._jobs.report(
            ticket,
            shard,
            published=len(done),
            failed=sum(outcome.state == "failed" for outcome in done),
        )

    async def _clean(
        self, collection: Collection, prepared: Mapping[str, _Prepared], after: Mapping[str, Document]
    ) -> None:
        """Remove the chunks that no one may see any more."""
        index = await self._indexes.of(collection.embedding_model)
        for document, own in prepared.items():
            record = after.get(document)
            if record is None or record.visible != own.version:
                stale = VersionRange(only=own.version)
            elif own.version > 1:
                stale = VersionRange(below=own.version)
            else:
                continue
            await index.delete_document(collection.tenant, collection.name, document, stale)

    # --- finish ---

    async def finish(self, ticket: Ticket) -> dict[str, Any]:
        """Sum up the outcomes of all shards and end the job."""
        plan = await self._jobs.fetch(ticket, "plan") or {}
        counts: dict[str, int] = {}
        errors: list[dict[str, Any]] = []
        total = 0
        async for outcome in self.outcomes(ticket):
            total += 1
            counts[outcome.state] = counts.get(outcome.state, 0) + 1
            if outcome.state == "failed" and len(errors) < STATUS_ERRORS:
                errors.append(
                    {
                        "item": outcome.id,
                        "code": outcome.code,
                        "message": outcome.message,
                        "retryable": outcome.retryable,
                    }
                )
        state = State.SUCCEEDED
        if counts.get("cancelled") or (await self._jobs.cancel_requested(ticket) and not total):
            state = State.CANCELLED
        elif counts.get("failed"):
            state = State.FAILED if counts["failed"] == total else State.PARTIAL
        await self._jobs.finish(ticket, state, counts=counts, errors=errors)
        for number in range(plan.get("shards", 0)):
            await self._storage.delete_blobs(JOBS, f"{ticket.prefix}/{shard_name(number)}/batch-")
        return {"state": state.value, "counts": counts}

    async def outcomes(self, ticket: Ticket) -> AsyncIterator[Outcome]:
        """What became of each document of an attempt, shard by shard."""
        plan = await self._jobs.fetch(ticket, "plan") or {}
        for number in range(plan.get("shards", 0)):
            for data in await self._jobs.fetch(ticket, f"{shard_name(number)}/outcomes") or []:
                yield Outcome.from_dict(data)

    async def outcome_page(self, ticket: Ticket, first: int, shards: int) -> tuple[list[Outcome], bool]:
        """The outcomes of some shards, and whether there are more behind them."""
        plan = await self._jobs.fetch(ticket, "plan") or {}
        count = plan.get("shards", 0)
        page: list[Outcome] = []
        for number in range(first, min(first + shards, count)):
            outcomes = await self._jobs.fetch(ticket, f"{shard_name(number)}/outcomes") or []
            page += [Outcome.from_dict(data) for data in outcomes]
        return page, first + shards < count

    async def _collection_of(self, ticket: Ticket) -> Collection:
        """The job's collection; `NotFound` once it is deleted, also where its name has been used again."""
        job = await self._jobs.get(ticket.tenant, ticket.job)
        collection = await self._collections.get(ticket.tenant, job.collection)
        if collection.generation != job.generation:
            raise NotFound("collection", job.collection)
        return collection

    async def _stop_if_cancelled(self, ticket: Ticket) -> None:
        if await self._jobs.cancel_requested(ticket):
            raise Cancelled


def _in_shards(uploads: Iterable[Upload]) -> Iterable[list[Upload]]:
    shard: list[Upload] = []
    size = 0
    for upload in uploads:
        if shard and (len(shard) == SHARD_DOCUMENTS or size + upload.size > SHARD_BYTES):
            yield shard
            shard, size = [], 0
        shard.append(upload)
        size += upload.size
    if shard:
        yield shard


def _pack(entries: list[dict[str, Any]], inputs: int) -> list[list[dict[str, Any]]]:
    """Full batches over the chunks of many documents; like lengths together, so that little is padded."""
    ordered = sorted(entries, key=lambda entry: entry["tokens"])
    return [ordered[start : start + inputs] for start in range(0, len(ordered), inputs)]


def _share(batch_number: int, chunks: int) -> dict[str, int]:
    # A property of its own for each batch: a batch that is run again does not count twice.
    return {f"embedded_{batch_number:04d}": chunks}


def _digest(upload: Upload, readers: Sequence[str], model: Model) -> str:
    """What a visible version was made from; the same digest needs no new work."""
    made_from = [
        PIPELINE_VERSION,
        upload.sha256,
        upload.media,
        upload.title,
        upload.source,
        list(upload.tags),
        list(readers),
        model.name,
        model.version,
        model.max_input_tokens,
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _budget(model: Model) -> ChunkBudget:
    from shared.knowledge.chunking import ChunkBudget

    # The catalogue demands both of an embedding model.
    assert model.tokenizer is not None
    assert model.max_input_tokens is not None
    return ChunkBudget(tokenizer=model.tokenizer, max_tokens=model.max_input_tokens)


def _indexed(
    collection: Collection, prepared: _Prepared, chunk: Chunk, readers: Sequence[str]
) -> dict[str, Any]:
    upload = prepared.upload
    names = (collection.tenant, collection.name, upload.id, prepared.version, chunk.ordinal)
    indexed = IndexedChunk(
        id=chunk_key(*names),
        tenant=collection.tenant,
        collection=collection.name,
        document=upload.id,
        version=prepared.version,
        ordinal=chunk.ordinal,
        text=chunk.text,
        title=upload.title,
        headings=chunk.headings,
        page=chunk.page,
        page_end=chunk.page_end,
        start=chunk.start,
        end=chunk.end,
        media_type=upload.media,
        source=upload.source,
        tags=upload.tags,
        updated=datetime.now(UTC),
        readers=tuple(readers),
    )
    return to_payload(indexed)


def _overtaken(record: Document, version: int) -> bool:
    """Whether a later version is visible, or the document was deleted after this version."""
    return record.visible > version or record.tombstone > version


def _outcome_of(document: _Prepared, failed: Mapping[int, Mapping[str, Any]], cancelled: bool) -> Outcome:
    bad = next((batch for batch in document.batches if batch in failed), None)
    upload = document.upload
    if cancelled:
        return Outcome(upload.id, "cancelled", document.version, code="cancelled", retryable=True)
    if bad is not None:
        error = failed[bad]
        return Outcome(
            upload.id,
            "failed",
            document.version,
            code=error["code"],
            message=error["message"],
            retryable=error["retryable"],
        )
    return Outcome(
        upload.id,
        "indexed",
        document.version,
        document.chunks,
        document.pages,
        document.pages_without_text,
    )


def _unread_outcome(document: str, reason: Mapping[str, Any] | None, cancelled: bool) -> Outcome:
    if cancelled or reason is None:
        return Outcome(document, "cancelled", code="cancelled", retryable=True)
    return Outcome(
        document,
        "failed",
        code=reason["code"],
        message=reason["message"],
        retryable=reason["retryable"],
    )


def _settled(
    outcome: Outcome, prepared: _Prepared | None, record: Document | None, job: str
) -> tuple[Document | None, Outcome]:
    """The record as ``outcome`` leaves it (None: as it is), and the outcome as the record allows it."""
    if record is None:
        return None, outcome
    mine = record.job == job
    if outcome.state == "indexed" and prepared is not None:
        if record.visible == prepared.version:
            return None, outcome
        if _overtaken(record, prepared.version):
            return None, replace(outcome, state="superseded")
        shown = replace(
            record,
            visible=prepared.version,
            visible_digest=prepared.digest,
            chunks=prepared.chunks,
            pages=prepared.pages,
            pages_without_text=prepared.pages_without_text,
        )
        if mine:
            shown = replace(
                shown,
                state=DocumentState.INDEXED,
                upload=prepared.upload,
                error=None,
                finished=time.time(),
            )
        return shown, outcome
    # A retry finds its document as the attempt before it left it.
    if not mine or record.state in (DocumentState.INDEXED, DocumentState.DELETED):
        return None, outcome
    if outcome.state == "unchanged":
        return replace(record, state=DocumentState.INDEXED, finished=time.time()), outcome
    if outcome.state in ("failed", "cancelled"):
        error = {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
        state = DocumentState(outcome.state)
        return replace(record, state=state, error=error, finished=time.time()), outcome
    return None, outcome
