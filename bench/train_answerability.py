"""Trains the weights of `shared/intelligence/answerability.json`.

    python -m bench.train_answerability [--write]

Data: the articles with even numbers of `xquad_en` in the folder GROUNDWORK_BENCH_DATA (default:
../shared/data). Each sentence that the product would compare is an example; it is positive where it holds
the answer and stands in the passage that the question was written for. Three kinds of questions are made of
each: in a reader's own words (a share of its plain words match nothing), with the passage that answers
taken away, and with one name or number replaced by another. The threshold is the score that FALSE_NOT_FOUND
of the answerable sample questions in half A stay below; half B and the odd articles are for testing alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from bench import answers as bench  # noqa: E402
from shared.intelligence import quoting  # noqa: E402
from shared.intelligence.evidence import Question  # noqa: E402
from shared.knowledge.index import IndexSpec  # noqa: E402
from shared.knowledge.index.embedded import EmbeddedIndex  # noqa: E402
from shared.knowledge.retrieval import embed_beginnings  # noqa: E402

MODEL_FILE = PROJECT / "shared" / "intelligence" / "answerability.json"
VERSION = 1
OWN_WORDS_SHARE = 0.4  # of a question's plain words that its answer does not repeat
FALSE_NOT_FOUND = 0.10
RIDGE = 1e-3
ITERATIONS = 60
SEED = 4
_NAME_OR_NUMBER = re.compile(r"(?<=\w )(?:[A-Z][\w-]{3,}|[\w-]*\d[\w-]*)")

Matrix = Any


@dataclass(slots=True)
class Example:
    """A question's sentences: their features, and which of them answer."""

    asked: bench.Asked
    features: Matrix
    labels: Matrix


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench train_answerability")
    parser.add_argument("--write", action="store_true", help="replace answerability.json")
    options = parser.parse_args(argv)
    folder = bench.xquad_folder()
    if not (folder / "corpus.jsonl").exists():
        print(f"nothing to train on: there is no {folder}")
        return 1
    even, odd = asyncio.run(xquad_examples(folder))
    weights = fitted(even)
    samples = asyncio.run(sample_examples())
    half_a = [e for e in samples if bench.half_of(e.asked) == 0]
    threshold = float(np.quantile(present(half_a, weights), FALSE_NOT_FOUND))
    half_b = [e for e in samples if bench.half_of(e.asked)]
    figures = {"xquad_en odd articles": odd, "samples half A": half_a, "samples half B": half_b}
    model = {
        "version": VERSION,
        "trained_on": "xquad_en (CC BY-SA 4.0), articles with even numbers; bench/train_answerability.py",
        "threshold_from": "samples/golden.jsonl, questions with even numbers",
        "weights": {
            name: round(float(weight), 4) for name, weight in zip(quoting.FEATURES, weights, strict=False)
        },
        "bias": round(float(weights[-1]), 4),
        "threshold": round(threshold, 4),
    }
    print(json.dumps(model, indent=2))
    for name, examples in figures.items():
        print(f"{name}: {described(examples, weights, threshold)}")
    if options.write:
        MODEL_FILE.write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    return 0


async def xquad_examples(folder: Path) -> tuple[list[Example], list[Example]]:
    """Altered questions on the even articles, to train on, and questions as they are on the odd ones."""
    chance = random.Random(SEED)
    questions = list(bench.xquad_questions(folder))
    found = [match for asked in questions for match in _NAME_OR_NUMBER.findall(asked.text)]
    names = sorted({name for name in found if not re.search(r"\d", name)})
    even, odd = [], []
    async with opened(bench.xquad_documents(folder)) as library:
        for asked in questions:
            if bench.article(asked) % 2:
                odd.append(await example(library, asked))
                continue
            even.append(await example(library, asked, own_words(asked.text, chance)))
            swapped = with_other_name(asked.text, names, chance) if asked.document else None
            if swapped:
                even.append(await example(library, replace(asked, text=swapped, document=None)))
    return even, odd


async def sample_examples() -> list[Example]:
    async with opened(bench.sample_documents()) as library:
        return [await example(library, asked) for asked in bench.sample_questions()]


