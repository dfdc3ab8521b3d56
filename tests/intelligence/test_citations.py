"""Citation numbers and quotations in a model's words are checked against the passages."""

from __future__ import annotations

import pytest

from shared.intelligence.citations import checked_marks, unfaithful_quotes


@pytest.mark.parametrize(
    ("text", "checked", "numbers"),
    [
        ("a [1] b [2].", "a [1] b [2].", [1, 2]),
        ("a [2][1][2]", "a [2][1][2]", [2, 1]),
        ("a [1, 3; 2]", "a [1][2]", [1, 2]),
        ("a [0] [3] [999]", "a   ", []),
        ("a 【2】 [^1]", "a [2] [1]", [2, 1]),
        ("[x] [1a] [] [1", "[x] [1a] [] [1", []),
        ("in [2024] they", "in [2024] they", []),
    ],
)
def test_only_numbers_of_passages_stay(text: str, checked: str, numbers: list[int]) -> None:
    assert checked_marks(text, passages=2) == (checked, numbers)


@pytest.mark.security("LLM09")
@pytest.mark.parametrize(
    ("text", "unfaithful"),
    [
        ('He said "the store holds at most 4,000 kg".', 0),
        ('He said "the store holds at most\n4,000 kg."', 0),
        ('He said "the store holds at most 5,000 kg".', 1),
        ("“The store is always open”, „the store holds at most“.", 1),
        ('The "store" is short.', 0),
    ],
)
def test_quotations_must_stand_in_a_passage(text: str, unfaithful: int) -> None:
    assert unfaithful_quotes(text, ["Rule 1: the store holds  at most\n4,000 kg of resin."]) == unfaithful
