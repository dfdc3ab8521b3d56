"""The shards of a job's attempt: what each has to do, and what became of its documents.

All of it lies in blobs of the attempt; orchestrations and activities know a shard by its number alone.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.errors import NotFound
from shared.knowledge.documents import RECORDS_AT_ONCE, Document, Upload
from shared.knowledge.ingestion.outcomes import Outcome, PreparedDocument, PreparedShard
from shared.storage import FILTER_ROWS, JOBS

if TYPE_CHECKING:
    from shared.jobs import Jobs, Ticket
    from shared.storage import Storage

# A shard is what one sub-orchestration works on: small enough to repeat, large enough to fill batches. The
# records of all its documents change in one transaction.
SHARD_DOCUMENTS = RECORDS_AT_ONCE
SHARD_BYTES = 512 * 1024
# A document that has yet to be fetched counts as this much: a minute each, four at a time, they must fit
# into the time of one activity (functionTimeout in host.json).
FETCHED_BYTES = SHARD_BYTES // 25


def shard_name(number: int) -> str:
    return f"{number:05d}"


def texts_origin(ticket: Ticket, number: int) -> str:
    """Where the texts lie that an attempt has read for a shard."""
    return f"{ticket.job}/{ticket.attempt}/{shard_name(number)}"


def in_shards(uploads: Sequence[Upload]) -> Iterable[list[Upload]]:
    """The uploads in their order, as many together as make a shard; shards of small ones are alike."""
    shard: list[Upload] = []
    size = 0
    most = math.ceil(len(uploads) / max(1, math.ceil(len(uploads) / SHARD_DOCUMENTS)))
    for upload in uploads:
        weight = FETCHED_BYTES if upload.url else upload.size
        if shard and (len(shard) == most or size + weight > SHARD_BYTES):
            yield shard
            shard, size = [], 0
        shard.append(upload)
        size += weight
    if shard:
        yield shard


class Shards:
    """The plans, manifests, embedding batches and outcomes of all attempts."""

    def __init__(self, storage: Storage, jobs: Jobs) -> None:
        self._storage = storage
        self._jobs = jobs

    async def put_plan(self, ticket: Ticket, shards: int, documents: int) -> dict[str, Any]:
        plan = {"shards": shards, "documents": documents}
        await self._jobs.put(ticket, "plan", plan)
        return plan

    async def put_inbox_plan(self, ticket: Ticket, prefix: str) -> None:
        """The plan of a job whose documents are yet to be listed from the inbox."""
        await self._jobs.put(ticket, "plan", {"inbox": prefix})

    async def plan(self, ticket: Ticket) -> dict[str, Any] | None:
        return await self._jobs.fetch(ticket, "plan")

    async def put_manifest(self, ticket: Ticket, number: int, uploads: Iterable[Upload]) -> None:
        await self._jobs.put(ticket, f"{shard_name(number)}/manifest", [u.to_dict() for u in uploads])

    async def manifest(self, ticket: Ticket, number: int) -> list[Upload]:
        manifest = await self._jobs.fetch(ticket, f"{shard_name(number)}/manifest")
        if manifest is None:
            raise NotFound("manifest of the job", ticket.job)
        return [Upload.from_dict(upload) for upload in manifest]

    async def put_records(self, ticket: Ticket, number: int, records: Mapping[str, Document]) -> None:
        """Keep the records as an acceptance left them, where they would be many to look up again."""
        if len(records) > FILTER_ROWS:
            await self._jobs.put(ticket, f"{shard_name(number)}/records", _rows(records.values()))

    async def records(self, ticket: Ticket, number: int, documents: int) -> dict[str, Document]:
        """The records that were kept for a shard of so many: as they may still be; writing to them tells."""
        if documents <= FILTER_ROWS:
            return {}
        kept = await self._jobs.fetch(ticket, f"{shard_name(number)}/records")
        records = map(Document.from_row, kept or ())
        return {record.id: record for record in records}

    async def count_manifests(self, ticket: Ticket) -> int:
        names = [blob.name async for blob in self._storage.list_blobs(JOBS, f"{ticket.prefix}/")]
        return sum(name.endswith("/manifest.json") for name in names)

    async def put_batch(self, ticket: Ticket, number: int, batch: int, entries: list[dict[str, Any]]) -> None:
        await self._jobs.put(ticket, f"{shard_name(number)}/batch-{batch:04d}", entries)

    async def batch(self, ticket: Ticket, number: int, batch: int) -> list[dict[str, Any]]:
        entries = await self._jobs.fetch(ticket, f"{shard_name(number)}/batch-{batch:04d}")
        if entries is None:
            raise NotFound("batch of the job", ticket.job)
        return entries

    async def drop_batches(self, ticket: Ticket) -> None:
        """Remove the batches of an attempt."""
        listed = self._storage.list_blobs(JOBS, f"{ticket.prefix}/")
        await self._storage.delete_listed(JOBS, [blob async for blob in listed if "/batch-" in blob.name])

    async def drop_preparation(self, ticket: Ticket, number: int) -> None:
        """Remove a shard's batches, and what was known of its records: it may be prepared anew."""
        await self._storage.delete_blob(JOBS, f"{ticket.prefix}/{shard_name(number)}/records.json")
        await self._storage.delete_blobs(JOBS, f"{ticket.prefix}/{shard_name(number)}/batch-")

    async def put_prepared(
        self, ticket: Ticket, number: int, prepared: PreparedShard, *, first: bool = False
    ) -> None:
        """Note how a shard was prepared; raises `Exists` where it is to be the first note and is not."""
        kept = {
            "documents": [document.to_dict() for document in prepared.documents],
            "outcomes": [outcome.to_dict() for outcome in prepared.outcomes],
            "left": dict(prepared.left),
        }
        if prepared.records is not None:
            kept["records"] = _rows(prepared.records)
        await self._jobs.put(ticket, f"{shard_name(number)}/prepared", kept, first=first)

    async def prepared(self, ticket: Ticket, number: int) -> PreparedShard:
        """The shard as its preparation left it; empty where that has failed."""
        kept = await self._jobs.fetch(ticket, f"{shard_name(number)}/prepared")
        if kept is None:
            return PreparedShard()
        records = kept.get("records")
        return PreparedShard(
            tuple(PreparedDocument.from_dict(data) for data in kept["documents"]),
            tuple(Outcome.from_dict(data) for data in kept["outcomes"]),
            None if records is None else tuple(Document.from_row(row) for row in records),
            kept.get("left", {}),
        )

    async def put_outcomes(self, ticket: Ticket, number: int, outcomes: Iterable[Outcome]) -> None:
        kept = [outcome.to_dict() for outcome in outcomes]
        await self._jobs.put(ticket, f"{shard_name(number)}/outcomes", kept)

    async def outcomes(self, ticket: Ticket, number: int) -> list[Outcome] | None:
        """What became of the shard's documents; None until it has been settled."""
        kept = await self._jobs.fetch(ticket, f"{shard_name(number)}/outcomes")
        return None if kept is None else [Outcome.from_dict(data) for data in kept]

    async def all_outcomes(self, ticket: Ticket, shards: int) -> AsyncIterator[Outcome]:
        """What became of each document of an attempt, shard by shard."""
        for number in range(shards):
            for outcome in await self.outcomes(ticket, number) or []:
                yield outcome

    async def outcome_page(self, ticket: Ticket, first: int, shards: int) -> tuple[list[Outcome], bool]:
        """The outcomes of some shards, and whether there are more behind them."""
        plan = await self.plan(ticket) or {}
        count = plan.get("shards", 0)
        page: list[Outcome] = []
        for number in range(first, min(first + shards, count)):
            page += await self.outcomes(ticket, number) or []
        return page, first + shards < count


def _rows(records: Iterable[Document]) -> list[dict[str, Any]]:
    return [{**record.to_row(), "etag": record.etag} for record in records]
