"""Upkeep of layouts: retire those whose time is over, and remove the chunks of those that were retired."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shared.errors import NotFound
from shared.knowledge.layouts import LayoutState

if TYPE_CHECKING:
    from shared.jobs import Jobs
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.layouts import Layout

# A search that began before a layout was retired may still read it: none takes longer than a model call may.
SEARCHES_END_SECONDS = 300.0
# A reindexing that failed can be retried for this long; until then every document goes into its layout too.
ABANDONED_SECONDS = 86_400.0


class LayoutUpkeep:
    """Looks after the layouts of all collections. Doing so again, or at the same time, is fine."""

    def __init__(self, *, jobs: Jobs, collections: Collections, indexes: Indexes) -> None:
        self._jobs = jobs
        self._collections = collections
        self._indexes = indexes

    async def tend(self, now: float) -> int:
        """Do what is due; the number of layouts that were removed."""
        removed = 0
        async for collection in self._collections.every():
            if collection.deleting or len(collection.layouts) == 1:
                continue
            try:
                for layout in collection.layouts:
                    removed += await self._tend(collection, layout, now)
            except NotFound:
                continue  # deleted meanwhile
        return removed

    async def _tend(self, collection: Collection, layout: Layout, now: float) -> bool:
        if layout.state is LayoutState.RETIRED:
            due = now - layout.since >= SEARCHES_END_SECONDS
            return due and await self._removed(collection, layout)
        over = layout.state is LayoutState.KEPT and layout.until is not None and layout.until <= now
        if over or await self._is_abandoned(collection, layout, now):

            def retired(current: Collection) -> Collection | None:
                if current.layout(layout.number) != layout:
                    return None  # it serves again, or was changed otherwise
                return current.with_layout(replace(layout, state=LayoutState.RETIRED, since=now))

            await self._collections.change(collection.tenant, collection.name, retired)
        return False

    async def _is_abandoned(self, collection: Collection, layout: Layout, now: float) -> bool:
        if layout.state is not LayoutState.BUILDING or now - layout.since < ABANDONED_SECONDS:
            return False
        job = await self._jobs.find(collection.tenant, layout.job)
        return job is None or (job.state.final and now - job.updated >= ABANDONED_SECONDS)

    async def _removed(self, collection: Collection, layout: Layout) -> bool:
        """Remove a layout's chunks, and the layout where none is left to be found.

        What a service makes searchable only after a while is found by the next look.
        """
        alone = replace(collection, layouts=(layout,))
        for index in await self._indexes.all_of(alone):
            if await index.delete_collection(collection.tenant, collection.name, layout=layout.number):
                return False

        def without(current: Collection) -> Collection:
            return replace(
                current, layouts=tuple(each for each in current.layouts if each.number != layout.number)
            )

        await self._collections.change(collection.tenant, collection.name, without)
        return True
