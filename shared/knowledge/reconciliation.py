"""Reconciliation: whether records, chunks and content tell the same, page by page.

    chunks of versions that no record shows          removed, once they are six hours old
    visible versions that a live layout lacks        ingested again, from the bytes that are kept
    documents accepted by a job that has ended       failed, so that their sender learns of it
    content that no record owns                      removed, once it is a day old and its job has ended
    blobs of the inbox that no event told of         ingested, once they are an hour old
    blobs of jobs that are not there                 removed, once they are a day old

Chunks and records come in the same order, that of the documents' keys, so that one page of each is compared
with the other and a collection of any size needs the memory of one page. What a service shows late, and what
is still being written, is spared by its age: chunks tell when they were made, blobs when they were written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.errors import Cancelled, GroundworkError
from shared.jobs import STATUS_ERRORS, Kind, State, derived_id
from shared.knowledge.arrivals import lost_arrivals
from shared.knowledge.documents import Document, DocumentState
from shared.knowledge.index import VersionRange
from shared.knowledge.ingestion import Incoming
from shared.storage import JOBS

if TYPE_CHECKING:
    from shared.jobs import Job, Jobs, Ticket
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Documents
    from shared.knowledge.index import DocumentVersion
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.ingestion.acceptance import Acceptance
    from shared.storage import Storage

# Documents of one page: a second or two of listing, and a few hundred kilobytes.
PAGE_DOCUMENTS = 1000
# An embedding and its commit are minutes apart, with all waits for a busy model less than two hours.
CHUNKS_SETTLE_SECONDS = 6 * 3600.0
# Content and blobs of jobs are written before their records: by requests and steps that end within the hour.
BLOBS_SETTLE_SECONDS = 86_400.0
# A job writes its row when it ends; documents that it left behind by then are left for good.
JOBS_SETTLE_SECONDS = 600.0

FINDINGS = (
    "orphan_chunks",
    "missing_chunks",
    "stuck_documents",
    "orphan_content",
    "lost_events",
    "orphan_job_blobs",
)


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared and found; ``examples`` names the first of each finding."""

    documents: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    repaired: int = 0
    examples: tuple[Mapping[str, Any], ...] = ()

    def with_finding(self, finding: str, count: int, repaired: int, **where: Any) -> Report:
        examples = self.examples
        if len(examples) < STATUS_ERRORS:
            examples = (*examples, {"finding": finding, "count": count, **where})
        counts = {**self.counts, finding: self.counts.get(finding, 0) + count}
        return replace(self, counts=counts, repaired=self.repaired + repaired, examples=examples)

    def merged(self, other: Report) -> Report:
        counts = {
            name: self.counts.get(name, 0) + other.counts.get(name, 0)
            for name in (*self.counts, *other.counts)
        }
        examples = (*self.examples, *other.examples)[:STATUS_ERRORS]
        return Report(
            self.documents + other.documents, counts, self.repaired + other.repaired, tuple(examples)
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "findings": {name: self.counts.get(name, 0) for name in FINDINGS},
            "repaired": self.repaired,
            "examples": [dict(example) for example in self.examples],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        found = {name: count for name, count in data["findings"].items() if count}
        return cls(data["documents"], found, data["repaired"], tuple(data["examples"]))


class Reconciliation:
    """Compares what the stores of one app hold."""

    def __init__(
        self,
        *,
        acceptance: Acceptance,
        storage: Storage,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        indexes: Indexes,
    ) -> None:
        self._acceptance = acceptance
        self._storage = storage
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._indexes = indexes

    async def accept(self, tenant: str, *, job_id: str, owner: str) -> Job:
        """Announce a reconciliation of all that a tenant has."""
        return await self._jobs.create(
            tenant,
            Kind.RECONCILIATION,
            job_id=job_id,
            title="Reconcile records, index and blobs",
            collection="",
            owner=owner,
        )

    async def step(
        self, ticket: Ticket, number: int, collection: str, after: str, now: float
    ) -> dict[str, str] | None:
        """Compare one page: of ``collection``, or of the tenant's first. Where to go on; None at the end."""
        if await self._jobs.cancel_requested(ticket):
            raise Cancelled
        if number == 0:
            await self._jobs.begin(ticket)
        names = [each.name async for each in self._collections.list(ticket.tenant)]
        name = next((name for name in names if name >= collection), None)
        if name is None:
            report, following = await self.job_blobs(ticket.tenant, now), None
        else:
            first = after if name == collection else ""
            report, key = await self.documents_page(ticket, name, first, now)
            if key is None:
                report = report.merged(await self.content(ticket.tenant, name, now))
                report = report.merged(await self.inbox(ticket.tenant, name, now))
            # No name lies between one and itself with a hyphen behind it that could be meant.
            following = {"collection": name, "after": key} if key else {"collection": f"{name}-", "after": ""}
        await self._jobs.put(ticket, f"report-{number:05d}", report.to_dict())
        await self._jobs.report(ticket, f"page-{number:05d}", published=report.documents)
        return following

    async def finish(self, ticket: Ticket, pages: int) -> None:
        """Sum up the reports of all pages and end the job."""
        whole = Report()
        for number in range(pages):
            if part := await self._jobs.fetch(ticket, f"report-{number:05d}"):
                whole = whole.merged(Report.from_dict(part))
        await self._jobs.put(ticket, "result", whole.to_dict())
        counts = {"compared": whole.documents, "repaired": whole.repaired, **whole.counts}
        await self._jobs.finish(ticket, State.SUCCEEDED, counts=counts)

    async def documents_page(
        self, ticket: Ticket, name: str, after: str, now: float
    ) -> tuple[Report, str | None]:
        """Compare a page of a collection's records with their chunks; where the next page begins."""
        tenant = ticket.tenant
        collection = await self._collections.find(tenant, name)
        if collection is None or collection.deleting:
            return Report(), None
        page, following = await self._page(collection, after)
        report = Report(documents=len(page))
        listed: list[DocumentVersion] = []
        # The chunks are listed before the records are read again: a version that becomes visible in between
        # is seen as visible, and one that is new to the index afterwards is not seen at all.
        for index in await self._indexes.all_of(collection):
            listed += await index.document_versions(tenant, name, first=after, last=following or "")
        names = {record.id for record in page} | {each.document for each in listed}
        records = await self._documents.find_all(tenant, name, names)
        report = await self._without_orphans(report, collection, listed, records, now)
        report = await self._without_gaps(report, ticket, collection, listed, records, now)
        return await self._without_stuck(report, collection, records.values(), now), following

    async def _page(self, collection: Collection, after: str) -> tuple[list[Document], str | None]:
        page: list[Document] = []
        async for record in self._documents.every(collection.tenant, collection.name, after=after):
            if len(page) == PAGE_DOCUMENTS:
                return page, record.key
            page.append(record)
        return page, None

    async def _without_orphans(
        self,
        report: Report,
        collection: Collection,
        listed: Iterable[DocumentVersion],
        records: Mapping[str, Document],
        now: float,
    ) -> Report:
        """Remove chunks that no search may show and no job will."""
        numbers = {layout.number for layout in collection.layouts}
        settled = datetime.fromtimestamp(now - CHUNKS_SETTLE_SECONDS, UTC)
        for each in listed:
            record = records.get(each.document)
            shown = record is not None and record.visible == each.version
            if shown and each.layout in numbers:
                continue
            if (
                record is not None
                and each.version > record.visible
                and not await self._has_ended(record, now)
            ):
                continue  # it is being made
            removed = 0
            for index in await self._indexes.all_of(collection):
                removed += await index.delete_document(
                    collection.tenant,
                    collection.name,
                    each.document,
                    VersionRange(only=each.version),
                    layout=each.layout,
                    made_before=settled,
                )
            if removed:
                report = report.with_finding(
                    "orphan_chunks",
                    removed,
                    removed,
                    collection=collection.name,
                    document=each.document,
                    version=each.version,
                    layout=each.layout,
                )
        return report

    async def _without_gaps(
        self,
        report: Report,
        ticket: Ticket,
        collection: Collection,
        listed: Iterable[DocumentVersion],
        records: Mapping[str, Document],
        now: float,
    ) -> Report:
        """Ingest documents again of which the index has another number of chunks than the record says."""
        found = {(each.document, each.version, each.layout): each.chunks for each in listed}
        live = {layout.number for layout in collection.live_layouts}
        gaps: dict[str, int] = {}
        for record in records.values():
            for layout, chunks in record.layouts.items():
                have = found.get((record.id, record.visible, layout), 0)
                if record.visible and layout in live and have != chunks:
                    gaps[record.id] = gaps.get(record.id, 0) + abs(chunks - have)
        mended = await self._ingested_again(ticket, collection, [records[name] for name in gaps], now)
        for name, count in gaps.items():
            where = {"collection": collection.name, "document": name}
            report = report.with_finding("missing_chunks", count, count if name in mended else 0, **where)
        return report

    async def _ingested_again(
        self, ticket: Ticket, collection: Collection, records: Sequence[Document], now: float
    ) -> set[str]:
        """Accept documents anew from the bytes of their visible versions; those of which these are kept."""
        whole = [
            record
            for record in records
            if record.state is DocumentState.INDEXED and now - (record.finished or 0) >= JOBS_SETTLE_SECONDS
        ]
        contents = await self._content.get(
            collection.tenant, collection.name, [record.visible_content for record in whole]
        )
        again = {record.id: record for record in whole if record.visible_content in contents}
        if not again:
            return set()

        def not_unchanged(read: Document, record: Document | None) -> Document | None:
            same = record is not None and record.visible == read.visible and record.visible_digest
            return replace(record, visible_digest="") if record is not None and same else None

        await self._documents.change_all(collection.tenant, collection.name, again, not_unchanged)
        incoming = [
            Incoming(
                id=record.id,
                content=contents[record.visible_content],
                content_type=record.upload.media,
                title=record.upload.title,
                source=record.upload.source,
                tags=record.upload.tags,
                readers=record.upload.readers,
            )
            for record in again.values()
        ]
        # It is announced, and started by the timer that looks for jobs which were left behind.
        await self._acceptance.accept(
            collection.tenant,
            collection.name,
            incoming,
            job_id=derived_id("repair", ticket.job, *sorted(again)),
            owner="reconciliation",
            title=f"Ingest {len(again)} documents again",
        )
        return set(again)

    async def _without_stuck(
        self, report: Report, collection: Collection, records: Iterable[Document], now: float
    ) -> Report:
        """Let documents fail whose job has ended without them."""
        error = {
            "code": "job_ended",
            "message": "The job ended before the document did. Send it again.",
            "retryable": True,
        }
        stuck = {
            record.id: record.job
            for record in records
            if record.state is DocumentState.ACCEPTED and await self._has_ended(record, now)
        }

        def failed(job: str, record: Document | None) -> Document | None:
            if record is None or record.state is not DocumentState.ACCEPTED or record.job != job:
                return None
            return replace(record, state=DocumentState.FAILED, error=error, finished=now)

        await self._documents.change_all(collection.tenant, collection.name, stuck, failed)
        for document in stuck:
            report = report.with_finding(
                "stuck_documents", 1, 1, collection=collection.name, document=document
            )
        return report

    async def _has_ended(self, record: Document, now: float) -> bool:
        """Whether the job that a document waits for will do nothing more for it."""
        if now - record.accepted < JOBS_SETTLE_SECONDS:
            return False
        job = await self._jobs.find(record.tenant, record.job)
        return job is None or (job.state.final and now - job.updated >= JOBS_SETTLE_SECONDS)

    async def content(self, tenant: str, name: str, now: float) -> Report:
        """Remove content of a collection that no record owns."""
        report = Report()
        old = [
            pack
            async for pack in self._content.packs(tenant, name)
            if now - pack.written >= BLOBS_SETTLE_SECONDS
        ]
        claims: set[str] = set()
        jobs: dict[str, Job | None] = {}
        for pack in old:
            if pack.job not in jobs:
                jobs[pack.job] = await self._jobs.find(tenant, pack.job)
            job = jobs[pack.job]
            if job is None or job.state.final:
                claims |= {*await self._content.claims(tenant, name, pack)}
        if not claims:
            return report
        # Records are read after the listing: what they own by then is not orphaned.
        async for record in self._documents.every(tenant, name):
            claims -= record.claims
        await self._content.remove(tenant, name, claims)
        if claims:
            report = report.with_finding("orphan_content", len(claims), len(claims), collection=name)
        return report

    async def inbox(self, tenant: str, name: str, now: float) -> Report:
        """Accept the blobs of a collection's inbox whose events were lost.

        Their jobs are announced, and started by the timer that looks for jobs which were left behind.
        """
        report = Report()
        collection = await self._collections.find(tenant, name)
        if collection is None or collection.deleting:
            return report
        for lost in await lost_arrivals(self._storage, self._documents, self._jobs, tenant, name, now):
            where: dict[str, Any] = {"collection": name, "document": lost.document}
            try:
                job = await self._acceptance.accept_arrival(tenant, name, lost.document, lost.blob)
            except GroundworkError as error:
                if error.retryable:
                    raise
                report = report.with_finding("lost_events", 1, 0, **where, code=error.code)
            else:
                if job is not None:
                    report = report.with_finding("lost_events", 1, 1, **where)
        return report

    async def job_blobs(self, tenant: str, now: float) -> Report:
        """Remove blobs of jobs that are not there."""
        report = Report()
        known: dict[str, bool] = {}
        orphans = []
        async for blob in self._storage.list_blobs(JOBS, f"{tenant}/"):
            job = blob.name.split("/")[1]
            if now - blob.written < BLOBS_SETTLE_SECONDS:
                continue
            if job not in known:
                known[job] = await self._jobs.find(tenant, job) is not None
            if not known[job]:
                orphans.append(blob)
        removed = await self._storage.delete_listed(JOBS, orphans)
        return report.with_finding("orphan_job_blobs", removed, removed) if removed else report
