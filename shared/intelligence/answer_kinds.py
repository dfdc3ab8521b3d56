"""What kind of answer a question asks for, and whether a text holds something of that kind.

A person, a time or a number is recognised by the form of its words; a price, a share, a duration, a weight,
a length, a loudness or a temperature by its unit. English; a question in another language asks for nothing
that is known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_DIGIT = re.compile(r"\d")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NUMBER_WORDS = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million
    billion half third quarter dozen once twice first second both several
    """
)
_TIME_WORDS = _words(
    """
    january february march april may june july august september october november december jan feb mar apr jun
    jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mondays tuesdays
    wednesdays thursdays fridays saturdays sundays century today yesterday tomorrow spring summer autumn
    winter day days week weeks month months year years hour hours morning noon evening night
    """
)
_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|far|old|high|large|big|tall|deep|fast|heavy|wide|often|loud|warm|hot|cold|"
    r"thick|small|short|strong)\b|"
    r"\b(?:what|which) (?:is |was |are |were |does |did )?(?:the |a |an )?(?:\w+ ){0,2}"
    r"(?:percentage|share|price|cost|amount|number|fee|sum|salary|weight|height|width|depth|diameter|size|load|"
    r"torque|rate|speed|temperature|population|total|limit|discount|value|port|age|distance|length)\b|\bcosts?\b",
    re.IGNORECASE,
)
_ASKS_TIME = re.compile(
    r"\bwhen\b|\b(?:what|which|in what|on which|from which) (?:year|date|day|month|century|decade|time)\b|"
    r"\buntil when\b|\bsince when\b",
    re.IGNORECASE,
)
_ASKS_PERSON = re.compile(r"\bwho(?:m|se)?\b", re.IGNORECASE)
_COUNTED = re.compile(r"\bhow many (?:(?:more|other|different) )?([a-z-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Measure:
    """A kind of answer that is known by its unit. The patterns ignore case."""

    name: str
    asks: re.Pattern[str]
    holds: re.Pattern[str]


def _measure(name: str, asks: str, holds: str) -> Measure:
    return Measure(name, re.compile(asks, re.IGNORECASE), re.compile(holds, re.IGNORECASE))


MEASURES = (
    _measure("year", r"\b(?:what|which) year\b", r"\b(?:1\d|20)\d\d\b"),
    _measure(
        "money",
        r"\bhow much (?:\w+ ){1,8}?(?:costs?|paid|pay|earn|charged?|spend|claim|reimbursed)\b|"
        r"\b(?:costs?|priced?|fee|salary|surcharge|allowance|fare|rent|fine|deposit|charge|penalty|revenue|"
        r"turnover|earn)\b.*\?|\bwhat .*\b(?:pay|paid)\b",
        r"[€$£]|\b(?:EUR|USD|GBP|CHF|euros?|dollars?|pounds?|cents?|free|percent|per cent)\b|%",
    ),
    _measure(
        "share",
        r"\b(?:what|which) (?:[\w'-]+ ){0,4}(?:share|percentage|portion|proportion|percent|discount)\b|"
        r"\bhow many per ?cent\b|\bat what percentages?\b",
        r"%|\bper ?cent\b|\b(?:half|third|quarter|fifth|tenth|all|none|every|whole)\b",
    ),
    _measure(
        "duration",
        r"\bhow (?:long|soon|quickly|fast|often|late|early)\b|\bdeadline\b|\bnotice period\b|"
        r"\bhow many (?:\w+ )?(?:ms|milliseconds|seconds|minutes|hours|days|weeks|months|years)\b",
        r"\d|\b(?:milliseconds?|seconds?|minutes?|hours?|hourly|days?|daily|nights?|weeks?|weekly|fortnight|"
        r"months?|monthly|quarter(?:ly)?|years?|yearly|annual(?:ly)?|decades?|centur(?:y|ies)|immediately|"
        r"at once|once|twice|times|never|always|every|met(?:re|er)s?|km|cm|mm|miles?|feet|rpm|per|"
        r"(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b",
    ),
    _measure(
        "mass",
        r"\bhow heavy\b|\bweigh[st]?\b|\bkilograms?\b|\bmass\b",
        r"\d ?(?:kg|g|t|lb)\b|\b(?:kg|kilograms?|kilos?|tonnes?|tons?|grams?|pounds?)\b",
    ),
    _measure(
        "length",
        r"\bhow (?:deep|tall|wide|thick|far)\b|\b(?:diameter|width|height|depth|thickness)\b",
        r"\d ?(?:m|cm|mm|km|ft|in)\b|"
        r"\b(?:(?:kilo|centi|milli)?met(?:re|er)s?|miles?|feet|foot|inch(?:es)?|yards?)\b",
    ),
    _measure("loudness", r"\bhow loud\b|\bnoise\b", r"\bdB\b|decibel"),
    _measure(
        "temperature",
        r"\btemperature\b|\bhow (?:hot|cold|warm)\b",
        r"°|\bdegrees?\b|\bcelsius\b|\d ?C\b",
    ),
)
_BY_NAME = {measure.name: measure for measure in MEASURES}


def asked(question: str) -> frozenset[str]:
    """The kinds that a question asks for: at most one of "time", "number" and "person", and any measures."""
    kinds = {measure.name for measure in MEASURES if measure.asks.search(question)}
    if _ASKS_TIME.search(question):
        kinds.add("time")
    elif _ASKS_NUMBER.search(question):
        kinds.add("number")
    elif _ASKS_PERSON.search(question):
        kinds.add("person")
    return frozenset(kinds)


def counted(question: str) -> str:
    """The word for what is counted, after "how many"; empty where nothing is."""
    match = _COUNTED.search(question)
    return match[1] if match else ""


def holds_all(kinds: frozenset[str], words: Sequence[str], text: str, is_name: Callable[[str], bool]) -> bool:
    """Whether a text holds something of every kind.

    ``words`` are those of the sentence that the question does not hold, ``text`` is the sentence with the
    header of its table, where units often stand.
    """
    for kind in kinds:
        if kind == "time":
            held = any(_DIGIT.search(word) or word.lower() in _TIME_WORDS for word in words)
        elif kind == "number":
            held = any(_DIGIT.search(word) or word.lower() in _NUMBER_WORDS for word in words)
        elif kind == "person":
            held = any(is_name(word) for word in words)
        else:
            held = _BY_NAME[kind].holds.search(text) is not None
        if not held:
            return False
    return True
