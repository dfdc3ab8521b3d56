"""What each kind of document becomes."""

import json

import pytest

from shared.errors import CorruptDocument, EmptyDocument, NoText, PasswordProtected
from shared.knowledge.media import Media
from shared.knowledge.parsing import ParsedDocument, parse
from shared.knowledge.parsing.layout import Line, beside, joined
from tests.knowledge import fixtures


def titles(document: ParsedDocument) -> list[tuple[int, str]]:
    for heading in document.headings:
        assert heading.title[0] in document.text[heading.start :][: 8 + len(heading.title)]
    return [(heading.level, heading.title) for heading in document.headings]


def test_a_document_survives_json() -> None:
    document = parse(fixtures.pdf([["One"], []], outline={"One": 0}), Media.PDF, "x.pdf")
    assert ParsedDocument.from_dict(json.loads(json.dumps(document.to_dict()))) == document


class TestText:
    def test_text_is_normalised(self) -> None:
        raw = "\ufeffe\u0301\r\nb\rc\x00\x07\u2028d".encode()
        assert parse(raw, Media.TEXT).text == "é\nb\nc\nd"

    def test_a_lone_surrogate_becomes_a_replacement_character(self) -> None:
        assert parse(b'{"a": "x\\ud800y"}', Media.JSON).text == "a: x\ufffdy"

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
    def test_unicode_encodings_are_recognised(self, encoding: str) -> None:
        assert parse("Grüße, world. How are you?".encode(encoding), Media.TEXT).text.startswith("Grüße")

    def test_an_old_encoding_is_guessed(self) -> None:
        text = "Les élèves français étaient très étonnés par cette idée générale. " * 5
        assert parse(text.encode("cp1252"), Media.TEXT).text == text.strip("\n")

    def test_utf8_that_was_cut_in_a_character_stays_utf8(self) -> None:
        assert parse("Größe über alles, ä".encode()[:-1], Media.TEXT).text == "Größe über alles, \ufffd"

    def test_bytes_that_are_no_text_are_corrupt(self) -> None:
        with pytest.raises(CorruptDocument):
            parse(bytes(range(1, 256)) * 40, Media.TEXT)

    @pytest.mark.parametrize("media", list(Media))
    @pytest.mark.parametrize("content", [b"", b" \n\t", b"\0\0\0"])
    def test_nothing_is_empty_in_every_type(self, media: Media, content: bytes) -> None:
        with pytest.raises(EmptyDocument):
            parse(content, media)

    def test_the_name_stands_in_for_a_title(self) -> None:
        assert parse(b"text", Media.TEXT, "folder/annual report.txt").title == "annual report"


class TestMarkdown:
    def test_front_matter_gives_title_and_description_and_is_no_text(self) -> None:
        raw = b"---\ntitle: The title\nauthor: me\ndescription: What it is.\n---\n\n# First\n\nText\n"
        document = parse(raw, Media.MARKDOWN)
        assert document.title == "The title"
        assert document.text == "What it is.\n\n# First\n\nText"

    def test_headings_are_those_outside_code(self) -> None:
        raw = b"# One *two* [three](http://x)\n\n```sh\n# no\n```\n\n~~~\n## no\n~~~\n\n### Three ###\n#no\n"
        document = parse(raw, Media.MARKDOWN)
        assert titles(document) == [(1, "One two three"), (3, "Three")]
        assert document.title == "One two three"

    def test_a_rule_at_the_top_is_no_front_matter(self) -> None:
        assert parse(b"---\n\nText\n", Media.MARKDOWN).text == "---\n\nText"


class TestHtml:
    def test_only_what_a_reader_sees_is_kept(self) -> None:
        raw = (
            b"<html><head><title> The  page </title><style>x{}</style></head><body><h1>Top</h1>"
            b"<script>alert('no')</script><p hidden>no</p><p style='color:red; display: none'>no</p>"
            b"<p>One &amp; two<img src='data:image/png;base64,AAAA' alt='a cat'></p></body></html>"
        )
        document = parse(raw, Media.HTML)
        assert document.title == "The page"
        assert titles(document) == [(1, "Top")]
        assert "One & two" in document.text
        assert "a cat" in document.text
        assert "no" not in document.text
        assert "base64" not in document.text

    def test_a_table_becomes_a_markdown_table(self) -> None:
        raw = b"<table><tr><th>Name</th><th>Price</th></tr><tr><td>Bolt</td><td>5</td></tr></table>"
        assert parse(raw, Media.HTML).text == "| Name | Price |\n| --- | --- |\n| Bolt | 5 |"

    def test_the_declared_encoding_is_used(self) -> None:
        raw = '<meta charset="windows-1251"><p>Привет, мир</p>'.encode("cp1251")
        assert parse(raw, Media.HTML).text == "Привет, мир"

    def test_a_page_of_images_has_no_text(self) -> None:
        with pytest.raises(NoText):
            parse(b"<html><body><img src='scan.png'></body></html>", Media.HTML)


