"""Quoting: an answer made of sentences that stand in the retrieved passages, word for word.

Each sentence of the passages gets a few numbers that say how far it seems to answer the question; a
logistic regression makes one score of them (`bench/train_answerability.py` trains it). Where no sentence
scores high enough, the documents are taken not to answer. `docs/answers.md` has the figures.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from shared.intelligence.evidence import Question, coverage, lacks_kind, missing, rarities, stems
from shared.intelligence.sentences import Sentence, split

if TYPE_CHECKING:
    from shared.knowledge.retrieval import Passage

# Sentences that are embedded for one answer, at 2 to 5 ms of CPU each with the local model.
CANDIDATES_MAX = 48
QUOTES_MAX = 3
# A second and third quote may score this much less than the first (log odds): one in seven as likely.
QUOTE_MARGIN = 2.0
# Shorter pieces, such as a page number, answer nothing.
WORDS_MIN = 2
# New words from which on a sentence counts as full: about a sentence of ordinary length.
FULL_SENTENCE_WORDS = 12
# How much being retrieved first speaks for a sentence before its meaning is compared.
RANK_WEIGHT = 0.3

FEATURES = (
    "similarity",
    "similarity_below_best",
    "words_around",
    "numbers_missing_around",
    "names_missing_around",
    "numbers_missing_in_passage",
    "names_missing_in_passage",
    "number_missing_everywhere",
    "name_missing_everywhere",
    "kind_missing",
    "rank",
    "new_words",
)

_MODEL = Path(__file__).with_name("answerability.json")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sentence of a passage, and all that is known of it without comparing meanings."""

    passage: int
    sentence: Sentence
    text: str
    words_around: float
    evidence: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quote:
    """A candidate that was chosen. ``score`` is the log odds that it answers."""

    candidate: Candidate
    score: float


@dataclass(frozen=True, slots=True)
class Answerability:
    """The trained weights of `FEATURES`, and the score from which on a sentence answers."""

    weights: tuple[float, ...]
    bias: float
    threshold: float
    label: str

    def score(self, features: Sequence[float]) -> float:
        """Log odds that a sentence with these features answers."""
        return self.bias + sum(w * f for w, f in zip(self.weights, features, strict=True))


@cache
def answerability() -> Answerability:
    """The trained model; its label holds the file's hash, for telemetry and cache keys."""
    content = _MODEL.read_bytes()
    model = json.loads(content)
    weights = tuple(float(model["weights"][name]) for name in FEATURES)
    label = f"quoting@{model['version']}+{hashlib.sha256(content).hexdigest()[:12]}"
    return Answerability(weights, float(model["bias"]), float(model["threshold"]), label)


def candidates(question: Question, passages: Sequence[Passage]) -> list[Candidate]:
    """The sentences worth comparing with the question: those that share most with it come first."""
    origins = [_origin(passage) for passage in passages]
    held = [stems(passage.chunk.text) | origin for passage, origin in zip(passages, origins, strict=True)]
    weights = rarities(question, held)
    everywhere = frozenset().union(*held)
    found: list[Candidate] = []
    for number, passage in enumerate(passages):
        text = passage.chunk.text
        sentences = split(text)
        for place, sentence in enumerate(sentences):
            words = stems(text[sentence.start : sentence.end])
            if sentence.kind == "heading" or len(words) < WORDS_MIN:
                continue
            first, last = sentences[max(0, place - 1)], sentences[min(len(sentences) - 1, place + 1)]
            around = stems(f"{text[first.start : last.end]} {sentence.header}") | origins[number]
            piece = text[sentence.start : sentence.end]
            covered = coverage(weights, around)
            evidence = (
                covered,
                missing(question.numbers, around),
                missing(question.names, around),
                missing(question.numbers, held[number]),
                missing(question.names, held[number]),
                float(missing(question.numbers, everywhere) > 0),
                float(missing(question.names, everywhere) > 0),
                float(lacks_kind(question, piece)),
                1 / (1 + number),
                min(1.0, len(words - question.words) / FULL_SENTENCE_WORDS),
            )
            found.append(Candidate(number, sentence, piece, covered, evidence))
    found.sort(key=lambda candidate: -candidate.words_around - RANK_WEIGHT / (1 + candidate.passage))
    return found[:CANDIDATES_MAX]


def features(found: Sequence[Candidate], similarities: Sequence[float]) -> list[tuple[float, ...]]:
    """The numbers of each candidate, in the order of `FEATURES`."""
    best = max(similarities, default=0.0)
    return [
        (similarity, similarity - best, *candidate.evidence)
        for candidate, similarity in zip(found, similarities, strict=True)
    ]


def ranked(found: Sequence[Candidate], similarities: Sequence[float]) -> list[Quote]:
    """The candidates by how likely they answer, the likeliest first."""
    model = answerability()
    scores = [model.score(numbers) for numbers in features(found, similarities)]
    quotes = [Quote(candidate, score) for candidate, score in zip(found, scores, strict=True)]
    return sorted(quotes, key=lambda quote: -quote.score)


def choose(found: Sequence[Candidate], similarities: Sequence[float]) -> list[Quote]:
    """One to three sentences that answer, best first; none where none does."""
    quotes = ranked(found, similarities)
    if not quotes or quotes[0].score < answerability().threshold:
        return []
    chosen: dict[str, Quote] = {}
    for quote in quotes:
        if quote.score >= quotes[0].score - QUOTE_MARGIN:
            chosen.setdefault(quote.candidate.text, quote)
    return list(chosen.values())[:QUOTES_MAX]


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


def _origin(passage: Passage) -> frozenset[str]:
    chunk = passage.chunk
    return stems(" ".join((chunk.document, chunk.title, *chunk.headings)))
