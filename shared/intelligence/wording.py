"""Whether two questions say the same in other words, so that one's answer will do for the other.

Sentence embeddings put "What did it cost in 2024?" beside "What did it cost in 2025?". So likeness alone
decides nothing: numbers, names, negations, opposites, what is asked for and all content words must be the
same as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.intelligence.evidence import Question, stems

# For what the words leave open, such as their order. `bench wordings` measures what it comes to.
LEAST_COSINE = 0.94

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?", re.UNICODE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEGATIONS = _words(
    """
    no not never none nobody nothing neither nor without cannot except unless
    kein keine keinen nicht nie ohne pas jamais sans sin nunca
    """
)
# Words that turn a question into another one while its embedding hardly moves.
_TURNS = _words(
    """
    min minimum least lowest smallest shortest cheapest fewest earliest first oldest
    max maximum most highest largest longest dearest biggest latest last newest next previous
    before after since until from to above below over under more less fewer than within outside inside
    start begin open end close stop increase decrease rise fall raise lower add remove enable disable
    allow forbid buy sell import export send receive arrive depart win lose accept reject approve refuse
    old new former current past future monthly yearly annual weekly daily hourly
    all any some every each only both either other same
    north south east west left right up down on off in out
    zero one two three four five six seven eight nine ten eleven twelve hundred thousand million billion
    half third quarter double triple once twice
    january february march april may june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday
    who whom whose what which when where why how
    """
)


@dataclass(frozen=True, slots=True)
class Wording:
    """One wording of a question: its vector, and what has to be the same in another wording of it."""

    vector: Sequence[float]
    fixed: tuple[object, ...]
    words: frozenset[str]

    @classmethod
    def read(cls, text: str, vector: Sequence[float]) -> Wording:
        question = Question.read(text)
        tokens = [token.lower() for token in _WORD.findall(text)]
        turns = tuple(sorted(token for token in tokens if token in _TURNS))
        negations = sum(token in _NEGATIONS or token.endswith("n't") for token in tokens)
        numbers = tuple(sorted(_NUMBER.findall(text)))
        fixed = (numbers, tuple(sorted(question.names)), negations, turns)
        return cls(vector, fixed, question.words | stems(" ".join(question.names)))


def says_the_same(one: Wording, other: Wording) -> float:
    """The cosine of two wordings of one question; 0 where they may be two questions."""
    # One word more or another is another question too often: "seals", "rain seals"; "for a week", "a night".
    if one.fixed != other.fixed or one.words != other.words:
        return 0.0
    cosine = _cosine(one.vector, other.vector)
    return cosine if cosine >= LEAST_COSINE else 0.0


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.sqrt(_dot(one, one) * _dot(other, other))
    return _dot(one, other) / lengths if lengths else 0.0


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
