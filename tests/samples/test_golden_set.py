"""The golden set can be trusted: its evidence is in the documents, and its gaps are marked as such."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from samples.build import DOCUMENTS, ROOT
from shared.knowledge.media import HEAD_BYTES, detect
from shared.knowledge.parsing import parse

QUESTIONS: list[dict[str, Any]] = [
    json.loads(line) for line in (ROOT / "golden.jsonl").read_text("utf-8").splitlines()
]
FOUND = [question for question in QUESTIONS if question["document"] is not None]
ABSENT = [question for question in QUESTIONS if question["document"] is None]


def test_the_set_is_large_and_a_quarter_of_it_has_no_answer():
    assert len(QUESTIONS) >= 84
    assert len(ABSENT) >= 22
    assert len(ABSENT) >= len(QUESTIONS) / 4


def test_ids_and_questions_are_unique():
    assert max(Counter(question["id"] for question in QUESTIONS).values()) == 1
    assert max(Counter(question["question"].casefold() for question in QUESTIONS).values()) == 1


def test_every_row_has_the_same_members():
    members = {"id", "question", "document", "answer", "evidence", "kind"}
    assert all(set(question) == members for question in QUESTIONS)


def test_unanswerable_questions_are_marked_and_carry_no_answer():
    for question in QUESTIONS:
        gap = question["kind"] == "absent"
        assert gap == (question["document"] is None), question["id"]
        assert gap == (question["answer"] is None), question["id"]
        assert gap == (question["evidence"] is None), question["id"]


def test_every_type_of_document_is_asked_about():
    types = {path.suffix for path in DOCUMENTS.rglob("*") if path.is_file()}
    assert {Path(question["document"]).suffix for question in FOUND} == types


def test_enough_questions_are_near_duplicate_traps():
    traps = [question for question in FOUND if question["kind"] == "near-duplicate"]
    assert len(traps) >= 6
    assert len({question["document"] for question in traps}) >= 6


@pytest.mark.parametrize("question", FOUND, ids=lambda question: question["id"])
def test_the_evidence_is_in_the_document(question: dict[str, Any]):
    assert _holds(_text(question["document"]), question["evidence"]), question


@pytest.mark.parametrize("question", FOUND, ids=lambda question: question["id"])
def test_the_numbers_of_an_answer_stand_in_its_evidence(question: dict[str, Any]):
    told, shown = (re.findall(r"\d+", question[member].replace(",", "")) for member in ("answer", "evidence"))
    assert set(told) <= set(shown)


@pytest.mark.parametrize("question", FOUND, ids=lambda question: question["id"])
def test_questions_do_not_copy_their_evidence(question: dict[str, Any]):
    asked, told = (
        set(question[member].casefold().strip("?.").split()) for member in ("question", "evidence")
    )
    assert len(asked & told) < 0.8 * len(asked)


def test_the_evidence_of_a_trap_is_in_one_document_alone():
    names = [path.relative_to(DOCUMENTS).as_posix() for path in DOCUMENTS.rglob("*") if path.is_file()]
    for question in FOUND:
        if question["kind"] == "near-duplicate":
            holders = [name for name in names if _holds(_text(name), question["evidence"])]
            assert holders == [question["document"]], question["id"]


def _holds(text: str, evidence: str) -> bool:
    return evidence in " ".join(text.split())


@cache
def _text(name: str) -> str:
    content = (DOCUMENTS / name).read_bytes()
    return parse(content, detect(name, None, content[:HEAD_BYTES]), name).text
