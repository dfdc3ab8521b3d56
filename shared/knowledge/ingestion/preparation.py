"""Preparation: read and chunk a shard's documents, pack their chunks into full embedding batches."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared import failpoints
from shared.errors import DocumentError, NotFound
from shared.knowledge.documents import DocumentState
from shared.knowledge.index.protocol import document_key
from shared.knowledge.ingestion.entries import Entry, chunk_budget, entries_of, packed, placements
from shared.knowledge.ingestion.outcomes import Outcome, PreparedDocument, PreparedShard
from shared.knowledge.ingestion.shards import shard_name, texts_origin
from shared.knowledge.media import Media
from shared.knowledge.texts import VersionText
from shared.storage import PARSED, in_turns

if TYPE_CHECKING:
    from shared.inferencing.catalogue import Model
    from shared.inferencing.gateway import Gateway
    from shared.jobs import Jobs, Ticket
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Document, Documents, Upload
    from shared.knowledge.ingestion.assignments import Assignments
    from shared.knowledge.ingestion.gathering import Gathering
    from shared.knowledge.ingestion.shards import Shards
    from shared.knowledge.layouts import Layout
    from shared.knowledge.parsing import ParserPool

# A change of parsing or chunking that should make unchanged documents be read anew raises this number.
PIPELINE_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A document to be read: what its record and its collection say of it."""

    upload: Upload
    version: int
    digest: str
    readers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Read:
    """A document that was read: its text to be kept, its chunks to be embedded, by layout."""

    document: PreparedDocument
    text: bytes
    entries: Mapping[int, list[Entry]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading a shard: how its documents are prepared, and their chunks in embedding batches."""

    shard: PreparedShard
    batches: list[list[Entry]]

    @property
    def progress(self) -> dict[str, int]:
        """What there is to report of it."""
        read = len(self.shard.outcomes) + len(self.shard.documents)
        return {"parsed": read, "chunks": sum(len(batch) for batch in self.batches)}


class Preparation:
    """Makes embedding batches of a shard's documents."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        documents: Documents,
        content: ContentStore,
        gateway: Gateway,
        parsers: ParserPool,
        shards: Shards,
        assignments: Assignments,
        gathering: Gathering,
        collections: Collections,
    ) -> None:
        self._collections = collections
        self._jobs = jobs
        self._documents = documents
        self._content = content
        self._gateway = gateway
        self._parsers = parsers
        self._shards = shards
        self._assignments = assignments
        self._gathering = gathering

    async def prepare(self, ticket: Ticket, number: int) -> int:
        """Read and chunk the documents of a shard; the number of embedding batches they make."""
        assignment = await self._assignments.of(ticket)
        assignment.stop_if_cancelled()
        collection = assignment.collection
        uploads, outcomes = await self._gathering.gather(ticket, collection, number)
        made = await self.read(ticket, number, collection, uploads, outcomes)
        await in_turns(
            self._shards.put_batch(ticket, number, batch_number, batch)
            for batch_number, batch in enumerate(made.batches)
        )
        before = await self._shards.prepared(ticket, number)
        await self.note(ticket, number, replace(made.shard, left=before.embedded))
        await self._jobs.report(ticket, shard_name(number), **made.progress)
        return len(made.batches)

    async def note(self, ticket: Ticket, number: int, shard: PreparedShard, *, first: bool = False) -> None:
        """Note how a shard was prepared; raises `Exists` where it is to be the first note and is not."""
        failpoints.passed("prepare.read")
        await self._shards.put_prepared(ticket, number, shard, first=first)
        failpoints.passed("prepare.noted")

    async def read(
        self,
        ticket: Ticket,
        number: int,
        collection: Collection,
        uploads: Sequence[Upload],
        refused: Sequence[Outcome] = (),
    ) -> Reading:
        """Read and chunk uploads of a shard, whose bytes are there; nothing but their texts is kept.

        ``refused`` are the outcomes of others.
        """
        layouts = await self._live_layouts(collection)
        outcomes = list(refused)
        records = await self._records_of(ticket, number, collection, uploads)
        fresh: list[_Fresh] = []
        for upload in uploads:
            found = _looked_up(collection, upload, records.get(upload.id), ticket.job)
            if isinstance(found, Outcome):
                outcomes.append(found)
            else:
                fresh.append(found)
        contents = await self._content.get(
            ticket.tenant, collection.name, [document.upload.content for document in fresh]
        )
        results = await asyncio.gather(
            *(
                self._read(collection, layouts, document, contents.get(document.upload.content), ticket.job)
                for document in fresh
            )
        )
        outcomes += [result for result in results if isinstance(result, Outcome)]
        read = await self._with_texts(
            ticket, collection, number, [result for result in results if not isinstance(result, Outcome)]
        )
        batches = [
            batch
            for layout, model in layouts
            for batch in packed(
                (entry for one in read for entry in one.entries[layout.number]), model.batch_max_inputs
            )
        ]
        where = placements(batches)
        prepared = [replace(one.document, placements=where[one.document.upload.id]) for one in read]
        return Reading(PreparedShard(tuple(prepared), tuple(outcomes), tuple(records.values())), batches)

    async def _records_of(
        self, ticket: Ticket, number: int, collection: Collection, uploads: Sequence[Upload]
    ) -> dict[str, Document]:
        """The records of a shard's documents, as the acceptance left them where it has told.

        Whoever took a document over since is met at the settlement, which writes only over what is known.
        """
        ids = {upload.id for upload in uploads}
        kept = await self._shards.records(ticket, number, len(ids))
        known = {document: record for document, record in kept.items() if document in ids}
        if unknown := ids - known.keys():
            known |= await self._documents.find_all(ticket.tenant, collection.name, unknown)
        return known

    async def _live_layouts(self, collection: Collection) -> list[tuple[Layout, Model]]:
        """The layouts that documents have to go into, with their models; the serving one first.

        Another one whose model the catalogue no longer has cannot get them, and is marked.
        """
        models = self._gateway.catalogue.models
        layouts: list[tuple[Layout, Model]] = []
        for layout in collection.live_layouts:
            if layout.embedding_model in models or layout.number == collection.serving.number:
                layouts.append((layout, models[layout.embedding_model]))
            else:
                await self._collections.mark_incomplete(
                    collection.tenant, collection.name, layout.number, "no_such_model"
                )
        return layouts

    async def _read(
        self,
        collection: Collection,
        layouts: Sequence[tuple[Layout, Model]],
        fresh: _Fresh,
        content: bytes | None,
        job: str,
    ) -> Outcome | _Read:
        upload = fresh.upload
        if content is None:
            # Whoever overtook this job may have removed it since.
            record = await self._documents.find(collection.tenant, collection.name, upload.id)
            if _is_overtaken(record, job):
                return Outcome(upload.id, "superseded", fresh.version)
            return Outcome.failed(upload.id, NotFound("raw document", upload.id), fresh.version)
        (serving, model), *others = layouts
        try:
            made = await self._parsers.prepare(
                content,
                Media(upload.media),
                name=upload.id,
                budget=chunk_budget(model, serving),
                title=upload.title or None,
            )
            cuts = [(serving, made.chunks)]
            for layout, its_model in others:
                cuts.append((layout, await self._parsers.cut(made.document, chunk_budget(its_model, layout))))
        except DocumentError as error:
            return Outcome.failed(upload.id, error, fresh.version)
        document = made.document
        title = upload.title or document.title or upload.id.rpartition("/")[2]
        prepared = PreparedDocument(
            upload=replace(upload, title=title),
            version=fresh.version,
            digest=fresh.digest,
            pages=len(document.pages),
            pages_without_text=document.pages_without_text,
        )
        entries = {
            layout.number: entries_of(
                collection, layout, prepared.upload, fresh.version, fresh.readers, chunks
            )
            for layout, chunks in cuts
        }
        return _Read(prepared, VersionText.of(document, made.chunks, prepared.upload).to_bytes(), entries)

    async def _with_texts(
        self, ticket: Ticket, collection: Collection, number: int, read: Sequence[_Read]
    ) -> list[_Read]:
        """Keep the texts of a shard's documents; the documents with the claims to them."""
        keys = [document_key(ticket.tenant, collection.name, one.document.upload.id) for one in read]
        claims = await self._content.put(
            ticket.tenant,
            collection.name,
            PARSED,
            texts_origin(ticket, number),
            {key: one.text for key, one in zip(keys, read, strict=True)},
        )
        return [
            replace(one, document=replace(one.document, text=claims[key]))
            for key, one in zip(keys, read, strict=True)
        ]


