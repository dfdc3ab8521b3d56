"""Small documents of each kind, built in code."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_TYPES = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>{}</Types>'
)
_OFFICE = "application/vnd.openxmlformats-officedocument."
_RELATIONS = (
    '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
)
_RELATION = (
    '<Relationship Id="{}" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{}" '
    'Target="{}"/>'
)


def archive(parts: dict[str, str | bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)
    return target.getvalue()


def docx_parts(body: str, *, extra: dict[str, str | bytes] | None = None) -> dict[str, str | bytes]:
    main = (
        f'<Override PartName="/word/document.xml" ContentType="{_OFFICE}wordprocessingml.document.main+xml"/>'
    )
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{level}"><w:name w:val="heading {level}"/></w:style>'
        for level in (1, 2, 3)
    )
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    return {
        "[Content_Types].xml": _TYPES.format(main),
        "_rels/.rels": _RELATIONS.format(_RELATION.format("r1", "officeDocument", "word/document.xml")),
        "word/document.xml": f'<?xml version="1.0" encoding="UTF-8"?><w:document {namespace}>'
        f"<w:body>{body}</w:body></w:document>",
        "word/_rels/document.xml.rels": _RELATIONS.format(_RELATION.format("r1", "styles", "styles.xml")),
        "word/styles.xml": f'<?xml version="1.0"?><w:styles {namespace}>{styles}</w:styles>',
        **(extra or {}),
    }


def docx(body: str, *, extra: dict[str, str | bytes] | None = None) -> bytes:
    return archive(docx_parts(body, extra=extra))


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{escape(text)}</w:t></w:r></w:p>"


def table(rows: Iterable[Iterable[str]]) -> str:
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in cells) + "</w:tbl>"


def sheet(rows: Iterable[Iterable[str | float]]) -> str:
    """The ``sheetData`` of rows of text and numbers."""
    lines = []
    for number, row in enumerate(rows, 1):
        cells = []
        for column, value in enumerate(row):
            place = f"{chr(65 + column)}{number}"
            if isinstance(value, str):
                cells.append(f'<c r="{place}" t="inlineStr"><is><t>{escape(value)}</t></is></c>')
            else:
                cells.append(f'<c r="{place}"><v>{value}</v></c>')
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    return f"<sheetData>{''.join(lines)}</sheetData>"


def xlsx_parts(sheets: dict[str, str], *, hidden: frozenset[str] = frozenset()) -> dict[str, str | bytes]:
    namespace = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
    kind = f"{_OFFICE}spreadsheetml."
    overrides = f'<Override PartName="/xl/workbook.xml" ContentType="{kind}sheet.main+xml"/>'
    listed, relations, parts = "", "", {}
    for number, (name, data) in enumerate(sheets.items(), 1):
        path = f"worksheets/sheet{number}.xml"
        state = ' state="hidden"' if name in hidden else ""
        listed += f'<sheet name="{escape(name)}" sheetId="{number}" r:id="r{number}"{state}/>'
        relations += _RELATION.format(f"r{number}", "worksheet", path)
        overrides += f'<Override PartName="/xl/{path}" ContentType="{kind}worksheet+xml"/>'
        parts[f"xl/{path}"] = f'<?xml version="1.0"?><worksheet {namespace}>{data}</worksheet>'
    return {
        "[Content_Types].xml": _TYPES.format(overrides),
        "_rels/.rels": _RELATIONS.format(_RELATION.format("r1", "officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<?xml version="1.0"?><workbook {namespace} {relation}>'
        f"<sheets>{listed}</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": _RELATIONS.format(relations),
        **parts,
    }


def xlsx(sheets: dict[str, str], *, hidden: frozenset[str] = frozenset()) -> bytes:
    return archive(xlsx_parts(sheets, hidden=hidden))


def encrypted_office() -> bytes:
    """The outline of an encrypted Office file: an OLE container that names its encrypted stream."""
    name = "EncryptedPackage".encode("utf-16-le")
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(512, b"\0") + name.ljust(128, b"\0") + b"\x01" * 2048


def pdf(pages: Iterable[Iterable[str]], *, outline: dict[str, int] | None = None, title: str = "") -> bytes:
    """A PDF of lines of Latin text; ``outline`` maps a title to the index of its page."""
    streams = [
        "BT /F1 11 Tf 60 780 Td 14 TL " + " ".join(f"({_literal(line)}) Tj T*" for line in lines) + " ET"
        for lines in pages
    ]
    return _pdf(streams, [(entry, page, None) for entry, page in (outline or {}).items()], title)


Placed = tuple[float, float, str]


def laid_out_pdf(
    pages: Iterable[Iterable[Placed | tuple[float, float, str, float]]],
    outline: Sequence[tuple[str, int, float | None]] = (),
) -> bytes:
    """A PDF of texts at (left, baseline), with their size where it is not 10; "**" before one makes it bold.

    ``outline`` has title, index of the page and, where it is told, height on the page of each entry.
    """
    streams = []
    for page in pages:
        parts = []
        for left, baseline, text, *size in page:
            font = "F2" if text.startswith("**") else "F1"
            shown = _literal(text.removeprefix("**"))
            parts.append(f"BT /{font} {size[0] if size else 10} Tf {left} {baseline} Td ({shown}) Tj ET")
        streams.append("\n".join(parts))
    return _pdf(streams, list(outline), "")


def _literal(text: str) -> str:
    return text.replace("(", "[").replace(")", "]")


def _pdf(streams: list[str], outline: list[tuple[str, int, float | None]], title: str) -> bytes:
    first_page = 5
    count = len(streams)
    first_outline = first_page + 2 * count + 1
    kids = " ".join(f"{first_page + 2 * index} 0 R" for index in range(count))
    catalogue = "<< /Type /Catalog /Pages 2 0 R"
    catalogue += f" /Outlines {first_outline - 1} 0 R >>" if outline else " >>"
    objects = [
        catalogue,
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        *(
            f"<< /Type /Font /Subtype /Type1 /BaseFont /{font} /Encoding /WinAnsiEncoding >>"
            for font in ("Helvetica", "Helvetica-Bold")
        ),
    ]
    for index, stream in enumerate(streams):
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            f"/Contents {first_page + 2 * index + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream.encode('latin-1'))} >>\nstream\n{stream}\nendstream")
    if outline:
        last = first_outline + len(outline) - 1
        objects.append(f"<< /First {first_outline} 0 R /Last {last} 0 R /Count {len(outline)} >>")
    for position, (entry, page, top) in enumerate(outline):
        following = f" /Next {first_outline + position + 1} 0 R" if position + 1 < len(outline) else ""
        target = f"[{first_page + 2 * page} 0 R {'/Fit' if top is None else f'/XYZ 0 {top} 0'}]"
        objects.append(f"<< /Title ({entry}) /Parent {first_outline - 1} 0 R /Dest {target}{following} >>")
    objects.append(f"<< /Title ({title}) >>")
    return _pdf_file(objects, info=len(objects))


def _pdf_file(objects: list[str], info: int) -> bytes:
    written = b"%PDF-1.7\n"
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    references = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info {info} 0 R >>\n"
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{references}"
    return written + f"{table}{trailer}startxref\n{len(written)}\n%%EOF\n".encode()


def encrypted_pdf(password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf([["Only for those who know."]]))))
    writer.encrypt(password, "owner", algorithm="AES-256")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def pptx(slides: Iterable[tuple[str, list[str], str]], rows: list[list[str]] | None = None) -> bytes:
    """Slides of (title, bullets, notes); ``rows`` become a table on the first slide."""
    from pptx import Presentation
    from pptx.util import Inches

    deck: Any = Presentation()
    for title, bullets, notes in slides:
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        if title:
            slide.shapes.title.text = title
        slide.placeholders[1].text_frame.text = "\n".join(bullets)
        if notes:
            slide.notes_slide.notes_text_frame.text = notes
    if rows:
        frame = deck.slides[0].shapes.add_table(
            len(rows), len(rows[0]), Inches(1), Inches(4), Inches(6), Inches(1)
        )
        for row, cells in enumerate(rows):
            for column, cell in enumerate(cells):
                frame.table.cell(row, column).text = cell
    target = io.BytesIO()
    deck.save(target)
    return target.getvalue()


@cache
def tokenizer() -> str:
    """The specification of a small tokenizer: a token for each word and each punctuation mark."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    path = Path(tempfile.mkdtemp(prefix="tokenizer-"), "tokenizer.json")
    words.save(str(path))
    return f"file:{path}"
