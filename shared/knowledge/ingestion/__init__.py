"""Ingestion: from accepted bytes to searchable chunks, in steps that may be killed and repeated.

    acceptance    raw bytes to blobs, a manifest in shards, the job, a version for each document
    gathering     bytes that did not come with the request: blobs of the inbox, documents by URL
    planning      what an attempt has to do, in shards
    preparation   read and chunk a shard's documents, pack their chunks into full embedding batches
    embedding     one batch: one call of the embedding model, then into the index, still out of sight
    settlement    make the new versions of a shard visible, remove the old ones, note the outcomes; at last
                  sum them up
    single pass   all of it at once, for an attempt at few and small documents

Each step reads and writes blobs and rows and leaves a small outcome. A step that is run again does the
same thing again: chunk ids follow from document, version and position, a version becomes visible only if
its record still allows it, and a writer that finds itself overtaken removes what it wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shared.knowledge.ingestion.acceptance import Acceptance, Incoming
from shared.knowledge.ingestion.assignments import Assignments
from shared.knowledge.ingestion.embedding import Embedding
from shared.knowledge.ingestion.gathering import Gathering
from shared.knowledge.ingestion.outcomes import Outcome
from shared.knowledge.ingestion.planning import Planning
from shared.knowledge.ingestion.preparation import Preparation
from shared.knowledge.ingestion.settlement import Settlement
from shared.knowledge.ingestion.shards import SHARD_DOCUMENTS, Shards
from shared.knowledge.ingestion.single_pass import SinglePass

if TYPE_CHECKING:
    from shared.inferencing.gateway import Gateway
    from shared.jobs import Jobs, Ticket
    from shared.knowledge.collections import Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Documents
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.parsing import ParserPool
    from shared.outgoing import Outgoing
    from shared.storage import Storage


class Ingestion:
    """The steps of ingestion over one storage account, index and gateway."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        indexes: Indexes,
        gateway: Gateway,
        parsers: ParserPool,
        outgoing: Outgoing,
        max_document_bytes: int,
        shards_in_flight: int,
    ) -> None:
        self._shards_in_flight = shards_in_flight
        self.shards = shards = Shards(storage, jobs)
        self.assignments = assignments = Assignments(jobs, collections)
        self.acceptance = Acceptance(
            storage=storage,
            jobs=jobs,
            collections=collections,
            documents=documents,
            content=content,
            shards=shards,
            outgoing=outgoing,
            max_document_bytes=max_document_bytes,
        )
        gathering = Gathering(
            storage=storage,
            documents=documents,
            shards=shards,
            acceptance=self.acceptance,
            outgoing=outgoing,
            max_document_bytes=max_document_bytes,
        )
        self.planning = Planning(
            storage=storage,
            jobs=jobs,
            documents=documents,
            shards=shards,
            acceptance=self.acceptance,
        )
        self.preparation = Preparation(
            jobs=jobs,
            documents=documents,
            content=content,
            gateway=gateway,
            parsers=parsers,
            shards=shards,
            assignments=assignments,
            gathering=gathering,
            collections=collections,
        )
        self.embedding = Embedding(
            jobs=jobs,
            documents=documents,
            indexes=indexes,
            gateway=gateway,
            shards=shards,
            assignments=assignments,
        )
        self.settlement = Settlement(
            jobs=jobs,
            collections=collections,
            documents=documents,
            content=content,
            indexes=indexes,
            shards=shards,
            assignments=assignments,
        )
        self.single_pass = SinglePass(
            jobs=jobs,
            shards=shards,
            assignments=assignments,
            preparation=self.preparation,
            embedding=self.embedding,
            settlement=self.settlement,
        )

    async def begin(self, ticket: Ticket) -> dict[str, Any]:
        """Plan an attempt: the number of its shards, and how many of them run at a time.

        What is little is done at once: ``ended`` tells then what came of it.
        """
        plan = await self.planning.plan(ticket)
        told: dict[str, Any] = {"shards": plan.shards, "in_flight": self._shards_in_flight}
        if (ended := await self.single_pass.run(ticket, plan)) is not None:
            told["ended"] = ended
        return told


__all__ = ["SHARD_DOCUMENTS", "Incoming", "Ingestion", "Outcome"]
