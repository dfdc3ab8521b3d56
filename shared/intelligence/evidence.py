"""Evidence: how far a sentence seems to answer a question, as numbers that do not depend on the corpus."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from shared.intelligence import answer_kinds
from shared.knowledge.index.lexical import FUNCTION_WORDS

_TOKEN = re.compile(r"\d[\d,.]*\d|[^\W_]+(?:-[^\W_]+)*")
_DIGIT = re.compile(r"\d")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of a question that its answer need not repeat.
_IGNORED = _words(" ".join(FUNCTION_WORDS.values())) | _words(
    """
    a an the of in on at to for from by with about into over under between during before after since until
    and or but if than as so not no nor only own same too very just also any some all each every other such
    i me my we us our you your he him his she her it its they them their one this that these those there here
    is are was were be been being am do does did done doing have has had having can could may might must
    shall should will would what which who whom whose when where why how many much long far often old high
    large big tall deep fast heavy wide get got give gives gave take takes took make makes made go goes
    went let say says mean means called name names kind type sort number amount according please tell
    know want need
    """
)
_SUFFIXES = re.compile(r"(?:ations?|ments?|ings?|edly|ness|ies|ied|ers?|ed|es|ly|s|e|y)$")
_STEM_CHARACTERS_MIN = 3
# A name or number says more of what is asked than a plain word that is as rare.
NAME_WEIGHT = 1.5


def stem(word: str) -> str:
    """A crude stem: related forms of a word mostly have the same."""
    lowered = word.lower()
    if _DIGIT.search(lowered):
        return lowered.replace(",", "")
    shorter = _SUFFIXES.sub("", lowered)
    return shorter if len(shorter) >= _STEM_CHARACTERS_MIN else lowered


def stems(text: str) -> frozenset[str]:
    """The stems of a text's words; a hyphenated one counts whole and in its parts."""
    found = set()
    for token in _TOKEN.findall(text):
        found.add(stem(token))
        if "-" in token:
            found.update(stem(part) for part in token.split("-"))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Question:
    """What a question says of its answer. ``words``, ``names`` and ``numbers`` are stems.

    Names (words with a capital that do not open the question) and numbers (words with a digit, such as
    "2026" or "F-17") are words too. ``kinds`` are those of `answer_kinds` that it asks for, ``counted`` is
    the stem of what it asks to be counted.
    """

    words: frozenset[str]
    names: frozenset[str]
    numbers: frozenset[str]
    kinds: frozenset[str]
    counted: str

    @classmethod
    def read(cls, text: str) -> Question:
        words, names, numbers = set(), set(), set()
        for match in _TOKEN.finditer(text):
            token, before = match[0], text[: match.start()].rstrip(" \"'(")
            opens = not before or before[-1] in ".?!:"
            is_number = bool(_DIGIT.search(token))
            is_name = not is_number and token[0].isupper() and not opens
            acronym = is_name and len(token) > 1 and token.isupper()
            if token.lower() in _IGNORED and not acronym:
                continue
            words.add(stem(token))
            if is_number:
                numbers.add(stem(token))
            elif is_name:
                names.add(stem(token))
        return cls(
            words=frozenset(words),
            names=frozenset(names),
            numbers=frozenset(numbers),
            kinds=answer_kinds.asked(text),
            counted=stem(answer_kinds.counted(text)),
        )


def rarities(question: Question, passages: Sequence[frozenset[str]]) -> dict[str, float]:
    """How much each of the question's words tells: less, the more of the passages hold it."""
    number = len(passages)
    found = {}
    for word in question.words:
        holding = sum(word in passage for passage in passages)
        weight = 0.5 + math.log((number + 1) / (holding + 0.5)) / math.log(2 * number + 2)
        found[word] = weight * (NAME_WEIGHT if word in question.names | question.numbers else 1.0)
    return found


def coverage(weights: Mapping[str, float], text: frozenset[str]) -> float:
    """The share of the question's words, by weight, that stand in a text; 1 where it has none."""
    total = sum(weights.values())
    return sum(weight for word, weight in weights.items() if word in text) / total if total else 1.0


def missing(names: Collection[str], text: frozenset[str]) -> float:
    """The share of ``names`` that do not stand in a text; 0 where there are none."""
    return sum(name not in text for name in names) / len(names) if names else 0.0


def lacks_kind(question: Question, text: str, header: str = "") -> bool:
    """Whether a text lacks a kind that is asked for, beyond the question's own words.

    ``header`` is that of the table whose row the text is.
    """
    if not question.kinds:
        return False
    tokens = [token for token in _TOKEN.finditer(text) if stem(token[0]) not in question.words]
    # The first word of a sentence has its capital from its place.
    named = {token[0] for token in tokens if token.start() and token[0][0].isupper()}
    return not answer_kinds.holds_all(
        question.kinds,
        [token[0] for token in tokens],
        f"{header} {text}",
        lambda word: word in named and word.lower() not in _IGNORED,
    )
