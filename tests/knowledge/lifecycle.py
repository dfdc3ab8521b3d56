"""The steps of ingesting, reindexing and reconciling, run in this process over the parts of a `World`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from shared.jobs import Job, Jobs, Ticket, new_id
from shared.knowledge.content import ContentStore
from shared.knowledge.golden import GoldenSets
from shared.knowledge.ingestion import Incoming, Ingestion
from shared.knowledge.parsing import ParserPool
from shared.knowledge.reconciliation import Reconciliation
from shared.knowledge.reindexing import Reindexing, Wish
from shared.knowledge.upkeep import LayoutUpkeep
from tests.intelligence.world import ALICE, World

SHARDS_IN_FLIGHT = 4


@dataclass
class Lifecycle:
    """What orchestrations would do, in their order, without them."""

    world: World
    jobs: Jobs
    content: ContentStore
    ingestion: Ingestion
    reindexing: Reindexing
    reconciliation: Reconciliation
    upkeep: LayoutUpkeep

    async def accept(self, **documents: str) -> Job:
        incoming = [Incoming(f"{name}.txt", text.encode()) for name, text in documents.items()]
        return await self.ingestion.acceptance.accept(
            "acme", self.world.name, incoming, job_id=new_id(), owner="alice", title="test"
        )

    async def ingest(self, **documents: str) -> Ticket:
        ticket = (await self.accept(**documents)).ticket
        await self.prepared(ticket)
        assert await self.ingestion.settlement.commit(ticket, 0, {})
        await self.ingestion.settlement.finish(ticket)
        return ticket

    async def prepared(self, ticket: Ticket) -> None:
        """All steps of an ingestion of one shard up to its commit."""
        await self.ingestion.planning.plan(ticket)
        await self.embedded(ticket, await self.ingestion.preparation.prepare(ticket, 0), 0)

    async def embedded(self, ticket: Ticket, batches: int, shard: int) -> None:
        for batch in range(batches):
            await self.ingestion.embedding.embed(ticket, shard, batch)

    async def reindex(self, **wish: Any) -> Ticket:
        job = await self.reindexing.accept(ALICE, self.world.name, Wish(**wish), job_id=new_id())
        return job.ticket

    async def passed(self, ticket: Ticket, number: int, *, shards: int = 0) -> int:
        """One pass of a reindexing; the number of shards that it had to do."""
        page = await self.reindexing.survey(ticket, "", number == 1, shards)
        for shard in range(shards, shards + page["shards"]):
            await self.embedded(ticket, await self.reindexing.prepare(ticket, shard), shard)
            assert await self.reindexing.commit(ticket, shard, {}) == 0
        return page["shards"]

    async def texts(self) -> dict[str, str]:
        """What can be seen: the text of each document, its chunks put together."""
        found = await self.world.retrieval.search(ALICE, [self.world.name], " ", top=900)
        chunks = sorted((p.chunk.document, p.chunk.ordinal, p.chunk.text) for p in found.passages)
        texts: dict[str, str] = {}
        for document, _, text in chunks:
            texts[document] = f"{texts[document]} {text}" if document in texts else text
        return texts


@pytest.fixture
async def lifecycle(world: World) -> AsyncIterator[Lifecycle]:
    await world.collection()
    jobs, content = Jobs(world.storage), ContentStore(world.storage)
    parsers = ParserPool(workers=1)
    parts: dict[str, Any] = {
        "jobs": jobs,
        "collections": world.collections,
        "documents": world.documents,
        "content": content,
        "indexes": world.indexes,
    }
    ingestion = Ingestion(
        **parts,
        storage=world.storage,
        gateway=world.gateway,
        parsers=parsers,
        outgoing=cast(Any, None),  # nothing is fetched here
        max_document_bytes=1_000_000,
        shards_in_flight=SHARDS_IN_FLIGHT,
    )
    reindexing = Reindexing(
        **parts,
        golden=GoldenSets(world.storage),
        gateway=world.gateway,
        parsers=parsers,
        retrieval=world.retrieval,
        shards=ingestion.shards,
        assignments=ingestion.assignments,
        shards_in_flight=SHARDS_IN_FLIGHT,
    )
    reconciliation = Reconciliation(**parts, storage=world.storage, acceptance=ingestion.acceptance)
    upkeep = LayoutUpkeep(jobs=jobs, collections=world.collections, indexes=world.indexes)
    yield Lifecycle(world, jobs, content, ingestion, reindexing, reconciliation, upkeep)
    await parsers.close()
