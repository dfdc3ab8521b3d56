"""Documents made to break a parser: each has a typed outcome, both sides of each limit."""

import io
import json
import random
import struct
import zipfile
from dataclasses import replace

import pytest

from shared.errors import CorruptDocument, DocumentError, DocumentTooComplex, PasswordProtected
from shared.knowledge.media import Media
from shared.knowledge.parsing import DEFAULT_LIMITS, parse
from tests.knowledge import fixtures

LIMITS = replace(
    DEFAULT_LIMITS,
    input_bytes=200_000,
    output_chars=50_000,
    pages=3,
    archive_entries=20,
    expanded_bytes=400_000,
    sheet_cells=1_000,
    nesting_depth=50,
)
DOCX_BODY = fixtures.paragraph("Text")


def test_a_document_may_have_as_many_bytes_as_allowed_and_no_more() -> None:
    page = b"<p>text</p>"
    full = page + b"<!--" + b"x" * (LIMITS.input_bytes - len(page) - 7) + b"-->"
    assert parse(full, Media.HTML, limits=LIMITS).text == "text"
    with pytest.raises(DocumentTooComplex):
        parse(full + b" ", Media.HTML, limits=LIMITS)


@pytest.mark.parametrize("media", [Media.TEXT, Media.MARKDOWN, Media.HTML, Media.CSV, Media.JSONL])
def test_a_text_may_have_as_many_characters_as_allowed_and_no_more(media: Media) -> None:
    def content(chars: int) -> bytes:
        return b'"' + b"x" * chars + b'"' if media is Media.JSONL else b"x" * chars

    assert len(parse(content(LIMITS.output_chars), media, limits=LIMITS).text) == LIMITS.output_chars
    with pytest.raises(DocumentTooComplex):
        parse(content(LIMITS.output_chars + 1), media, limits=LIMITS)


def test_a_document_may_have_as_many_pages_as_allowed_and_no_more() -> None:
    assert len(parse(fixtures.pdf([["x"]] * 3), Media.PDF, limits=LIMITS).pages) == 3
    sheets = {str(number): fixtures.sheet([["x"]]) for number in range(4)}
    for content, media in (
        (fixtures.pdf([["x"]] * 4), Media.PDF),
        (fixtures.pptx([("x", ["y"], "")] * 4), Media.PPTX),
        (fixtures.xlsx(sheets), Media.XLSX),
    ):
        with pytest.raises(DocumentTooComplex):
            parse(content, media, limits=replace(LIMITS, archive_entries=1_000, expanded_bytes=10**7))


class TestNesting:
    def test_html(self) -> None:
        def nested(depth: int) -> bytes:
            return b"<div>" * depth + b"text" + b"</div>" * depth

        assert parse(nested(50), Media.HTML, limits=LIMITS).text == "text"
        with pytest.raises(DocumentTooComplex):
            parse(nested(51), Media.HTML, limits=LIMITS)

    def test_html_that_never_closes_or_closes_what_it_never_opened(self) -> None:
        for attack in (b"<b>" * 30_000, b"<b></i>" * 20_000, b"<b><!-- </b></b> -->" * 100):
            with pytest.raises(DocumentTooComplex):
                parse(attack + b"text", Media.HTML, limits=LIMITS)

    def test_html_of_many_elements_that_do_not_nest(self) -> None:
        flat = b"<ul>" + b"<li>a<br><p>b" * 500 + b"</ul><script>'" + b"<div>" * 500 + b"'</script>"
        assert parse(flat, Media.HTML, limits=LIMITS).text.count("a") == 500

    @pytest.mark.parametrize("pair", ["[]", '{"a":}'])
    def test_json(self, pair: str) -> None:
        def nested(depth: int) -> bytes:
            opened, closed = pair[:-1], pair[-1]
            return (opened * depth + '"text"' + closed * depth).encode()

        assert "text" in parse(nested(49), Media.JSON, limits=LIMITS).text
        for depth in (53, 20_000):
            with pytest.raises(DocumentTooComplex):
                parse(nested(depth), Media.JSON, limits=LIMITS)

    def test_parts_of_a_message(self) -> None:
        def nested(depth: int) -> bytes:
            head = b"Subject: x\n"
            for level in range(depth):
                head += b"Content-Type: multipart/mixed; boundary=B%d\n\n--B%d\n" % (level, level)
            return head + b"Content-Type: text/plain\n\ntext\n"

        assert parse(nested(20), Media.EMAIL, limits=LIMITS).title == "x"
        for depth in (60, 3_000):
            with pytest.raises(DocumentTooComplex):
                parse(nested(depth), Media.EMAIL, limits=LIMITS)

    def test_word_tables_within_tables(self) -> None:
        deep = "<w:tbl><w:tr><w:tc>" * 400 + DOCX_BODY + "</w:tc></w:tr></w:tbl>" * 400
        with pytest.raises(DocumentTooComplex):
            parse(fixtures.docx(deep), Media.DOCX, limits=LIMITS)


