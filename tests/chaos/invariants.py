"""What must hold when all is quiet again: read from storage and from the index itself, not from the API."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

from shared.config import StorageSettings
from shared.knowledge.content import ContentStore, piece_of
from shared.knowledge.documents import Document, Documents, DocumentState, document_key
from shared.knowledge.index import IndexSpec, SearchIndex, open_index
from shared.knowledge.index.protocol import MAX_TOP, IndexedChunk, SearchRequest
from shared.storage import Storage, open_storage

from .documents import Line, makes_up

T = TypeVar("T")

SPEC = IndexSpec("chunks-minilm", 384)


def in_storage(connection: str, work: Callable[[Storage], Awaitable[T]]) -> T:
    async def run() -> T:
        async with open_storage(StorageSettings(connection_string=connection)) as storage:
            return await work(storage)

    return asyncio.run(run())


def in_index(folder: Path, work: Callable[[SearchIndex], Awaitable[T]]) -> T:
    """Open the embedded index, whose host must have ended."""

    async def run() -> T:
        index = open_index(f"embedded:{folder}/{SPEC.name}", SPEC)
        await index.ensure()
        try:
            return await work(index)
        finally:
            await index.close()  # pyright: ignore[reportAttributeAccessIssue]

    return asyncio.run(run())


async def _chunks(index: SearchIndex, tenant: str, collection: str) -> list[IndexedChunk]:
    found: list[IndexedChunk] = []
    while True:
        page = await index.search(
            SearchRequest(tenant, (collection,), ("tenant:*",), top=MAX_TOP, skip=len(found))
        )
        found += [hit.chunk for hit in page.hits]
        if len(page.hits) < MAX_TOP:
            return found


def index_digest(folder: Path, tenant: str, collection: str) -> str:
    return in_index(folder, lambda index: index.digest(tenant, collection))


def check_documents(
    storage: str, index_folder: Path, tenant: str, collection: str, lines: Iterable[Line]
) -> list[str]:
    """Lost, doubled, orphaned or mixed: each fault in a sentence; none where every invariant holds."""
    all_records = _records(storage, tenant, collection)
    records = {record.id: record for record in all_records}
    chunks = in_index(index_folder, lambda index: _chunks(index, tenant, collection))
    by_document: dict[str, list[IndexedChunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document, []).append(chunk)
    faults = _doubled(chunks)
    for line in lines:
        faults += _line_faults(line, records.pop(line.name, None), by_document.pop(line.name, []))
    faults += [f"orphan: chunks of {name}, which nobody wrote" for name in by_document]
    faults += [f"a record of {name}, which nobody wrote" for name in records]
    return faults + _content_faults(storage, tenant, collection, all_records, list(lines))


def _records(storage: str, tenant: str, collection: str) -> list[Document]:
    async def read(opened: Storage) -> list[Document]:
        return [record async for record in Documents(opened).every(tenant, collection)]

    return in_storage(storage, read)


def _doubled(chunks: list[IndexedChunk]) -> list[str]:
    places = Counter((chunk.document, chunk.version, chunk.start) for chunk in chunks)
    return [f"doubled: {place} is there {count} times" for place, count in places.items() if count > 1]


def _line_faults(line: Line, record: Document | None, chunks: list[IndexedChunk]) -> list[str]:
    if not line.serial:
        return [f"orphan: {line.name} was never written"] if record or chunks else []
    if record is None:
        return [f"lost: {line.name} has no record"]
    faults = []
    if record.state is DocumentState.ACCEPTED:
        faults.append(f"lost: {line.name} is still {record.state.value}")
    orphans = sorted({chunk.version for chunk in chunks if chunk.version != record.visible})
    if orphans:
        faults.append(f"orphan: {line.name} has chunks of versions {orphans}, visible is {record.visible}")
    shown = [chunk for chunk in chunks if chunk.version == record.visible]
    if not line.expected:
        if record.state is not DocumentState.DELETED or record.visible or shown:
            faults.append(
                f"lost deletion: {line.name} is {record.state.value}, version {record.visible} visible"
            )
        return faults
    hits = [{"start": chunk.start, "end": chunk.end, "text": chunk.text} for chunk in shown]
    if record.state is not DocumentState.INDEXED or not makes_up(hits, line.texts[line.expected]):
        serial = line.serial_of(hits)
        faults.append(
            f"lost: {line.name} is {record.state.value} {record.error or ''} with serial {serial}, "
            f"expected {line.expected}"
        )
    return faults


def _content_faults(
    storage: str, tenant: str, collection: str, records: list[Document], lines: list[Line]
) -> list[str]:
    """Bytes and texts that no record owns, of documents that were deleted.

    Bytes that were kept for a request which then was never announced have no owner either: those are for
    the reconciliation.
    """
    owned = {claim for record in records for claim in record.claims}
    deleted = {document_key(tenant, collection, line.name) for line in lines if not line.expected}

    async def read(opened: Storage) -> list[str]:
        content = ContentStore(opened)
        return [
            f"orphan: {claim}"
            async for pack in content.packs(tenant, collection)
            for claim in await content.claims(tenant, collection, pack)
            if claim not in owned and piece_of(claim).partition(".")[0] in deleted
        ]

    return in_storage(storage, read)
