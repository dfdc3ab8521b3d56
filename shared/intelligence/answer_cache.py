"""Answers that were given before: to the same question, or to the same question in other words.

An answer is found again only by a caller who would be given the same one: its key is made of the corpus
(tenant, access, content; see `Corpus`), the model and the prompt with their versions, and all that the
request says. Of identical requests at the same time one is answered, and the others get its answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.inferencing.caching import BoundedCache
from shared.intelligence.wording import Wording, says_the_same

if TYPE_CHECKING:
    from shared.intelligence.answers import Answer
    from shared.knowledge.retrieval import Passage

# Wordings looked through for one context: their vectors are compared one by one.
MOST_WORDINGS = 200
# What an answer takes besides its texts, and each of its passages and citations.
ANSWER_BYTES = 3000
PASSAGE_BYTES = 2500
CHARACTER_BYTES = 1.5


@dataclass(frozen=True, slots=True)
class Held:
    """An answer as it was given, with the passages it was made from and the question it answers."""

    answer: Answer
    passages: tuple[Passage, ...]
    wording: Wording | None = None

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        texts = len(self.answer.text) + sum(len(passage.chunk.text) for passage in self.passages)
        texts += sum(len(citation.quote) for citation in self.answer.citations)
        parts = len(self.passages) + len(self.answer.citations)
        vector = 4 * len(self.wording.vector) if self.wording else 0
        return int(texts * CHARACTER_BYTES) + parts * PASSAGE_BYTES + vector + ANSWER_BYTES


@dataclass(slots=True)
class Flight:
    """An answer that is being made. ``held`` is set when it is there, and stays None where it failed."""

    held: Held | None = None
    landed: asyncio.Event = field(default_factory=asyncio.Event)

    def lands_with(self, held: Held) -> None:
        self.held = held
        self.landed.set()


class AnswerCache:
    """The answers of this process."""

    def __init__(self, cache: BoundedCache[Held]) -> None:
        self._cache = cache
        self._flights: dict[bytes, Flight] = {}
        self._wordings: dict[bytes, dict[bytes, Wording]] = {}

    def find(self, key: bytes) -> Held | None:
        """The answer to the very same request."""
        return self._cache.get(key)

    def find_like(self, context: bytes, wording: Wording) -> Held | None:
        """The answer to the question in other words, of a request that is the same in all else."""
        known = self._wordings.get(context, {})
        like = [(score, key) for key, other in known.items() if (score := says_the_same(wording, other))]
        for _, key in sorted(like, reverse=True):
            held = self._cache.get(key)
            if held is not None:
                return held
        return None

    def keep(self, key: bytes, context: bytes, held: Held) -> None:
        self._cache.put(key, held, held.size_bytes)
        if held.wording is not None:
            self._keep_wording(key, context, held.wording)

    def _keep_wording(self, key: bytes, context: bytes, wording: Wording) -> None:
        wordings = self._wordings.setdefault(context, {})
        wordings[key] = wording
        if len(wordings) > MOST_WORDINGS:
            del wordings[next(iter(wordings))]
        # Wordings go with their answers; looking at all of them now and then keeps both bounded.
        if sum(map(len, self._wordings.values())) > 2 * len(self._cache) + MOST_WORDINGS:
            for context, known in list(self._wordings.items()):
                alive = {key: one for key, one in known.items() if self._cache.get(key) is not None}
                self._wordings[context] = alive
                if not alive:
                    del self._wordings[context]

    async def in_flight(self, key: bytes) -> Held | None:
        """The answer that another request is being given, when it is there; None where there is none."""
        flight = self._flights.get(key)
        if flight is None:
            return None
        await flight.landed.wait()
        return flight.held

    @asynccontextmanager
    async def making(self, key: bytes) -> AsyncIterator[Flight]:
        """While the block runs, others may wait for the answer that it makes; they never wait twice."""
        flight = Flight()
        mine = self._flights.setdefault(key, flight) is flight
        try:
            yield flight
        finally:
            flight.landed.set()
            if mine:
                del self._flights[key]
