"""Embedding: one batch of a shard's chunks, into the index, still out of sight."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from shared import failpoints
from shared.errors import Conflict
from shared.inferencing.calls import CallContext, JobAccount
from shared.knowledge.index import IndexedChunk, VersionRange
from shared.knowledge.index.protocol import from_payload
from shared.knowledge.ingestion.shards import shard_name
from shared.knowledge.layouts import LayoutState

if TYPE_CHECKING:
    from shared.inferencing.gateway import Gateway
    from shared.jobs import Jobs, Ticket
    from shared.knowledge.collections import Collection
    from shared.knowledge.documents import Documents
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.ingestion.assignments import Assignment, Assignments
    from shared.knowledge.ingestion.entries import Entry
    from shared.knowledge.ingestion.shards import Shards

# The batches of a shard report their shares in rows of this many: a row holds at most 252 properties
# (Azure Tables).
BATCHES_PER_ROW = 200


def embedded_share(batch: int) -> str:
    """The name under which a batch reports how many chunks it has embedded."""
    return f"embedded_{batch:04d}"


class Embedding:
    """Embeds the batches of shards."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        documents: Documents,
        indexes: Indexes,
        gateway: Gateway,
        shards: Shards,
        assignments: Assignments,
    ) -> None:
        self._jobs = jobs
        self._documents = documents
        self._indexes = indexes
        self._gateway = gateway
        self._shards = shards
        self._assignments = assignments

    async def embed(self, ticket: Ticket, number: int, batch_number: int) -> None:
        """Embed one batch and put it into the index, where it stays out of sight until the settlement."""
        assignment, batch = await asyncio.gather(
            self._assignments.of(ticket), self._shards.batch(ticket, number, batch_number)
        )
        assignment.stop_if_cancelled()
        chunks = await self.put(ticket, assignment, batch)
        if not chunks:
            return
        settled, stands = await asyncio.gather(
            self._shards.outcomes(ticket, number), self._assignments.stands(ticket)
        )
        if settled is not None or not stands:
            # The shard was settled or given up while this ran, by a second run of this step; or the
            # collection was deleted, and its index may have been cleared before this upload.
            await self.withdraw_unseen(assignment.collection, chunks)
        # A property of its own for each batch: a batch that is run again does not count twice.
        share = {embedded_share(batch_number): len(chunks)}
        await self._jobs.report(ticket, f"{shard_name(number)}.{batch_number // BATCHES_PER_ROW}", **share)

    async def put(self, ticket: Ticket, assignment: Assignment, batch: Sequence[Entry]) -> list[IndexedChunk]:
        """Embed a batch and put it into the index; its chunks, none where nobody will look for them."""
        collection = assignment.collection
        # A batch holds chunks of one layout alone.
        layout = collection.layout(batch[0]["chunk"]["layout"])
        if layout is None or layout.state is LayoutState.RETIRED:
            return []  # given up meanwhile
        if layout.incomplete:
            # A document was left out of it already: others need not wait for a model that does not serve.
            raise Conflict("The layout is incomplete.", reason=layout.incomplete)
        embedded = await self._gateway.embed(
            layout.embedding_model,
            [entry["input"] for entry in batch],
            call=CallContext(
                tenant=ticket.tenant,
                user=assignment.job.owner,
                purpose="ingestion",
                job=JobAccount(ticket.job, ticket.attempt),
                background=True,
            ),
            tokens=[entry["tokens"] for entry in batch],
        )
        chunks = [
            replace(from_payload(entry["chunk"]), vector=vector)
            for entry, vector in zip(batch, embedded.vectors, strict=True)
        ]
        index = await self._indexes.of(layout.embedding_model)
        failpoints.passed("embed.embedded")
        await index.upload(chunks)
        failpoints.passed("embed.uploaded")
        return chunks

    async def withdraw_unseen(self, collection: Collection, chunks: Sequence[IndexedChunk]) -> None:
        """Remove the chunks of versions that are not visible and that nobody will make visible any more.

        Whoever settled their documents may have cleaned before the chunks came.
        """
        versions = {chunk.document: chunk.version for chunk in chunks}
        records = await self._documents.find_all(collection.tenant, collection.name, versions)
        indexes = await self._indexes.all_of(collection)
        for document, version in versions.items():
            record = records.get(document)
            if record is None or record.visible != version:
                for index in indexes:
                    await index.delete_document(
                        collection.tenant, collection.name, document, VersionRange(only=version)
                    )
