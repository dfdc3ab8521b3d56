"""Retrieval shows the visible version of what the caller may read, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest

from shared.errors import InvalidParameter, ModelsUnavailable, NotFound
from shared.knowledge.documents import Document, Documents
from shared.knowledge.index import Eq
from shared.knowledge.reranking import DEPTH
from shared.knowledge.retrieval import Found, Retrieval
from tests.intelligence.world import ALICE, BOB, MALLORY, World, chat_model, ranker, servers, world

__all__ = ["chat_model", "ranker", "servers", "world"]

PAINT = "# Paint\n\nThe booth is closed at 60 ppm of styrene."
RESIN = "# Resin\n\nThe store holds at most 4,000 kg of resin."


def documents(found: Found) -> list[tuple[str, int]]:
    return [(passage.chunk.document, passage.chunk.version) for passage in found.passages]


@pytest.mark.parametrize("mode", ["hybrid", "keyword", "vector"])
async def test_every_mode_finds_the_passage(world: World, mode) -> None:
    await world.collection()
    await world.add("paint.md", PAINT)
    await world.add("resin.md", RESIN)
    found = await world.retrieval.search(ALICE, [world.name], "how much resin in the store", mode=mode)
    assert documents(found)[0] == ("resin.md", 1)
    assert bool(found.vectors) is (mode != "keyword")


NEAR = "# Store\n\nHow much resin the store holds: ask the keeper of the resin store about resin."


async def test_a_semantic_search_is_re_ranked_by_what_answers(world: World) -> None:
    await world.collection()
    for document, text in {"near.md": NEAR, "resin.md": RESIN, "paint.md": PAINT}.items():
        await world.add(document, text)
    query = "how much resin does the store hold"
    plain = await world.retrieval.search(ALICE, [world.name], query)
    better = await world.retrieval.search(ALICE, [world.name], query, semantic=True)
    assert [documents(plain)[0][0], documents(better)[0][0]] == ["near.md", "resin.md"]
    assert (plain.semantic, better.semantic) == (False, True)
    scores = [passage.reranker_score or 0.0 for passage in better.passages]
    assert scores == sorted(scores, reverse=True)
    assert 4 >= scores[0] > 3 > 1 > scores[-1] > 0
    assert better.usage.prompt_tokens > plain.usage.prompt_tokens


async def test_pages_of_a_semantic_search_are_parts_of_one_order(world: World) -> None:
    await world.collection()
    for number in range(DEPTH + 4):
        await world.add(f"{number}.md", f"{RESIN} It is store number {number}.")
    query = "what does store number 7 hold?"

    async def page(skip: int, top: int) -> list[str]:
        found = await world.retrieval.search(ALICE, [world.name], query, skip=skip, top=top, semantic=True)
        return [passage.chunk.document for passage in found.passages]

    whole = await page(0, DEPTH + 4)
    assert len(set(whole)) == DEPTH + 4
    assert await page(0, 5) + await page(5, DEPTH - 1) == whole


@pytest.mark.parametrize("ranker", ["not-served"])
async def test_a_semantic_search_without_a_re_ranker_says_so(world: World, ranker: str) -> None:
    await world.collection()
    await world.add("resin.md", RESIN)
    found = await world.retrieval.search(ALICE, [world.name], "resin", semantic=True)
    assert (documents(found), found.semantic) == ([("resin.md", 1)], False)


async def test_a_version_that_is_not_visible_yet_is_left_out(world: World) -> None:
    await world.collection()
    await world.add("resin.md", RESIN, version=1)
    await world.add("resin.md", RESIN.replace("4,000", "5,000"), version=2, visible=1)
    assert documents(await world.retrieval.search(ALICE, [world.name], "resin store")) == [("resin.md", 1)]
    await world.show("resin.md", 2)
    assert documents(await world.retrieval.search(ALICE, [world.name], "resin store")) == [("resin.md", 2)]
    await world.show("resin.md", 0)
    assert documents(await world.retrieval.search(ALICE, [world.name], "resin store")) == []


async def test_hidden_versions_do_not_crowd_out_visible_ones(world: World) -> None:
    await world.collection()
    for number in range(14):
        await world.add(f"hidden-{number}.md", RESIN, visible=0)
    await world.add("other.md", "# Store\n\nIn the store there is also acetone, and some resin.")
    found = await world.retrieval.search(
        ALICE, [world.name], "The store holds at most 4,000 kg of resin", top=1
    )
    assert documents(found) == [("other.md", 1)]


async def test_a_document_is_seen_in_one_version_during_a_swap(world: World) -> None:
    await world.collection()
    await world.add("resin.md", RESIN, version=1)
    seen: list[list[tuple[str, int]]] = []
    swapped = asyncio.Event()

    async def look() -> None:
        while not swapped.is_set():
            seen.append(documents(await world.retrieval.search(ALICE, [world.name], "resin", mode="keyword")))

    async def swap() -> None:
        for version in range(2, 8):
            await world.add("resin.md", RESIN, version=version)
        swapped.set()

    await asyncio.gather(look(), swap())
    assert seen
    assert all(len(hits) == 1 for hits in seen)
    versions = [hits[0][1] for hits in seen]
    assert versions == sorted(versions)


@pytest.mark.parametrize("swaps", [1, 2, 3])
async def test_swaps_between_the_index_and_the_records_show_the_newest_version(
    world: World, swaps: int
) -> None:
    await world.collection()
    await world.add("resin.md", RESIN, version=1)

    class Swapping(Documents):
        """Records that are read just after a new version was made visible, so many times."""

        version = 1

        async def find_all(self, tenant: str, collection: str, ids: Iterable[str]) -> dict[str, Document]:
            if self.version <= swaps:
                self.version += 1
                await world.add("resin.md", RESIN, version=self.version)
            return await super().find_all(tenant, collection, ids)

    retrieval = Retrieval(
        collections=world.collections,
        documents=Swapping(world.storage),
        indexes=world.indexes,
        gateway=world.gateway,
    )
    found = documents(await retrieval.search(ALICE, [world.name], "resin store"))
    assert found == [("resin.md", swaps + 1)]


async def test_access_lists_and_tenants_are_kept_apart(world: World) -> None:
    await world.collection()
    await world.add("salaries.md", "# Salaries\n\nEngineers earn up to EUR 5,200.", readers=("group:hr",))
    await world.collection(tenant="globex", suffix="-theirs")
    assert documents(await world.retrieval.search(ALICE, [world.name], "salaries")) == [("salaries.md", 1)]
    assert documents(await world.retrieval.search(BOB, [world.name], "salaries")) == []
    with pytest.raises(NotFound):
        await world.retrieval.search(MALLORY, [world.name], "salaries")
    with pytest.raises(NotFound):
        await world.retrieval.search(ALICE, [world.name, f"{world.name}-theirs"], "salaries")
    assert documents(await world.retrieval.search(replace(ALICE, groups=()), [world.name], "salaries")) == []


async def test_collections_with_different_models_are_merged_by_rank(world: World) -> None:
    one = await world.collection()
    other = await world.collection(model="other-embedding", suffix="-other")
    await world.add("resin.md", RESIN, collection=one)
    await world.add("paint.md", PAINT, collection=one)
    await world.add("resin-too.md", RESIN, collection=other)
    found = await world.retrieval.search(
        ALICE, [one, other], "resin store", top=2, count=True, facets=("document",)
    )
    assert {document for document, _ in documents(found)} == {"resin.md", "resin-too.md"}
    assert found.count == 3
    assert {value.value for value in found.facets["document"]} == {"resin.md", "resin-too.md", "paint.md"}
    assert set(found.vectors) == {"embedding", "other-embedding"}


async def test_pages_follow_each_other(world: World) -> None:
    await world.collection()
    for number in range(5):
        await world.add(f"resin-{number}.md", f"{RESIN} Hall {number}.")
    every = documents(await world.retrieval.search(ALICE, [world.name], "resin"))
    pages = [
        documents(await world.retrieval.search(ALICE, [world.name], "resin", top=2, skip=skip))
        for skip in (0, 2, 4)
    ]
    assert [hit for page in pages for hit in page] == every
    assert len(every) == 5


async def test_a_filter_counts_and_facets_are_passed_on(world: World) -> None:
    await world.collection()
    await world.add("paint.md", PAINT)
    await world.add("resin.md", RESIN)
    found = await world.retrieval.search(
        ALICE, [world.name], "", filter=Eq("document", "paint.md"), count=True, top=0
    )
    assert (found.passages, found.count) == ((), 1)
    listed = await world.retrieval.search(ALICE, [world.name], " ")
    assert {document for document, _ in documents(listed)} == {"paint.md", "resin.md"}
    assert listed.vectors == {}


@pytest.mark.parametrize(
    ("top", "skip", "fine"), [(1000, 0, True), (1, 999, True), (1, 1000, False), (-1, 0, False)]
)
async def test_how_far_a_search_may_reach(world: World, top: int, skip: int, fine: bool) -> None:
    await world.collection()
    search = world.retrieval.search(ALICE, [world.name], "resin", top=top, skip=skip, mode="keyword")
    if fine:
        assert (await search).passages == ()
    else:
        with pytest.raises(InvalidParameter):
            await search


async def test_no_collection_and_no_such_mode_are_refused(world: World) -> None:
    await world.collection()
    with pytest.raises(InvalidParameter):
        await world.retrieval.search(ALICE, [], "resin")
    with pytest.raises(InvalidParameter):
        await world.retrieval.search(ALICE, [world.name], "resin", mode="fuzzy")  # type: ignore[arg-type]


async def test_without_its_embedding_model_only_a_keyword_search_works(world: World) -> None:
    await world.collection(model="unreachable-embedding")
    with pytest.raises(ModelsUnavailable):
        await world.retrieval.search(ALICE, [world.name], "resin")
    assert (await world.retrieval.search(ALICE, [world.name], "resin", mode="keyword")).passages == ()


async def test_a_query_beyond_the_embedding_models_sight_is_searched_by_its_beginning(world: World) -> None:
    await world.collection()
    await world.add("resin.md", RESIN)
    long = "How much resin may the store hold? " + "Please answer soon, many thanks. " * 200
    assert documents(await world.retrieval.search(ALICE, [world.name], long)) == [("resin.md", 1)]
