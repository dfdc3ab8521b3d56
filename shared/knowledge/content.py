"""Content: the raw bytes of documents and what was read from them. Only this module knows where they lie."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shared.knowledge.documents import Document, Documents, DocumentState, document_key
from shared.storage import PARSED, RAW

if TYPE_CHECKING:
    from shared.knowledge.chunking import Chunk
    from shared.knowledge.collections import Collection
    from shared.knowledge.documents import Upload
    from shared.knowledge.parsing import ParsedDocument
    from shared.storage import Storage


class ContentStore:
    """The content of all documents."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def put_raw(self, tenant: str, collection: str, upload: Upload, content: bytes) -> None:
        """Keep the bytes of an upload; doing so again changes nothing."""
        name = _raw_blob(tenant, collection, upload)
        await self._storage.put_blob(RAW, name, content, content_type=upload.media)

    async def raw(self, tenant: str, collection: str, upload: Upload) -> bytes | None:
        """The bytes of an upload, or None where they were removed."""
        return await self._storage.get_blob(RAW, _raw_blob(tenant, collection, upload))

    async def put_parsed(
        self,
        collection: Collection,
        upload: Upload,
        version: int,
        document: ParsedDocument,
        chunks: Sequence[Chunk],
    ) -> None:
        """Keep what was read from a version: its text, the spans of its chunks, who may read it."""
        spans = [[chunk.start, chunk.end] for chunk in chunks]
        kept = {"document": document.to_dict(), "chunks": spans, "readers": upload.readers}
        name = _parsed_blob(collection.tenant, collection.name, upload.id, version)
        data = json.dumps(kept, ensure_ascii=False).encode()
        await self._storage.put_blob(PARSED, name, data, content_type="application/json")

    async def parsed(
        self, tenant: str, collection: str, document: str, version: int
    ) -> dict[str, Any] | None:
        """What was read from a version, or None where it was removed or never there."""
        data = await self._storage.get_blob(PARSED, _parsed_blob(tenant, collection, document, version))
        return None if data is None else json.loads(data)

    async def remove_deleted(self, documents: Documents, record: Document) -> None:
        """Remove what versions below the record's tombstone have left."""
        tenant, collection = record.tenant, record.collection
        prefix = f"{tenant}/{collection}/{record.key}/"
        end = _parsed_blob(tenant, collection, record.id, record.tombstone)
        parsed = [blob async for blob in self._storage.list_blobs(PARSED, prefix) if blob.name < end]
        await self._storage.delete_listed(PARSED, parsed)
        # An upload that comes now writes its bytes again after its acceptance, see `Acceptance.accept`: the
        # record read after this listing either tells of it, or what it writes is not what was listed.
        raw = [blob async for blob in self._storage.list_blobs(RAW, prefix)]
        current = await documents.find(tenant, collection, record.id)
        if current is None or current.state is DocumentState.DELETED:
            await self._storage.delete_listed(RAW, raw)

    async def remove_collection(self, tenant: str, collection: str) -> None:
        """Remove all that a collection holds."""
        for container in (RAW, PARSED):
            await self._storage.delete_blobs(container, f"{tenant}/{collection}/")


def _raw_blob(tenant: str, collection: str, upload: Upload) -> str:
    return f"{tenant}/{collection}/{document_key(tenant, collection, upload.id)}/{upload.sha256}"


def _parsed_blob(tenant: str, collection: str, document: str, version: int) -> str:
    return f"{tenant}/{collection}/{document_key(tenant, collection, document)}/{version:08d}.json"
