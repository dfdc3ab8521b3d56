"""A filter that a caller may put on a search: a typed tree over declared fields, never a string.

The public API writes it as JSON:

    {"field": "source", "eq": "wiki"}                      also "ne"
    {"field": "media_type", "in": ["text/html", "application/pdf"]}
    {"field": "tags", "any": ["hr", "legal"]}              a list field that holds one of these
    {"field": "updated", "ge": "2026-01-01T00:00:00Z"}     "gt", "ge", "lt", "le", alone or in pairs
    {"and": [...]}, {"or": [...]}, {"not": {...}}

Fields: document, title, source, media_type (text); version, page (whole numbers); updated (RFC 3339 with
an offset); tags (a list of text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shared.errors import InvalidFilter

MAX_DEPTH = 8  # deeper trees are machine-made; Azure AI Search's own limit on depth is higher
MAX_NODES = 100  # Azure AI Search takes a few hundred clauses before it slows down
MAX_VALUES = 500  # of one "in" or "any"; search.in is made for hundreds of values
MAX_VALUE_CHARACTERS = 1024  # the longest document id
MAX_WHOLE_NUMBER = 2**31 - 1  # Edm.Int32, the narrower of the two indices' integers

Value = str | int | datetime

FIELD_TYPES: Mapping[str, type] = {
    "document": str,
    "title": str,
    "source": str,
    "media_type": str,
    "version": int,
    "page": int,
    "updated": datetime,
    "tags": str,
}
LIST_FIELDS = frozenset({"tags"})
FACETABLE_FIELDS = frozenset({"document", "source", "media_type", "version", "tags"})
_TYPE_NAMES = {str: "text", int: "a whole number", datetime: "an RFC 3339 time with its offset"}


@dataclass(frozen=True, slots=True)
class Eq:
    field: str
    value: Value


@dataclass(frozen=True, slots=True)
class Ne:
    """Also true where the field has no value, in both indices."""

    field: str
    value: Value


@dataclass(frozen=True, slots=True)
class In:
    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A list field that holds at least one of the values."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    field: str
    gt: Value | None = None
    ge: Value | None = None
    lt: Value | None = None
    le: Value | None = None

    def bounds(self) -> dict[str, Value]:
        named = {"gt": self.gt, "ge": self.ge, "lt": self.lt, "le": self.le}
        return {name: bound for name, bound in named.items() if bound is not None}


@dataclass(frozen=True, slots=True)
class And:
    clauses: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    clauses: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    clause: Filter


Filter = Eq | Ne | In | AnyOf | Range | And | Or | Not

_RANGE_WORDS = ("gt", "ge", "lt", "le")


def parse_filter(document: object) -> Filter:
    """The filter that a JSON value stands for; ``InvalidFilter`` names the path to the fault."""
    parsed = _Parser().node(document, "filter", depth=1)
    check_filter(parsed)
    return parsed


class _Parser:
    """Counts the nodes while it walks, so that a huge tree is refused before it is built."""

    def __init__(self) -> None:
        self._nodes = 0

    def node(self, document: object, path: str, depth: int) -> Filter:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise _fault(path, f"is nested deeper than {MAX_DEPTH} levels")
        if self._nodes > MAX_NODES:
            raise _fault(path, f"is one condition more than the {MAX_NODES} allowed")
        if not isinstance(document, dict):
            raise _fault(path, "must be an object")
        if "field" in document:
            return _parse_condition(document, path)
        if len(document) != 1 or not document.keys() & {"and", "or", "not"}:
            raise _fault(path, 'must have "field", or exactly one of "and", "or", "not"')
        ((word, inner),) = document.items()
        if word == "not":
            return Not(self.node(inner, f"{path}.not", depth + 1))
        if not isinstance(inner, list) or not inner:
            raise _fault(f"{path}.{word}", "must be a list with at least one condition")
        clauses = tuple(
            self.node(item, f"{path}.{word}[{position}]", depth + 1) for position, item in enumerate(inner)
        )
        return And(clauses) if word == "and" else Or(clauses)


def _parse_condition(document: dict[str, Any], path: str) -> Filter:
    field = document["field"]
    if not isinstance(field, str) or field not in FIELD_TYPES:
        raise _fault(f"{path}.field", f"must be one of {', '.join(sorted(FIELD_TYPES))}")
    words = [word for word in document if word != "field"]
    if words and set(words) <= set(_RANGE_WORDS):
        return Range(field, **{word: _parse_value(field, document[word], f"{path}.{word}") for word in words})
    if len(words) != 1 or words[0] not in ("eq", "ne", "in", "any"):
        raise _fault(path, 'must have one of "eq", "ne", "in", "any", or a range of "gt", "ge", "lt", "le"')
    word = words[0]
    value_path = f"{path}.{word}"
    if word in ("eq", "ne"):
        value = _parse_value(field, document[word], value_path)
        return Eq(field, value) if word == "eq" else Ne(field, value)
    items = document[word]
    if not isinstance(items, list):
        raise _fault(value_path, "must be a list")
    values = tuple(
        _parse_value(field, item, f"{value_path}[{position}]")
        for position, item in enumerate(items[: MAX_VALUES + 1])
    )
    return In(field, values) if word == "in" else AnyOf(field, values)  # type: ignore[arg-type]


def _parse_value(field: str, value: object, path: str) -> Value:
    if FIELD_TYPES[field] is datetime and isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _fault(path, f"must be {_TYPE_NAMES[datetime]}") from None
    return _checked_value(field, value, path)


def check_filter(tree: Filter, path: str = "filter") -> None:
    """Raise ``InvalidFilter`` unless every field is declared and every value has its field's type."""
    match tree:
        case And(clauses) | Or(clauses):
            if not clauses:
                raise _fault(path, "must have at least one condition")
            for position, clause in enumerate(clauses):
                check_filter(clause, f"{path}[{position}]")
        case Not(clause):
            check_filter(clause, f"{path}.not")
        case AnyOf(field, values):
            _check_field(field, path, is_list=True)
            _check_values(field, values, path)
        case In(field, values):
            _check_field(field, path, is_list=False)
            _check_values(field, values, path)
        case Eq(field, value) | Ne(field, value):
            _check_field(field, path, is_list=False)
            _checked_value(field, value, path)
        case Range():
            _check_field(tree.field, path, is_list=False)
            bounds = tree.bounds()
            if FIELD_TYPES[tree.field] is str or not bounds:
                raise _fault(path, "a range needs a bound, and a field of numbers or times")
            for word, bound in bounds.items():
                _checked_value(tree.field, bound, f"{path}.{word}")
        case _:
            raise _fault(path, "is no filter")