class TestPdf:
    def test_pages_are_spans_of_the_text(self) -> None:
        document = parse(fixtures.pdf([["First page."], [], ["Third page."]], title="The title"), Media.PDF)
        assert document.title == "The title"
        assert [document.text[page.start : page.end] for page in document.pages] == [
            "First page.",
            "",
            "Third page.",
        ]
        assert [page.number for page in document.pages] == [1, 2, 3]
        assert document.pages_without_text == (2,)

    def test_lines_that_the_margin_broke_are_joined(self) -> None:
        lines = [
            "Chapter one",
            "This is a paragraph of which the lines are long enough to have been",
            "broken by the margin of the page, and it ends here.",
            "1. An item of a list",
            "2. Another item",
        ]
        assert parse(fixtures.pdf([lines]), Media.PDF).text.split("\n") == [
            lines[0],
            f"{lines[1]} {lines[2]}",
            *lines[3:],
        ]

    def test_the_outline_gives_headings_at_their_place(self) -> None:
        raw = fixtures.pdf(
            [["Preface", "Scope", "Text"], ["Terms"]], outline={"Scope": 0, "Terms": 1, "Gone": 1}
        )
        document = parse(raw, Media.PDF)
        found = {heading.title: heading.start for heading in document.headings}
        assert found["Scope"] == document.text.index("Scope")
        assert found["Terms"] == document.text.index("Terms")
        assert found["Gone"] == document.pages[1].start

    def test_pages_without_any_text_are_a_failure(self) -> None:
        with pytest.raises(NoText) as failure:
            parse(fixtures.pdf([[], []]), Media.PDF)
        assert failure.value.extra == {"pages": 2}

    def test_a_password_is_needed_or_not(self) -> None:
        assert parse(fixtures.encrypted_pdf(""), Media.PDF).text == "Only for those who know."
        with pytest.raises(PasswordProtected):
            parse(fixtures.encrypted_pdf("secret"), Media.PDF)

    @pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
    def test_a_file_that_was_cut_off_is_corrupt(self, share: float) -> None:
        raw = fixtures.pdf([["Text"]] * 5)
        with pytest.raises(CorruptDocument):
            parse(raw[: int(len(raw) * share)], Media.PDF)

    def test_a_linearised_file_that_is_shorter_than_it_says_is_corrupt(self) -> None:
        raw = fixtures.pdf([["Text"]])
        for declared, cut in ((len(raw) + 60, False), (10**6, True)):
            marked = raw.replace(b"1 0 obj\n<<", b"1 0 obj\n<< /Linearized 1 /L %d" % declared, 1)
            if cut:
                with pytest.raises(CorruptDocument):
                    parse(marked, Media.PDF)
            else:
                assert declared >= len(marked)

    def test_what_is_called_a_pdf_but_is_none_is_corrupt(self) -> None:
        with pytest.raises(CorruptDocument):
            parse(b"<html>not found</html> %%EOF", Media.PDF)


def table(rows: list[list[str]], *, top: float = 700.0, pitch: float = 18.0) -> list[fixtures.Placed]:
    """Texts at the places of a table's cells, row by row, with columns 150 points wide."""
    return [
        (60.0 + 150 * column, top - pitch * row, cell)
        for row, cells in enumerate(rows)
        for column, cell in enumerate(cells)
        if cell
    ]


def laid_out(*pages: list[fixtures.Placed]) -> str:
    return parse(fixtures.laid_out_pdf(pages), Media.PDF).text


SENTENCE = "A sentence that is long enough to fill a column"


