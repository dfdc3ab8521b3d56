"""Screening: questions that try to turn the assistant against its rules, and passages that do.

A question that looks like an attack is refused before anything is spent on it. A passage that does is
withheld: the answer is made of the others, and says what was left out. Two judges are asked. The app's own
classifier reads every text; Azure AI Content Safety's Prompt Shields read it as well, where an endpoint is
set. Either is enough. Screening makes attacks rarer, it does not make them harmless: what a model may do is
limited apart from it (passages are data between markers, citations are checked, no model has tools of the
app).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from shared.errors import PromptRefused
from shared.inferencing.caching import BoundedCache
from shared.intelligence.screening.likeness import trained
from shared.intelligence.screening.reading import readings

if TYPE_CHECKING:
    from shared.knowledge.retrieval import Passage

log = logging.getLogger("groundwork.screening")

# Judgements of passages that are kept: some 30,000, each of them a digest and a bit.
JUDGEMENTS_BYTES = 4 << 20
JUDGEMENTS_SECONDS = 86_400.0
# An attack may be cut in two where a document was: of neighbours, so many words meet in one text.
SEAM_WORDS = 40


class Shields(Protocol):
    """Prompt Shields, or whatever else judges texts elsewhere."""

    async def attacks(self, question: str, documents: Sequence[str]) -> tuple[bool, Sequence[bool]]:
        """Whether the question, and each of the documents, is an attack."""
        ...


class Screen:
    """Judges questions and passages. With ``refuses`` off it only says in the log what it would have done."""

    def __init__(self, shields: Shields | None = None, *, refuses: bool = True) -> None:
        self._shields = shields
        self._refuses = refuses
        self._judged: BoundedCache[bool] = BoundedCache(JUDGEMENTS_BYTES, JUDGEMENTS_SECONDS)

    def check(self, conversation: Sequence[Mapping[str, str]]) -> None:
        """Raise `PromptRefused` where what the user says, now or over several turns, is an attack."""
        asked = [turn["content"] for turn in conversation if turn["role"] == "user"]
        if self.is_attack(asked[-1]) or (len(asked) > 1 and self.is_attack("\n".join(asked))):
            self._refuse("classifier")

    async def sift(
        self, question: str, passages: Sequence[Passage]
    ) -> tuple[tuple[Passage, ...], tuple[Passage, ...]]:
        """The passages that may be used, and those that are withheld; raises `PromptRefused`."""
        bad = self.judge(passages)
        if self._shields is not None:
            asked, found = await self._shields.attacks(question, [each.chunk.text for each in passages])
            if asked:
                self._refuse("prompt_shields")
            bad |= {number for number, attack in enumerate(found) if attack}
        if bad:
            log.warning("passages_withheld count=%d", len(bad))
        if not self._refuses:
            bad = set()
        kept = tuple(each for number, each in enumerate(passages) if number not in bad)
        return kept, tuple(passages[number] for number in sorted(bad))

    def is_attack(self, question: str) -> bool:
        """Whether the classifier takes a question, or what is encoded in it, for an attack."""
        return _likeness(question) > trained().question_threshold

    def judge(self, passages: Sequence[Passage]) -> set[int]:
        """The numbers of the passages that are attacks, alone or with a neighbour in the same document."""
        bad = {number for number, each in enumerate(passages) if self._passage_is_attack(each.chunk.text)}
        placed = {_place(each): number for number, each in enumerate(passages)}
        for number, passage in enumerate(passages):
            follower = placed.get(_place(passage, after=1))
            if follower is not None and not {number, follower} <= bad:
                ends = passage.chunk.text.split()[-SEAM_WORDS:]
                begins = passages[follower].chunk.text.split()[:SEAM_WORDS]
                if self._passage_is_attack(" ".join([*ends, *begins])):
                    bad |= {number, follower}
        return bad

    def _passage_is_attack(self, text: str) -> bool:
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._judged.get(key)
        if known is None:
            known = _likeness(text) > trained().passage_threshold
            self._judged.put(key, known, len(key))
        return known

    def _refuse(self, judge: str) -> None:
        log.warning("prompt_refused judge=%s refused=%s", judge, self._refuses)
        if self._refuses:
            raise PromptRefused(
                "The question reads like an attempt to change what the assistant was told to do. "
                "Put it in other words.",
                judge=judge,
            )


def _likeness(text: str) -> float:
    return max(trained().of(each) for each in readings(text))


def _place(passage: Passage, after: int = 0) -> tuple[str, str, int, int]:
    chunk = passage.chunk
    return chunk.collection, chunk.document, chunk.version, chunk.ordinal + after
