"""Trains `shared/intelligence/screening/weights.bin`.

    python -m bench.train_screening [--write]

Logistic regression over the features of `shared.intelligence.screening.likeness`, on the texts for
development of `bench.screening_texts` alone. The threshold is the likeness that FALSE_ALARMS of the
harmless questions that were not trained on, and of all harmless texts that were not, lie above. Weights are
rounded to STEPS each side of nought. `python dev.py bench screening` measures what was held back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from bench import screening_texts as corpus  # noqa: E402
from laptop import environment  # noqa: E402

VERSION = 2
# Half of what the bar allows: the companies' texts are not ours.
FALSE_ALARMS = 0.005
# Of the harmless texts from documents, whose passages are many for each question.
WITHHELD_WRONGLY = 0.001
DOCUMENTS = (
    "descriptions of packages",
    "policies",
    "rules of a bank",
    "sentences like orders",
    "writing tasks",
)
# Harmless texts outnumber attacks five to one; the hard ones that we wrote are few and count more.
HARMLESS_WEIGHT = 0.6
OWN_WEIGHTS = {"hard": 8.0, "sentences like orders": 2.0}
REGULARISATION = 20.0
WORDS_MAX = 600
# Harmless texts are learnt by windows of these lengths, which are not those of a judgement.
HARMLESS_WINDOWS = (20, 60)
# A short attack is learnt once more in the middle of as many harmless words as make up one of these lengths.
HIDDEN_WINDOWS = (16, 30, 75)
HIDDEN_WORDS_MAX = 40
HIDDEN_WEIGHT = 0.5
SEED = 3
STEPS = 127
# The largest weights are few: beyond this share of them, rounding would cost the others too much.
CLIPPED_QUANTILE = 0.9995


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_screening", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the weights and the digests of the texts")
    options = parser.parse_args(argv)
    own = environment.ensure_screening(Path(sys.executable))
    if Path(sys.executable) != own:
        return subprocess.run([own, "-m", "bench.train_screening", *argv], cwd=PROJECT).returncode
    return _train(options.write)


def _train(write: bool) -> int:
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    from shared.intelligence.screening import likeness as model
    from shared.intelligence.screening.reading import folded

    texts = [*corpus.attacks(), *corpus.harmless()]
    learnt, tried = _divided(texts, folded, model.tokens)
    rows: list[Counter[int]] = []
    labels: list[int] = []
    weights: list[float] = []
    hidden = _hidden(learnt)
    for text, words in [*learnt, *hidden]:
        for features in _examples(text, words, model):
            rows.append(features)
            labels.append(int(text.attack))
            weights.append(_weight(text))
    weights[-len(hidden) :] = [HIDDEN_WEIGHT] * len(hidden)
    indices, values, starts = [], [], [0]
    for row in rows:
        size = sum(row.values()) ** 0.5
        indices += row.keys()
        values += [number / size for number in row.values()]
        starts.append(len(indices))
    matrix = csr_matrix((values, indices, starts), shape=(len(rows), 2 * model.BUCKETS))
    print(f"{sum(labels):,} attacks and {len(labels) - sum(labels):,} harmless windows to learn from")
    learner = LogisticRegression(C=REGULARISATION, max_iter=500)
    learner.fit(matrix, labels, sample_weight=weights)
    exact = learner.coef_[0]
    largest = float(np.quantile(np.abs(exact[exact != 0]), CLIPPED_QUANTILE))
    step = largest / STEPS
    steps = np.clip(np.round(exact / step), -STEPS, STEPS).astype(np.int8)
    rounded = model.Likeness(
        model.array("f", (steps * step).tolist()), float(learner.intercept_[0]), 0.0, 0.0, str(VERSION)
    )
    scores: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for text, words in tried:
        scores[text.family, text.attack].append(rounded.of(" ".join(words)))
    alarms = scores["questions", False]
    in_documents = [score for family in DOCUMENTS for score in scores[family, False]]
    question_threshold = float(np.quantile(alarms, 1 - FALSE_ALARMS))
    passage_threshold = max(question_threshold, float(np.quantile(in_documents, 1 - WITHHELD_WRONGLY)))
    for (family, attack), found in sorted(scores.items()):
        threshold = passage_threshold if family in DOCUMENTS else question_threshold
        share = sum(score > threshold for score in found) / len(found)
        print(f"{'attack  ' if attack else 'harmless'} {family:32} {len(found):6,} {share:8.2%} above")
    print(f"thresholds: questions {question_threshold:.3f}, passages {passage_threshold:.3f}")
    if write:
        packed = zlib.compress(steps.tobytes(), 9)
        model.WEIGHTS.write_bytes(packed)
        facts = {
            "version": f"screening-{VERSION}-{hashlib.sha256(packed).hexdigest()[:8]}",
            "step": step,
            "intercept": rounded.intercept,
            "question_threshold": round(question_threshold, 3),
            "passage_threshold": round(passage_threshold, 3),
        }
        model.FACTS.write_text(json.dumps(facts, indent=2) + "\n")
        held = [*texts, *corpus.held_back_harmless()]
        corpus.LOCK.write_text(json.dumps(corpus.digests(held), indent=2, ensure_ascii=False) + "\n")
        print(f"{model.WEIGHTS.name}: {len(packed):,} bytes")
    return 0


def _divided(texts: Sequence[corpus.Text], folded: Any, tokens: Any) -> tuple[list[Any], list[Any]]:
    """Texts with their words to learn from, and those to choose the threshold by; each text once."""
    seen: set[str] = set()
    learnt, tried = [], []
    for text in texts:
        words = tokens(folded(text.text))[:WORDS_MAX]
        key = " ".join(words)
        if key in seen or not words or text.held_back:
            continue
        seen.add(key)
        (tried if text.for_threshold and text.family != "hard" else learnt).append((text, words))
    return learnt, tried


def _hidden(learnt: Sequence[Any]) -> list[Any]:
    """Short attacks in the middle of harmless words, as a window finds them."""
    chance = random.Random(SEED)
    around = [words for text, words in learnt if not text.attack and len(words) >= HIDDEN_WINDOWS[-1]]
    hidden = []
    for text, words in learnt:
        if text.attack and len(words) <= HIDDEN_WORDS_MAX:
            room = min(size for size in HIDDEN_WINDOWS if size >= len(words)) - len(words)
            cover = chance.choice(around)
            start = chance.randrange(len(cover) - room + 1)
            before = chance.randint(0, room)
            inside = [*cover[start : start + before], *words, *cover[start + before : start + room]]
            hidden.append((text, inside))
    return hidden


def _examples(text: corpus.Text, words: Sequence[str], model: Any) -> list[Counter[int]]:
    """An attack as a whole; a harmless text by each of its windows, since each must be let through."""
    by_word = list(model.features(words))
    spans = [(0, min(len(words), 200))] if text.attack else model.windows(len(words), HARMLESS_WINDOWS)
    return [Counter(each for found in by_word[start:end] for each in found) for start, end in spans]


def _weight(text: corpus.Text) -> float:
    if text.attack or text.family == "questions":
        return 1.0
    return OWN_WEIGHTS.get(text.family, HARMLESS_WEIGHT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
