"""Settlement: make the new versions of a shard visible, remove the old ones, tell what became of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.errors import Cancelled, NotFound
from shared.knowledge.documents import DocumentState
from shared.knowledge.index import VersionRange
from shared.knowledge.ingestion.outcomes import Outcome, PreparedDocument, Summary
from shared.knowledge.ingestion.shards import shard_name, texts_origin
from shared.storage import PARSED

if TYPE_CHECKING:
    from shared.jobs import Job, Jobs, Ticket
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Document, Documents, Upload
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.ingestion.assignments import Assignment, Assignments
    from shared.knowledge.ingestion.outcomes import PreparedShard
    from shared.knowledge.ingestion.shards import Shards


class _LayoutAdded(Exception):
    """The collection has a layout that a shard was not prepared for."""


class Settlement:
    """Settles shards, and at last their job."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        indexes: Indexes,
        shards: Shards,
        assignments: Assignments,
    ) -> None:
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._indexes = indexes
        self._shards = shards
        self._assignments = assignments

    async def commit(self, ticket: Ticket, number: int, failed: Mapping[int, Mapping[str, Any]]) -> bool:
        """Make the shard's new versions visible and note what became of each document.

        ``failed`` tells the batches that could not be embedded, with the error of each. False where the shard
        is to be prepared anew.
        """
        done = await self._shards.outcomes(ticket, number)
        if done is None:
            assignment, shard, manifest = await asyncio.gather(
                self._assignments.of(ticket),
                self._shards.prepared(ticket, number),
                self._shards.manifest(ticket, number),
            )
            done = await self.settle(ticket, number, assignment, manifest, shard, failed)
        if done is None:
            await self._shards.drop_preparation(ticket, number)
            return False
        await self._jobs.report(ticket, shard_name(number), **published(done))
        return True

    async def settle(
        self,
        ticket: Ticket,
        number: int,
        assignment: Assignment,
        manifest: Sequence[Upload],
        shard: PreparedShard,
        failed: Mapping[int, Mapping[str, Any]],
    ) -> list[Outcome] | None:
        """Make the new versions of a shard visible, and note what became of each of its documents.

        None where the shard is to be prepared anew: a layout has been added, and nothing is decided then, or
        what a document was found to be the same as is visible no more.
        """
        collection = assignment.collection
        uploads = {upload.id: upload for upload in manifest}
        cancelled = assignment.cancelled
        prepared = {document.upload.id: document for document in shard.documents}
        known: dict[str, Outcome] = {outcome.id: outcome for outcome in shard.outcomes}
        for document in uploads.keys() - known.keys() - prepared.keys():
            known[document] = _unread_outcome(document, failed.get(-1), cancelled)
        # What the change decides is told through here, as the last try decided it.
        decided: dict[str, Outcome] = {}
        # Documents that were unchanged when they were prepared, beside a version that is visible no more.
        stale: set[str] = set()

        async def look_at_layouts() -> None:
            # After the records were read and before they are written: see `shared.knowledge.reindexing`.
            nonlocal collection
            if not cancelled:
                collection = await self._with_room(ticket, assignment.job, shard.documents, failed)

        def settle(document: str, record: Document | None) -> Document | None:
            own = prepared.get(document)
            if own is None:
                outcome = known[document]
            elif cancelled:
                outcome = Outcome(document, "cancelled", own.version, code="cancelled", retryable=True)
            else:
                outcome = own.outcome(collection.serving.number, failed)
            if outcome.state == "unchanged" and _is_stale(outcome, record, ticket):
                stale.add(document)
                return None
            stale.discard(document)
            changed, decided[document] = _settled(outcome, own, record, ticket, collection)
            return changed

        records = None if shard.records is None else {record.id: record for record in shard.records}
        ids = {document: document for document in (*prepared, *known)}
        failpoints.passed("commit.decided")
        try:
            after = await self._documents.change_all(
                ticket.tenant, collection.name, ids, settle, known=records, meanwhile=look_at_layouts
            )
        except _LayoutAdded:
            records = await self._documents.find_all(ticket.tenant, collection.name, ids)
            await self._clean_content(collection, {one.text for one in shard.documents}, records)
            return None
        failpoints.passed("commit.flipped")
        await self._clean_index(collection, shard, after)
        own = {upload.content for upload in uploads.values()} | {one.text for one in shard.documents}
        await self._clean_content(collection, own, after)
        if shard.left or any(outcome.state == "superseded" for outcome in known.values()):
            # An earlier run of the preparation may have read what the last one found superseded.
            owned = {claim for record in after.values() for claim in record.claims}
            await self._content.remove_others(
                ticket.tenant, collection.name, PARSED, texts_origin(ticket, number), own | owned
            )
        if stale:
            return None
        failpoints.passed("commit.cleaned")
        done = list(decided.values())
        await self._shards.put_outcomes(ticket, number, done)
        failpoints.passed("commit.noted")
        return done

    async def _with_room(
        self,
        ticket: Ticket,
        job: Job,
        documents: Sequence[PreparedDocument],
        failed: Mapping[int, Mapping[str, Any]],
    ) -> Collection:
        """The collection as it is now, if the documents were prepared for all its live layouts.

        One that does not serve and cannot have a document is marked: it will not serve before it is whole.
        Raises `_LayoutAdded` where the documents were not prepared for one.
        """
        collection = (await self._assignments.for_job(ticket, job)).collection
        for layout in collection.live_layouts:
            if any(layout.number not in document.placements for document in documents):
                raise _LayoutAdded
            if layout.number == collection.serving.number:
                continue
            errors = (document.failure(layout.number, failed) for document in documents)
            if error := next(filter(None, errors), None):
                await self._collections.mark_incomplete(
                    ticket.tenant, collection.name, layout.number, error["code"]
                )
                return await self._with_room(ticket, job, documents, failed)
        return collection

    async def _clean_index(
        self, collection: Collection, shard: PreparedShard, after: Mapping[str, Document]
    ) -> None:
        """Remove the chunks that no one may see any more."""
        indexes = await self._indexes.all_of(collection)
        live = {layout.number for layout in collection.live_layouts}
        placements = {one.upload.id: one.placements.keys() for one in shard.documents}
        for document, version in shard.embedded.items():
            record = after.get(document)
            owner = (collection.tenant, collection.name, document)
            for index in indexes:
                if record is None or record.visible != version:
                    await index.delete_document(*owner, VersionRange(only=version))
                    continue
                if version > 1:
                    await index.delete_document(*owner, VersionRange(below=version))
                for gone in placements.get(document, set()) - live:
                    await index.delete_document(*owner, VersionRange(only=version), layout=gone)

    async def _clean_content(
        self, collection: Collection, own: set[str], after: Mapping[str, Document]
    ) -> None:
        """Remove what the shard has kept and no record owns, and what its documents have dropped."""
        dropped = {claim for record in after.values() for claim in record.dropped}
        owned = {claim for record in after.values() for claim in record.claims}
        await self._content.remove(collection.tenant, collection.name, (own | dropped) - owned - {""})
        await self._documents.forget_dropped(collection.tenant, collection.name, after.values())

    async def finish(self, ticket: Ticket) -> dict[str, Any]:
        """Sum up the outcomes of all shards and end the job."""
        shards = (await self._shards.plan(ticket) or {}).get("shards", 0)
        sums = Summary()
        async for outcome in self._shards.all_outcomes(ticket, shards):
            sums.add(outcome)
        if not sums.total and await self._jobs.cancel_requested(ticket):
            sums.cancelled = True
        # An ended job holds no text: its batches go first, and nothing needs them by now.
        await self._shards.drop_batches(ticket)
        return await self.end(ticket, sums)

    async def end(self, ticket: Ticket, sums: Summary, known: Job | None = None) -> dict[str, Any]:
        """End a job as the outcomes of its documents say. ``known`` is the job as it was last read."""
        await self._jobs.finish(ticket, sums.state, counts=sums.counts, errors=sums.errors, known=known)
        failpoints.passed("finish.ended")
        return {"state": sums.state.value, "counts": sums.counts}

    async def abandon(self, ticket: Ticket, error: Mapping[str, Any]) -> None:
        """Let the documents fail for which an attempt can do nothing more, and remove what it has left.

        What a retry needs stays. The job itself is to be ended after this: it is looked for until it has.
        """
        # An attempt that was broken off before it had a plan may have documents already.
        shards = range(await self._shards.count_manifests(ticket))
        await self._shards.drop_batches(ticket)
        try:
            collection = (await self._assignments.of(ticket)).collection
        except NotFound:
            job = await self._jobs.get(ticket.tenant, ticket.job)
            await self._content.remove_job(ticket.tenant, job.collection, ticket.job)
            return
        cancelled = error["code"] == Cancelled.code
        state = DocumentState.CANCELLED if cancelled else DocumentState.FAILED
        reason = {name: error[name] for name in ("code", "message", "retryable")}

        def end(_: None, record: Document | None) -> Document | None:
            if record is None or record.state is not DocumentState.ACCEPTED:
                return None
            if (record.job, record.attempt) != (ticket.job, ticket.attempt):
                return None
            return replace(record, state=state, error=reason, finished=time.time())

        for number in shards:
            manifest = await self._shards.manifest(ticket, number)
            ids = dict.fromkeys(upload.id for upload in manifest)
            records = await self._documents.change_all(ticket.tenant, collection.name, ids, end)
            shard = await self._shards.prepared(ticket, number)
            await self._clean_index(collection, shard, records)
            await self._clean_content(collection, {one.text for one in shard.documents}, records)


