"""What kind of answer is asked for, and what holds it."""

from __future__ import annotations

import pytest

from shared.intelligence.answer_kinds import asked, counted
from shared.intelligence.evidence import Question, lacks_kind


@pytest.mark.parametrize(
    ("question", "kinds"),
    [
        ("What does fault code F-17 mean?", set()),
        ("How high was the revenue in 2021?", {"number", "money"}),
        ("Who is our dealer in Hoogwater?", {"person"}),
        ("When does Birk Oland return?", {"time"}),
        ("In which year was it founded?", {"time", "year"}),
        ("What does the surcharge for a coloured coat cost?", {"number", "money"}),
        ("How much may I claim for a night?", {"number", "money"}),
        ("How much does the shutter weigh?", {"number", "mass"}),
        ("How much resin may be stored?", {"number"}),
        ("What share of profits goes to the staff?", {"number", "share"}),
        ("How quickly must a loss be reported?", {"duration"}),
        ("Within how many days?", {"number", "duration"}),
        ("What is the diameter of the dome?", {"number", "length"}),
        ("How loud is it?", {"number", "loudness"}),
        ("At what temperature does it cure?", {"number", "temperature"}),
        ("Wie hoch ist der Preis?", set()),
    ],
)
def test_kinds_are_read_from_a_question(question: str, kinds: set[str]) -> None:
    assert asked(question) == kinds


@pytest.mark.parametrize(
    ("question", "holds", "lacks"),
    [
        ("In which year was it founded?", "It was founded in 1974.", "It was founded in May, by 30 people."),
        ("What does it cost?", "It costs EUR 40.", "It weighs 40 kg."),
        ("What does it cost?", "The first 3 are free.", "There are 3."),
        ("What share is handed out?", "Eight per cent of 3,000.", "We hand out 3,000."),
        ("How soon must I report it?", "At once.", "Report it to the guard."),
        ("How much does it weigh?", "385kg", "385 m"),
        ("What is its diameter?", "It is 4.2 m wide.", "It is 4.2 kg."),
        ("How loud is it?", "62 dB at a metre.", "62 turns a minute."),
        ("At what temperature does it cure?", "At 18 °C.", "In 18 hours."),
    ],
)
def test_a_measure_is_held_by_its_unit(question: str, holds: str, lacks: str) -> None:
    assert not lacks_kind(Question.read(question), holds)
    assert lacks_kind(Question.read(question), lacks)


@pytest.mark.parametrize(
    ("question", "word"),
    [("How many windows are there?", "windows"), ("How many other windows?", "windows"), ("How much?", "")],
)
def test_what_is_counted_follows_how_many(question: str, word: str) -> None:
    assert counted(question) == word