def _check_field(field: str, path: str, *, is_list: bool) -> None:
    if field not in FIELD_TYPES:
        raise _fault(path, f"has no declared field; there are {', '.join(sorted(FIELD_TYPES))}")
    if (field in LIST_FIELDS) != is_list:
        allowed = '"any"' if field in LIST_FIELDS else '"eq", "ne", "in" or a range'
        raise _fault(path, f"must use {allowed} with {field}")


def _check_values(field: str, values: Sequence[object], path: str) -> None:
    if not 1 <= len(values) <= MAX_VALUES:
        raise _fault(path, f"must have 1 to {MAX_VALUES} values")
    for position, value in enumerate(values):
        _checked_value(field, value, f"{path}[{position}]")


def _checked_value(field: str, value: object, path: str) -> Value:
    wanted = FIELD_TYPES[field]
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise _fault(path, f"must be {_TYPE_NAMES[wanted]}")
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARACTERS:
            raise _fault(path, f"must have at most {MAX_VALUE_CHARACTERS} characters")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            raise _fault(path, "must be valid Unicode")
        return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _fault(path, f"must be {_TYPE_NAMES[datetime]}")
        return value.astimezone(UTC)
    assert isinstance(value, int)
    if abs(value) > MAX_WHOLE_NUMBER:
        raise _fault(path, f"must be within ±{MAX_WHOLE_NUMBER}")
    return value


def _fault(path: str, what: str) -> InvalidFilter:
    return InvalidFilter(f"{path} {what}.", path=path)
