"""How often the semantic answer cache takes one question for another: ``python dev.py bench wordings``.

``wordings.jsonl`` holds questions of the sample library, each with two other wordings (one near, one free)
and two near misses that differ in a fact: another product, year, role, direction. Beside them every question
of the library is held against every other. What cosine alone would do is printed as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from shared.intelligence.wording import LEAST_COSINE, Wording, says_the_same

HERE = Path(__file__).resolve().parent
QUESTIONS = HERE / "wordings.jsonl"
GOLDEN = HERE.parent / "samples" / "golden.jsonl"
# An answer that is given again must be right as often as one that is made: see "Quality of answers".
PRECISION_BAR = 0.99

Pair = tuple[Wording, Wording]
Judge = Callable[[Pair], float]


def main(argv: list[str]) -> int:
    """Print precision and recall; 1 where the bar is missed."""
    entries = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    golden = [json.loads(line)["question"] for line in GOLDEN.read_text().splitlines()]
    texts = {text for entry in entries for text in (entry["question"], *entry["same"], *entry["other"])}
    wordings = _wordings([*texts, *golden])
    pairs: dict[str, list[Pair]] = {
        "near wordings": _pairs(wordings, entries, lambda entry: entry["same"][:1]),
        "free wordings": _pairs(wordings, entries, lambda entry: entry["same"][1:]),
        "near misses": _pairs(wordings, entries, lambda entry: entry["other"]),
        "other questions": [(wordings[one], wordings[other]) for one, other in combinations(golden, 2)],
    }
    print(f"taken for the same{'':8}" + "".join(f"{name:>18}" for name in pairs) + f"{'precision':>12}")
    precision = 0.0
    for title, judge in (("cosine alone", _alike), ("as it is", lambda pair: says_the_same(*pair))):
        taken = {name: sum(judge(pair) > 0 for pair in some) for name, some in pairs.items()}
        right = taken["near wordings"] + taken["free wordings"]
        # Near misses weigh as much as wordings: half of what is asked again is taken to be one.
        precision = right / max(1, right + taken["near misses"] + taken["other questions"])
        cells = "".join(f"{f'{taken[name]} of {len(some)}':>18}" for name, some in pairs.items())
        print(f"{title:26}{cells}{precision:12.3f}")
    print(f"precision at a cosine of {LEAST_COSINE}: {precision:.3f} (bar: at least {PRECISION_BAR})")
    return 0 if precision >= PRECISION_BAR else 1


def _pairs(
    wordings: dict[str, Wording], entries: list[dict[str, list[str]]], chosen: Callable[..., Sequence[str]]
) -> list[Pair]:
    return [(wordings[str(entry["question"])], wordings[text]) for entry in entries for text in chosen(entry)]


def _alike(pair: Pair) -> float:
    one, other = (wording.vector for wording in pair)
    cosine = sum(a * b for a, b in zip(one, other, strict=True))  # the vectors have length 1
    return cosine if cosine >= LEAST_COSINE else 0.0


def _wordings(texts: Sequence[str]) -> dict[str, Wording]:
    from modelhost.embeddings import Embedder

    embedder = Embedder()
    try:
        vectors = embedder.embed(texts)
    finally:
        embedder.close()
    return {text: Wording.read(text, vector.tolist()) for text, vector in zip(texts, vectors, strict=True)}
