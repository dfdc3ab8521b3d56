"""Collections: named sets of documents of one tenant, with their settings."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, NotFound
from shared.identity import check_name
from shared.jobs import iso
from shared.storage import Changed, Exists

if TYPE_CHECKING:
    from shared.storage import Row, Storage

TABLE = "collections"
EVERYONE = ("tenant:*",)


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection. ``readers`` is the access list of its documents unless they bring their own.

    ``generation`` tells it from an earlier collection of the same name.
    ``deleting`` holds from the moment that its deletion was accepted: nothing is added or found any more.
    """

    tenant: str
    name: str
    description: str = ""
    embedding_model: str = "embedding"
    readers: tuple[str, ...] = EVERYONE
    created: float = 0.0
    updated: float = 0.0
    deleting: bool = False
    generation: str = ""
    etag: str = ""

    def to_row(self) -> Row:
        return {
            "PartitionKey": self.tenant,
            "RowKey": self.name,
            "description": self.description,
            "embedding_model": self.embedding_model,
            "readers": json.dumps(self.readers, ensure_ascii=False),
            "created": self.created,
            "updated": self.updated,
            "deleting": self.deleting,
            "generation": self.generation,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Collection:
        return cls(
            tenant=row["PartitionKey"],
            name=row["RowKey"],
            description=row["description"],
            embedding_model=row["embedding_model"],
            readers=tuple(json.loads(row["readers"])),
            created=row["created"],
            updated=row["updated"],
            deleting=row["deleting"],
            generation=row["generation"],
            etag=row.get("etag", ""),
        )

    def to_document(self) -> dict[str, Any]:
        """The collection as the API shows it."""
        return {
            "name": self.name,
            "description": self.description,
            "embedding_model": self.embedding_model,
            "readers": list(self.readers),
            "created": iso(self.created),
            "updated": iso(self.updated),
        }


class Collections:
    """The collections of all tenants."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def find(self, tenant: str, name: str) -> Collection | None:
        check_name("collection", name)
        row = await self._storage.get_row(TABLE, tenant, name)
        return Collection.from_row(row) if row else None

    async def get(self, tenant: str, name: str) -> Collection:
        """The collection; `NotFound` where the tenant has none of that name or it is being deleted."""
        collection = await self.find(tenant, name)
        if collection is None or collection.deleting:
            raise NotFound("collection", name)
        return collection

    async def list(self, tenant: str) -> AsyncIterator[Collection]:
        async for row in self._storage.query_rows(TABLE, tenant):
            collection = Collection.from_row(row)
            if not collection.deleting:
                yield collection

    async def put(
        self,
        tenant: str,
        name: str,
        *,
        description: str,
        embedding_model: str,
        readers: tuple[str, ...],
    ) -> tuple[Collection, bool]:
        """Make a collection or change its settings; the second value says whether it is new.

        The embedding model of a collection is fixed: its chunks lie in that model's index.
        """
        now = time.time()
        wanted = Collection(
            tenant, name, description, embedding_model, readers, now, now, generation=secrets.token_hex(8)
        )
        found = await self.find(tenant, name)
        try:
            if found is None:
                await self._storage.insert_row(TABLE, wanted.to_row())
                return wanted, True
            if found.deleting:
                raise Conflict(f"The collection {name!r} is being deleted.", retry_after=5)
            if found.embedding_model != embedding_model:
                raise Conflict("The embedding model of a collection cannot be changed.")
            changed = replace(found, description=description, readers=readers, updated=now)
            await self._storage.replace_row(TABLE, changed.to_row(), found.etag)
            return changed, False
        except (Exists, Changed):
            raise Conflict(f"The collection {name!r} is being changed by others.", retry_after=1) from None

    async def mark_deleting(self, tenant: str, name: str) -> Collection:
        """Close a collection: from here on nothing is added to it or found in it."""
        collection = await self.get(tenant, name)
        marked = replace(collection, deleting=True, updated=time.time())
        try:
            await self._storage.replace_row(TABLE, marked.to_row(), collection.etag)
        except Changed:
            raise Conflict(f"The collection {name!r} is being changed by others.", retry_after=1) from None
        return marked

    async def remove(self, tenant: str, name: str) -> None:
        await self._storage.delete_row(TABLE, tenant, name)