class opened:
    """A library of documents, for the length of a block."""

    def __init__(self, documents: Iterator[Any]) -> None:
        self._documents = documents
        self._folder = tempfile.TemporaryDirectory()

    async def __aenter__(self) -> bench.Library:
        from modelhost.embeddings import Embedder

        index = EmbeddedIndex(Path(self._folder.name), IndexSpec("training", bench.DIMENSIONS))
        self._library = bench.Library(Embedder(), index)
        await self._library.add(self._documents)
        return self._library

    async def __aexit__(self, *_: object) -> None:
        await self._library.index.close()
        self._library.embedder.close()
        self._folder.cleanup()


_vectors: dict[str, list[float]] = {}


async def example(library: bench.Library, asked: bench.Asked, question: Question | None = None) -> Example:
    request = bench.request(asked)
    found = await library.search(
        bench.CALLER, request.collections, asked.text, filter=request.filter, top=request.top
    )
    candidates = quoting.candidates(question or Question.read(asked.text), found.passages)
    texts = [candidate.text for candidate in candidates]
    fresh = [text for text in dict.fromkeys(texts) if text not in _vectors]
    embedded = await embed_beginnings(library, bench.MODEL, fresh, call=None)  # type: ignore[arg-type]
    _vectors.update(zip(fresh, map(list, embedded.vectors), strict=True))
    asks = found.vectors[bench.MODEL]
    similarities = [quoting.cosine(asks, _vectors[text]) for text in texts]
    labels = [
        found.passages[candidate.passage].chunk.document == asked.document
        and any(bench.plain(words) in bench.plain(candidate.text) for words in asked.evidence)
        for candidate in candidates
    ]
    numbers = np.array(quoting.features(candidates, similarities)).reshape(-1, len(quoting.FEATURES))
    return Example(asked, numbers, np.array(labels, dtype=float))


def own_words(text: str, chance: random.Random) -> Question:
    """The question as somebody asks it who uses other words than the document."""
    question = Question.read(text)
    kept = question.names | question.numbers
    words = {
        word if word in kept or chance.random() >= OWN_WORDS_SHARE else f"\0{word}"
        for word in sorted(question.words)
    }
    return replace(question, words=frozenset(words))


def with_other_name(text: str, names: Sequence[str], chance: random.Random) -> str | None:
    """The question with one of its names or numbers changed, so that nothing answers it any more."""
    matches = list(_NAME_OR_NUMBER.finditer(text))
    if not matches:
        return None
    match = chance.choice(matches)
    if re.search(r"\d", match[0]):
        other = re.sub(
            r"\d(?!.*\d)", lambda digit: str((int(digit[0]) + chance.randint(1, 9)) % 10), match[0]
        )
    else:
        other = chance.choice([name for name in names if name != match[0]])
    return text[: match.start()] + other + text[match.end() :]


def fitted(examples: Sequence[Example]) -> Matrix:
    """Weights and, last, the bias of a logistic regression with a ridge, by Newton's method."""
    features = np.vstack([example.features for example in examples])
    labels = np.concatenate([example.labels for example in examples])
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    design = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    ridge = np.r_[np.full(len(mean), RIDGE * len(features)), 1e-6]
    weights = np.zeros(design.shape[1])
    for _ in range(ITERATIONS):
        odds = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (odds - labels) + ridge * weights
        curve = (design * (odds * (1 - odds))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-7:
            break
    scaled = weights[:-1] / scale
    return np.r_[scaled, weights[-1] - scaled @ mean]


def best(example: Example, weights: Matrix) -> float:
    """The score of the likeliest sentence."""
    if not len(example.features):
        return -100.0
    return float((example.features @ weights[:-1] + weights[-1]).max())


def present(examples: Sequence[Example], weights: Matrix) -> Matrix:
    """The best scores of the questions that have an answer."""
    return np.array([best(e, weights) for e in examples if e.asked.document is not None])


def absent(examples: Sequence[Example], weights: Matrix) -> Matrix:
    return np.array([best(e, weights) for e in examples if e.asked.document is None])


def described(examples: Sequence[Example], weights: Matrix, threshold: float) -> str:
    answerable, unanswerable = present(examples, weights), absent(examples, weights)
    area = (answerable[:, None] > unanswerable[None, :]).mean()
    at_bar = float(np.quantile(answerable, FALSE_NOT_FOUND))
    return (
        f"not found {(unanswerable < threshold).mean():.1%} of {len(unanswerable)} without answer, "
        f"{(answerable < threshold).mean():.1%} of {len(answerable)} with one; area {area:.3f}; "
        f"{(unanswerable < at_bar).mean():.1%} at {FALSE_NOT_FOUND:.0%} wrongly"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
