"""Ingestion step by step: steps that run again, late or side by side leave nothing behind."""

from __future__ import annotations

import pytest

from shared.jobs import Job, State, Ticket, new_id
from shared.knowledge.ingestion import Incoming
from shared.storage import FILTER_ROWS, JOBS, PARSED
from tests.intelligence.world import World, chat_model, ranker, servers, world
from tests.knowledge.lifecycle import Lifecycle, lifecycle

__all__ = ["chat_model", "lifecycle", "ranker", "servers", "world"]

TEXT = "The keeper winds the clock of the lighthouse on every Sunday. " * 20


async def texts_kept(lifecycle: Lifecycle, world: World) -> set[str]:
    content = lifecycle.content
    packs = [pack async for pack in content.packs("acme", world.name) if pack.kind == PARSED]
    return {claim for pack in packs for claim in await content.claims("acme", world.name, pack)}


async def test_what_a_killed_preparation_had_read_goes_when_the_next_run_finds_it_superseded(
    lifecycle: Lifecycle, world: World
):
    """The kill came after the texts were kept and before anything was noted of them."""
    await lifecycle.ingest(a=TEXT, b=TEXT)
    late = (await lifecycle.accept(a=f"{TEXT} Late.", b=f"{TEXT} Late.")).ticket
    await lifecycle.prepared(late)
    await lifecycle.ingest(a=f"{TEXT} Newer.")
    assert await lifecycle.ingestion.preparation.prepare(late, 0) == 1
    assert await lifecycle.ingestion.settlement.commit(late, 0, {})
    records = [record async for record in world.documents.every("acme", world.name)]
    assert await texts_kept(lifecycle, world) == {
        claim for record in records for claim in record.texts.values()
    }
    assert await lifecycle.texts() == {"a.txt": f"{TEXT} Newer.", "b.txt": f"{TEXT} Late."}


async def accepted(lifecycle: Lifecycle, job: str, text: str, documents: int = 1) -> Job:
    incoming = [Incoming(f"{number:02d}.txt", text.encode()) for number in range(documents)]
    return await lifecycle.ingestion.acceptance.accept(
        "acme", lifecycle.world.name, incoming, job_id=job, owner="alice", title="test"
    )


@pytest.mark.parametrize("known", [0, FILTER_ROWS + 2])
@pytest.mark.parametrize("documents", [1, FILTER_ROWS + 2])
async def test_a_request_that_was_stopped_comes_not_after_what_was_put_since_it_was_sent_again(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch, documents: int, known: int
):
    """A process is stopped while it accepts; its caller repeats the request elsewhere, and goes on."""
    if known:
        await accepted(lifecycle, new_id(), "Known before.", known)
    job, acceptance = new_id(), lifecycle.ingestion.acceptance
    announce = acceptance._announce
    stopped: list[Job] = []

    async def announced_late(*arguments, **more) -> Job:
        if not stopped:
            stopped.append(await announce(*arguments, **more))
            await accepted(lifecycle, job, "The first.", documents)
            await accepted(lifecycle, new_id(), "The second.", documents)
            return stopped[0]
        return await announce(*arguments, **more)

    monkeypatch.setattr(acceptance, "_announce", announced_late)
    assert (await accepted(lifecycle, job, "The first.", documents)).id == job
    names = [f"{number:02d}.txt" for number in range(documents)]
    records = await world.documents.find_all("acme", world.name, names)
    assert {record.upload.size for record in records.values()} == {len("The second.")}
    assert job not in {record.job for record in records.values()}


