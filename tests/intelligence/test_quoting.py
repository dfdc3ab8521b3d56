"""What is read from a question, and which sentences are compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from shared.intelligence import quoting
from shared.intelligence.evidence import Question, coverage, lacks_kind, missing, rarities, stems
from shared.intelligence.quoting import (
    CANDIDATES_MAX,
    FEATURES,
    QUOTE_MARGIN,
    QUOTES_MAX,
    RELEVANCE,
    RERANKED_MAX,
    answerability,
)
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
    ("text", "names", "numbers"),
    [
        ("What does fault code F-17 mean?", set(), {"f-17"}),
        ("How high was the revenue in 2021?", set(), {"2021"}),
        ("Who is our dealer in Hoogwater?", {"hoogwat"}, set()),
        ("When does Birk Oland return?", {"birk", "oland"}, set()),
        ("Lorries use which gate?", set(), set()),
    ],
)
def test_names_and_numbers_of_a_question_are_read(text: str, names: set[str], numbers: set[str]) -> None:
    question = Question.read(text)
    assert (set(question.names), set(question.numbers)) == (names, numbers)


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


def test_the_header_of_a_table_tells_the_unit_of_its_rows_but_names_nobody() -> None:
    header = "| Item | Owner | Price in EUR |"
    assert not lacks_kind(Question.read("What does the crank cost?"), "| Crank | – | 120 |", header)
    assert lacks_kind(Question.read("What does the crank cost?"), "| Crank | – | 120 |")
    assert lacks_kind(Question.read("Who has the crank?"), "| crank | – | 120 |", header)


def test_a_sentence_that_does_not_speak_of_what_is_counted_is_marked() -> None:
    text = "The works have 40 employees. The works have 12 windows."
    found = quoting.candidates(Question.read("How many windows do the works have?"), [passage(text)])
    counted = FEATURES.index("counted_missing") - 1  # the similarity comes before the evidence
    assert {c.text: c.evidence[counted] for c in found} == {
        "The works have 40 employees.": 1.0,
        "The works have 12 windows.": 0.0,
    }


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


def test_a_sentence_is_shown_to_the_re_ranker_with_what_it_stands_under() -> None:
    table = "| Item | Price |\n| --- | --- |\n| Crank | 120 |"
    (found,) = quoting.candidates(
        Question.read("What does the crank cost?"), [passage(table, "sales/price-list_2025.csv")]
    )
    assert found.context == "price list 2025: | Item | Price |\n| Crank | 120 |"


def quotes(*scores: float, texts: Sequence[str] = ()) -> list[quoting.Quote]:
    """Quotes of different sentences, with these scores."""
    given = texts or [f"The store number {number} holds resin." for number in range(len(scores))]
    found = quoting.candidates(Question.read("What does the store hold?"), [passage("\n\n".join(given))])
    found.sort(key=lambda candidate: candidate.sentence.start)
    features = (0.0,) * len(FEATURES)
    return [quoting.Quote(candidate, score, features) for candidate, score in zip(found, scores, strict=True)]


def test_at_most_three_sentences_are_quoted_the_likeliest_first() -> None:
    given = quotes(3.0, 2.9, 2.8, 2.7)
    assert quoting.chosen(given) == given[:QUOTES_MAX]


def test_a_sentence_far_less_likely_than_the_first_is_not_quoted() -> None:
    near, far = QUOTE_MARGIN - 0.01, QUOTE_MARGIN + 0.01
    assert len(quoting.chosen(quotes(3.0, 3.0 - near, 3.0 - far))) == 2


def test_what_two_documents_say_in_the_same_words_is_quoted_once() -> None:
    texts = ["The store holds resin.", "The store  HOLDS resin.", "The store holds acetone."]
    assert [q.candidate.text for q in quoting.chosen(quotes(3.0, 2.9, 2.8, texts=texts))] == texts[::2]


def test_the_threshold_decides_whether_anything_is_quoted() -> None:
    found = quoting.candidates(
        Question.read("How much resin may be stored?"), [passage("Up to 4,000 kg of it.")]
    )
    score = quoting.scored(found, [0.5])[0].score
    slope = answerability().answers.weights[0]
    at_threshold = 0.5 + (answerability().threshold - score) / slope
    assert quoting.answers(quoting.scored(found, [at_threshold + 1e-6]))
    assert not quoting.answers(quoting.scored(found, [at_threshold - 1e-6]))
    assert not quoting.answers([])


def test_a_re_ranker_puts_the_likeliest_in_another_order_and_sees_no_more_than_its_limit() -> None:
    given = quotes(*[1.0] * (RERANKED_MAX + 1))
    ordered = quoting.reordered(given, [float(place) for place in range(RERANKED_MAX)])
    assert [q.candidate for q in ordered] == [q.candidate for q in given[:RERANKED_MAX]][::-1]


def test_what_speaks_for_a_sentence_and_against_it_has_the_sign_that_it_should() -> None:
    model = answerability()
    for regression in (model.answers, model.order):
        weights = dict(zip((*FEATURES, RELEVANCE), (*regression.weights, 1.0), strict=False))
        for name in ("similarity", "words_around", "rank"):
            assert weights[name] > 0, name
        for name in ("names_missing", "numbers_missing", "kind_missing", "counted_missing"):
            assert weights[name] < 0, name
    assert model.order.weights[-1] > 0


def test_the_label_changes_with_the_weights() -> None:
    assert answerability().label.startswith("quoting@2+")
    assert len(answerability().label) == len("quoting@2+") + 12
