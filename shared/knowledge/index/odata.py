"""Filters as Azure AI Search's OData dialect. Values are quoted here and nowhere else."""

from __future__ import annotations

from shared.errors import InvalidParameter
from shared.knowledge.index.filters import And, AnyOf, Eq, Filter, In, Ne, Not, Or, Range, Value
from shared.knowledge.index.protocol import format_instant

_DELIMITERS = "|,;~^\x1f"  # search.in cuts its list at one of these: the first that no value contains


def render(tree: Filter) -> str:
    """The ``$filter`` expression; a tree without clauses, which would match everything, is refused."""
    match tree:
        case And(clauses) if clauses:
            return _joined(" and ", clauses)
        case Or(clauses) if clauses:
            return _joined(" or ", clauses)
        case Not(clause):
            return f"not ({render(clause)})"
        case Eq(field, value):
            return f"{field} eq {_literal(value)}"
        case Ne(field, value):
            return f"{field} ne {_literal(value)}"
        case In(field, values) if values:
            return _one_of(field, values)
        case AnyOf(field, values) if values:
            return f"{field}/any(x: {_one_of('x', values)})"
        case Range() if tree.bounds():
            return " and ".join(f"{tree.field} {word} {_literal(to)}" for word, to in tree.bounds().items())
    raise InvalidParameter("A filter without clauses matches everything and is refused.")


def _joined(operator: str, clauses: tuple[Filter, ...]) -> str:
    return operator.join(f"({render(clause)})" for clause in clauses)


def _one_of(field: str, values: tuple[Value, ...]) -> str:
    """``search.in``, or comparisons where it would trim, drop or cut a value."""
    texts = [value for value in values if isinstance(value, str)]
    delimiter = next((mark for mark in _DELIMITERS if not any(mark in text for text in texts)), None)
    listable = len(texts) == len(values) and all(text and text == text.strip() for text in texts)
    if delimiter is None or not listable:
        return " or ".join(f"{field} eq {_literal(value)}" for value in values)
    return f"search.in({field}, {_literal(delimiter.join(texts))}, {_literal(delimiter)})"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value) if isinstance(value, int) else format_instant(value)
