"""The golden set can be trusted: its evidence is in the documents, and its gaps are marked as such."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import mammoth
import pypdfium2
import pytest
from pptx import Presentation
from python_calamine import CalamineWorkbook
from samples.build import DOCUMENTS, ROOT

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
def test_questions_do_not_copy_their_evidence(question: dict[str, Any]):
    asked, told = (set(question[member].casefold().strip("?.").split()) for member in ("question", "evidence"))
    assert len(asked & told) < 0.8 * len(asked)


def test_the_evidence_of_a_trap_is_in_one_document_alone():
    names = [path.relative_to(DOCUMENTS).as_posix() for path in DOCUMENTS.rglob("*") if path.is_file()]
    for question in FOUND:
        if question["kind"] == "near-duplicate":
            holders = [name for name in names if _holds(_text(name), question["evidence"])]
            assert holders == [question["document"]], question["id"]


def _holds(text: str, evidence: str) -> bool:
    """Evidence from a table is some of a row's cells in their order, with bars between them."""
    if " | " not in evidence:
        return evidence in " ".join(text.split())
    return any(_in_order(line, evidence.split(" | ")) for line in text.splitlines())


def _in_order(line: str, cells: list[str]) -> bool:
    position = 0
    for cell in cells:
        position = line.find(cell, position)
        if position < 0:
            return False
        position += len(cell)
    return True


@cache
def _text(name: str) -> str:
    path = DOCUMENTS / name
    match path.suffix:
        case ".pdf":
            pages = pypdfium2.PdfDocument(path)
            return "\n".join(page.get_textpage().get_text_range() for page in pages)
        case ".docx":
            with path.open("rb") as file:
                html = mammoth.convert_to_html(file).value
            from html_to_markdown import convert
            return convert(html).content or ""
        case ".pptx":
            lines = []
            for slide in Presentation(str(path)).slides:
                for shape in slide.shapes:
                    if shape.has_table: lines += [" | ".join(c.text for c in row.cells) for row in shape.table.rows]
                    elif shape.has_text_frame: lines.append(shape.text_frame.text)
                lines.append(slide.notes_slide.notes_text_frame.text)
            return "\n".join(lines)
        case ".xlsx":
            book = CalamineWorkbook.from_path(str(path))
            f=lambda c: str(int(c)) if isinstance(c,float) and c==int(c) else str(c)
            return "\n".join(" | ".join(map(f,row)) for s in book.sheet_names for row in book.get_sheet_by_name(s).to_python())
        case ".eml":
            import email, email.policy
            m = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            return m.get_body(("plain",)).get_content()
        case ".html":
            from html_to_markdown import convert
            return convert(path.read_text()).content or ""
        case _:
            return path.read_text("utf-8")
