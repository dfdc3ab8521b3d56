"""The golden set can be trusted: its evidence is in the documents, and its gaps are marked as such."""

from __future__ import annotations

import json
from collections import Counter
from email import message_from_bytes
from email.policy import default as default_policy
from functools import cache
from pathlib import Path
from typing import Any

import mammoth
import pypdfium2
import pytest
from html_to_markdown import convert
from pptx import Presentation
from pptx.shapes.autoshape import Shape
from pptx.shapes.graphfrm import GraphicFrame
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
    return _READERS.get(path.suffix, _plain)(path)


def _plain(path: Path) -> str:
    return path.read_text("utf-8")


def _pdf(path: Path) -> str:
    return "\n".join(page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(path))


def _docx(path: Path) -> str:
    with path.open("rb") as file:
        return convert(mammoth.convert_to_html(file).value).content or ""


def _html(path: Path) -> str:
    return convert(path.read_text("utf-8")).content or ""


def _pptx(path: Path) -> str:
    lines: list[str] = []
    for slide in Presentation(str(path)).slides:
        for shape in slide.shapes:
            if isinstance(shape, GraphicFrame) and shape.has_table:
                lines += [" | ".join(cell.text for cell in row.cells) for row in shape.table.rows]
            elif isinstance(shape, Shape):
                lines.append(shape.text_frame.text)
        if notes := slide.notes_slide.notes_text_frame:
            lines.append(notes.text)
    return "\n".join(lines)


def _xlsx(path: Path) -> str:
    book = CalamineWorkbook.from_path(str(path))
    rows = [row for sheet in book.sheet_names for row in book.get_sheet_by_name(sheet).to_python()]
    return "\n".join(" | ".join(_cell(value) for value in row) for row in rows)


def _cell(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _eml(path: Path) -> str:
    message = message_from_bytes(path.read_bytes(), policy=default_policy)
    body = message.get_body(("plain",))
    return body.get_content() if body else ""


_READERS = {".pdf": _pdf, ".docx": _docx, ".html": _html, ".pptx": _pptx, ".xlsx": _xlsx, ".eml": _eml}
