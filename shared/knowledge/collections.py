"""Collections: named sets of documents of one tenant, with their settings."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, NotFound
from shared.identity import check_name
from shared.jobs import iso
from shared.knowledge.index import FIRST_LAYOUT
from shared.knowledge.layouts import CHUNK_CHARACTERS, EMBEDDING_MODEL, Layout, LayoutState
from shared.storage import Changed, Exists

if TYPE_CHECKING:
    from shared.storage import Row, Storage

TABLE = "collections"
EVERYONE = ("tenant:*",)
# Writers of one collection meet seldom; more conflicts in a row mean a fault.
WRITE_TRIES = 8


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection. ``readers`` is the access list of its documents unless they bring their own.

    ``layouts`` are the ways in which it is indexed, one of them serving; ``newest_layout`` is the highest
    number that any had. ``generation`` tells it from an earlier collection of the same name.
    ``deleting`` holds from the moment that its deletion was accepted: nothing is added or found any more.
    """

    tenant: str
    name: str
    description: str = ""
    layouts: tuple[Layout, ...] = (Layout(),)
    newest_layout: int = FIRST_LAYOUT
    readers: tuple[str, ...] = EVERYONE
    created: float = 0.0
    updated: float = 0.0
    deleting: bool = False
    generation: str = ""
    etag: str = ""

    @property
    def serving(self) -> Layout:
        """The layout that searches use."""
        return next(layout for layout in self.layouts if layout.state is LayoutState.SERVING)

    @property
    def embedding_model(self) -> str:
        """The embedding model of the serving layout."""
        return self.serving.embedding_model

    @property
    def live_layouts(self) -> tuple[Layout, ...]:
        """The layouts that every document has to lie in, the serving one first."""
        serving = self.serving
        return (serving, *(each for each in self.layouts if each.live and each.number != serving.number))

    def layout(self, number: int) -> Layout | None:
        return next((layout for layout in self.layouts if layout.number == number), None)

    def with_layout(self, changed: Layout) -> Collection:
        """The collection with this layout in place of that of its number, or beside the others."""
        others = tuple(layout for layout in self.layouts if layout.number != changed.number)
        layouts = tuple(sorted((*others, changed), key=lambda layout: layout.number))
        return replace(self, layouts=layouts, newest_layout=max(self.newest_layout, changed.number))

    def to_row(self) -> Row:
        return {
            "PartitionKey": self.tenant,
            "RowKey": self.name,
            "description": self.description,
            "layouts": json.dumps([layout.to_dict() for layout in self.layouts]),
            "newest_layout": self.newest_layout,
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
            layouts=tuple(Layout.from_dict(layout) for layout in json.loads(row["layouts"])),
            newest_layout=row["newest_layout"],
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
            "chunk_characters": self.serving.chunk_characters,
            "layouts": [layout.to_document() for layout in self.layouts],
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
        async for collection in self.all_of(tenant):
            if not collection.deleting:
                yield collection

    async def all_of(self, tenant: str) -> AsyncIterator[Collection]:
        """All collections of a tenant, those being deleted too."""
        async for row in self._storage.query_rows(TABLE, tenant):
            yield Collection.from_row(row)

    async def every(self) -> AsyncIterator[Collection]:
        """The collections of all tenants, those that are being deleted too."""
        async for row in self._storage.scan_rows(TABLE):
            yield Collection.from_row(row)

    async def put(
        self,
        tenant: str,
        name: str,
        *,
        description: str,
        readers: tuple[str, ...],
        embedding_model: str | None = None,
        model_version: str = "",
        chunk_characters: int | None = None,
    ) -> tuple[Collection, bool]:
        """Make a collection or change its settings; the second value says whether it is new.

        How a collection is cut and embedded is settled when it is made; only a reindexing changes it.
        """
        now = time.time()
        first = Layout(
            embedding_model=embedding_model or EMBEDDING_MODEL,
            model_version=model_version,
            chunk_characters=chunk_characters or CHUNK_CHARACTERS,
            since=now,
        )
        wanted = Collection(
            tenant,
            name,
            description,
            layouts=(first,),
            readers=readers,
            created=now,
            updated=now,
            generation=secrets.token_hex(8),
        )
        found = await self.find(tenant, name)
        try:
            if found is None:
                await self._storage.insert_row(TABLE, wanted.to_row())
                return wanted, True
            if found.deleting:
                raise Conflict(f"The collection {name!r} is being deleted.", retry_after=5)
            serving = found.serving
            same_model = embedding_model in (None, serving.embedding_model)
            if not same_model or chunk_characters not in (None, serving.chunk_characters):
                raise Conflict("How a collection is cut and embedded is changed by reindexing it.")
            changed = replace(found, description=description, readers=readers, updated=now)
            await self._storage.replace_row(TABLE, changed.to_row(), found.etag)
            return changed, False
        except (Exists, Changed):
            raise Conflict(f"The collection {name!r} is being changed by others.", retry_after=1) from None

    async def change(
        self, tenant: str, name: str, change: Callable[[Collection], Collection | None]
    ) -> Collection:
        """Write a collection as ``change`` makes it of what is there; None leaves it.

        The row is written only as it was read; otherwise it is read and changed anew.
        """
        for _ in range(WRITE_TRIES):
            collection = await self.get(tenant, name)
            changed = change(collection)
            if changed is None:
                return collection
            try:
                await self._storage.replace_row(TABLE, changed.to_row(), collection.etag)
                return changed
            except Changed:
                continue
        raise Conflict(f"The collection {name!r} is being changed by others.", retry_after=1)

    async def mark_incomplete(self, tenant: str, name: str, number: int, reason: str) -> None:
        """Note that a document could not be put into a layout; nothing where it serves or is gone."""

        def marked(collection: Collection) -> Collection | None:
            layout = collection.layout(number)
            if layout is None or layout.state is LayoutState.SERVING or not layout.live:
                return None
            return collection.with_layout(replace(layout, incomplete=reason))

        await self.change(tenant, name, marked)

    async def mark_deleting(self, tenant: str, name: str) -> Collection:
        """Close a collection: from here on nothing is added to it or found in it."""
        return await self.change(
            tenant, name, lambda collection: replace(collection, deleting=True, updated=time.time())
        )

    async def remove(self, tenant: str, name: str) -> None:
        await self._storage.delete_row(TABLE, tenant, name)