class TestPdfTables:
    def test_a_row_is_one_line_between_blank_lines(self) -> None:
        rows = [["**Property", "**Heron"], ["Weight", "1,240 kg"], ["Colour", "white"]]
        page = [(60.0, 730.0, "Before it."), *table(rows), (60.0, 630.0, "After it.")]
        assert laid_out(page) == (
            "Before it.\n\n| Property | Heron |\n| --- | --- |\n| Weight | 1,240 kg |\n| Colour | white |\n\n"
            "After it."
        )

    def test_names_above_numbers_are_a_header_in_any_font(self) -> None:
        rows = [["Part", "Price"], ["Bolt", "5.00"], ["Nut", "7.00"]]
        assert "| Part | Price |\n| --- | --- |\n| Bolt |" in laid_out(table(rows))

    def test_a_table_without_a_header_is_given_none(self) -> None:
        rows = [["Colour", "white"], ["Origin", "Skarvik"]]
        assert laid_out(table(rows)) == "| Colour | white |\n| Origin | Skarvik |"

    def test_a_cell_of_several_lines_stays_in_its_row(self) -> None:
        page = [
            *[(60.0, 700.0, "**No"), (120.0, 700.0, "**Action"), (300.0, 700.0, "**Owner")],
            *[(60.0, 682.0, "1"), (120.0, 682.0, "Remove the saver"), (120.0, 670.0, "from all domes")],
            (300.0, 682.0, "Lindwall"),
            *[(60.0, 652.0, "2"), (120.0, 652.0, "Raise a fault"), (300.0, 652.0, "Brodie")],
        ]
        assert laid_out(page).split("\n")[2:] == [
            "| 1 | Remove the saver from all domes | Lindwall |",
            "| 2 | Raise a fault | Brodie |",
        ]

    def test_an_empty_cell_keeps_its_column(self) -> None:
        rows = [["**A", "**B", "**C"], ["one", "", "three"], ["four", "five", "six"]]
        assert "| one |  | three |" in laid_out(table(rows))

    def test_a_bar_in_a_cell_is_escaped(self) -> None:
        assert r"| a\|b | two |" in laid_out(table([["a|b", "two"], ["three", "four"]]))

    @pytest.mark.parametrize(("pitch", "found"), [(30.0, True), (60.0, False)])
    def test_rows_far_apart_are_no_table(self, pitch: float, found: bool) -> None:
        assert ("|" in laid_out(table([["one", "two"], ["three", "four"]], pitch=pitch))) is found

    def test_columns_of_prose_are_read_one_after_the_other(self) -> None:
        left = [(60.0, 700.0 - 12 * row, f"{SENTENCE}, {row}") for row in range(20)]
        right = [(320.0, 700.0 - 12 * row, f"{SENTENCE}; {row}") for row in range(20)]
        text = laid_out(left + right)
        assert "|" not in text
        assert text.index(", 19") < text.index("; 0")

    def test_prose_written_across_its_columns_is_no_table(self) -> None:
        rows = [[f"{SENTENCE}, {row}", f"{SENTENCE}; {row}"] for row in range(20)]
        page = [(x + 110 * (x > 60), y, cell) for x, y, cell in table(rows, pitch=12)]
        assert "|" not in laid_out(page)

    def test_items_and_numbered_headings_are_no_table(self) -> None:
        for first, second in (("1.", "2."), ("-", "-"), ("3", "3.1")):
            page = [
                (60.0, 700.0, first),
                (78.0, 700.0, "Some text"),
                (60.0, 682.0, second),
                (78.0, 682.0, "More"),
            ]
            assert laid_out(page) == f"{first} Some text\n{second} More"

    def test_one_row_alone_is_a_line(self) -> None:
        assert laid_out(table([["Manual", "Edition 7", "Page 1"]])) == "Manual Edition 7 Page 1"


