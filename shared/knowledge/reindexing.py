"""Reindexing: another layout of a collection, built from what was read of its documents while the old serves.

    begin      name the new layout in the collection's row: from here on ingestions write into it as well
    survey     page by page, which documents' visible versions are not in the new layout yet
    prepare    cut a shard's texts anew, pack their chunks into full embedding batches
    embed      as in an ingestion
    commit     note in the records that the new layout has their visible version
    compare    ask the golden set of both layouts
    swap       let the new layout serve, keep the old one for a while

Why a swap loses nothing. An ingestion reads its documents' records, then its collection's row, and only then
makes a version visible, in every live layout or not at all; the records are written only as they were read.
The first survey writes every record anew. So whoever read a record before that has to read again, and finds
the new layout; whoever reads it later finds it at once. From there on no version becomes visible that the
new layout lacks, and a later survey that finds nothing behind will stay right. A layout that an ingestion
had to leave out, because its model would not serve, is marked before the record is written, and never serves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared import failpoints
from shared.errors import Cancelled, Conflict, DocumentError, NotFound
from shared.identity import Principal, Role
from shared.inferencing.calls import JobAccount
from shared.jobs import STATUS_ERRORS, Job, Kind, State, Ticket
from shared.knowledge.golden import Quality, Question, mean, quality_of
from shared.knowledge.index import VersionRange
from shared.knowledge.ingestion.entries import chunk_budget, entries_of, packed, placements
from shared.knowledge.ingestion.outcomes import Outcome, PreparedDocument, PreparedShard
from shared.knowledge.ingestion.shards import in_shards, shard_name
from shared.knowledge.layouts import Layout, LayoutState
from shared.knowledge.texts import VersionText

if TYPE_CHECKING:
    from shared.inferencing import Gateway
    from shared.jobs import Jobs
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Document, Documents
    from shared.knowledge.golden import GoldenSets
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.ingestion.assignments import Assignments
    from shared.knowledge.ingestion.shards import Shards
    from shared.knowledge.parsing import ParserPool
    from shared.knowledge.retrieval import Retrieval

# Documents of one survey: ten transactions of a table, and the shards of two or three waves.
SURVEY_DOCUMENTS = 1000
# Questions of one comparison: about ten seconds on two cores, so a killed host repeats little.
COMPARED_QUESTIONS = 50
# Hits asked for, of which the first ten documents count; a document of ordinary size has a few of them.
COMPARED_HITS = 50


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reindexing is asked for.

    ``golden`` takes the place of the collection's own golden set. ``minimum`` are figures that the new layout
    must reach before it serves; ``allowed_loss`` is by how much its nDCG may be below the old one's.
    """

    embedding_model: str | None = None
    chunk_characters: int | None = None
    keep_seconds: int = 86_400
    golden: tuple[Question, ...] = ()
    minimum: Mapping[str, float] | None = None
    allowed_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "golden": [question.to_dict() for question in self.golden]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wish:
        golden = tuple(Question.from_dict(question) for question in data["golden"])
        return cls(**{**data, "golden": golden})

    def unmet(self, old: Quality, new: Quality) -> list[str]:
        """Which of the conditions the new layout does not meet, in words."""
        unmet = [
            f"{name} is {getattr(new, name):.4f}, below {bound:g}"
            for name, bound in (self.minimum or {}).items()
            if getattr(new, name) < bound
        ]
        if self.allowed_loss is not None and new.ndcg < old.ndcg - self.allowed_loss:
            unmet.append(f"ndcg fell from {old.ndcg:.4f} to {new.ndcg:.4f}")
        return unmet


