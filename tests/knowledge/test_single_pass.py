"""Small ingestions in a single pass: the same comes of them, also where the pass was broken off anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from shared import failpoints
from shared.errors import ModelsUnavailable
from shared.jobs import Job, State, Ticket, new_id
from shared.knowledge.ingestion import Incoming, preparation
from shared.knowledge.ingestion.entries import packed
from shared.knowledge.ingestion.single_pass import SINGLE_PASS_BYTES, SINGLE_PASS_DOCUMENTS
from shared.storage import JOBS, PARSED
from tests.intelligence.world import World, chat_model, ranker, servers, world
from tests.knowledge.lifecycle import Lifecycle, lifecycle

__all__ = ["chat_model", "lifecycle", "ranker", "servers", "world"]

OLD = "The keeper winds the clock of the lighthouse on every Sunday."
NEW = "The keeper winds the clock of the lighthouse on every Monday, and on feast days."
POINTS = (
    "plan.laid_out",
    "prepare.read",
    "prepare.noted",
    "embed.embedded",
    "embed.uploaded",
    "commit.decided",
    "commit.flipped",
    "commit.cleaned",
    "commit.noted",
    "finish.ended",
)


class Killed(BaseException):
    """The process is gone."""


def killed_at(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    def passed(name: str) -> None:
        if name == point:
            raise Killed

    monkeypatch.setattr(failpoints, "passed", passed)


async def done(lifecycle: Lifecycle, ticket: Ticket) -> Job:
    """What the orchestration does: begin, and go step by step where that was not all."""
    if "ended" not in await lifecycle.ingestion.begin(ticket):
        await lifecycle.embedded(ticket, await lifecycle.ingestion.preparation.prepare(ticket, 0), 0)
        assert await lifecycle.ingestion.settlement.commit(ticket, 0, {})
        await lifecycle.ingestion.settlement.finish(ticket)
    return await lifecycle.jobs.get(ticket.tenant, ticket.job)


async def versions(world: World) -> dict[str, list[int]]:
    """The versions of each document whose chunks are in the index."""
    found: dict[str, list[int]] = {}
    for each in await (await world.indexes.of("embedding")).document_versions("acme", world.name):
        found.setdefault(each.document, []).append(each.version)
    return found


async def assert_only_what_is_owned_is_kept(lifecycle: Lifecycle, world: World) -> None:
    packs = [pack async for pack in lifecycle.content.packs("acme", world.name)]
    kept = {claim for pack in packs for claim in await lifecycle.content.claims("acme", world.name, pack)}
    records = [record async for record in world.documents.every("acme", world.name)]
    assert kept == {claim for record in records for claim in record.claims}
    assert any(pack.kind == PARSED for pack in packs)


async def test_few_documents_end_with_the_plan_and_their_job_tells_all_of_them(
    lifecycle: Lifecycle, world: World
):
    ticket = (await lifecycle.accept(a=OLD, b=NEW)).ticket
    told = await lifecycle.ingestion.begin(ticket)
    assert told["ended"] == {"state": "succeeded", "counts": {"indexed": 2}}
    job = await lifecycle.jobs.get("acme", ticket.job)
    assert (job.state, job.total, job.counts) == (State.SUCCEEDED, 2, {"indexed": 2})
    outcomes, more = await lifecycle.ingestion.shards.outcome_page(ticket, 0, 4)
    assert {(each.id, each.state, each.version, each.chunks) for each in outcomes} == {
        ("a.txt", "indexed", 1, 1),
        ("b.txt", "indexed", 1, 1),
    }
    assert not more
    sums = await lifecycle.jobs.progress(ticket)
    assert sums == {"parsed": 2, "chunks": 2, "embedded": 2, "published": 2, "failed": 0}
    assert await lifecycle.texts() == {"a.txt": OLD, "b.txt": NEW}
    blobs = [blob.name async for blob in world.storage.list_blobs(JOBS, f"{ticket.prefix}/")]
    assert not [name for name in blobs if "batch" in name]


async def test_a_document_that_cannot_be_read_fails_its_job_in_a_single_pass(
    lifecycle: Lifecycle, world: World
):
    job = await lifecycle.ingestion.acceptance.accept(
        "acme",
        world.name,
        [Incoming("a.pdf", b"%PDF-1.7\n%damaged")],
        job_id=new_id(),
        owner="alice",
        title="test",
    )
    assert (await lifecycle.ingestion.begin(job.ticket))["ended"]["state"] == "failed"
    job = await lifecycle.jobs.get("acme", job.id)
    assert [error["code"] for error in job.errors] == ["corrupt_document"]


@pytest.mark.parametrize("point", POINTS)
async def test_a_pass_that_was_killed_anywhere_is_finished_step_by_step(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch, point: str
):
    await lifecycle.ingest(a=OLD, b=OLD)
    ticket = (await lifecycle.accept(a=NEW, b=f"{NEW} Both.")).ticket
    with monkeypatch.context() as patched:
        killed_at(patched, point)
        with pytest.raises(Killed):
            await lifecycle.ingestion.begin(ticket)
    job = await done(lifecycle, ticket)
    assert (job.state, job.counts) == (State.SUCCEEDED, {"indexed": 2})
    assert await lifecycle.texts() == {"a.txt": NEW, "b.txt": f"{NEW} Both."}
    assert await versions(world) == {"a.txt": [2], "b.txt": [2]}
    outcomes, _ = await lifecycle.ingestion.shards.outcome_page(ticket, 0, 4)
    assert all(each.freshness_seconds is not None for each in outcomes)


@pytest.mark.parametrize("point", POINTS[2:7])
async def test_what_a_killed_pass_has_left_goes_though_its_document_was_put_anew_since(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch, point: str
):
    """The newer one has not been worked on yet: nobody else removes what the pass has left."""
    await lifecycle.ingest(a=OLD, b=OLD)
    ticket = (await lifecycle.accept(a=NEW, b=NEW)).ticket
    with monkeypatch.context() as patched:
        killed_at(patched, point)
        with pytest.raises(Killed):
            await lifecycle.ingestion.begin(ticket)
    newer = (await lifecycle.accept(a=f"{NEW} Newer.")).ticket
    await done(lifecycle, ticket)
    visible = 2 if point == "commit.flipped" else 1
    assert await versions(world) == {"a.txt": [visible], "b.txt": [2]}
    await done(lifecycle, newer)
    assert await lifecycle.texts() == {"a.txt": f"{NEW} Newer.", "b.txt": NEW}
    assert await versions(world) == {"a.txt": [3], "b.txt": [2]}
    await assert_only_what_is_owned_is_kept(lifecycle, world)


async def test_a_second_run_of_the_pass_leaves_the_attempt_to_the_steps(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    """Both runs go on: one was taken to be dead, and only stood still."""
    ticket = (await lifecycle.accept(a=NEW)).ticket
    embed, told = world.gateway.embed, []

    async def embedded_late(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(world.gateway, "embed", embed)
        told.append(await lifecycle.ingestion.begin(ticket))
        await done(lifecycle, ticket)
        return await embed(*arguments, **more)

    monkeypatch.setattr(world.gateway, "embed", embedded_late)
    assert (await lifecycle.ingestion.begin(ticket))["ended"]["state"] == "succeeded"
    assert "ended" not in told[0]
    assert await versions(world) == {"a.txt": [1]}
    assert (await lifecycle.jobs.get("acme", ticket.job)).counts == {"indexed": 1}
    await assert_only_what_is_owned_is_kept(lifecycle, world)


async def test_a_pass_that_stood_still_changes_nothing_of_what_was_settled_as_failed_meanwhile(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    await lifecycle.ingest(a=OLD)
    ticket = (await lifecycle.accept(a=NEW)).ticket
    embed = world.gateway.embed

    async def embedded_late(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(world.gateway, "embed", embed)
        assert await lifecycle.ingestion.preparation.prepare(ticket, 0) == 1
        error = {"code": "model_unavailable", "message": "The model is away.", "retryable": True}
        assert await lifecycle.ingestion.settlement.commit(ticket, 0, {0: error})
        await lifecycle.ingestion.settlement.finish(ticket)
        return await embed(*arguments, **more)

    monkeypatch.setattr(world.gateway, "embed", embedded_late)
    await lifecycle.ingestion.begin(ticket)
    assert (await lifecycle.jobs.get("acme", ticket.job)).state is State.FAILED
    outcomes, _ = await lifecycle.ingestion.shards.outcome_page(ticket, 0, 4)
    assert [(each.state, each.code) for each in outcomes] == [("failed", "model_unavailable")]
    assert await lifecycle.texts() == {"a.txt": OLD}
    assert await versions(world) == {"a.txt": [1]}


async def test_chunks_of_a_collection_that_was_deleted_meanwhile_are_taken_back(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    ticket = (await lifecycle.accept(a=NEW)).ticket
    embed = world.gateway.embed

    async def embedded_late(*arguments: Any, **more: Any) -> Any:
        await world.collections.mark_deleting("acme", world.name)
        await world.documents.mark_all_deleted("acme", world.name, new_id())
        return await embed(*arguments, **more)

    monkeypatch.setattr(world.gateway, "embed", embedded_late)
    assert "ended" not in await lifecycle.ingestion.begin(ticket)
    assert await versions(world) == {}


async def test_an_ingestion_whose_model_does_not_answer_goes_step_by_step(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    ticket = (await lifecycle.accept(a=NEW)).ticket

    async def no_answer(*_: Any, **__: Any) -> Any:
        raise ModelsUnavailable("The model is away.", retry_after=1)

    with monkeypatch.context() as patched:
        patched.setattr(world.gateway, "embed", no_answer)
        assert "ended" not in await lifecycle.ingestion.begin(ticket)
    assert (await lifecycle.jobs.get("acme", ticket.job)).state is State.RUNNING
    assert (await done(lifecycle, ticket)).counts == {"indexed": 1}


@pytest.mark.parametrize(
    ("documents", "size", "at_once"),
    [
        (SINGLE_PASS_DOCUMENTS, 20, True),
        (SINGLE_PASS_DOCUMENTS + 1, 20, False),
        (1, SINGLE_PASS_BYTES, True),
        (1, SINGLE_PASS_BYTES + 1, False),
    ],
)
async def test_what_is_more_or_larger_goes_step_by_step(
    lifecycle: Lifecycle, documents: int, size: int, at_once: bool
):
    text = (OLD * (size // len(OLD) + 1))[:size]
    ticket = (await lifecycle.accept(**{f"{number:02d}": text for number in range(documents)})).ticket
    assert ("ended" in await lifecycle.ingestion.begin(ticket)) == at_once
    job = await done(lifecycle, ticket) if not at_once else await lifecycle.jobs.get("acme", ticket.job)
    assert job.counts == {"indexed": documents}


@pytest.mark.parametrize(("inputs", "at_once"), [(2, True), (1, False)])
async def test_what_takes_more_than_one_embedding_call_goes_step_by_step(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch, inputs: int, at_once: bool
):
    monkeypatch.setattr(preparation, "packed", lambda entries, _: packed(entries, inputs))
    ticket = (await lifecycle.accept(a=OLD, b=NEW)).ticket
    assert ("ended" in await lifecycle.ingestion.begin(ticket)) == at_once


async def test_a_job_that_is_to_be_cancelled_is_not_done_at_once(lifecycle: Lifecycle, world: World):
    ticket = (await lifecycle.accept(a=NEW)).ticket
    await lifecycle.jobs.request_cancel("acme", ticket.job)
    assert "ended" not in await lifecycle.ingestion.begin(ticket)
    assert await versions(world) == {}