def _is_overtaken(record: Document | None, job: str) -> bool:
    return record is None or record.job != job or record.state is DocumentState.DELETED


def _looked_up(collection: Collection, upload: Upload, record: Document | None, job: str) -> Outcome | _Fresh:
    """The outcome of a document that needs no work, or what is to be worked on."""
    if record is None or _is_overtaken(record, job):
        return Outcome(upload.id, "superseded", record.version if record else 0)
    if upload.sha256 != record.upload.sha256:
        upload = record.upload  # another run of this step has accepted the blob as it was then
    readers = collection.readers if upload.readers is None else upload.readers
    digest = _digest(upload, readers)
    if record.visible and record.visible_digest == digest:
        # An earlier run of this attempt may have made it visible, and then noted nothing of it.
        is_own = record.visible == record.version
        return Outcome(
            upload.id,
            "indexed" if is_own else "unchanged",
            record.visible,
            record.layouts.get(collection.serving.number, 0),
            record.pages,
            record.pages_without_text,
            freshness_seconds=record.freshness_seconds if is_own else None,
        )
    return _Fresh(upload, record.version, digest, tuple(readers))


def _digest(upload: Upload, readers: Sequence[str]) -> str:
    """What a visible version was made from; the same digest needs no new work.

    How it is cut and embedded is the layout's affair: only a reindexing changes that.
    """
    made_from = [
        PIPELINE_VERSION,
        upload.sha256,
        upload.media,
        upload.title,
        upload.source,
        list(upload.tags),
        list(readers),
    ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