class TestPdfLines:
    def test_a_running_title_is_not_joined_to_the_text(self) -> None:
        page = [(60.0, 30.0, f"{SENTENCE}, at the foot"), (60.0, 780.0, f"{SENTENCE}, at the top")]
        assert laid_out(page) == f"{SENTENCE}, at the foot\n{SENTENCE}, at the top"

    def test_text_of_another_size_is_not_joined(self) -> None:
        page = [(60.0, 700.0, f"{SENTENCE} and", 10), (60.0, 686.0, "goes on here", 10)]
        assert parse(fixtures.laid_out_pdf([page]), Media.PDF).text == f"{SENTENCE} and goes on here"
        page[1] = (60.0, 686.0, "goes on here", 13)
        assert parse(fixtures.laid_out_pdf([page]), Media.PDF).text == f"{SENTENCE} and\ngoes on here"

    @pytest.mark.parametrize(
        ("before", "left", "expected"),
        [("km", 101.0, "km2"), ("km", 104.0, "km 2"), ("45", 101.0, "45 2")],
    )
    def test_a_raised_digit_stays_with_its_word_but_apart_from_a_number(
        self, before: str, left: float, expected: str
    ) -> None:
        line = Line(before, left=60, bottom=700, right=100, top=712, size=12)
        raised = Line("2", left=left, bottom=705, right=left + 4, top=713, size=8)
        assert beside(line, raised)
        assert joined([line, raised]) == expected

    def test_the_dots_of_a_list_of_contents_are_cut_short(self) -> None:
        page = [(60.0, 700.0, "1 Scope " + ". " * 60 + "3"), (60.0, 686.0, "2 Terms " + "." * 60 + " 4")]
        assert laid_out(page) == "1 Scope … 3\n2 Terms … 4"


class TestPdfHeadings:
    def test_an_entry_for_the_wrong_page_is_found_where_its_title_stands(self) -> None:
        pages = [
            [(60, 700, "1 Scope . . . . . . 2", 10), (60, 680, "2 Terms . . . . . . 3", 10)],
            [(60, 700, "1 Scope", 10), (60, 670, "The terms of use apply.", 10)],
            [(60, 700, "2 Terms", 10), (60, 670, "A dome is a roof.", 10)],
        ]
        raw = fixtures.laid_out_pdf(pages, [("1 Scope", 0, None), ("2 Terms", 0, None), ("Gone", 0, None)])
        document = parse(raw, Media.PDF)
        places = {heading.title: heading.start for heading in document.headings}
        assert places == {
            "1 Scope": document.pages[1].start,
            "2 Terms": document.pages[2].start,
            "Gone": document.pages[0].start,
        }

    def test_of_equal_titles_the_one_at_the_height_is_meant(self) -> None:
        page = [
            *[(60, 700, "Summary", 10), (60, 670, "First.", 10)],
            *[(60, 500, "Summary", 10), (60, 470, "Second.", 10)],
        ]
        document = parse(
            fixtures.laid_out_pdf([page], [("Summary", 0, 515), ("Named otherwise", 0, 480)]), Media.PDF
        )
        assert [(heading.title, document.text[heading.start :]) for heading in document.headings] == [
            ("Summary", "Summary\nSecond."),
            ("Named otherwise", "Second."),
        ]

    def test_equal_titles_without_a_height_are_found_in_order(self) -> None:
        lines = ["Summary", "First.", "Summary", "Second."]
        raw = fixtures.laid_out_pdf(
            [[(60, 700 - 40 * row, line, 10) for row, line in enumerate(lines)]],
            [("Summary", 0, None), ("Summary", 0, None)],
        )
        document = parse(raw, Media.PDF)
        assert [heading.start for heading in document.headings] == [0, document.text.rindex("Summary")]

    def test_a_title_is_found_without_its_number_and_over_two_lines(self) -> None:
        page = [(60, 700, "2 Surfaces and", 16), (60, 680, "Complexes", 16), (60, 650, "2.1 Scope", 12)]
        raw = fixtures.laid_out_pdf([page], [("Surfaces and Complexes", 0, None), ("Scope", 0, None)])
        document = parse(raw, Media.PDF)
        assert [heading.start for heading in document.headings] == [0, document.text.index("2.1 Scope")]

    def test_without_an_outline_large_lines_are_headings(self) -> None:
        body = [(60.0, 600.0 - 14 * row, f"{SENTENCE}, {row}.", 10) for row in range(20)]
        page = [(60, 700, "The title", 20), (60, 650, "A chapter", 14), *body]
        assert titles(parse(fixtures.laid_out_pdf([page]), Media.PDF)) == [(1, "The title"), (2, "A chapter")]

    def test_text_of_one_size_has_no_headings(self) -> None:
        assert parse(fixtures.pdf([["A chapter", "Some text."]]), Media.PDF).headings == ()


