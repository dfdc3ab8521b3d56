from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator

import pytest

from shared.errors import InvalidParameter
from shared.inferencing import usage_report
from shared.inferencing.ledger import Line, Source
from shared.inferencing.usage_report import NUMBERS, check_by, summed, to_csv, total

# 2026-03-01T00:00Z
HOUR = 492_312


async def given(*lines: Line) -> AsyncIterator[Line]:
    for line in lines:
        yield line


def line(hour: int = HOUR, user: str = "ada", **numbers: float) -> Line:
    return Line(hour, Source(user, "answer", "chat", "1", "v1"), {"calls": 1, **numbers})


async def test_rows_are_summed_by_times_and_sources_in_order() -> None:
    rows = await summed(given(line(), line(HOUR + 23), line(HOUR + 24), line(user="bob")), ("day", "user"))
    assert [(row["day"], row["user"], row["calls"]) for row in rows] == [
        ("2026-03-01", "ada", 2),
        ("2026-03-01", "bob", 1),
        ("2026-03-02", "ada", 1),
    ]
    hours = await summed(given(line(HOUR + 5)), ("hour", "month"))
    assert (hours[0]["hour"], hours[0]["month"]) == ("2026-03-01T05:00:00Z", "2026-03")


async def test_a_user_sees_its_own_alone() -> None:
    rows = await summed(given(line(), line(user="bob"), line(user="")), ("user",), user="bob")
    assert [row["user"] for row in rows] == ["bob"]


async def test_nothing_used_is_a_total_of_nothing() -> None:
    assert await summed(given(), ("day",)) == []
    assert total(await summed(given(), ())) == dict.fromkeys(NUMBERS, 0)


async def test_small_costs_are_not_rounded_away_in_their_sum() -> None:
    rows = await summed(given(*(line(estimated_cost=0.0000004) for _ in range(1000))), ())
    assert rows[0]["estimated_cost"] == 0.0004


@pytest.mark.parametrize("names", [["tenant"], ["day", "day"], ["calls"], [""]])
def test_usage_is_not_summed_by_what_it_does_not_know(names: list[str]) -> None:
    with pytest.raises(InvalidParameter):
        check_by(names)


async def test_more_rows_than_a_response_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_report, "MOST_ROWS", 2)
    assert len(await summed(given(line(), line(user="bob"), line()), ("user",))) == 2
    with pytest.raises(InvalidParameter, match="more than 2 rows"):
        await summed(given(line(), line(user="bob"), line(user="eve")), ("user",))


@pytest.mark.parametrize(
    "user",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", '=HYPERLINK("x")', "=1\n=2"],
)
async def test_no_cell_is_a_formula_to_a_spreadsheet(user: str) -> None:
    rows = await summed(given(line(user=user)), ("user",))
    cells = list(csv.reader(io.StringIO(to_csv(rows, ("user",)), newline="")))
    assert cells[0] == ["user", *NUMBERS]
    assert cells[1][0] == f"'{user}"


async def test_ordinary_cells_and_quotation_marks_come_through_csv_as_they_are() -> None:
    users = ["ada@contoso.example", 'a "b", c', "x-1", "a\nb"]
    rows = await summed(given(*(line(user=user) for user in users)), ("user",))
    cells = list(csv.reader(io.StringIO(to_csv(rows, ("user",)), newline="")))
    assert sorted(row[0] for row in cells[1:]) == sorted(users)
    assert [row[1] for row in cells[1:]] == ["1"] * 4
