"""Ingestion step by step: steps that run again, late or side by side leave nothing behind."""

from __future__ import annotations

from shared.storage import PARSED
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
