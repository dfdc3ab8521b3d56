"""Quoting: an answer made of sentences that stand in the retrieved passages, word for word.

Each sentence of the passages gets a few numbers that say how far it seems to answer the question. One
logistic regression makes of them the odds that it answers: where no sentence's odds are high enough, the
documents are taken not to answer. Another one, which also has the opinion of a re-ranker, says which of the
sentences answers best (`bench/train_answerability.py` trains both). `docs/answers.md` has the figures.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from shared.intelligence.evidence import Question, coverage, lacks_kind, missing, rarities, stems
from shared.intelligence.sentences import Sentence, split

if TYPE_CHECKING:
    from shared.knowledge.retrieval import Passage

# Sentences that are embedded for one answer, at 2 to 5 ms of CPU each with the local model.
CANDIDATES_MAX = 48
QUOTES_MAX = 3
# Sentences that a re-ranker reads for one answer, at 12 ms of CPU each with the local model.
RERANKED_MAX = 16
# A second and third quote may score this much less than the first (log odds): a third as likely.
QUOTE_MARGIN = 1.0
# Shorter pieces, such as a page number, answer nothing.
WORDS_MIN = 2
# New words from which on a sentence counts as full: about a sentence of ordinary length.
FULL_SENTENCE_WORDS = 12
# How much being retrieved first speaks for a sentence before its meaning is compared.
RANK_WEIGHT = 0.3

FEATURES = (
    "similarity",
    "words_around",
    "numbers_missing",
    "names_missing",
    "numbers_missing_in_passage",
    "names_missing_in_passage",
    "kind_missing",
    "kind_held",
    "counted_missing",
    "rank",
    "new_words",
)
# What a re-ranker adds to them when the best sentences are put in order.
RELEVANCE = "relevance"

_MODEL = Path(__file__).with_name("answerability.json")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sentence of a passage, and all that is known of it without comparing meanings.

    ``context`` is the sentence with what it stands under: title, headings and the header of its table.
    """

    passage: int
    sentence: Sentence
    text: str
    context: str
    words_around: float
    evidence: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """A candidate and the log odds that it answers."""

    candidate: Candidate
    score: float
    features: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Regression:
    """A logistic regression: log odds of a list of numbers."""

    weights: tuple[float, ...]
    bias: float

    def score(self, features: Sequence[float]) -> float:
        return self.bias + sum(w * f for w, f in zip(self.weights, features, strict=True))

    @classmethod
    def read(cls, names: Sequence[str], values: Mapping[str, Any]) -> Regression:
        return cls(tuple(float(values["weights"][name]) for name in names), float(values["bias"]))


@dataclass(frozen=True, slots=True)
class Answerability:
    """What was trained. ``answers`` gives the odds that a sentence answers, ``threshold`` decides.

    ``order`` puts the best in order with the scores of ``reranker``, the version of a model.
    """

    answers: Regression
    threshold: float
    order: Regression
    reranker: str
    label: str


@cache
def answerability() -> Answerability:
    """The trained model; its label holds the file's hash, for telemetry and cache keys."""
    content = _MODEL.read_bytes()
    model = json.loads(content)
    return Answerability(
        answers=Regression.read(FEATURES, model["answers"]),
        threshold=float(model["answers"]["threshold"]),
        order=Regression.read((*FEATURES, RELEVANCE), model["order"]),
        reranker=model["order"]["reranker"],
        label=f"quoting@{model['version']}+{hashlib.sha256(content).hexdigest()[:12]}",
    )


