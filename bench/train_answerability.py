"""Trains the weights of `shared/intelligence/answerability.json`.

    python -m bench.train_answerability [--write]

Development data, and nothing else is read here:

- every second question of the articles with even numbers of `xquad_en`, as it is, with the passage that
  answers taken away, and with one name or number replaced by another;
- half A of `samples/golden.jsonl`;
- `bench/well_architected_development.jsonl`, asked of the documents that it names.

Each sentence that the product would compare is an example; it is positive where it holds the answer and
stands in the document that the question was written for. Every question that has an answer is used once more
without the sentences that answer it: what is left is near and answers nothing. A question that a person wrote
counts DEVELOPMENT_WEIGHT times one of `xquad_en`, whose questions repeat their passages' words.

The threshold is the score that FALSE_NOT_FOUND of the answerable questions that people wrote stay below, each
scored by weights that were fitted without its sixth. `python dev.py bench answers` tests on what is held out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
VERSION = 2
RERANKER = "ms-marco-MiniLM-L-12-v2-int8"
DEVELOPMENT_WEIGHT = 5.0
# Half of the bar: the quantile of some 70 questions is that rough, and other documents move the scale.
FALSE_NOT_FOUND = 0.05
# Of a question's sentences the likeliest are fitted again: a threshold is about these.
LIKELIEST = 16
# Questions of xquad_en whose sentences are re-ranked, for the order alone.
ORDERED_QUESTIONS = 150
FOLDS = 6
RIDGE = 1e-3
ITERATIONS = 60
SEED = 4
_NAME_OR_NUMBER = re.compile(r"(?<=\w )(?:[A-Z][\w-]{3,}|[\w-]*\d[\w-]*)")

Matrix = Any


@dataclass(slots=True)
class Example:
    """A question's sentences: their features, which of them answer, and what a re-ranker reads of them."""

    asked: bench.Asked
    features: Matrix
    labels: Matrix
    contexts: list[str]

    @property
    def answerable(self) -> bool:
        return self.asked.document is not None


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench train_answerability")
    parser.add_argument("--write", action="store_true", help="replace answerability.json")
    options = parser.parse_args(argv)
    data = bench.data_folder()
    if not (data / "xquad_en").is_dir() or not (data / "well-architected").is_dir():
        print(f"nothing to train on: {data} does not have xquad_en and well-architected")
        return 1
    xquad = asyncio.run(xquad_examples(data / "xquad_en"))
    written = {
        "samples, half A": asyncio.run(sample_examples()),
        "well-architected, development": asyncio.run(well_architected_examples(data / "well-architected")),
    }
    people = [example for examples in written.values() for example in examples]
    scores = out_of_fold(xquad, people)
    answerable = np.array([example.answerable for example in people])
    threshold = float(np.quantile(scores[answerable], FALSE_NOT_FOUND))
    end = 0
    for name, examples in written.items():
        part = slice(end, end := end + len(examples))
        yes, no = scores[part][answerable[part]], scores[part][~answerable[part]]
        print(f"{name}, out of fold: {described(yes, no, threshold)}")
    model = {
        "version": VERSION,
        "trained_on": "bench/train_answerability.py; xquad_en is CC BY-SA 4.0",
        "answers": as_written(fitted(xquad, people), quoting.FEATURES) | {"threshold": round(threshold, 4)},
        "order": as_written(ordering(xquad, people), (*quoting.FEATURES, quoting.RELEVANCE))
        | {"reranker": RERANKER},
    }
    print(json.dumps(model, indent=2))
    if options.write:
        MODEL_FILE.write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")
    return 0


async def xquad_examples(folder: Path) -> list[Example]:
    chance = random.Random(SEED)
    questions = [asked for asked in bench.xquad_questions(folder) if bench.article(asked) % 2 == 0]
    found = [match for asked in questions for match in _NAME_OR_NUMBER.findall(asked.text)]
    names = sorted({name for name in found if not re.search(r"\d", name)})
    examples = []
    async with opened(bench.xquad_documents(folder)) as library:
        for number, asked in enumerate(questions):
            if number // 2 % 2:  # two entries a question: with its passage and without
                continue
            examples.append(await example(library, asked))
            swapped = with_other_name(asked.text, names, chance) if asked.document else None
            if swapped:
                examples.append(await example(library, replace(asked, text=swapped, document=None)))
    return examples


async def sample_examples() -> list[Example]:
    async with opened(bench.sample_documents()) as library:
        return [await example(library, a) for a in bench.sample_questions() if bench.half_of(a) == 0]


async def well_architected_examples(folder: Path) -> list[Example]:
    questions = list(bench.well_architected_questions("well_architected_development.jsonl"))
    files = sorted({folder / asked.document for asked in questions if asked.document})
    async with opened(bench.well_architected_documents(files)) as library:
        return [await example(library, asked) for asked in questions]


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


