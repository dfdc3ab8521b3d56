"""What is read from a question, and which sentences are compared with it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.intelligence import quoting
from shared.intelligence.evidence import Question, coverage, lacks_kind, missing, rarities, stems
from shared.intelligence.quoting import CANDIDATES_MAX, FEATURES, QUOTES_MAX, answerability
from shared.knowledge.index import IndexedChunk
from shared.knowledge.retrieval import Passage


def passage(text: str, document: str = "rules.md") -> Passage:
    chunk = IndexedChunk(
        id=document,
        tenant="acme",
        collection="c",
        document=document,
        version=1,
        ordinal=0,
        text=text,
        title="",
        headings=(),
        page=None,
        page_end=None,
        start=0,
        end=len(text),
        media_type="text/plain",
        source="",
        tags=(),
        updated=datetime(2026, 1, 1, tzinfo=UTC),
        readers=("tenant:*",),
    )
    return Passage(chunk, 1.0)


@pytest.mark.parametrize(
    ("text", "names", "numbers", "expects"),
    [
        ("What does fault code F-17 mean?", set(), {"f-17"}, ""),
        ("How high was the revenue in 2021?", set(), {"2021"}, "number"),
        ("Who is our dealer in Hoogwater?", {"hoogwat"}, set(), "person"),
        ("When does Birk Oland return?", {"birk", "oland"}, set(), "time"),
        ("Lorries use which gate?", set(), set(), ""),
    ],
)
def test_names_numbers_and_the_expected_kind_are_read(
    text: str, names: set[str], numbers: set[str], expects: str
) -> None:
    question = Question.read(text)
    assert (set(question.names), set(question.numbers), question.expects) == (names, numbers, expects)


@pytest.mark.parametrize(
    ("question", "answer", "lacks"),
    [
        ("How many days?", "Up to two days.", False),
        ("How many days?", "Some days.", True),
        ("When did it burn in 2003?", "It burnt in 2003.", True),
        ("When did it burn?", "On the night of 8 November.", False),
        ("Who owns it?", "It belongs to Ingrid Salter.", False),
        ("Who owns it?", "It belongs to nobody.", True),
        ("Why did it burn?", "Nobody knows.", False),
    ],
)
def test_an_answer_must_hold_the_kind_that_is_asked_for(question: str, answer: str, lacks: bool) -> None:
    assert lacks_kind(Question.read(question), answer) is lacks


def test_a_rare_word_counts_more_than_one_in_every_passage() -> None:
    question = Question.read("resin store harbour")
    held = [stems("the resin store"), stems("a resin")]
    weights = rarities(question, held)
    assert weights["harbour"] > weights["stor"] > weights["resin"]
    assert coverage(weights, stems("resin")) < coverage(weights, stems("harbour"))


def test_related_forms_have_one_stem_and_figures_keep_theirs() -> None:
    assert stems("heated heating heats") == stems("heat")
    assert stems("4,000 kg") == {"4000", "kg"}
    assert missing({"f-17"}, stems("code F-71")) == 1.0


def test_a_question_without_content_words_is_covered_by_anything() -> None:
    assert coverage({}, frozenset()) == 1.0


@pytest.mark.parametrize("sentences", [CANDIDATES_MAX, CANDIDATES_MAX + 1])
def test_no_more_sentences_are_compared_than_the_limit(sentences: int) -> None:
    text = " ".join(f"The store number {number} holds resin." for number in range(sentences))
    found = quoting.candidates(Question.read("What does the store hold?"), [passage(text)])
    assert len(found) == CANDIDATES_MAX


def test_the_sentences_that_share_most_with_the_question_are_kept() -> None:
    noise = " ".join(f"Nothing of use stands in line {number} here." for number in range(CANDIDATES_MAX + 10))
    found = quoting.candidates(
        Question.read("How much resin may be stored?"),
        [passage(noise, "a.md"), passage(noise + " The store takes 4,000 kg of resin.", "b.md")],
    )
    assert any("4,000" in candidate.text for candidate in found)


def test_at_most_three_sentences_are_quoted_and_none_twice() -> None:
    text = (
        "The store holds 4,000 kg of resin. " * 3
        + "Resin is stored up to 4,000 kg. Resin: 4,000 kg a store. "
    )
    found = quoting.candidates(Question.read("How much resin may the store hold?"), [passage(text * 2)])
    quotes = quoting.choose(found, [0.9] * len(found))
    assert 1 <= len(quotes) <= QUOTES_MAX
    assert len({quote.candidate.text for quote in quotes}) == len(quotes)


def test_the_threshold_decides_whether_anything_is_quoted() -> None:
    found = quoting.candidates(
        Question.read("How much resin may be stored?"), [passage("Up to 4,000 kg of it.")]
    )
    score = quoting.ranked(found, [0.5])[0].score
    slope = answerability().weights[0]
    at_threshold = 0.5 + (answerability().threshold - score) / slope
    assert quoting.choose(found, [at_threshold + 1e-6])
    assert not quoting.choose(found, [at_threshold - 1e-6])


def test_likeness_and_shared_words_speak_for_a_sentence_and_foreign_names_against_it() -> None:
    weights = dict(zip(FEATURES, answerability().weights, strict=True))
    assert weights["similarity"] > 0
    assert weights["words_around"] > 0
    assert weights["number_missing_everywhere"] < 0
    assert weights["name_missing_everywhere"] < 0


def test_the_label_changes_with_the_weights() -> None:
    assert answerability().label.startswith("quoting@1+")
    assert len(answerability().label) == len("quoting@1+") + 12