async def test_an_acceptance_that_is_completed_after_a_crash_takes_in_what_it_had_not_looked_for(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    """Of many documents the first are new, so the others were taken to be new too, and one was not."""
    await lifecycle.ingest(**{f"{FILTER_ROWS + 1:02d}": "An old text."})
    job, acceptance = new_id(), lifecycle.ingestion.acceptance

    async def crashed(*_, **__) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(acceptance, "_accept_versions", crashed)
        with pytest.raises(ConnectionError):
            await accepted(lifecycle, job, "A new text.", FILTER_ROWS + 2)
    ticket = Ticket("acme", job)
    await lifecycle.prepared(ticket)
    assert await lifecycle.ingestion.settlement.commit(ticket, 0, {})
    texts = await lifecycle.texts()
    assert {*texts.values()} == {"A new text."}
    assert len(texts) == FILTER_ROWS + 2


@pytest.mark.parametrize("others", [0, FILTER_ROWS], ids=["alone", "with its records kept"])
async def test_the_newest_upload_wins_though_it_is_what_was_visible_before_an_older_one_came_late(
    lifecycle: Lifecycle, world: World, others: int
):
    """The first text is put again while another one is on its way: nothing to do, as it seems by then."""
    beside = {f"o{number}": "Beside." for number in range(others)}
    await lifecycle.ingest(a=TEXT, b="Another.", **beside)
    late = (await lifecycle.accept(a=f"{TEXT} Late.")).ticket
    await lifecycle.prepared(late)
    newest = (await lifecycle.accept(a=TEXT, b="Yet another.", **beside)).ticket
    await lifecycle.prepared(newest)
    assert await lifecycle.ingestion.settlement.commit(late, 0, {})
    assert (await lifecycle.texts())["a.txt"] == f"{TEXT} Late."
    assert not await lifecycle.ingestion.settlement.commit(newest, 0, {})
    await lifecycle.prepared(newest)
    assert await lifecycle.ingestion.settlement.commit(newest, 0, {})
    seen = {f"{name}.txt": text for name, text in beside.items()}
    assert await lifecycle.texts() == {"a.txt": TEXT.strip(), "b.txt": "Yet another.", **seen}
    records = await world.documents.find_all("acme", world.name, ["a.txt", "b.txt", *seen])
    assert {record.state for record in records.values()} == {"indexed"}
    owned = {claim for record in records.values() for claim in record.texts.values()}
    assert await texts_kept(lifecycle, world) == owned


async def test_many_documents_are_prepared_by_the_records_of_their_acceptance(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    """No record is looked up again; one that was taken over since is left to whoever has it now."""
    names = [f"n{number:02d}" for number in range(FILTER_ROWS + 1)]
    ticket = (await lifecycle.accept(**dict.fromkeys(names, TEXT))).ticket
    await lifecycle.ingest(n03="Newer.")
    await lifecycle.ingestion.planning.plan(ticket)
    with monkeypatch.context() as patched:
        patched.setattr(world.documents, "find_all", None)
        batches = await lifecycle.ingestion.preparation.prepare(ticket, 0)
    await lifecycle.embedded(ticket, batches, 0)
    assert await lifecycle.ingestion.settlement.commit(ticket, 0, {})
    expected = {f"{name}.txt": TEXT.strip() for name in names}
    assert await lifecycle.texts() == {**expected, "n03.txt": "Newer."}
    outcomes = await lifecycle.ingestion.shards.outcomes(ticket, 0)
    assert {outcome.id for outcome in outcomes or () if outcome.state == "superseded"} == {"n03.txt"}
    records = await world.documents.find_all("acme", world.name, [*expected])
    owned = {claim for record in records.values() for claim in record.texts.values()}
    assert await texts_kept(lifecycle, world) == owned


@pytest.mark.parametrize(
    ("meanwhile", "left"),
    [
        ("nothing", [1]),
        ("a newer version", [2]),
        ("a deletion", []),
        ("another run of the step fails", []),
        ("the attempt is given up", []),
    ],
)
async def test_chunks_that_a_stopped_worker_uploads_late_are_taken_back(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch, meanwhile: str, left: list[int]
):
    """A worker is stopped after the model has answered it; another does its step, and the job goes on."""
    ticket = (await lifecycle.accept(a=TEXT)).ticket
    await lifecycle.ingestion.planning.plan(ticket)
    assert await lifecycle.ingestion.preparation.prepare(ticket, 0) == 1
    embed = world.gateway.embed

    async def embedded_late(*arguments, **more):
        answer = await embed(*arguments, **more)
        monkeypatch.setattr(world.gateway, "embed", embed)
        if meanwhile == "the attempt is given up":
            await lifecycle.ingestion.settlement.abandon(ticket, GAVE_UP)
            await lifecycle.jobs.finish(ticket, State.FAILED, errors=[GAVE_UP])
            return answer
        failed = {0: GAVE_UP} if meanwhile == "another run of the step fails" else {}
        if not failed:
            await lifecycle.embedded(ticket, 1, 0)
        assert await lifecycle.ingestion.settlement.commit(ticket, 0, failed)
        if meanwhile == "a newer version":
            await lifecycle.ingest(a=f"{TEXT} Newer.")
        elif meanwhile == "a deletion":
            record = await world.documents.get("acme", world.name, "a.txt")
            await world.documents.mark_deleted("acme", world.name, "a.txt", new_id(), version=record.version)
            index = await world.indexes.of("embedding")
            await index.delete_document("acme", world.name, "a.txt")
        return answer

    monkeypatch.setattr(world.gateway, "embed", embedded_late)
    await lifecycle.ingestion.embedding.embed(ticket, 0, 0)
    index = await world.indexes.of("embedding")
    listed = await index.document_versions("acme", world.name)
    assert [each.version for each in listed] == left


GAVE_UP = {"code": "storage_unavailable", "message": "Storage cannot serve now.", "retryable": True}


@pytest.mark.parametrize("reached", ["accepted", "planned", "prepared"])
@pytest.mark.parametrize(
    ("error", "state"), [(GAVE_UP, "failed"), ({**GAVE_UP, "code": "cancelled"}, "cancelled")]
)
async def test_documents_of_an_attempt_that_cannot_go_on_end_with_it_and_those_of_others_do_not(
    lifecycle: Lifecycle, world: World, reached: str, error: dict, state: str
):
    await lifecycle.ingest(b=TEXT)
    ticket = (await lifecycle.accept(a=TEXT, b=f"{TEXT} New.", c=TEXT)).ticket
    if reached == "accepted":
        await world.storage.delete_blobs(JOBS, f"{ticket.prefix}/plan")
    if reached == "planned":
        await lifecycle.ingestion.planning.plan(ticket)
    if reached == "prepared":
        await lifecycle.prepared(ticket)
    other = (await lifecycle.accept(c=f"{TEXT} By another.")).ticket
    for _ in range(2):  # as an activity may be
        await lifecycle.ingestion.settlement.abandon(ticket, error)
    records = {record.id: record async for record in world.documents.every("acme", world.name)}
    assert [records[name].state for name in ("a.txt", "b.txt", "c.txt")] == [state, state, "accepted"]
    assert (records["a.txt"].error or {})["code"] == error["code"]
    assert (records["b.txt"].visible, records["c.txt"].job) == (1, other.job)
    assert await lifecycle.texts() == {"b.txt": TEXT.strip()}


async def test_a_retry_after_that_brings_them_to_their_end(lifecycle: Lifecycle, world: World):
    ticket = (await lifecycle.accept(a=TEXT, b=TEXT)).ticket
    await lifecycle.prepared(ticket)
    await lifecycle.ingestion.settlement.abandon(ticket, GAVE_UP)
    await lifecycle.jobs.finish(ticket, State.FAILED, errors=[GAVE_UP])
    again = (await lifecycle.jobs.retry("acme", ticket.job)).ticket
    await lifecycle.prepared(again)
    assert await lifecycle.ingestion.settlement.commit(again, 0, {})
    assert (await lifecycle.ingestion.settlement.finish(again))["counts"] == {"indexed": 2}
    assert await lifecycle.texts() == dict.fromkeys(("a.txt", "b.txt"), TEXT.strip())


@pytest.mark.parametrize("end", ["committed", "abandoned"])
async def test_chunks_of_a_preparation_go_though_the_next_one_finds_their_document_superseded(
    lifecycle: Lifecycle, world: World, end: str
):
    """A layout is added between the two, and another job takes the document, which then fails."""
    ticket = (await lifecycle.accept(a=TEXT, b=TEXT)).ticket
    await lifecycle.prepared(ticket)
    other = (await lifecycle.accept(a=f"{TEXT} By another.")).ticket
    await lifecycle.reindexing.begin(await lifecycle.reindex(chunk_characters=300))
    settlement = lifecycle.ingestion.settlement
    assert not await settlement.commit(ticket, 0, {})
    batches = await lifecycle.ingestion.preparation.prepare(ticket, 0)
    await lifecycle.embedded(ticket, batches, 0)
    if end == "committed":
        assert await settlement.commit(ticket, 0, {})
    else:
        await settlement.abandon(ticket, GAVE_UP)
    await settlement.abandon(other, GAVE_UP)
    index = await world.indexes.of("embedding")
    listed = {(each.document, each.version) for each in await index.document_versions("acme", world.name)}
    assert listed == ({("b.txt", 1)} if end == "committed" else set())