async def example(library: bench.Library, asked: bench.Asked) -> Example:
    request = bench.request(asked)
    found = await library.search(
        bench.CALLER, request.collections, asked.text, filter=request.filter, top=request.top
    )
    candidates = quoting.candidates(Question.read(asked.text), found.passages)
    texts = [candidate.text for candidate in candidates]
    fresh = [text for text in dict.fromkeys(texts) if text not in _vectors]
    embedded = await embed_beginnings(library, bench.MODEL, fresh, call=None)  # type: ignore[arg-type]
    _vectors.update(zip(fresh, map(list, embedded.vectors), strict=True))
    asks = found.vectors[bench.MODEL]
    numbers = [(quoting.cosine(asks, _vectors[c.text]), *c.evidence) for c in candidates]
    labels = [
        found.passages[candidate.passage].chunk.document == asked.document
        and any(bench.plain(words) in bench.plain(candidate.text) for words in asked.evidence)
        for candidate in candidates
    ]
    matrix = np.array(numbers).reshape(-1, len(quoting.FEATURES))
    return Example(asked, matrix, np.array(labels, dtype=float), [c.context for c in candidates])


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


def out_of_fold(xquad: Sequence[Example], people: Sequence[Example]) -> Matrix:
    """The best score of each question that a person wrote, by weights that were fitted without its fold."""
    folds = np.random.default_rng(SEED).integers(FOLDS, size=len(people))
    scores = np.zeros(len(people))
    for fold in range(FOLDS):
        weights = fitted(xquad, [each for each, of in zip(people, folds, strict=True) if of != fold])
        for place in np.flatnonzero(folds == fold):
            scores[place] = likeliest(people[int(place)], weights)
    return scores


def fitted(xquad: Sequence[Example], people: Sequence[Example]) -> Matrix:
    """The weights that say whether a sentence answers: fitted to all, then to the likeliest of each."""
    weighted = [(example, 1.0) for example in xquad] + [(example, DEVELOPMENT_WEIGHT) for example in people]
    first = regression((each.features, each.labels, weight) for each, weight in weighted)
    parts = []
    for each, weight in weighted:
        order = np.argsort(-(each.features @ first[:-1]))[:LIKELIEST]
        features, labels = each.features[order], each.labels[order]
        parts.append((features, labels, weight))
        if labels.any():
            parts.append((features[labels == 0], labels[labels == 0], weight))
    return regression(parts)


def ordering(xquad: Sequence[Example], people: Sequence[Example]) -> Matrix:
    """The weights that say which of a question's likeliest sentences answers, with a re-ranker's help."""
    from modelhost.reranking import Reranker

    likely = fitted(xquad, people)
    reranker = Reranker()
    parts = []
    ordered = [each for each in xquad if each.labels.any()][:ORDERED_QUESTIONS]
    for each, weight in [(e, 1.0) for e in ordered] + [(e, DEVELOPMENT_WEIGHT) for e in people]:
        order = np.argsort(-(each.features @ likely[:-1]))[: quoting.RERANKED_MAX]
        if not each.labels[order].any():
            continue
        relevances = reranker.scores([(each.asked.text, each.contexts[place]) for place in order])
        parts.append((np.column_stack([each.features[order], relevances]), each.labels[order], weight))
    reranker.close()
    return regression(parts)


def regression(parts: Iterable[tuple[Matrix, Matrix, float]]) -> Matrix:
    """Weights and, last, the bias of a logistic regression with a ridge, by Newton's method."""
    taken = [part for part in parts if len(part[1])]
    features = np.vstack([part[0] for part in taken])
    labels = np.concatenate([part[1] for part in taken])
    counts = np.concatenate([np.full(len(part[1]), part[2]) for part in taken])
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    design = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    ridge = np.r_[np.full(len(mean), RIDGE * counts.sum()), 1e-6]
    weights = np.zeros(design.shape[1])
    for _ in range(ITERATIONS):
        odds = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (counts * (odds - labels)) + ridge * weights
        curve = (design * (counts * odds * (1 - odds))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-7:
            break
    scaled = weights[:-1] / scale
    return np.r_[scaled, weights[-1] - scaled @ mean]


def likeliest(example: Example, weights: Matrix) -> float:
    """The score of the likeliest sentence."""
    if not len(example.features):
        return -100.0
    return float((example.features @ weights[:-1] + weights[-1]).max())


def as_written(weights: Matrix, names: Sequence[str]) -> dict[str, Any]:
    values = {name: round(float(weight), 4) for name, weight in zip(names, weights[:-1], strict=True)}
    return {"weights": values, "bias": round(float(weights[-1]), 4)}


def described(answerable: Matrix, unanswerable: Matrix, threshold: float) -> str:
    area = (answerable[:, None] > unanswerable[None, :]).mean()
    at_bar = float(np.quantile(answerable, 0.10))
    return (
        f"not found {(unanswerable < threshold).mean():.1%} of {len(unanswerable)} without answer, "
        f"{(answerable < threshold).mean():.1%} of {len(answerable)} with one; area {area:.3f}; "
        f"{(unanswerable < at_bar).mean():.1%} at 10% wrongly"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
