"""A single pass: an attempt at few and small documents, all of whose steps run at once.

Between the steps of an ingestion lie blobs and durable events, so that it can be broken off anywhere and goes
on from there. Where all chunks fit into one embedding call, no more than that would be repeated anyway: what
one step leaves to the next is kept in memory. All that counts is written as ever: how the documents were
prepared, before anything of them is in the index; their outcomes; the end of the job.

There is one try. Whatever comes in between, the attempt then goes step by step as any other, and finds in the
note of the preparation what the pass may have left. Only one run of the pass gets beyond that note.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from shared.errors import GroundworkError, NotFound
from shared.knowledge.ingestion.embedding import embedded_share
from shared.knowledge.ingestion.outcomes import Summary
from shared.knowledge.ingestion.settlement import published
from shared.knowledge.ingestion.shards import shard_name
from shared.storage import Exists

if TYPE_CHECKING:
    from shared.jobs import Jobs, Ticket
    from shared.knowledge.index import IndexedChunk
    from shared.knowledge.ingestion.assignments import Assignments
    from shared.knowledge.ingestion.embedding import Embedding
    from shared.knowledge.ingestion.planning import Plan
    from shared.knowledge.ingestion.preparation import Preparation
    from shared.knowledge.ingestion.settlement import Settlement
    from shared.knowledge.ingestion.shards import Shards

log = logging.getLogger("groundwork.ingestion")

# A quarter of the text that one call of the smallest embedding model takes: 128 inputs of 256 tokens, of
# three bytes or so. What still makes more chunks than that has been read in vain, and is little.
SINGLE_PASS_BYTES = 24 * 1024
SINGLE_PASS_DOCUMENTS = 16
SHARD = 0


class SinglePass:
    """Does attempts that are small enough."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        shards: Shards,
        assignments: Assignments,
        preparation: Preparation,
        embedding: Embedding,
        settlement: Settlement,
    ) -> None:
        self._jobs = jobs
        self._shards = shards
        self._assignments = assignments
        self._preparation = preparation
        self._embedding = embedding
        self._settlement = settlement

    async def run(self, ticket: Ticket, plan: Plan) -> dict[str, Any] | None:
        """Do what is planned and end the job; None where that has to go step by step."""
        if plan.shards != 1 or plan.documents > SINGLE_PASS_DOCUMENTS:
            return None
        try:
            return await self._run(ticket, plan)
        except GroundworkError as error:
            # The steps tell each failure of its documents, and wait for as long as a service asks for.
            log.info("single_pass_broken_off", extra={"job": ticket.job, "code": error.code})
            return None

    async def _run(self, ticket: Ticket, plan: Plan) -> dict[str, Any] | None:
        assignment = await self._assignments.for_job(ticket, plan.job)
        assignment.stop_if_cancelled()
        manifest = await self._shards.manifest(ticket, SHARD)
        size = sum(upload.size for upload in manifest)
        if size > SINGLE_PASS_BYTES or any(upload.is_awaited for upload in manifest):
            return None
        reading = await self._preparation.read(ticket, SHARD, assignment.collection, manifest)
        if len(reading.batches) > 1:
            return None
        try:
            await self._preparation.note(ticket, SHARD, reading.shard, first=True)
        except Exists:
            return None  # another run had come so far
        chunks: list[IndexedChunk] = []
        for batch in reading.batches:
            chunks += await self._embedding.put(ticket, assignment, batch)
        try:
            outcomes = await self._settlement.settle(ticket, SHARD, assignment, manifest, reading.shard, {})
        except NotFound:
            # The collection was deleted meanwhile, and its index may have been cleared before the upload.
            await self._embedding.withdraw_unseen(assignment.collection, chunks)
            raise
        if outcomes is None:
            return None
        embedded = {embedded_share(0): len(chunks)}
        progress = {**reading.progress, **embedded, **published(outcomes)}
        await self._jobs.report(ticket, shard_name(SHARD), **progress)
        sums = Summary()
        for outcome in outcomes:
            sums.add(outcome)
        return await self._settlement.end(ticket, sums, plan.job)
