"""Usage summed up: by time and source, as rows for the API and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shared.errors import InvalidParameter

from .ledger import HOUR_SECONDS, Line

TIMES = {"hour": "%Y-%m-%dT%H:00:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
SOURCES = ("user", "purpose", "model", "model_version", "prompt_version")
NUMBERS = (
    "calls",
    "failed",
    "refused",
    "upstream_calls",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "estimated_cost",
    "answer_hits",
    "answer_misses",
    "retrieval_hits",
    "retrieval_misses",
    "embedding_hits",
    "embedding_misses",
)
# A spreadsheet opens a million rows; a response of this many is some megabytes.
MOST_ROWS = 50_000
# What makes a spreadsheet read a text as a formula (OWASP, "CSV Injection"), full-width forms too.
FORMULA = re.compile(r"\s*[=+\-@\t\r\n＝＋－＠]")

Row = dict[str, Any]


def check_by(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` if usage can be summed by them; raises `InvalidParameter`."""
    known = (*TIMES, *SOURCES)
    for name in names:
        if name not in known:
            raise InvalidParameter(f"'by' takes {', '.join(known)}; not {name[:64]!r}.", parameter="by")
    if len(set(names)) != len(names):
        raise InvalidParameter("'by' names something twice.", parameter="by")
    return tuple(names)


async def summed(lines: AsyncIterator[Line], by: Sequence[str], user: str | None = None) -> list[Row]:
    """One row for each combination of what is summed ``by``, in order; ``user`` leaves out all others.

    A row has the members of ``by`` and every number. Without ``by`` there is one row, the total.
    """
    sums: dict[tuple[str, ...], dict[str, float]] = {}
    async for line in lines:
        if user is not None and line.source.user != user:
            continue
        key = tuple(_value(line, name) for name in by)
        if key not in sums and len(sums) == MOST_ROWS:
            raise InvalidParameter(
                f"These are more than {MOST_ROWS} rows: ask for less time, or sum by less.", parameter="by"
            )
        numbers = sums.setdefault(key, {})
        for name, number in line.numbers.items():
            numbers[name] = numbers.get(name, 0) + number
    if not by:
        sums.setdefault((), {})
    return [{**dict(zip(by, key, strict=True)), **_all(numbers)} for key, numbers in sorted(sums.items())]


def total(rows: Sequence[Mapping[str, Any]]) -> Row:
    """The numbers of ``rows`` together."""
    return _all({name: sum(row[name] for row in rows) for name in NUMBERS})


def to_csv(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> str:
    """``rows`` as CSV (RFC 4180) with a header; no cell is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*by, *NUMBERS])
    for row in rows:
        writer.writerow([*(_harmless(row[name]) for name in by), *(row[name] for name in NUMBERS)])
    return text.getvalue()


def _value(line: Line, name: str) -> str:
    if name in TIMES:
        return datetime.fromtimestamp(line.hour * HOUR_SECONDS, UTC).strftime(TIMES[name])
    return getattr(line.source, name)


def _all(numbers: Mapping[str, float]) -> Row:
    return {name: _rounded(name, numbers.get(name, 0)) for name in NUMBERS}


def _rounded(name: str, number: float) -> float:
    return round(number, 6) if name == "estimated_cost" else int(number)


def _harmless(cell: str) -> str:
    return f"'{cell}" if FORMULA.match(cell) else cell