class TestWord:
    BODY = (
        fixtures.paragraph("Manual", "Heading1")
        + fixtures.paragraph("Text & more.")
        + fixtures.paragraph("Parts", "Heading2")
        + fixtures.table([["Name", "Price"], ["Bolt", "5"]])
    )

    def test_headings_and_tables_are_kept(self) -> None:
        document = parse(fixtures.docx(self.BODY), Media.DOCX)
        assert titles(document) == [(1, "Manual"), (2, "Parts")]
        assert document.title == "Manual"
        assert "Text & more." in document.text
        assert "| Bolt | 5 |" in document.text

    def test_a_document_of_images_only_has_no_text(self) -> None:
        with pytest.raises(NoText):
            parse(fixtures.docx("<w:p/>", extra={"word/media/image1.png": b"\x89PNG"}), Media.DOCX)

    def test_a_document_without_anything_is_empty(self) -> None:
        with pytest.raises(EmptyDocument):
            parse(fixtures.docx("<w:p/>"), Media.DOCX)

    def test_a_package_is_read_as_what_it_is(self) -> None:
        document = parse(fixtures.xlsx({"A": fixtures.sheet([["a", "b"], ["1", "2"]])}), Media.DOCX)
        assert document.media is Media.XLSX


class TestPowerPoint:
    def test_slides_are_pages_with_titles_tables_and_notes(self) -> None:
        slides = [("Plan", ["One", "Two"], "Say hello"), ("", [""], ""), ("End", ["Bye"], "")]
        document = parse(fixtures.pptx(slides, rows=[["Name", "Price"], ["Bolt", "5"]]), Media.PPTX)
        assert [page.label for page in document.pages] == ["Plan", None, "End"]
        assert document.pages_without_text == (2,)
        assert titles(document) == [(1, "Plan"), (1, "End")]
        first = document.text[document.pages[0].start : document.pages[0].end]
        assert first.split("\n\n") == [
            "# Plan",
            "- One\n- Two",
            "| Name | Price |\n| --- | --- |\n| Bolt | 5 |",
            "Notes: Say hello",
        ]

    def test_slides_without_any_text_are_a_failure(self) -> None:
        with pytest.raises(NoText):
            parse(fixtures.pptx([("", [""], "")]), Media.PPTX)


class TestExcel:
    def test_each_row_says_what_its_values_are(self) -> None:
        rows = [["Price list"], ["Name", "Price", "Stock"], ["Bolt", 5.0, 2.5], ["Nut", "", 7]]
        other = fixtures.sheet([["Left", "Right"], ["a", "b"]])
        document = parse(fixtures.xlsx({"Parts": fixtures.sheet(rows), "Other": other}), Media.XLSX)
        first, second = document.pages
        assert document.text[first.start : first.end].split("\n") == [
            "# Parts",
            "",
            "Price list",
            "Name | Price | Stock",
            "Name: Bolt; Price: 5; Stock: 2.5",
            "Name: Nut; Stock: 7",
        ]
        assert document.text[second.start : second.end].endswith("Left: a; Right: b")
        assert (first.label, second.label) == ("Parts", "Other")

    def test_a_note_below_a_table_belongs_to_no_column(self) -> None:
        rows = [["Name", "Price"], ["Bolt", 5], ["Prices without tax.", ""], ["", 7]]
        document = parse(fixtures.xlsx({"A": fixtures.sheet(rows)}), Media.XLSX)
        assert document.text.split("\n")[3:] == ["Name: Bolt; Price: 5", "Prices without tax.", "Price: 7"]

    def test_hidden_sheets_are_not_read(self) -> None:
        sheets = {"Seen": fixtures.sheet([["a", "b"]]), "Secret": fixtures.sheet([["hidden", "value"]])}
        document = parse(fixtures.xlsx(sheets, hidden=frozenset({"Secret"})), Media.XLSX)
        assert "hidden" not in document.text
        assert [page.label for page in document.pages] == ["Seen"]

    def test_empty_sheets_are_an_empty_document(self) -> None:
        with pytest.raises(EmptyDocument):
            parse(fixtures.xlsx({"A": "<sheetData/>"}), Media.XLSX)

    @pytest.mark.parametrize("media", [Media.DOCX, Media.PPTX, Media.XLSX])
    def test_an_encrypted_package_needs_a_password(self, media: Media) -> None:
        with pytest.raises(PasswordProtected):
            parse(fixtures.encrypted_office(), media)


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_the_delimiter_is_found(self, delimiter: str) -> None:
        rows = [["Name", "Price, net", "Note"], ["Bolt", "5", "a; b"], ["Nut", "7", ""]]
        raw = "\r\n".join(delimiter.join(f'"{cell}"' for cell in row) for row in rows).encode()
        assert parse(raw, Media.CSV).text.split("\n") == [
            "Name | Price, net | Note",
            "Name: Bolt; Price, net: 5; Note: a; b",
            "Name: Nut; Price, net: 7",
        ]

    def test_a_cell_of_several_lines_stays_in_its_row(self) -> None:
        assert parse(b'a,b\n"x\ny",2\n', Media.CSV).text == "a | b\na: x y; b: 2"

    def test_a_single_column_is_kept_as_it_is(self) -> None:
        assert parse(b"apple\npear\n", Media.CSV).text == "apple\npear"

    def test_a_quote_that_never_closes_loses_nothing(self) -> None:
        assert "last" in parse(b'a,b\n"x,2\nlast,3\n', Media.CSV).text


