"""Evaluates the part of Azure AI Search's filter language that the adapter writes, on plain dicts."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z)|(?P<number>-?\d+)"
    r"|(?P<name>[A-Za-z_][\w.]*)|(?P<mark>[(),:/]))"
)
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a is not None and a > b,
    "ge": lambda a, b: a is not None and a >= b,
    "lt": lambda a, b: a is not None and a < b,
    "le": lambda a, b: a is not None and a <= b,
}
Predicate = Callable[[dict[str, Any]], bool]


class ODataError(Exception):
    pass


def compile_filter(text: str) -> Predicate:
    parser = _Parser(text)
    predicate = parser.disjunction()
    parser.end()
    return predicate


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text.rstrip()):
            match = TOKEN.match(text, position)
            if match is None:
                raise ODataError(f"cannot read {text[position : position + 20]!r}")
            self.tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            position = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> tuple[str, str]:
        if self.at == len(self.tokens) or (expected is not None and self.peek() != expected):
            raise ODataError(f"expected {expected or 'more'}, found {self.peek()!r}")
        self.at += 1
        return self.tokens[self.at - 1]

    def end(self) -> None:
        if self.at != len(self.tokens):
            raise ODataError(f"unexpected {self.peek()!r}")

    def disjunction(self) -> Predicate:
        parts = [self.conjunction()]
        while self.peek() == "or":
            self.take()
            parts.append(self.conjunction())
        return lambda item: any(part(item) for part in parts)

    def conjunction(self) -> Predicate:
        parts = [self.term()]
        while self.peek() == "and":
            self.take()
            parts.append(self.term())
        return lambda item: all(part(item) for part in parts)

    def term(self) -> Predicate:
        if self.peek() == "not":
            self.take()
            inner = self.term()
            return lambda item: not inner(item)
        if self.peek() == "(":
            self.take()
            inner = self.disjunction()
            self.take(")")
            return inner
        kind, name = self.take()
        if kind != "name":
            raise ODataError(f"expected a field, found {name!r}")
        if name == "search.in":
            return self.search_in()
        if self.peek() == "/":
            return self.any_of(name)
        operator = self.take()[1]
        value = self.value()
        return lambda item: COMPARE[operator](_comparable(field(item, name)), value)

    def any_of(self, name: str) -> Predicate:
        for expected in ("/", "any", "("):
            self.take(expected)
        variable = self.take()[1]
        self.take(":")
        inner = self.disjunction()
        self.take(")")
        return lambda item: any(inner({**item, variable: value}) for value in field(item, name) or [])

    def search_in(self) -> Predicate:
        self.take("(")
        name = self.take()[1]
        self.take(",")
        listed = self.value()
        self.take(",")
        marks = self.value()
        self.take(")")
        values = {part.strip() for part in re.split(f"[{re.escape(marks)}]", listed)} - {""}
        return lambda item: field(item, name) in values

    def value(self) -> Any:
        kind, text = self.take()
        if kind == "text":
            return text[1:-1].replace("''", "'")
        return int(text) if kind == "number" else _comparable(text)


def field(item: dict[str, Any], name: str) -> Any:
    if name not in item:
        raise ODataError(f"there is no field {name!r}")
    return item[name]


def _comparable(value: Any) -> Any:
    """A time as a moment, everything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value):
        return datetime.fromisoformat(value)
    return value