class TestBombs:
    def test_an_entry_may_expand_by_the_ratio_only(self) -> None:
        limits = replace(LIMITS, expanded_bytes=10**9)
        spaces = " " * 10_000_000
        with pytest.raises(DocumentTooComplex, match="compressed"):
            parse(fixtures.docx(DOCX_BODY + spaces), Media.DOCX, limits=limits)
        stored = fixtures.archive(fixtures.docx_parts(DOCX_BODY + spaces[:150_000]), zipfile.ZIP_STORED)
        assert parse(stored, Media.DOCX, limits=limits).text == "Text"

    def test_all_entries_may_expand_to_the_limit_only(self) -> None:
        def with_image(size: int) -> bytes:
            image = random.Random(1).randbytes(size)
            return fixtures.docx(DOCX_BODY, extra={"word/media/a.png": image})

        limits = replace(LIMITS, input_bytes=10**6)
        assert parse(with_image(395_000), Media.DOCX, limits=limits).text == "Text"
        with pytest.raises(DocumentTooComplex, match="expands"):
            parse(with_image(400_000), Media.DOCX, limits=limits)

    def test_the_number_of_entries_is_limited(self) -> None:
        def with_entries(count: int) -> bytes:
            return fixtures.docx(DOCX_BODY, extra={f"word/media/{n}.png": b"x" for n in range(count)})

        assert parse(with_entries(15), Media.DOCX, limits=LIMITS).text == "Text"
        with pytest.raises(DocumentTooComplex, match="entries"):
            parse(with_entries(16), Media.DOCX, limits=LIMITS)

    def test_a_size_that_lies_is_found_while_reading(self) -> None:
        packed = bytearray(fixtures.docx(DOCX_BODY + " " * 50_000))
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            true_size = archive.getinfo("word/document.xml").file_size
        while (at := packed.find(struct.pack("<I", true_size))) >= 0:
            packed[at : at + 4] = struct.pack("<I", 100)
        with pytest.raises(CorruptDocument):
            parse(bytes(packed), Media.DOCX, limits=LIMITS)

    def test_two_entries_of_one_name_are_refused(self) -> None:
        target = io.BytesIO(fixtures.docx(DOCX_BODY))
        with zipfile.ZipFile(target, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("word/document.xml", "<other/>")
        with pytest.raises(CorruptDocument):
            parse(target.getvalue(), Media.DOCX, limits=LIMITS)

    def test_a_sheet_whose_cells_lie_far_apart_is_refused(self) -> None:
        def spanning(last: str, row: int) -> bytes:
            cell = '<row r="{1}"><c r="{0}{1}"><v>1</v></c></row>'
            return fixtures.xlsx(
                {"A": f"<sheetData>{cell.format('A', 1)}{cell.format(last, row)}</sheetData>"}
            )

        assert parse(spanning("J", 100), Media.XLSX, limits=LIMITS).text
        for last, row in (("J", 101), ("XFD", 1_048_576)):
            with pytest.raises(DocumentTooComplex):
                parse(spanning(last, row), Media.XLSX, limits=LIMITS)


class TestEntities:
    LAUGHS = (
        '<!DOCTYPE w [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
        '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    )
    OUTSIDE = '<!DOCTYPE w [<!ENTITY a SYSTEM "file:///etc/hostname">]>'

    @pytest.mark.parametrize("doctype", [LAUGHS, OUTSIDE])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    @pytest.mark.parametrize("part", ["word/document.xml", "word/styles.xml", "_rels/.rels"])
    def test_a_document_type_in_a_word_part_is_refused(self, doctype: str, encoding: str, part: str) -> None:
        parts = fixtures.docx_parts(DOCX_BODY)
        xml = str(parts[part]).partition("?>")[2]
        declared = f'<?xml version="1.0" encoding="{encoding}"?>'
        parts[part] = (declared + doctype + xml).encode(encoding)
        with pytest.raises(CorruptDocument, match="document type"):
            parse(fixtures.archive(parts), Media.DOCX, limits=LIMITS)

    @pytest.mark.parametrize("encoding", ["cp037", "utf-7"])
    def test_an_encoding_in_which_one_could_hide_is_refused(self, encoding: str) -> None:
        parts = fixtures.docx_parts(DOCX_BODY)
        xml = str(parts["word/document.xml"]).partition("?>")[2]
        declared = f'<?xml version="1.0" encoding="{encoding}"?>'
        parts["word/document.xml"] = (declared + self.OUTSIDE + xml).encode(encoding)
        with pytest.raises(CorruptDocument):
            parse(fixtures.archive(parts), Media.DOCX, limits=LIMITS)

    def test_html_expands_no_entities(self) -> None:
        text = parse((self.LAUGHS + "<p>&c; text</p>").encode(), Media.HTML, limits=LIMITS).text
        assert "text" in text
        assert "haha" not in text


def test_an_archive_with_encrypted_entries_needs_a_password() -> None:
    packed = bytearray(fixtures.docx(DOCX_BODY))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := packed.find(signature, at + 1)) >= 0:
            packed[at + flags] |= 1
    with pytest.raises(PasswordProtected):
        parse(bytes(packed), Media.DOCX)


DOCUMENTS = {
    Media.DOCX: fixtures.docx(fixtures.paragraph("Zebra")),
    Media.PPTX: fixtures.pptx([("Title", ["Zebra"], "Notes")]),
    Media.XLSX: fixtures.xlsx({"A": fixtures.sheet([["a", "b"], ["Zebra", 2]])}),
    Media.PDF: fixtures.pdf([["Some Zebra"], ["More"]], outline={"More": 1}),
    Media.HTML: b"<html><title>x</title><table><tr><td>a</td></tr></table><p>Zebra</p></html>",
    Media.CSV: b'a;b\n"1";2\n3;Zebra\n',
    Media.JSON: json.dumps({"a": [1, {"b": "Zebra"}]}).encode(),
    Media.JSONL: b'{"a": 1}\n{"a": "Zebra"}\n',
    Media.EMAIL: b"Subject: x\nContent-Type: multipart/mixed; boundary=B\n\n--B\n\nZebra\n--B--\n",
    Media.MARKDOWN: b"---\ntitle: x\n---\n# A\n\n| a | b |\n|---|---|\n| 1 | Zebra |\n",
    Media.TEXT: "Some Zëbra Zebra".encode(),
}


@pytest.mark.parametrize("media", list(DOCUMENTS))
def test_a_damaged_document_is_read_or_fails_with_a_type(media: Media) -> None:
    chance = random.Random(media.value)
    for _ in range(30):
        damaged = bytearray(DOCUMENTS[media])
        for _ in range(chance.choice((1, 5, 50))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = bytes(damaged)[: chance.randrange(1, len(damaged) + 1)]
        for content in (bytes(damaged), cut):
            try:
                parse(content, media).text.encode()
            except DocumentError:
                continue


@pytest.mark.parametrize("media", list(DOCUMENTS))
@pytest.mark.parametrize("other", list(DOCUMENTS))
def test_a_document_of_another_type_is_read_or_fails_with_a_type(media: Media, other: Media) -> None:
    try:
        parse(DOCUMENTS[other], media).text.encode()
    except DocumentError as error:
        failure = error
    else:
        return
    assert "Zebra" not in f"{failure.detail} {failure.extra}"
