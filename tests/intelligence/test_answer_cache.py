"""Answers that are given again: only to who would be given the same, and never after anything changed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from shared.errors import NotFound
from shared.identity import Principal
from shared.inferencing.caching import BoundedCache, CacheMode, EmbeddingCache
from shared.inferencing.ledger import Source
from shared.intelligence import Answer, AnswerRequest, Answers, Final
from shared.intelligence.answer_cache import AnswerCache
from shared.knowledge.documents import Document
from shared.knowledge.retrieval import Retrieval

from .world import ALICE, BOB, MALLORY, ChatModel, World

HERON = "# Heron\n\nThe Heron carries forty tonnes. It was built in Bergen.\n"
QUESTION = "How much does the Heron carry?"


@dataclass
class Cached:
    """The world's answers with caches, and what they have counted."""

    world: World
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def count(tenant: str, source: Source, numbers: Any) -> None:
            for name, number in numbers.items():
                self.numbers[name] = self.numbers.get(name, 0) + number

        world = self.world
        self.retrieval = Retrieval(
            collections=world.collections,
            documents=world.documents,
            indexes=world.indexes,
            gateway=world.gateway,
            found=BoundedCache(1 << 20, 3600),
            vectors=EmbeddingCache(BoundedCache(1 << 20, 3600), count),
            count=count,
        )
        self.answers = Answers(
            retrieval=self.retrieval,
            gateway=world.gateway,
            cache=AnswerCache(BoundedCache(1 << 20, 3600)),
            count=count,
        )

    async def ask(
        self, who: Principal = ALICE, question: str = QUESTION, mode: CacheMode = CacheMode.EXACT, **more: Any
    ) -> Answer:
        turns = [{"role": "user", "content": question}]
        more = {"model": "quoter", **more}
        request = AnswerRequest((self.world.name,), turns, cache=mode.policy, **more)
        return await self.answers.answer(who, request)

    async def lists(self, document: str, readers: tuple[str, ...] | None) -> None:
        """Give a document an access list of its own in its record, as a new upload does."""

        def change(_: None, record: Document | None) -> Document | None:
            assert record is not None
            if record.upload.readers == readers:
                return None
            return replace(record, upload=replace(record.upload, readers=readers))

        await self.world.documents.change_all("acme", self.world.name, {document: None}, change)


@pytest.fixture
async def cached(world: World) -> Cached:
    await world.collection()
    await world.add("heron.md", HERON)
    return Cached(world)


async def test_the_same_question_is_answered_again_without_a_call(cached: Cached) -> None:
    first, second = await cached.ask(), await cached.ask()
    assert (first.cache, second.cache) == ("miss", "exact")
    assert (second.text, second.citations) == (first.text, first.citations)
    assert second.id != first.id
    assert (first.usage.prompt_tokens > 0, second.usage.prompt_tokens) == (True, 0)
    assert (cached.numbers["answer_hits"], cached.numbers["answer_misses"]) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"question": "How much does the Heron carry ?"},
        {"top": 3},
        {"max_tokens": 50},
        {"model": "chat"},
    ],
)
async def test_a_request_that_differs_in_anything_is_another(
    cached: Cached, chat_model: ChatModel, other: dict[str, Any]
) -> None:
    await cached.ask()
    assert (await cached.ask(**other)).cache == "miss"


async def test_who_may_read_the_same_shares_answers_and_nobody_else(cached: Cached) -> None:
    await cached.ask(ALICE)
    assert (await cached.ask(BOB)).cache == "exact"
    with pytest.raises(NotFound):
        await cached.ask(MALLORY)
    limited = replace(BOB, collections=("another",))
    with pytest.raises(NotFound):
        await cached.ask(limited)


async def test_a_list_of_a_document_ends_sharing_for_good(cached: Cached) -> None:
    await cached.ask(ALICE)
    await cached.lists("heron.md", ("user:alice",))
    assert (await cached.ask(ALICE)).found
    hidden = await cached.ask(BOB)
    assert (hidden.cache, hidden.found) == ("miss", False)
    assert (await cached.ask(ALICE)).cache == "exact"
    # Even where the list is taken back: today's records do not tell of all that the index knows.
    await cached.lists("heron.md", None)
    assert (await cached.ask(ALICE)).cache == "miss"
    assert (await cached.ask(BOB)).cache == "miss"


async def test_a_collections_new_readers_make_earlier_answers_unreachable(cached: Cached) -> None:
    await cached.ask(ALICE)
    await cached.world.collections.put(
        "acme", cached.world.name, description="", embedding_model="embedding", readers=("group:hr",)
    )
    assert (await cached.ask(ALICE)).cache == "miss"
    assert not (await cached.ask(BOB)).found


async def test_another_tenants_collection_of_the_same_name_has_answers_of_its_own(cached: Cached) -> None:
    await cached.ask(ALICE)
    await cached.world.collection(tenant="globex")
    other = await cached.ask(MALLORY)
    assert (other.cache, other.found) == ("miss", False)


