"""A question is understood with the one before it, and only where it leans on that."""

from __future__ import annotations

import pytest

from shared.intelligence.conversations import TURNS_MAX, checked, standalone


def conversation(*asked: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in asked]


@pytest.mark.parametrize(
    ("last", "leans"),
    [
        ("And in winter?", True),
        ("How much does it weigh?", True),
        ("What about the other one that you named?", True),
        ("How heavy is it?", True),
        ("How much snow can the Heron 42 bear?", False),
        ("Which gate should lorries take?", False),
    ],
)
def test_the_question_before_is_added_where_it_is_needed(last: str, leans: bool) -> None:
    alone = standalone(conversation("Tell me about the Heron 42.", last))
    assert alone == (f"Tell me about the Heron 42. {last}" if leans else last)


def test_a_first_question_stands_alone() -> None:
    assert standalone(conversation("How heavy is it?")) == "How heavy is it?"


@pytest.mark.parametrize(("turns", "kept"), [(TURNS_MAX, TURNS_MAX), (TURNS_MAX + 1, TURNS_MAX)])
def test_only_the_last_turns_go_along(turns: int, kept: int) -> None:
    last = checked(conversation(*(f"question {number}" for number in range(turns))))
    assert len(last) == kept
    assert last[-1]["content"] == f"question {turns - 1}"
