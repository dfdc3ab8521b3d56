"""Reindexing step by step: no order of steps of it and of others loses or doubles a document."""

from __future__ import annotations

import pytest

from shared.errors import Cancelled, Conflict, NotFound
from shared.knowledge.layouts import LayoutState
from shared.storage import PARSED
from tests.intelligence.world import World, chat_model, ranker, servers, world
from tests.knowledge.lifecycle import Lifecycle, lifecycle

__all__ = ["chat_model", "lifecycle", "ranker", "servers", "world"]

LONG = "The keeper winds the clock of the lighthouse on every Sunday. " * 20
LONGER = "The harbour master logs the crossings of the ferry at noon. " * 20


async def states(world: World) -> dict[int, LayoutState]:
    collection = await world.collections.get("acme", world.name)
    return {layout.number: layout.state for layout in collection.layouts}


async def chunks_of(world: World, layout: int) -> int:
    models = [each.embedding_model for each in (await world.collections.get("acme", world.name)).layouts]
    listed = [
        each
        for model in sorted({*models})
        for each in await (await world.indexes.of(model)).document_versions("acme", world.name)
    ]
    return sum(each.chunks for each in listed if each.layout == layout)


async def test_another_embedding_model_takes_over_and_gives_back(lifecycle: Lifecycle, world: World):
    await lifecycle.ingest(a=LONG, b=LONGER)
    before = await lifecycle.texts()
    ticket = await lifecycle.reindex(embedding_model="other-embedding", chunk_characters=200)
    assert await lifecycle.reindexing.begin(ticket) == 2
    assert await lifecycle.passed(ticket, 1) == 1
    assert await lifecycle.passed(ticket, 2, shards=1) == 0
    assert await lifecycle.reindexing.compare(ticket, 0) is None
    await lifecycle.reindexing.swap(ticket)
    collection = await world.collections.get("acme", world.name)
    assert collection.embedding_model == "other-embedding"
    assert await lifecycle.texts() == before
    assert await chunks_of(world, 2) > await chunks_of(world, 1) > 0
    await lifecycle.reindexing.swap(ticket)  # a second run of the step changes nothing
    assert await states(world) == {1: LayoutState.KEPT, 2: LayoutState.SERVING}
    back = await lifecycle.reindexing.roll_back("acme", world.name)
    assert back.embedding_model == "embedding"
    assert await lifecycle.texts() == before


async def test_a_shard_that_was_prepared_before_a_layout_was_named_is_prepared_anew(
    lifecycle: Lifecycle, world: World
):
    late = (await lifecycle.accept(a=LONG)).ticket
    await lifecycle.prepared(late)
    ticket = await lifecycle.reindex(chunk_characters=200)
    await lifecycle.reindexing.begin(ticket)
    assert await lifecycle.passed(ticket, 1) == 0  # nothing is visible yet
    assert not await lifecycle.ingestion.settlement.commit(late, 0, {})
    assert await lifecycle.texts() == {}
    assert [pack async for pack in lifecycle.content.packs("acme", world.name) if pack.kind == PARSED] == []
    await lifecycle.prepared(late)
    assert await lifecycle.ingestion.settlement.commit(late, 0, {})
    await lifecycle.reindexing.swap(ticket)
    assert list(await lifecycle.texts()) == ["a.txt"]


async def test_a_commit_that_had_read_its_records_before_the_survey_has_to_read_them_again(
    lifecycle: Lifecycle, world: World, monkeypatch: pytest.MonkeyPatch
):
    late = (await lifecycle.accept(a=LONG)).ticket
    await lifecycle.prepared(late)
    ticket = await lifecycle.reindex(chunk_characters=200)
    settlement = lifecycle.ingestion.settlement
    look, looks = settlement._with_room, []

    async def overtaken(*arguments):
        """The first look at the layouts is one of before the reindexing, which runs before the write."""
        looks.append(await look(*arguments))
        if len(looks) == 1:
            await lifecycle.reindexing.begin(ticket)
            assert await lifecycle.passed(ticket, 1) == 0
        return looks[-1]

    monkeypatch.setattr(settlement, "_with_room", overtaken)
    assert not await settlement.commit(late, 0, {})
    await lifecycle.reindexing.swap(ticket)
    assert await lifecycle.texts() == {}, "what is not in the serving layout must not be visible"
    monkeypatch.undo()
    await lifecycle.prepared(late)
    assert await settlement.commit(late, 0, {})
    assert list(await lifecycle.texts()) == ["a.txt"]


