"""Settlement: make the new versions of a shard visible, remove the old ones, tell what became of each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.errors import NotFound
from shared.jobs import STATUS_ERRORS, State
from shared.knowledge.documents import DocumentState
from shared.knowledge.index import VersionRange
from shared.knowledge.ingestion.outcomes import Outcome, PreparedDocument
from shared.knowledge.ingestion.shards import shard_name

if TYPE_CHECKING:
    from shared.jobs import Jobs, Ticket
    from shared.knowledge.collections import Collection
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Document, Documents
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.ingestion.assignments import Assignments
    from shared.knowledge.ingestion.shards import Shards


class Settlement:
    """Settles shards, and at last their job."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        documents: Documents,
        content: ContentStore,
        indexes: Indexes,
        shards: Shards,
        assignments: Assignments,
    ) -> None:
        self._jobs = jobs
        self._documents = documents
        self._content = content
        self._indexes = indexes
        self._shards = shards
        self._assignments = assignments

    async def commit(self, ticket: Ticket, number: int, failed: Mapping[int, Mapping[str, Any]]) -> None:
        """Make the shard's new versions visible and note what became of each document.

        ``failed`` tells the batches that could not be embedded, with the error of each.
        """
        assignment = await self._assignments.of(ticket)
        collection = assignment.collection
        shard = await self._shards.prepared(ticket, number)
        uploads = {upload.id: upload for upload in await self._shards.manifest(ticket, number)}
        cancelled = assignment.cancelled
        outcomes = [*shard.outcomes]
        outcomes += [_outcome_of(document, failed, cancelled) for document in shard.documents]
        known = {outcome.id for outcome in outcomes}
        reason = failed.get(-1)
        unread = (document for document in uploads if document not in known)
        outcomes += [_unread_outcome(document, reason, cancelled) for document in unread]

        prepared = {document.upload.id: document for document in shard.documents}
        by_id = {outcome.id: outcome for outcome in outcomes}
        # What the change decides is told through here, as the last try decided it.
        decided = dict(by_id)

        def settle(outcome: Outcome, record: Document | None) -> Document | None:
            changed, verdict = _settled(outcome, prepared.get(outcome.id), record, ticket.job)
            decided[outcome.id] = verdict
            return changed

        failpoints.passed("commit.decided")
        after = await self._documents.change_all(ticket.tenant, collection.name, by_id, settle)
        failpoints.passed("commit.flipped")
        await self._clean_index(collection, prepared, after)
        own = {upload.content for upload in uploads.values()} | {one.text for one in shard.documents}
        await self._clean_content(collection, own, after)
        failpoints.passed("commit.cleaned")
        done = list(decided.values())
        await self._shards.put_outcomes(ticket, number, done)
        failpoints.passed("commit.noted")
        await self._jobs.report(
            ticket,
            shard_name(number),
            published=len(done),
            failed=sum(outcome.state == "failed" for outcome in done),
        )

    async def _clean_index(
        self, collection: Collection, prepared: Mapping[str, PreparedDocument], after: Mapping[str, Document]
    ) -> None:
        """Remove the chunks that no one may see any more."""
        index = await self._indexes.of(collection.embedding_model)
        for document, own in prepared.items():
            record = after.get(document)
            if record is None or record.visible != own.version:
                stale = VersionRange(only=own.version)
            elif own.version > 1:
                stale = VersionRange(below=own.version)
            else:
                continue
            await index.delete_document(collection.tenant, collection.name, document, stale)

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
        plan = await self._shards.plan(ticket) or {}
        counts: dict[str, int] = {}
        errors: list[dict[str, Any]] = []
        total = 0
        async for outcome in self._shards.all_outcomes(ticket):
            total += 1
            counts[outcome.state] = counts.get(outcome.state, 0) + 1
            if outcome.state == "failed" and len(errors) < STATUS_ERRORS:
                errors.append(
                    {
                        "item": outcome.id,
                        "code": outcome.code,
                        "message": outcome.message,
                        "retryable": outcome.retryable,
                    }
                )
        state = State.SUCCEEDED
        if counts.get("cancelled") or (await self._jobs.cancel_requested(ticket) and not total):
            state = State.CANCELLED
        elif counts.get("failed"):
            state = State.FAILED if counts["failed"] == total else State.PARTIAL
        await self._jobs.finish(ticket, state, counts=counts, errors=errors)
        failpoints.passed("finish.ended")
        for number in range(plan.get("shards", 0)):
            await self._shards.drop_batches(ticket, number)
        return {"state": state.value, "counts": counts}

    async def abandon(self, ticket: Ticket) -> None:
        """Remove what an attempt has left that cannot go on; what a retry needs stays."""
        plan = await self._shards.plan(ticket) or {}
        for number in range(plan.get("shards", 0)):
            await self._shards.drop_batches(ticket, number)
        try:
            collection = (await self._assignments.of(ticket)).collection
        except NotFound:
            job = await self._jobs.get(ticket.tenant, ticket.job)
            await self._content.remove_job(ticket.tenant, job.collection, ticket.job)
            return
        for number in range(plan.get("shards", 0)):
            shard = await self._shards.prepared(ticket, number)
            texts = {document.upload.id: document.text for document in shard.documents}
            records = await self._documents.find_all(ticket.tenant, collection.name, texts)
            await self._clean_content(collection, {*texts.values()}, records)


def _outcome_of(
    document: PreparedDocument, failed: Mapping[int, Mapping[str, Any]], cancelled: bool
) -> Outcome:
    bad = next((batch for batch in document.batches if batch in failed), None)
    upload = document.upload
    if cancelled:
        return Outcome(upload.id, "cancelled", document.version, code="cancelled", retryable=True)
    if bad is not None:
        error = failed[bad]
        return Outcome(
            upload.id,
            "failed",
            document.version,
            code=error["code"],
            message=error["message"],
            retryable=error["retryable"],
        )
    return Outcome(
        upload.id,
        "indexed",
        document.version,
        document.chunks,
        document.pages,
        document.pages_without_text,
    )


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


def _texts(record: Document, prepared: PreparedDocument) -> dict[int, str]:
    """The text of the version that becomes visible, beside that of the one visible until now."""
    before = {version: text for version, text in record.texts.items() if version == record.visible}
    return {**before, prepared.version: prepared.text}


def _settled(
    outcome: Outcome, prepared: PreparedDocument | None, record: Document | None, job: str
) -> tuple[Document | None, Outcome]:
    """The record as ``outcome`` leaves it (None: as it is), and the outcome as the record allows it."""
    if record is None:
        return None, outcome
    mine = record.job == job
    if outcome.state == "indexed" and prepared is not None:
        if record.visible == prepared.version:
            return None, outcome
        if record.has_overtaken(prepared.version):
            return None, replace(outcome, state="superseded")
        shown = replace(
            record,
            visible=prepared.version,
            visible_digest=prepared.digest,
            chunks=prepared.chunks,
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
