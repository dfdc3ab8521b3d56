"""What must hold when all is quiet again: read from storage and from the index itself, not from the API."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from shared.config import StorageSettings
from shared.jobs import Jobs
from shared.knowledge.collections import Collection, Collections
from shared.knowledge.content import ContentStore, piece_of
from shared.knowledge.documents import Document, Documents, DocumentState
from shared.knowledge.index import IndexSpec, SearchIndex, open_index
from shared.knowledge.index.protocol import (
    MAX_TOP,
    DocumentVersion,
    IndexedChunk,
    SearchRequest,
    document_key,
)
from shared.knowledge.upkeep import LayoutUpkeep
from shared.storage import Storage, open_storage

from .documents import Line, makes_up

T = TypeVar("T")

SPEC = IndexSpec("chunks-minilm", 384)
# By then each layout that was given up, or whose reindexing failed, is to be removed
# (`shared.knowledge.upkeep`).
LATER_SECONDS = 3 * 86_400


@dataclass(frozen=True, slots=True)
class Stores:
    """Where one collection lies. No host may be running: the embedded index lets one process in."""

    storage: str
    index_folder: Path
    tenant: str
    collection: str
    spec: IndexSpec = SPEC

    def in_storage(self, work: Callable[[Storage], Awaitable[T]]) -> T:
        async def run() -> T:
            async with open_storage(StorageSettings(connection_string=self.storage)) as storage:
                return await work(storage)

        return asyncio.run(run())

    def in_index(self, work: Callable[[SearchIndex], Awaitable[T]]) -> T:
        async def run() -> T:
            index = open_index(f"embedded:{self.index_folder}/{self.spec.name}", self.spec)
            await index.ensure()
            try:
                return await work(index)
            finally:
                await index.close()  # pyright: ignore[reportAttributeAccessIssue]

        return asyncio.run(run())

    def digest(self) -> str:
        """One value for all that the index holds of the collection."""
        return self.in_index(lambda index: index.digest(self.tenant, self.collection))

    def records(self) -> list[Document]:
        async def read(opened: Storage) -> list[Document]:
            return [record async for record in Documents(opened).every(self.tenant, self.collection)]

        return self.in_storage(read)

    def tend_layouts(self) -> Collection:
        """Let the time of retired layouts be over; the collection as it is then."""

        async def tend(opened: Storage) -> Collection:
            collections = Collections(opened)
            index = open_index(f"embedded:{self.index_folder}/{self.spec.name}", self.spec)
            indexes = _Alone(index)
            upkeep = LayoutUpkeep(jobs=Jobs(opened), collections=collections, indexes=cast(Any, indexes))
            try:
                for look in (1, 2, 3):
                    await upkeep.tend(time.time() + look * LATER_SECONDS)
            finally:
                await index.close()  # pyright: ignore[reportAttributeAccessIssue]
            return await collections.get(self.tenant, self.collection)

        return self.in_storage(tend)


@dataclass(frozen=True, slots=True)
class _Alone:
    index: SearchIndex

    async def all_of(self, _: Collection) -> list[SearchIndex]:
        return [self.index]


def check_documents(stores: Stores, lines: Iterable[Line]) -> list[str]:
    """Lost, doubled, orphaned or mixed: each fault in a sentence; none where every invariant holds."""
    lines = list(lines)
    collection = stores.tend_layouts()
    faults = [
        f"orphan: the layout {layout.number} is {layout.state.value}, long after its time"
        for layout in collection.layouts
        if layout.number != collection.serving.number
    ]
    all_records = stores.records()
    records = {record.id: record for record in all_records}
    serving = collection.serving.number
    chunks = stores.in_index(lambda index: _chunks(index, stores, serving))
    listed = stores.in_index(lambda index: index.document_versions(stores.tenant, stores.collection))
    faults += _doubled(chunks)
    faults += _orphans(listed, records, serving)
    by_document: dict[str, list[IndexedChunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document, []).append(chunk)
    for line in lines:
        faults += _line_faults(line, records.pop(line.name, None), by_document.pop(line.name, []))
    faults += [f"orphan: a record of {name}, which nobody wrote" for name in records]
    return faults + _content_faults(stores, all_records, lines)


async def _chunks(index: SearchIndex, stores: Stores, layout: int) -> list[IndexedChunk]:
    name, found = stores.collection, []
    request = SearchRequest(stores.tenant, (name,), ("tenant:*",), top=MAX_TOP, layouts={name: layout})
    while True:
        page = await index.search(replace(request, skip=len(found)))
        found += [hit.chunk for hit in page.hits]
        if len(page.hits) < MAX_TOP:
            return found


def _doubled(chunks: list[IndexedChunk]) -> list[str]:
    places = Counter((chunk.document, chunk.version, chunk.start) for chunk in chunks)
    return [f"doubled: {place} is there {count} times" for place, count in places.items() if count > 1]


def _orphans(
    listed: Iterable[DocumentVersion], records: Mapping[str, Document], serving: int
) -> Iterator[str]:
    for each in listed:
        record = records.get(each.document)
        if record is None or each.version != record.visible or each.layout != serving:
            visible = record.visible if record else None
            yield (
                f"orphan: {each.chunks} chunks of {each.document}, version {each.version} in the layout "
                f"{each.layout}, where version {visible} is visible and the layout {serving} serves"
            )


def _line_faults(line: Line, record: Document | None, chunks: list[IndexedChunk]) -> list[str]:
    if not line.serial:
        return [f"orphan: {line.name} was never written"] if record or chunks else []
    if record is None:
        return [f"lost: {line.name} has no record"]
    faults = []
    if record.state is DocumentState.ACCEPTED:
        faults.append(f"lost: {line.name} is still {record.state.value}")
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


def _content_faults(stores: Stores, records: list[Document], lines: list[Line]) -> list[str]:
    """Bytes and texts that no record owns, of documents that were deleted.

    Bytes that were kept for a request which then was never announced have no owner either: those are for
    the reconciliation.
    """
    owned = {claim for record in records for claim in record.claims}
    deleted = {
        document_key(stores.tenant, stores.collection, line.name) for line in lines if not line.expected
    }

    async def read(opened: Storage) -> list[str]:
        content = ContentStore(opened)
        return [
            f"orphan: {claim}"
            async for pack in content.packs(stores.tenant, stores.collection)
            for claim in await content.claims(stores.tenant, stores.collection, pack)
            if claim not in owned and piece_of(claim).partition(".")[0] in deleted
        ]

    return stores.in_storage(read)