async def test_a_change_and_a_deletion_beat_a_reindexing_in_flight(lifecycle: Lifecycle, world: World):
    await lifecycle.ingest(a=LONG, b=LONG, c=LONG)
    ticket = await lifecycle.reindex(chunk_characters=200)
    await lifecycle.reindexing.begin(ticket)
    await lifecycle.reindexing.survey(ticket, "", True, 0)
    await lifecycle.embedded(ticket, await lifecycle.reindexing.prepare(ticket, 0), 0)
    await lifecycle.ingest(a=LONGER)
    await world.documents.mark_deleted("acme", world.name, "b.txt", "deletion", version=1)
    assert await lifecycle.reindexing.commit(ticket, 0, {}) == 0
    assert await lifecycle.passed(ticket, 2, shards=1) == 0
    await lifecycle.reindexing.swap(ticket)
    texts = await lifecycle.texts()
    assert {name: text.split()[1] for name, text in texts.items()} == {"a.txt": "harbour", "c.txt": "keeper"}
    index = await world.indexes.of("embedding")
    new = [each for each in await index.document_versions("acme", world.name) if each.layout == 2]
    assert [(each.document, each.version) for each in new] == [("a.txt", 2), ("c.txt", 1)]


async def test_a_layout_that_cannot_get_a_document_never_serves_until_a_retry_completes_it(
    lifecycle: Lifecycle, world: World
):
    await lifecycle.ingest(a=LONG)
    ticket = await lifecycle.reindex(chunk_characters=200)
    await lifecycle.reindexing.begin(ticket)
    await lifecycle.passed(ticket, 1)
    late = (await lifecycle.accept(b=LONGER)).ticket
    await lifecycle.prepared(late)
    shard = await lifecycle.ingestion.shards.prepared(late, 0)
    batch = shard.documents[0].placements[2].batches[0]
    error = {"code": "models_unavailable", "message": "away", "retryable": True}
    assert await lifecycle.ingestion.settlement.commit(late, 0, {batch: error})
    assert sorted(await lifecycle.texts()) == ["a.txt", "b.txt"], "the serving layout has it"
    with pytest.raises(Conflict, match="could not be put"):
        await lifecycle.reindexing.swap(ticket)
    await lifecycle.reindexing.give_up(ticket, error)
    again = (await lifecycle.jobs.retry("acme", ticket.job)).ticket
    assert await lifecycle.reindexing.begin(again) == 2
    assert await lifecycle.passed(again, 1) == 1
    await lifecycle.reindexing.swap(again)
    assert sorted(await lifecycle.texts()) == ["a.txt", "b.txt"]


async def test_a_cancelled_reindexing_retires_its_layout_and_the_chunks_go(
    lifecycle: Lifecycle, world: World
):
    await lifecycle.ingest(a=LONG)
    ticket = await lifecycle.reindex(chunk_characters=200)
    await lifecycle.reindexing.begin(ticket)
    await lifecycle.passed(ticket, 1)
    await lifecycle.jobs.request_cancel("acme", ticket.job)
    with pytest.raises(Cancelled):
        await lifecycle.reindexing.swap(ticket)
    await lifecycle.reindexing.give_up(ticket, {"code": "cancelled", "message": "", "retryable": True})
    assert await states(world) == {1: LayoutState.SERVING, 2: LayoutState.RETIRED}
    since = (await world.collections.get("acme", world.name)).layouts[1].since
    await lifecycle.upkeep.tend(since + 299)
    assert await chunks_of(world, 2) > 0, "a search may still read it"
    await lifecycle.upkeep.tend(since + 301)  # removes the chunks
    await lifecycle.upkeep.tend(since + 301)  # finds none, and forgets the layout
    assert await states(world) == {1: LayoutState.SERVING}
    assert await chunks_of(world, 2) == 0
    assert await chunks_of(world, 1) > 0


async def test_a_kept_layout_is_retired_when_its_time_is_over(lifecycle: Lifecycle, world: World):
    await lifecycle.ingest(a=LONG)
    ticket = await lifecycle.reindex(chunk_characters=200, keep_seconds=100)
    await lifecycle.reindexing.begin(ticket)
    await lifecycle.passed(ticket, 1)
    await lifecycle.reindexing.swap(ticket)
    until = (await world.collections.get("acme", world.name)).layouts[0].until
    assert until is not None
    await lifecycle.upkeep.tend(until - 1)
    assert await states(world) == {1: LayoutState.KEPT, 2: LayoutState.SERVING}
    await lifecycle.upkeep.tend(until)
    assert await states(world) == {1: LayoutState.RETIRED, 2: LayoutState.SERVING}
    with pytest.raises(Conflict):
        await lifecycle.reindexing.roll_back("acme", world.name)
    with pytest.raises(NotFound):
        await lifecycle.reindexing.retire("acme", world.name, 7)
