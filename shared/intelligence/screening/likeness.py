"""How much a text is like an attack on a language model: a linear model over words and their parts.

Features are hashed words and signs, pairs and triples of words, and the parts of three to five letters of
each word, so that a misspelt or inflected word still counts. Signs do not stand between the words of a
pair: an attack that is strewn with commas reads as it does without. The likeness of a window of words is
the sum of its weights over the root of their number; that of a text is that of its likeliest window, since
an attack is often one sentence in a page. Whatever its length, a text is read once.

The weights are made by ``python -m bench.train_screening --write`` and measured by ``dev.py bench
screening``.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights.bin")
FACTS = Path(__file__).with_name("weights.json")
# Words and signs of a window: a short sentence, a long one, a paragraph. Each moves on by half its length.
WINDOWS = (12, 30, 75)
# Buckets of hashed words and their sequences, and as many again of parts of words.
BUCKETS = 1 << 17
PARTS = (3, 4, 5)
KNOWN_WORDS = 16_384

_TOKEN = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")


def tokens(text: str) -> list[str]:
    """The words, numbers and signs of a folded text."""
    return _TOKEN.findall(text)


def word_features(word: str) -> list[int]:
    """The buckets of a word and of its parts."""
    found = [_bucket(word)]
    if len(word) > 1:
        framed = f" {word} "
        for size in PARTS:
            found += [
                BUCKETS + _bucket(framed[start : start + size]) for start in range(len(framed) - size + 1)
            ]
    return found


def sequence_features(before: str, last: str, word: str) -> tuple[int, int]:
    """The buckets of a word with the one and the two before it; a text begins after empty words."""
    return _bucket(f"{last} {word}"), _bucket(f"{before} {last} {word}")


def features(words: Sequence[str]) -> Iterator[list[int]]:
    """The buckets that each word or sign of a text adds, in their order."""
    before = last = ""
    for word in words:
        if word.isalnum():
            yield [*word_features(word), *sequence_features(before, last, word)]
            before, last = last, word
        else:
            yield word_features(word)


def windows(length: int, sizes: Sequence[int] = WINDOWS) -> list[tuple[int, int]]:
    """The beginnings and ends of the windows over ``length`` words, which leave no word out."""
    found = []
    for size in sizes:
        if length <= size:
            return [*found, (0, length)]
        found += [(start, min(start + size, length)) for start in range(0, length - size // 2, size // 2)]
    return found


def _bucket(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & (BUCKETS - 1)


class Likeness:
    """A trained model. From ``question_threshold`` on a question counts as an attack, from
    ``passage_threshold`` on a passage: to lose a sound passage costs an answer, and there are many of them.
    """

    def __init__(
        self,
        weights: array[float],
        intercept: float,
        question_threshold: float,
        passage_threshold: float,
        version: str,
    ) -> None:
        self.question_threshold = question_threshold
        self.passage_threshold = passage_threshold
        self.version = version
        self.intercept = intercept
        self._weights = weights
        self._of_word = lru_cache(KNOWN_WORDS)(self._read_word)

    def of(self, folded: str) -> float:
        """The likeness of a folded text, about -10 to 10; -inf where it holds no word."""
        words = tokens(folded)
        if not words:
            return -math.inf
        sums, counts = self._by_word(words)
        best = -math.inf
        for start, end in windows(len(words)):
            total = sums[end] - sums[start]
            best = max(best, total / math.sqrt(counts[end] - counts[start]))
        return best + self.intercept

    def _by_word(self, words: Sequence[str]) -> tuple[list[float], list[int]]:
        """The running sums of the weights and of the numbers of features, from no word to all of them."""
        weights, of_word = self._weights, self._of_word
        sums: list[float] = []
        counts: list[int] = []
        before = last = ""
        for word in words:
            total, number = of_word(word)
            if word.isalnum():
                pair, triple = sequence_features(before, last, word)
                total += weights[pair] + weights[triple]
                number += 2
                before, last = last, word
            sums.append(total)
            counts.append(number)
        return list(accumulate(sums, initial=0.0)), list(accumulate(counts, initial=0))

    def _read_word(self, word: str) -> tuple[float, int]:
        found = word_features(word)
        return sum(self._weights[each] for each in found), len(found)


@cache
def trained() -> Likeness:
    """The model that comes with the app."""
    facts = json.loads(FACTS.read_text())
    steps = array("b", zlib.decompress(WEIGHTS.read_bytes()))
    assert len(steps) == 2 * BUCKETS, "weights.bin was made for other features"
    weights = array("f", (step * facts["step"] for step in steps))
    return Likeness(
        weights,
        facts["intercept"],
        facts["question_threshold"],
        facts["passage_threshold"],
        facts["version"],
    )
