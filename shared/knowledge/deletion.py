"""Deletion: of one document or of a whole collection, as jobs that may be killed and repeated.

A document is out of sight from the moment its deletion is accepted; the job then removes what is left of
it. Its record stays as a tombstone, so that an ingestion which comes late cannot bring it back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shared import failpoints
from shared.jobs import Job, Jobs, Kind, State, Ticket
from shared.knowledge.documents import Documents
from shared.knowledge.index import VersionRange

if TYPE_CHECKING:
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.golden import GoldenSets
    from shared.knowledge.indexes import Indexes


class Deletion:
    """The steps of deleting over one content store and index."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        golden: GoldenSets,
        indexes: Indexes,
    ) -> None:
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._golden = golden
        self._indexes = indexes

    async def accept_document(
        self, tenant: str, collection: str, document: str, *, job_id: str, owner: str
    ) -> Job:
        """Take a document out of sight and announce the job that removes it; `NotFound` where none is.

        A deletion that was broken off in here is completed by the next call with its id, or by its job: it
        is the deletion of the version that was there when it began.
        """
        within = await self._collections.get(tenant, collection)
        if before := await self._jobs.find(tenant, job_id):
            plan = await self._jobs.fetch(Ticket(tenant, job_id), "plan")
            await self._documents.mark_deleted(tenant, collection, document, job_id, version=plan["version"])
            return before
        record = await self._documents.get(tenant, collection, document)
        plan = {"document": document, "version": record.version}
        await self._jobs.put(Ticket(tenant, job_id), "plan", plan)
        job = await self._jobs.create(
            tenant,
            Kind.DELETION,
            job_id=job_id,
            title=f"Delete {document}",
            collection=collection,
            generation=within.generation,
            owner=owner,
            total=1,
            refusable=False,
        )
        failpoints.passed("delete.announced")
        await self._documents.mark_deleted(tenant, collection, document, job_id, version=record.version)
        failpoints.passed("delete.marked")
        return job

    async def accept_collection(self, tenant: str, collection: str, *, job_id: str, owner: str) -> Job:
        """Close a collection and announce the job that removes it with all that it holds."""
        if before := await self._jobs.find(tenant, job_id):
            return before
        within = await self._collections.get(tenant, collection)
        await self._jobs.put(Ticket(tenant, job_id), "plan", {"document": None})
        job = await self._jobs.create(
            tenant,
            Kind.DELETION,
            job_id=job_id,
            title=f"Delete the collection {collection}",
            collection=collection,
            generation=within.generation,
            owner=owner,
            refusable=False,
        )
        await self._collections.mark_deleting(tenant, collection)
        return job

    async def run(self, ticket: Ticket) -> None:
        """Remove what the job names, and end the job."""
        job = await self._jobs.begin(ticket)
        # Every attempt has the same plan, which the first one keeps.
        plan = await self._jobs.fetch(replace(ticket, attempt=1), "plan") or {}
        collection = await self._collections.find(job.tenant, job.collection)
        if collection is None or collection.generation != job.generation:
            removed = 0  # its collection is gone, and all that was in it
        elif plan.get("document") is None:
            removed = await self._remove_collection(collection, job.id)
        else:
            removed = await self._remove_document(job, collection, plan["document"], plan["version"])
        await self._jobs.report(ticket, "deletion", published=removed)
        await self._jobs.finish(ticket, State.SUCCEEDED, counts={"deleted": removed})

    async def _remove_document(self, job: Job, collection: Collection, document: str, version: int) -> int:
        await self._documents.mark_deleted(job.tenant, job.collection, document, job.id, version=version)
        record = await self._documents.find(job.tenant, job.collection, document)
        if record is None or not record.tombstone:
            return 0
        # It may have been put again meanwhile: what that upload makes has versions above the tombstone.
        versions = VersionRange(below=record.tombstone)
        for index in await self._indexes.all_of(collection):
            await index.delete_document(job.tenant, job.collection, document, versions)
        failpoints.passed("delete.unindexed")
        await self._content.remove(job.tenant, job.collection, record.dropped)
        await self._documents.forget_dropped(job.tenant, job.collection, [record])
        return 1

    async def _remove_collection(self, collection: Collection, job: str) -> int:
        tenant, name = collection.tenant, collection.name
        if not collection.deleting:
            await self._collections.mark_deleting(tenant, name)
        # Records first: an embedding in flight looks at them after its upload, and takes back what it
        # uploaded after the index was cleared.
        removed = await self._documents.mark_all_deleted(tenant, name, job)
        for index in await self._indexes.all_of(collection):
            await index.delete_collection(tenant, name)
        await self._documents.forget_stamp(tenant, name)
        await self._content.remove_collection(tenant, name)
        await self._golden.remove(tenant, name)
        await self._collections.remove(tenant, name)
        return removed