def candidates(question: Question, passages: Sequence[Passage]) -> list[Candidate]:
    """The sentences worth comparing with the question: those that share most with it come first."""
    origins = [_origin(passage) for passage in passages]
    held = [stems(passage.chunk.text) | origin for passage, origin in zip(passages, origins, strict=True)]
    weights = rarities(question, held)
    found: list[Candidate] = []
    for number, passage in enumerate(passages):
        text = passage.chunk.text
        sentences = split(text)
        for place, sentence in enumerate(sentences):
            piece = text[sentence.start : sentence.end]
            words = stems(piece)
            if sentence.kind == "heading" or len(words) < WORDS_MIN:
                continue
            own = words | stems(sentence.header) | origins[number]
            first, last = sentences[max(0, place - 1)], sentences[min(len(sentences) - 1, place + 1)]
            covered = coverage(weights, own | stems(text[first.start : last.end]))
            lacks = lacks_kind(question, piece, sentence.header)
            evidence = (
                covered,
                missing(question.numbers, own),
                missing(question.names, own),
                missing(question.numbers, held[number]),
                missing(question.names, held[number]),
                float(lacks),
                float(bool(question.kinds) and not lacks),
                float(bool(question.counted) and question.counted not in own),
                1 / (1 + number),
                min(1.0, len(words - question.words) / FULL_SENTENCE_WORDS),
            )
            context = _in_context(passage, sentence, piece)
            found.append(Candidate(number, sentence, piece, context, covered, evidence))
    found.sort(key=lambda candidate: -candidate.words_around - RANK_WEIGHT / (1 + candidate.passage))
    return found[:CANDIDATES_MAX]


def scored(found: Sequence[Candidate], similarities: Sequence[float]) -> list[Quote]:
    """The candidates with the odds that they answer, the likeliest first."""
    model = answerability().answers
    quotes = []
    for candidate, similarity in zip(found, similarities, strict=True):
        features = (similarity, *candidate.evidence)
        quotes.append(Quote(candidate, model.score(features), features))
    return sorted(quotes, key=lambda quote: -quote.score)


def answers(quotes: Sequence[Quote]) -> bool:
    """Whether any of the `scored` candidates is likely enough to answer."""
    return bool(quotes) and quotes[0].score >= answerability().threshold


def reordered(quotes: Sequence[Quote], relevances: Sequence[float]) -> list[Quote]:
    """The first `RERANKED_MAX` of ``quotes``, scored anew with a re-ranker's opinion of each."""
    order = answerability().order
    best = [
        replace(quote, score=order.score((*quote.features, relevance)))
        for quote, relevance in zip(quotes[:RERANKED_MAX], relevances, strict=True)
    ]
    return sorted(best, key=lambda quote: -quote.score)


def chosen(quotes: Sequence[Quote]) -> list[Quote]:
    """The first of ``quotes`` and at most two more that are nearly as likely; none says the same twice."""
    kept: dict[str, Quote] = {}
    for quote in quotes:
        if quote.score >= quotes[0].score - QUOTE_MARGIN:
            kept.setdefault(" ".join(quote.candidate.text.lower().split()), quote)
    return list(kept.values())[:QUOTES_MAX]


def shown(candidate: Candidate, number: int) -> str:
    """The sentence as a paragraph of the answer, with its number; a table's row comes with its header."""
    lead = "" if number == 1 else "\n\n"
    header = candidate.sentence.header
    if header:
        rule = "|" + " --- |" * (header.count("|") - 1)
        return f"{lead}{header}\n{rule}\n{candidate.text}\n\n[{number}]"
    keeps_lines = candidate.sentence.kind == "row"
    text = candidate.text if keeps_lines else re.sub(r"\s+", " ", candidate.text)
    return f"{lead}{text} [{number}]"


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors; 0 where one has no length."""
    lengths = math.hypot(*one) * math.hypot(*other)
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _in_context(passage: Passage, sentence: Sentence, piece: str) -> str:
    chunk = passage.chunk
    name = re.sub(r"[-_]+", " ", PurePosixPath(chunk.document).stem)
    above = " > ".join(dict.fromkeys(part for part in (chunk.title or name, *chunk.headings) if part))
    return f"{above}: {sentence.header}\n{piece}" if sentence.header else f"{above}: {piece}"


def _origin(passage: Passage) -> frozenset[str]:
    chunk = passage.chunk
    return stems(" ".join((chunk.document, chunk.title, *chunk.headings)))
