"""Preparation: read and chunk a shard's documents, pack their chunks into full embedding batches."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.errors import DocumentError, NotFound
from shared.knowledge.documents import DocumentState, document_key
from shared.knowledge.index import IndexedChunk, chunk_key
from shared.knowledge.index.protocol import to_payload
from shared.knowledge.ingestion.outcomes import Outcome, PreparedDocument, PreparedShard
from shared.knowledge.ingestion.shards import shard_name
from shared.knowledge.media import Media
from shared.knowledge.texts import VersionText
from shared.storage import PARSED

if TYPE_CHECKING:
    from shared.inferencing.catalogue import Model
    from shared.inferencing.gateway import Gateway
    from shared.jobs import Jobs, Ticket
    from shared.knowledge.chunking import Chunk, ChunkBudget
    from shared.knowledge.collections import Collection
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Document, Documents, Upload
    from shared.knowledge.ingestion.assignments import Assignments
    from shared.knowledge.ingestion.gathering import Gathering
    from shared.knowledge.ingestion.shards import Shards
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
    """A document that was read: its text to be kept, its chunks to be embedded."""

    document: PreparedDocument
    text: bytes
    entries: list[dict[str, Any]]


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
    ) -> None:
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
        model = self._gateway.catalogue.models[collection.embedding_model]
        uploads, outcomes = await self._gathering.gather(ticket, collection, number)
        records = await self._documents.find_all(
            ticket.tenant, collection.name, [upload.id for upload in uploads]
        )
        fresh: list[_Fresh] = []
        for upload in uploads:
            found = _looked_up(collection, model, upload, records.get(upload.id), ticket.job)
            if isinstance(found, Outcome):
                outcomes.append(found)
            else:
                fresh.append(found)
        contents = await self._content.get(
            ticket.tenant, collection.name, [document.upload.content for document in fresh]
        )
        results = await asyncio.gather(
            *(
                self._read(collection, model, document, contents.get(document.upload.content), ticket.job)
                for document in fresh
            )
        )
        outcomes += [result for result in results if isinstance(result, Outcome)]
        read = await self._with_texts(
            ticket, collection, number, [result for result in results if not isinstance(result, Outcome)]
        )
        batches = _pack([entry for one in read for entry in one.entries], model.batch_max_inputs)
        where: dict[str, set[int]] = {}
        for batch_number, batch in enumerate(batches):
            for entry in batch:
                where.setdefault(entry["chunk"]["document"], set()).add(batch_number)
            await self._shards.put_batch(ticket, number, batch_number, batch)
        prepared = [
            replace(one.document, batches=tuple(sorted(where.get(one.document.upload.id, ()))))
            for one in read
        ]
        failpoints.passed("prepare.read")
        await self._shards.put_prepared(ticket, number, PreparedShard(tuple(prepared), tuple(outcomes)))
        failpoints.passed("prepare.noted")
        await self._jobs.report(
            ticket,
            shard_name(number),
            parsed=len(outcomes) + len(read),
            chunks=sum(document.chunks for document in prepared),
        )
        return len(batches)

    async def _read(
        self, collection: Collection, model: Model, fresh: _Fresh, content: bytes | None, job: str
    ) -> Outcome | _Read:
        upload = fresh.upload
        if content is None:
            # Whoever overtook this job may have removed it since.
            record = await self._documents.find(collection.tenant, collection.name, upload.id)
            if _is_overtaken(record, job):
                return Outcome(upload.id, "superseded", fresh.version)
            return Outcome.failed(upload.id, NotFound("raw document", upload.id), fresh.version)
        try:
            made = await self._parsers.prepare(
                content,
                Media(upload.media),
                name=upload.id,
                budget=_budget(model),
                title=upload.title or None,
            )
        except DocumentError as error:
            return Outcome.failed(upload.id, error, fresh.version)
        document = made.document
        title = upload.title or document.title or upload.id.rpartition("/")[2]
        prepared = PreparedDocument(
            upload=replace(upload, title=title),
            version=fresh.version,
            digest=fresh.digest,
            text="",
            chunks=len(made.chunks),
            pages=len(document.pages),
            pages_without_text=document.pages_without_text,
            batches=(),
        )
        entries = [
            {
                "input": chunk.embedding_text(),
                "tokens": chunk.tokens,
                "chunk": _indexed(collection, prepared, chunk, fresh.readers),
            }
            for chunk in made.chunks
        ]
        return _Read(prepared, VersionText.of(document, made.chunks, upload.readers).to_bytes(), entries)

    async def _with_texts(
        self, ticket: Ticket, collection: Collection, number: int, read: Sequence[_Read]
    ) -> list[_Read]:
        """Keep the texts of a shard's documents; the documents with the claims to them."""
        keys = [document_key(ticket.tenant, collection.name, one.document.upload.id) for one in read]
        claims = await self._content.put(
            ticket.tenant,
            collection.name,
            PARSED,
            f"{ticket.job}/{ticket.attempt}/{shard_name(number)}",
            {key: one.text for key, one in zip(keys, read, strict=True)},
        )
        return [
            replace(one, document=replace(one.document, text=claims[key]))
            for key, one in zip(keys, read, strict=True)
        ]


def _is_overtaken(record: Document | None, job: str) -> bool:
    return record is None or record.job != job or record.state is DocumentState.DELETED


def _looked_up(
    collection: Collection, model: Model, upload: Upload, record: Document | None, job: str
) -> Outcome | _Fresh:
    """The outcome of a document that needs no work, or what is to be worked on."""
    if record is None or _is_overtaken(record, job):
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
    return _Fresh(upload, record.version, digest, tuple(readers))


def _pack(entries: list[dict[str, Any]], inputs: int) -> list[list[dict[str, Any]]]:
    """Full batches over the chunks of many documents; like lengths together, so that little is padded."""
    ordered = sorted(entries, key=lambda entry: entry["tokens"])
    return [ordered[start : start + inputs] for start in range(0, len(ordered), inputs)]


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
    collection: Collection, prepared: PreparedDocument, chunk: Chunk, readers: Sequence[str]
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