class TestJson:
    def test_leaves_are_lines_with_their_path(self) -> None:
        raw = (
            b'{"name": "Bolt", "sizes": [1, 2.50], "maker": {"city": "Ulm", "old": null}, "grid": [[1], [2]]}'
        )
        assert parse(raw, Media.JSON).text.split("\n") == [
            "name: Bolt",
            "sizes: 1, 2.50",
            "maker.city: Ulm",
            "grid[0]: 1",
            "grid[1]: 2",
        ]

    def test_objects_in_an_array_are_told_apart_by_their_place(self) -> None:
        raw = b'{"items": [{"a": 1, "b": true}, {"a": 2}]}'
        assert parse(raw, Media.JSON).text.split("\n") == [
            "items[0].a: 1",
            "items[0].b: true",
            "items[1].a: 2",
        ]

    def test_records_are_separate_blocks(self) -> None:
        expected = "a: 1\nb: x\n\na: 2"
        assert parse(b'[{"a": 1, "b": "x"}, {"a": 2}]', Media.JSON).text == expected
        assert parse(b'{"a": 1, "b": "x"}\n\n{"a": 2}\n', Media.JSONL).text == expected

    def test_a_huge_number_stays_as_it_is_written(self) -> None:
        digits = "9" * 10_000
        assert parse(f'{{"n": {digits}}}'.encode(), Media.JSON).text == f"n: {digits}"

    def test_invalid_json_is_corrupt_and_says_where(self) -> None:
        with pytest.raises(CorruptDocument, match="line 2"):
            parse(b'{"a": 1}\n{"secret', Media.JSONL)


class TestEmail:
    def test_headers_body_and_attachment_names_are_kept(self) -> None:
        raw = (
            b"From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
            b"Date: Mon, 02 Mar 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
            b"Content-Type: multipart/mixed; boundary=B\r\n\r\n"
            b"--B\r\nContent-Type: multipart/alternative; boundary=C\r\n\r\n"
            b"--C\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nHello J\xfcrgen\r\n"
            b"--C\r\nContent-Type: text/html\r\n\r\n<p>Other</p>\r\n--C--\r\n"
            b"--B\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=plan.pdf\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--B--\r\n"
        )
        document = parse(raw, Media.EMAIL)
        assert document.title == "Grüße"
        assert document.text.split("\n\n") == [
            "# Grüße",
            "From: Ann <ann@example.org>\nTo: bob@example.org\nDate: Mon, 02 Mar 2026 10:00:00 +0000",
            "Hello Jürgen",
            "Attachments: plan.pdf",
        ]

    def test_a_body_of_html_is_converted(self) -> None:
        raw = b"Subject: x\nContent-Type: text/html\n\n<h2>News</h2><script>no</script><p>Text</p>"
        assert parse(raw, Media.EMAIL).text == "# x\n\n## News\n\nText"

    def test_a_malformed_header_fails_nothing(self) -> None:
        raw = b'From: =?utf-8?b?\xff?= <@@>,,;\nTo: "\nSubject: ok\nDate: never\n\nText'
        document = parse(raw, Media.EMAIL)
        assert document.title == "ok"
        assert document.text.endswith("Text")