class Reindexing:
    """The steps of reindexing over one storage account, index and gateway."""

    def __init__(
        self,
        *,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        golden: GoldenSets,
        indexes: Indexes,
        gateway: Gateway,
        parsers: ParserPool,
        retrieval: Retrieval,
        shards: Shards,
        assignments: Assignments,
        shards_in_flight: int,
    ) -> None:
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._golden = golden
        self._indexes = indexes
        self._gateway = gateway
        self._parsers = parsers
        self._retrieval = retrieval
        self._shards = shards
        self._assignments = assignments
        self._shards_in_flight = shards_in_flight

    async def accept(self, principal: Principal, collection: str, wish: Wish, *, job_id: str) -> Job:
        """Announce a reindexing; `Conflict` while another one is at work on the collection."""
        tenant = principal.tenant
        within = await self._collections.get(tenant, collection)
        if before := await self._jobs.find(tenant, job_id):
            return before
        await self._check_alone(within)
        asker = {
            "user": principal.user,
            "groups": list(principal.groups),
            "roles": [role.value for role in principal.roles],
        }
        await self._jobs.put(Ticket(tenant, job_id), "plan", {"wish": wish.to_dict(), "asker": asker})
        return await self._jobs.create(
            tenant,
            Kind.REINDEXING,
            job_id=job_id,
            title=f"Reindex {collection}",
            collection=collection,
            owner=principal.user,
            generation=within.generation,
        )

    async def _check_alone(self, collection: Collection, job: str = "") -> None:
        """Raise `Conflict` where another job builds a layout of the collection."""
        for layout in collection.layouts:
            if layout.state is LayoutState.BUILDING and layout.job != job:
                other = await self._jobs.find(collection.tenant, layout.job)
                if other is not None and not other.state.final:
                    raise Conflict("The collection is being reindexed by another job.", job=layout.job)

    async def begin(self, ticket: Ticket) -> int:
        """Name the layout that this job builds in the collection's row; its number."""
        assignment = await self._assignments.of(ticket)
        assignment.stop_if_cancelled()
        await self._check_alone(assignment.collection, ticket.job)
        wish, _ = await self._plan(ticket)
        now = time.time()

        def named(collection: Collection) -> Collection:
            mine = _of_job(collection, ticket.job)
            if mine is not None and mine.state is LayoutState.BUILDING:
                return collection.with_layout(replace(mine, incomplete=""))
            for layout in collection.layouts:  # what a job left that has ended
                if layout.state is LayoutState.BUILDING:
                    retired = replace(layout, state=LayoutState.RETIRED, since=now)
                    collection = collection.with_layout(retired)
            serving = collection.serving
            model = wish.embedding_model or serving.embedding_model
            return collection.with_layout(
                Layout(
                    number=collection.newest_layout + 1,
                    embedding_model=model,
                    model_version=self._gateway.catalogue.models[model].version,
                    chunk_characters=wish.chunk_characters or serving.chunk_characters,
                    state=LayoutState.BUILDING,
                    job=ticket.job,
                    since=now,
                )
            )

        collection = await self._collections.change(ticket.tenant, assignment.collection.name, named)
        layout = _of_job(collection, ticket.job)
        assert layout is not None
        failpoints.passed("reindex.named")
        await self._indexes.of(layout.embedding_model)
        await self._jobs.begin(ticket)
        return layout.number

    async def survey(self, ticket: Ticket, after: str, first_pass: bool, number: int) -> dict[str, Any]:
        """Lay out in shards what a page of documents lacks in the new layout, from shard ``number`` on.

        Gives the number of shards, how many run at a time, and where the next page begins (None: nowhere).
        """
        collection, layout = await self._building(ticket)
        page, following = await self._page(collection, after)
        if first_pass:
            page = await self._written_anew(collection, page)
        shown = [record for record in page if record.visible]
        behind = [record for record in shown if layout.number not in record.layouts]
        shards = list(in_shards([record.upload for record in behind]))
        for offset, shard in enumerate(shards):
            await self._shards.put_manifest(ticket, number + offset, shard)
        if first_pass:
            done = len(shown) - len(behind)
            await self._jobs.report(ticket, f"survey-{after}", found=len(shown), published=done)
        return {"shards": len(shards), "in_flight": self._shards_in_flight, "next": following}

    async def _page(self, collection: Collection, after: str) -> tuple[list[Document], str | None]:
        page: list[Document] = []
        async for record in self._documents.every(collection.tenant, collection.name, after=after):
            if len(page) == SURVEY_DOCUMENTS:
                return page, record.key
            page.append(record)
        return page, None

    async def _written_anew(self, collection: Collection, page: Sequence[Document]) -> list[Document]:
        """The records, written as they are: who has read one before can no longer change it."""

        def as_it_is(_: None, record: Document | None) -> Document | None:
            return record

        ids = dict.fromkeys(record.id for record in page)
        after = await self._documents.change_all(collection.tenant, collection.name, ids, as_it_is)
        return [after[record.id] for record in page if record.id in after]

    async def prepare(self, ticket: Ticket, number: int) -> int:
        """Cut the texts of a shard for the new layout; the number of embedding batches they make."""
        collection, layout = await self._building(ticket)
        model = self._gateway.catalogue.models[layout.embedding_model]
        manifest = [upload.id for upload in await self._shards.manifest(ticket, number)]
        records = await self._documents.find_all(ticket.tenant, collection.name, manifest)
        behind = [
            record for record in records.values() if record.visible and layout.number not in record.layouts
        ]
        texts = await self._content.get(
            ticket.tenant, collection.name, [record.texts.get(record.visible, "") for record in behind]
        )

        async def cut(record: Document) -> Outcome | tuple[PreparedDocument, list[dict[str, Any]]]:
            data = texts.get(record.texts.get(record.visible, ""))
            if data is None:
                return Outcome.failed(record.id, NotFound("text of the document", record.id), record.visible)
            text = VersionText.from_bytes(data)
            try:
                chunks = await self._parsers.cut(text.parsed(), chunk_budget(model, layout))
            except DocumentError as error:
                return Outcome.failed(record.id, error, record.visible)
            readers = collection.readers if text.upload.readers is None else text.upload.readers
            entries = entries_of(collection, layout, text.upload, record.visible, readers, chunks)
            return PreparedDocument(text.upload, record.visible), entries

        results = await asyncio.gather(*(cut(record) for record in behind))
        outcomes = [result for result in results if isinstance(result, Outcome)]
        ready = [result for result in results if not isinstance(result, Outcome)]
        batches = packed((entry for _, entries in ready for entry in entries), model.batch_max_inputs)
        for batch_number, batch in enumerate(batches):
            await self._shards.put_batch(ticket, number, batch_number, batch)
        where = placements(batches)
        documents = [replace(document, placements=where.get(document.upload.id, {})) for document, _ in ready]
        await self._shards.put_prepared(ticket, number, PreparedShard(tuple(documents), tuple(outcomes)))
        chunks = sum(len(batch) for batch in batches)
        await self._jobs.report(ticket, shard_name(number), parsed=len(results), chunks=chunks)
        return len(batches)

    async def commit(self, ticket: Ticket, number: int, failed: Mapping[int, Mapping[str, Any]]) -> int:
        """Note that the new layout has a shard's documents; how many of them it could not get.

        ``failed`` tells the batches that could not be embedded, with the error of each.
        """
        collection, layout = await self._building(ticket)
        shard = await self._shards.prepared(ticket, number)
        versions = {document.upload.id: document for document in shard.documents}
        outcomes = {outcome.id: outcome for outcome in shard.outcomes}
        for document in versions.values():
            outcomes[document.upload.id] = document.outcome(layout.number, failed)

        def note(document: PreparedDocument, record: Document | None) -> Document | None:
            outcome = outcomes[document.upload.id]
            if outcome.state != "indexed" or record is None or record.visible != document.version:
                return None
            if layout.number in record.layouts:
                return None
            chunks = document.placements[layout.number].chunks
            return replace(record, layouts={**record.layouts, layout.number: chunks})

        async def still_building() -> None:
            await self._building(ticket)

        after = await self._documents.change_all(
            ticket.tenant, collection.name, versions, note, meanwhile=still_building
        )
        failpoints.passed("reindex.noted")
        index = await self._indexes.of(layout.embedding_model)
        for document in versions.values():
            record = after.get(document.upload.id)
            if record is None or record.visible != document.version:
                # It has moved on, and whoever moved it has written into this layout by itself.
                await index.delete_document(
                    ticket.tenant,
                    collection.name,
                    document.upload.id,
                    VersionRange(only=document.version),
                    layout=layout.number,
                )
        await self._shards.put_outcomes(ticket, number, outcomes.values())
        bad = sum(outcome.state == "failed" for outcome in outcomes.values())
        await self._jobs.report(ticket, shard_name(number), published=len(outcomes) - bad, failed=bad)
        await self._shards.drop_preparation(ticket, number)
        return bad

    async def compare(self, ticket: Ticket, first: int) -> int | None:
        """Ask both layouts some golden questions, from ``first`` on; where the next ones begin."""
        collection, layout = await self._building(ticket)
        wish, principal = await self._plan(ticket)
        golden = wish.golden or await self._golden.get(ticket.tenant, collection.name)
        part = golden[first : first + COMPARED_QUESTIONS]
        if not part:
            return None
        account = JobAccount(ticket.job, ticket.attempt)
        compared: list[dict[str, Any]] = []
        for question in part:
            ranked = {
                name: await self._ranked(principal, collection.name, which, question.question, account)
                for name, which in (("old", collection.serving), ("new", layout))
            }
            compared.append(
                {
                    "question": question.question,
                    **{name: quality_of(question, found).to_dict() for name, found in ranked.items()},
                }
            )
        await self._jobs.put(ticket, f"compared-{first:05d}", compared)
        return first + len(part) if first + len(part) < len(golden) else None

    async def _ranked(
        self, principal: Principal, collection: str, layout: Layout, question: str, account: JobAccount
    ) -> list[str]:
        found = await self._retrieval.search(
            principal, [collection], question, top=COMPARED_HITS, job=account, layouts={collection: layout}
        )
        return [passage.chunk.document for passage in found.passages]

    async def swap(self, ticket: Ticket) -> None:
        """Let the new layout serve if it is good enough, and end the job.

        If it is not, it is kept beside the old one for a while, for whoever wants it nevertheless.
        """
        assignment = await self._assignments.of(ticket)
        collection, mine = assignment.collection, _of_job(assignment.collection, ticket.job)
        if mine is None or mine.state is LayoutState.RETIRED:
            raise Cancelled
        wish, _ = await self._plan(ticket)
        comparison, unmet = await self._comparison(ticket, wish)
        if mine.state is LayoutState.BUILDING:
            assignment.stop_if_cancelled()
            numbers = {"layout": mine.number, "replaced": collection.serving.number}
            verdict = {"swapped": not unmet, "unmet": unmet}
            await self._jobs.put(ticket, "result", {**numbers, **comparison, **verdict})
        now = time.time()

        def swapped(current: Collection) -> Collection | None:
            layout = _of_job(current, ticket.job)
            if layout is None or layout.state is not LayoutState.BUILDING:
                return None  # a run before this one has done it
            if layout.incomplete:
                raise Conflict(
                    "A document that came in meanwhile could not be put into the new layout.",
                    reason=layout.incomplete,
                )
            if unmet:
                kept = replace(layout, state=LayoutState.KEPT, since=now, until=now + wish.keep_seconds)
                return current.with_layout(kept)
            return serve(current, layout.number, now, wish.keep_seconds)

        await self._collections.change(ticket.tenant, collection.name, swapped)
        failpoints.passed("reindex.swapped")
        sums = await self._jobs.progress(ticket)
        counts = {"indexed": sums.get("published", 0)}
        errors = [
            {"item": "", "code": "below_minimum", "message": reason, "retryable": False} for reason in unmet
        ]
        state = State.FAILED if unmet else State.SUCCEEDED
        await self._jobs.finish(ticket, state, counts=counts, errors=errors)

    async def _comparison(self, ticket: Ticket, wish: Wish) -> tuple[dict[str, Any], list[str]]:
        """The figures of both layouts over all questions, and which conditions the new one does not meet."""
        compared: list[dict[str, Any]] = []
        while part := await self._jobs.fetch(ticket, f"compared-{len(compared):05d}"):
            compared += part
        old, new = (mean(Quality(**each[name]) for each in compared) for name in ("old", "new"))
        if not compared:
            conditional = wish.minimum or wish.allowed_loss is not None
            return {"comparison": None}, ["there is no golden set to measure by"] if conditional else []
        worse = [each for each in compared if each["new"]["ndcg"] < each["old"]["ndcg"]]
        comparison = {"old": old.to_dict(), "new": new.to_dict(), "worse": worse[:STATUS_ERRORS]}
        return {"comparison": comparison}, wish.unmet(old, new)

    async def stop_where_documents_failed(self, ticket: Ticket, shards: int) -> None:
        """End the job if documents of its ``shards`` could not be put into the new layout.

        The layout stays, and gets what comes in: a retry does the rest.
        """
        errors = [
            {"item": each.id, "code": each.code, "message": each.message, "retryable": each.retryable}
            for number in range(shards)
            for each in await self._shards.outcomes(ticket, number) or []
            if each.state == "failed"
        ]
        sums = await self._jobs.progress(ticket)
        counts = {"indexed": sums.get("published", 0), "failed": len(errors)}
        await self._jobs.finish(ticket, State.FAILED, counts=counts, errors=errors)

    async def give_up(self, ticket: Ticket, error: Mapping[str, Any]) -> None:
        """End the job with ``error``. Where it was cancelled, its layout is retired; else a retry goes on."""
        job = await self._jobs.get(ticket.tenant, ticket.job)
        if error["code"] != Cancelled.code:
            reason = {"item": "", **{name: error[name] for name in ("code", "message", "retryable")}}
            await self._jobs.finish(ticket, State.FAILED, errors=[reason])
            return
        collection = await self._collections.find(ticket.tenant, job.collection)
        if collection is not None and not collection.deleting:

            def retired(current: Collection) -> Collection | None:
                mine = _of_job(current, ticket.job)
                if mine is None or mine.state is not LayoutState.BUILDING:
                    return None
                return current.with_layout(replace(mine, state=LayoutState.RETIRED, since=time.time()))

            await self._collections.change(ticket.tenant, job.collection, retired)
        await self._jobs.finish(ticket, State.CANCELLED)

    async def roll_back(self, tenant: str, collection: str, number: int | None = None) -> Collection:
        """Let the kept layout serve again, in one conditional write; `Conflict` where none can."""
        now = time.time()

        def back(current: Collection) -> Collection | None:
            if number == current.serving.number:
                return None
            kept = [
                layout
                for layout in current.layouts
                if layout.state is LayoutState.KEPT and layout.live and number in (None, layout.number)
            ]
            if not kept:
                raise Conflict("No complete layout is kept that could serve.")
            until = kept[-1].until or now
            return serve(current, kept[-1].number, now, max(0.0, until - now))

        return await self._collections.change(tenant, collection, back)

    async def retire(self, tenant: str, collection: str, number: int) -> Collection:
        """Give up a kept layout; `NotFound` where there is none, `Conflict` where it is at work."""

        def retired(current: Collection) -> Collection | None:
            layout = current.layout(number)
            if layout is None:
                raise NotFound("layout", str(number))
            if layout.state is LayoutState.RETIRED:
                return None
            if layout.state is not LayoutState.KEPT:
                raise Conflict(f"The layout is {layout.state.value}.", state=layout.state.value)
            return current.with_layout(replace(layout, state=LayoutState.RETIRED, since=time.time()))

        return await self._collections.change(tenant, collection, retired)

    async def _building(self, ticket: Ticket) -> tuple[Collection, Layout]:
        """The collection and the layout that this job builds; `Cancelled` once it is cancelled or retired."""
        assignment = await self._assignments.of(ticket)
        assignment.stop_if_cancelled()
        layout = _of_job(assignment.collection, ticket.job)
        if layout is None or layout.state is not LayoutState.BUILDING:
            raise Cancelled
        return assignment.collection, layout

    async def _plan(self, ticket: Ticket) -> tuple[Wish, Principal]:
        """What the first attempt was asked for, and by whom."""
        plan = await self._jobs.fetch(Ticket(ticket.tenant, ticket.job), "plan")
        if plan is None:
            raise NotFound("plan of the job", ticket.job)
        who = plan["asker"]
        roles = tuple(Role(role) for role in who["roles"])
        asker = Principal(ticket.tenant, who["user"], tuple(who["groups"]), roles)
        return Wish.from_dict(plan["wish"]), asker


def serve(collection: Collection, number: int, now: float, keep_seconds: float) -> Collection:
    """The collection with layout ``number`` serving and the one before it kept; older ones retire."""
    chosen, before = collection.layout(number), collection.serving
    assert chosen is not None
    for layout in collection.layouts:
        if layout.state is LayoutState.KEPT and layout.number != number:
            collection = collection.with_layout(replace(layout, state=LayoutState.RETIRED, since=now))
    kept = replace(before, state=LayoutState.KEPT, since=now, until=now + keep_seconds)
    serving = replace(chosen, state=LayoutState.SERVING, since=now, until=None)
    return collection.with_layout(kept).with_layout(serving)


def _of_job(collection: Collection, job: str) -> Layout | None:
    """The newest layout that a job has made."""
    return next((layout for layout in reversed(collection.layouts) if layout.job == job), None)