async def test_no_answer_outlives_a_change_of_its_documents(cached: Cached) -> None:
    world = cached.world
    assert "forty" in (await cached.ask()).text
    await world.add("heron.md", HERON.replace("forty", "fifty"), version=2)
    changed = await cached.ask()
    assert (changed.cache, "fifty" in changed.text) == ("miss", True)
    await world.add("other.md", "# Gannet\n\nThe Gannet carries ten tonnes.\n")
    assert (await cached.ask()).cache == "miss"
    await world.show("heron.md", 0)
    gone = await cached.ask()
    assert (gone.cache, "fifty" in gone.text) == ("miss", False)


async def test_an_answer_that_a_change_overtook_is_not_found_after_it(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document changes after it was retrieved and before the answer is kept."""
    search = cached.retrieval.search

    async def overtaken(*args: Any, **more: Any) -> Any:
        found = await search(*args, **more)
        monkeypatch.undo()
        await cached.world.add("heron.md", HERON.replace("forty", "fifty"), version=2)
        return found

    monkeypatch.setattr(cached.retrieval, "search", overtaken)
    assert "forty" in (await cached.ask()).text
    assert "fifty" in (await cached.ask()).text


async def test_an_index_that_lags_behind_its_records_is_not_trusted_yet(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(cached.world.indexes), "lag_seconds", 3600.0)
    await cached.ask()
    assert (await cached.ask()).cache == "miss"


async def test_a_request_leaves_caches_out_or_has_them_renewed(cached: Cached) -> None:
    assert (await cached.ask(mode=CacheMode.OFF)).cache == "off"
    assert (await cached.ask()).cache == "miss"
    assert (await cached.ask(mode=CacheMode.OFF)).usage.prompt_tokens > 0
    renewed = await cached.ask(mode=CacheMode.REFRESH)
    assert (renewed.cache, renewed.usage.prompt_tokens > 0) == ("miss", True)
    assert (await cached.ask()).cache == "exact"


async def test_identical_requests_at_the_same_time_are_answered_once(cached: Cached) -> None:
    given = await asyncio.gather(*(cached.ask() for _ in range(8)))
    assert sorted(answer.cache for answer in given) == ["exact"] * 7 + ["miss"]
    assert len({answer.text for answer in given}) == 1


async def test_whoever_waits_for_another_is_answered_when_that_one_leaves(cached: Cached) -> None:
    turns = [{"role": "user", "content": QUESTION}]
    leader = cached.answers.stream(ALICE, AnswerRequest((cached.world.name,), turns, model="quoter"))
    await anext(leader)
    waiting = asyncio.create_task(cached.ask(BOB))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await leader.aclose()
    assert (await asyncio.wait_for(waiting, 30)).found


async def test_a_stream_of_a_known_answer_has_its_sources_and_its_whole_text(cached: Cached) -> None:
    first = await cached.ask()
    turns = [{"role": "user", "content": QUESTION}]
    async with aclosing(
        cached.answers.stream(BOB, AnswerRequest((cached.world.name,), turns, model="quoter"))
    ) as events:
        sources, delta, final = [event async for event in events]
    assert sources.passages  # type: ignore[union-attr]
    assert delta.text == first.text  # type: ignore[union-attr]
    assert isinstance(final, Final)
    assert final.answer.cache == "exact"


async def test_a_search_is_found_again_until_the_content_changes(cached: Cached) -> None:
    names, world = (cached.world.name,), cached.world
    first = await cached.retrieval.search(ALICE, names, "Heron")
    again = await cached.retrieval.search(BOB, names, "Heron")
    assert (first.cached, again.cached) == (False, True)
    assert again.passages == first.passages
    assert not (await cached.retrieval.search(BOB, names, "Heron", top=3)).cached
    assert not (await cached.retrieval.search(BOB, names, "Heron", count=True)).cached
    assert not (await cached.retrieval.search(BOB, names, "Heron", count=True)).cached
    await world.add("other.md", "# Heron\n\nAnother Heron.\n")
    changed = await cached.retrieval.search(ALICE, names, "Heron")
    assert (changed.cached, len(changed.passages)) == (False, 2)
    # The words were asked before: no call for their vector.
    assert changed.usage.prompt_tokens == 0


async def test_another_wording_is_answered_only_where_the_request_allows_it(cached: Cached) -> None:
    await cached.ask(question="How much does the Heron carry?")
    other = "How much can the Heron carry?"
    assert (await cached.ask(question=other, mode=CacheMode.REFRESH)).cache == "miss"
    cached.answers._cache = AnswerCache(BoundedCache(1 << 20, 3600))
    await cached.ask(question="How much does the Heron carry?")
    assert (await cached.ask(question=other, mode=CacheMode.SEMANTIC)).cache == "semantic"
    assert (
        await cached.ask(question="How much can the Gannet carry?", mode=CacheMode.SEMANTIC)
    ).cache == "miss"
    await cached.world.add("heron.md", HERON.replace("forty", "fifty"), version=2)
    assert (await cached.ask(question=other, mode=CacheMode.SEMANTIC)).cache == "miss"