def published(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """What there is to report of a shard that was settled."""
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    return {"published": len(outcomes), "failed": failed}


def _unread_outcome(document: str, reason: Mapping[str, Any] | None, cancelled: bool) -> Outcome:
    if cancelled or reason is None:
        return Outcome(document, "cancelled", code="cancelled", retryable=True)
    return Outcome(
        document,
        "failed",
        code=reason["code"],
        message=reason["message"],
        retryable=reason["retryable"],
    )


def _as_settled(record: Document) -> Outcome:
    error = record.error or {"code": "cancelled", "message": "", "retryable": True}
    return Outcome(record.id, record.state.value, record.version, **error)


def _texts(record: Document, prepared: PreparedDocument) -> dict[int, str]:
    """The text of the version that becomes visible, beside that of the one visible until now."""
    before = {version: text for version, text in record.texts.items() if version == record.visible}
    return {**before, prepared.version: prepared.text}


def _is_stale(outcome: Outcome, record: Document | None, ticket: Ticket) -> bool:
    """Whether an older upload became visible since the document was found to be unchanged.

    Its bytes are others than those that were put last, so that these have work to be done after all.
    """
    if record is None or (record.job, record.attempt) != (ticket.job, ticket.attempt):
        return False
    return record.state is DocumentState.ACCEPTED and record.visible != outcome.version


def _settled(
    outcome: Outcome,
    prepared: PreparedDocument | None,
    record: Document | None,
    ticket: Ticket,
    collection: Collection,
) -> tuple[Document | None, Outcome]:
    """The record as ``outcome`` leaves it (None: as it is), and the outcome as the record allows it."""
    if record is None:
        return None, outcome
    mine = (record.job, record.attempt) == (ticket.job, ticket.attempt)
    if outcome.state == "indexed" and prepared is not None:
        if record.visible == prepared.version:
            return None, outcome
        if record.has_overtaken(prepared.version):
            return None, replace(outcome, state="superseded")
        if mine and record.state in (DocumentState.FAILED, DocumentState.CANCELLED):
            return None, _as_settled(record)  # by another run of this attempt, while this one stood still
        shown = replace(
            record,
            visible=prepared.version,
            visible_digest=prepared.digest,
            visible_sha256=prepared.upload.sha256,
            layouts={
                layout.number: prepared.placements[layout.number].chunks for layout in collection.live_layouts
            },
            pages=prepared.pages,
            pages_without_text=prepared.pages_without_text,
            visible_content=prepared.upload.content,
            texts=_texts(record, prepared),
        )
        if mine:
            shown = replace(
                shown,
                state=DocumentState.INDEXED,
                upload=prepared.upload,
                error=None,
                finished=time.time(),
            )
            outcome = replace(outcome, freshness_seconds=shown.freshness_seconds)
        return shown.dropping(record.claims), outcome
    # A retry finds its document as the attempt before it left it.
    if not mine or record.state in (DocumentState.INDEXED, DocumentState.DELETED):
        return None, outcome
    if outcome.state == "unchanged":
        # The visible version has the same bytes already.
        upload = replace(record.upload, content=record.visible_content)
        return replace(record, state=DocumentState.INDEXED, upload=upload, finished=time.time()), outcome
    if outcome.state in ("failed", "cancelled"):
        error = {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
        state = DocumentState(outcome.state)
        return replace(record, state=state, error=error, finished=time.time()), outcome
    return None, outcome
