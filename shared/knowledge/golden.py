"""Golden sets: questions with the documents that answer them, and how well a ranking finds these.

A collection may keep one; a reindexing asks it of the old layout and of the new.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.storage import GOLDEN

if TYPE_CHECKING:
    from shared.storage import Storage

# Ranks that count: what a reader looks at, and what the field's tables compare (nDCG@10).
DEPTH = 10
METRICS = ("ndcg", "recall", "mrr")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the documents of which any is a right answer's source."""

    question: str
    documents: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"question": self.question, "documents": list(self.documents)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Question:
        return cls(data["question"], tuple(data["documents"]))


@dataclass(frozen=True, slots=True)
class Quality:
    """How well documents were ranked, each figure from 0 to 1, as the mean over some questions.

    nDCG@10 with binary relevance, recall@10, and the reciprocal rank of the first right document.
    """

    questions: int = 0
    ndcg: float = 0.0
    recall: float = 0.0
    mrr: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "questions": self.questions,
            **{name: round(getattr(self, name), 4) for name in METRICS},
        }


def quality_of(question: Question, ranked: Sequence[str]) -> Quality:
    """How well ``ranked``, the documents of the hits from the best on, answers one question."""
    expected = set(question.documents)
    first = list(dict.fromkeys(ranked))[:DEPTH]
    gains = [1 / math.log2(rank + 1) for rank, document in enumerate(first, start=1) if document in expected]
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(expected), DEPTH) + 1))
    found = next((rank for rank, document in enumerate(first, start=1) if document in expected), 0)
    return Quality(1, sum(gains) / ideal, len(gains) / len(expected), 1 / found if found else 0.0)


def mean(qualities: Iterable[Quality]) -> Quality:
    """The mean over all questions that the given figures stand for."""
    parts = list(qualities)
    questions = sum(part.questions for part in parts)
    if not questions:
        return Quality()
    sums = {name: sum(getattr(part, name) * part.questions for part in parts) for name in METRICS}
    return Quality(questions, **{name: total / questions for name, total in sums.items()})


class GoldenSets:
    """The golden sets that collections keep."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def put(self, tenant: str, collection: str, questions: Iterable[Question]) -> None:
        """Keep a collection's golden set in place of the one that it had."""
        data = json.dumps([question.to_dict() for question in questions], ensure_ascii=False).encode()
        await self._storage.put_blob(GOLDEN, _name(tenant, collection), data, content_type="application/json")

    async def get(self, tenant: str, collection: str) -> tuple[Question, ...]:
        """A collection's golden set; empty where it keeps none."""
        data = await self._storage.get_blob(GOLDEN, _name(tenant, collection))
        return tuple(Question.from_dict(each) for each in json.loads(data or b"[]"))

    async def remove(self, tenant: str, collection: str) -> None:
        await self._storage.delete_blob(GOLDEN, _name(tenant, collection))


def _name(tenant: str, collection: str) -> str:
    return f"{tenant}/{collection}.json"
