"""Quoting: an answer made of sentences that stand in the retrieved passages, word for word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.intelligence.sentences import Sentence, split
from shared.knowledge.retrieval import Passage

# Sentences that are embedded for one answer: 2 to 5 ms each with the local model.
CANDIDATES_MAX = 48
QUOTES_MAX = 3
VERSION = "quoting@1"
ANSWERABLE_COSINE = 0.45


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sentence of one passage."""

    passage: int
    sentence: Sentence
    text: str


@dataclass(frozen=True, slots=True)
class Quote:
    """A candidate that was chosen, and its score."""

    candidate: Candidate
    score: float


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """The sentences worth comparing with the question, those of the best passages first."""
    found = [
        Candidate(number, sentence, passage.chunk.text[sentence.start : sentence.end])
        for number, passage in enumerate(passages)
        for sentence in split(passage.chunk.text)
        if sentence.kind != "heading"
    ]
    return found[:CANDIDATES_MAX]


def choose(
    question: Sequence[float], found: Sequence[Candidate], vectors: Sequence[Sequence[float]]
) -> list[Quote]:
    """The sentences that answer, best first; none where none does."""
    scored = [
        Quote(candidate, cosine(question, vector)) for candidate, vector in zip(found, vectors, strict=True)
    ]
    scored.sort(key=lambda quote: -quote.score)
    if not scored or scored[0].score < ANSWERABLE_COSINE:
        return []
    return [quote for quote in scored[:QUOTES_MAX] if quote.score >= 0.85 * scored[0].score]


def shown(candidate: Candidate, number: int) -> str:
    """The sentence as a line of the answer, with its number; a table's row comes below its header."""
    lead = "" if number == 1 else "\n"
    return f"{lead}{candidate.text} [{number}]"


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors; 0 where one has no length."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0
