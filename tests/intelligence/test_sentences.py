"""Sentences are exact spans, whatever the text looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.intelligence.sentences import split


def pieces(text: str, kind: str | None = None) -> list[str]:
    return [text[s.start : s.end] for s in split(text) if kind in (None, s.kind)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One ends. Two ends! Does three?", ["One ends.", "Two ends!", "Does three?"]),
        ("Ask Dr. Reyes in Hall No. 2. He knows.", ["Ask Dr. Reyes in Hall No. 2.", "He knows."]),
        ("It takes 3.5 h, e.g. in winter. Then stop.", ["It takes 3.5 h, e.g. in winter.", "Then stop."]),
        ("J. K. Rowan signed. Fine.", ["J. K. Rowan signed.", "Fine."]),
        ("He left (at last.) She stayed.", ["He left (at last.)", "She stayed."]),
        ("7.1 The term began. It runs.", ["7.1 The term began.", "It runs."]),
        ("1. Open the lid. Wait.", ["1. Open the lid.", "Wait."]),
        ("No end", ["No end"]),
        ("一つ目です。二つ目です。", ["一つ目です。", "二つ目です。"]),
    ],
)
def test_prose_is_cut_where_sentences_end(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_a_wrapped_line_goes_on_and_a_short_one_stands_alone() -> None:
    text = "The track from the landing is washed out in two places; plan\nfor carrying.\nTuesday\nAll dry."
    assert pieces(text) == [
        "The track from the landing is washed out in two places; plan\nfor carrying.",
        "Tuesday",
        "All dry.",
    ]


def test_bullet_points_and_numbered_headings_are_apart() -> None:
    long = "This line of prose is long enough to be one that merely wraps around"
    assert pieces(f"{long}\n- one\n- two\n5 Eating there") == [long, "- one", "- two", "5 Eating there"]


def test_a_table_row_knows_its_header() -> None:
    text = "| Years | Notice |\n| --- | --- |\n| 1 | 1 month |\n| 2 | 2 months |"
    rows = [sentence for sentence in split(text) if sentence.kind == "row"]
    assert [text[row.start : row.end] for row in rows] == ["| 1 | 1 month |", "| 2 | 2 months |"]
    assert {row.header for row in rows} == {"| Years | Notice |"}


def test_rows_of_named_columns_stand_each_alone() -> None:
    text = "Part | Shelf\nPart: Wheel; Shelf: A3\nPart: Switch; Shelf: A4"
    assert pieces(text, "heading") == ["Part | Shelf"]
    assert pieces(text, "row") == ["Part: Wheel; Shelf: A3", "Part: Switch; Shelf: A4"]


@pytest.mark.parametrize(("lines", "kind"), [(18, "row"), (19, "field")])
def test_a_record_is_whole_up_to_its_limit(lines: int, kind: str) -> None:
    text = "\n".join(f"name_{number:02d}: a value of n" for number in range(lines))
    assert (len(text) <= 400) == (kind == "row")
    assert len(pieces(text, kind)) == (1 if kind == "row" else lines)


def test_markdown_headings_are_not_answers() -> None:
    assert [sentence.kind for sentence in split("## Gifts\n\nUp to EUR 40.")] == ["heading", "prose"]


@given(st.text(alphabet=st.sampled_from("aB1 .!?:;|-\n\t#*()«“é。"), max_size=200))
def test_sentences_are_ordered_trimmed_spans_that_lose_no_word(text: str) -> None:
    found = split(text)
    at = 0
    for sentence in found:
        assert at <= sentence.start < sentence.end <= len(text)
        piece = text[sentence.start : sentence.end]
        assert piece == piece.strip()
        lost = text[at : sentence.start]
        assert not any(character.isalnum() for character in lost)
        at = sentence.end
    assert not any(character.isalnum() for character in text[at:])


def test_a_long_text_is_cut_in_reasonable_time() -> None:
    text = "word " * 40_000 + "a.b.c. " * 5_000
    assert split(text)
