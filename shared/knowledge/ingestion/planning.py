"""Planning: what an attempt of a job has to do, laid out in shards."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.knowledge.documents import Upload
from shared.knowledge.ingestion.shards import SHARD_BYTES, SHARD_DOCUMENTS, in_shards
from shared.storage import INBOX

if TYPE_CHECKING:
    from shared.jobs import Job, Jobs, Ticket
    from shared.knowledge.documents import Documents
    from shared.knowledge.ingestion.acceptance import Acceptance
    from shared.knowledge.ingestion.shards import Shards
    from shared.storage import Storage

# No document has it: only what is still this job's own takes a new version.
NO_VERSION = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """What an attempt has to do. ``job`` is as it is since the attempt began."""

    job: Job
    shards: int
    documents: int


class Planning:
    """Makes the plans of attempts."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: Jobs,
        documents: Documents,
        shards: Shards,
        acceptance: Acceptance,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._documents = documents
        self._shards = shards
        self._acceptance = acceptance

    async def plan(self, ticket: Ticket) -> Plan:
        """Lay out what this attempt has to do; it has begun then."""
        job = await self._jobs.get(ticket.tenant, ticket.job)
        before, plan = await self._planned_before(ticket, job)
        if "shards" not in plan:
            plan = await self._plan_inbox(ticket, job, plan["inbox"])
        elif ticket.attempt > 1:
            plan = await self._plan_again(ticket, job, before, plan["shards"])
        failpoints.passed("plan.laid_out")
        job = await self._jobs.begin(ticket, total=plan["documents"], known=job)
        return Plan(job, plan["shards"], plan["documents"])

    async def _planned_before(self, ticket: Ticket, job: Job) -> tuple[Ticket, dict[str, Any]]:
        """The plan that this attempt goes on from: that of the last one before it that had one."""
        first = replace(ticket, attempt=1)
        for attempt in range(max(1, ticket.attempt - 1), 0, -1):
            before = replace(ticket, attempt=attempt)
            if plan := await self._shards.plan(before):
                return before, plan
        return first, await self._acceptance.complete(first, job)

    async def _plan_inbox(self, ticket: Ticket, job: Job, prefix: str) -> dict[str, Any]:
        root = f"{ticket.tenant}/{job.collection}/"
        shard: list[Upload] = []
        size, shards, total = 0, 0, 0
        async for blob in self._storage.list_blobs(INBOX, root + prefix):
            # Names come as their file systems write them: those of macOS are decomposed.
            document = unicodedata.normalize("NFC", blob.name.removeprefix(root))
            media = blob.content_type or ""
            upload = Upload(document, "", blob.size, media, source="inbox", inbox=blob.name)
            if shard and (len(shard) == SHARD_DOCUMENTS or size + blob.size > SHARD_BYTES):
                await self._shards.put_manifest(ticket, shards, shard)
                shard, size, shards = [], 0, shards + 1
            shard.append(upload)
            size, total = size + blob.size, total + 1
        if shard:
            await self._shards.put_manifest(ticket, shards, shard)
            shards += 1
        return await self._shards.put_plan(ticket, shards, total)

    async def _plan_again(
        self, ticket: Ticket, job: Job, before: Ticket, shards_before: int
    ) -> dict[str, Any]:
        """The uploads of the attempt ``before`` that did not end well; they take versions of their own."""
        again: list[Upload] = []
        for number in range(shards_before):
            outcomes = await self._shards.outcomes(before, number) or []
            good = {outcome.id for outcome in outcomes if outcome.good}
            manifest = await self._shards.manifest(before, number)
            again += [replace(upload, tries=0) for upload in manifest if upload.id not in good]
        shards = list(in_shards(again))
        for number, shard in enumerate(shards):
            await self._shards.put_manifest(ticket, number, shard)
            ours = [replace(upload, base=NO_VERSION) for upload in shard if not upload.is_awaited]
            await self._documents.accept(
                ticket.tenant, job.collection, ours, ticket.job, attempt=ticket.attempt, guarded=True
            )
        return await self._shards.put_plan(ticket, len(shards), len(again))
