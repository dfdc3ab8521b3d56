"""Schedules are read as NCRONTAB reads them."""

from datetime import UTC, datetime, timedelta

import pytest

from devhost.errors import AppLoadError
from devhost.timers import Schedule

THURSDAY = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("0 */5 * * * *", "2026-01-01 00:05:00"),
        ("*/5 * * * *", "2026-01-01 00:05:00"),
        ("30 0 9 * * *", "2026-01-01 09:00:30"),
        ("0 30 9 * * 1-5", "2026-01-01 09:30:00"),
        ("0 30 9 * Jan Mon", "2026-01-05 09:30:00"),
        ("0 0 0 * * 0", "2026-01-04 00:00:00"),
        ("00:00:30", "2026-01-01 00:00:30"),
    ],
)
def test_the_next_time_due(text, due):
    assert Schedule(text).after(THURSDAY) == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_day_of_month_and_day_of_week_must_both_fit():
    assert Schedule("0 0 9 1 * MON").after(THURSDAY) == datetime(2026, 6, 1, 9, tzinfo=UTC)


def test_the_time_itself_is_not_after_itself():
    due = Schedule("0 */5 * * * *").after(THURSDAY)
    assert Schedule("0 */5 * * * *").after(due) == due + timedelta(minutes=5)


@pytest.mark.parametrize("text", ["", "every day", "* * * *", "* * * * * * *", "61 * * * * *", "00:00:00"])
def test_anything_else_is_refused_by_its_text(text):
    with pytest.raises(AppLoadError, match="schedule"):
        Schedule(text)
