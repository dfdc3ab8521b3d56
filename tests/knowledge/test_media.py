import codecs

import pytest

from shared.errors import UnsupportedMediaType
from shared.knowledge.media import HEAD_BYTES, Media, detect
from tests.knowledge import fixtures

PDF = b"%PDF-1.7\n1 0 obj"
DOCX = fixtures.docx(fixtures.paragraph("x"))[:HEAD_BYTES]
XLSX = fixtures.xlsx({"A": fixtures.sheet([["x"]])})[:HEAD_BYTES]


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("notes.md", Media.MARKDOWN),
        ("NOTES.MD", Media.MARKDOWN),
        ("a.b/c.txt", Media.TEXT),
        ("page.htm", Media.HTML),
        ("rows.tsv", Media.CSV),
        ("data.json", Media.JSON),
        ("data.ndjson", Media.JSONL),
        ("mail.eml", Media.EMAIL),
    ],
)
def test_a_text_is_what_its_extension_says(name: str, media: Media) -> None:
    assert detect(name, None, b"some text") is media


def test_an_extension_wins_over_a_content_type_that_the_client_guessed() -> None:
    assert detect("rows.csv", "application/vnd.ms-excel", b"a,b") is Media.CSV


@pytest.mark.parametrize(
    "generic", ["application/octet-stream", "application/x-www-form-urlencoded", "", None]
)
def test_a_generic_content_type_is_ignored(generic: str | None) -> None:
    assert detect("notes.md", generic, b"text") is Media.MARKDOWN
    assert detect("notes", generic, b"text") is Media.TEXT


def test_a_content_type_decides_where_the_name_has_no_known_extension() -> None:
    assert detect("handbook", "text/markdown; charset=utf-8", b"text") is Media.MARKDOWN
    assert detect("release-1.2", "Application/JSON", b"{}") is Media.JSON


@pytest.mark.parametrize("name", ["lies.md", "lies.docx", "lies.pdf", "lies"])
def test_a_pdf_is_a_pdf_whatever_it_is_called(name: str) -> None:
    assert detect(name, "text/plain", PDF) is Media.PDF


def test_a_pdf_may_start_late_only_where_it_is_called_one() -> None:
    late = b"x" * 1000 + PDF
    assert detect("late.pdf", None, late) is Media.PDF
    assert detect("about-pdf.md", None, b"A file starts with %PDF-1.7") is Media.MARKDOWN


def test_an_office_package_is_known_by_its_entries() -> None:
    assert detect("lies.pdf", None, DOCX) is Media.DOCX
    assert detect("lies.docx", None, XLSX) is Media.XLSX


def test_a_plain_archive_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        detect("notes.md", "text/markdown", fixtures.archive({"notes.md": "text"}))


@pytest.mark.parametrize(
    "head",
    [
        b"MZ\x90\x00\x03\x00\x00\x00",
        b"\x7fELF\x02\x01\x01\x00",
        b"\x89PNG\r\n\x1a\n",
        b"\x1f\x8b\x08\x00",
        b"{\\rtf1\\ansi",
        b"\x00\x00\x00\x18ftypmp42",
        b"text\x00\x01\x02\x03\x00\x00\x00 and binary",
    ],
)
def test_what_is_no_text_is_refused_under_a_name_of_text(head: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        detect("notes.md", "text/markdown", head)


def test_a_text_that_begins_with_the_letters_of_a_signature_is_a_text() -> None:
    assert detect("notes.txt", None, b"MZ is how executables begin.") is Media.TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_text_with_and_without_a_mark(encoding: str) -> None:
    mark = codecs.BOM_UTF16_LE if encoding.endswith("le") else codecs.BOM_UTF16_BE
    assert detect("a.txt", None, mark + "wide text".encode(encoding)) is Media.TEXT
    assert detect("a.txt", None, "wide text".encode(encoding)) is Media.TEXT


def test_an_encrypted_office_file_keeps_its_type_so_that_its_reader_can_tell() -> None:
    assert detect("plan.xlsx", None, fixtures.encrypted_office()) is Media.XLSX


def test_the_office_formats_of_before_2007_are_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        detect("plan.xls", None, fixtures.encrypted_office())


@pytest.mark.parametrize(("name", "declared"), [("run.exe", None), ("x.zip", None), ("x", "image/png")])
def test_other_types_are_refused(name: str, declared: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        detect(name, declared, b"some text")


def test_a_page_without_a_name_is_known_by_its_start() -> None:
    assert detect(None, None, b"\n<!DOCTYPE html><html>") is Media.HTML
    assert detect(None, None, b"a < b") is Media.TEXT
