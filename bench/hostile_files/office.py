"""Attacks in Office packages."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from bench.hostile_files.files import MIB, attack

_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/word/document.xml" ContentType="{_WORD}"/></Types>'
)
_RELATIONS = (
    '<?xml version="1.0"?>'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
PARAGRAPH = "<w:p><w:r><w:t>text</w:t></w:r></w:p>"


def docx(body: str, doctype: str = "", extra: dict[str, bytes] | None = None) -> bytes:
    document = f'<?xml version="1.0"?>{doctype}<w:document {W}><w:body>{body}</w:body></w:document>'
    return package(
        {
            "[Content_Types].xml": _TYPES.encode(),
            "_rels/.rels": _RELATIONS.encode(),
            "word/document.xml": document.encode(),
            **(extra or {}),
        }
    )


def package(parts: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return target.getvalue()


@attack("spaces.docx")
def _spaces() -> bytes:
    return docx(PARAGRAPH + " " * (250 * MIB))


@attack("image-bomb.docx")
def _image_bomb() -> bytes:
    return docx(PARAGRAPH, extra={"word/media/image1.png": bytes(400 * MIB)})


@attack("entries.docx")
def _entries() -> bytes:
    return docx(PARAGRAPH, extra={f"word/media/{n}.xml": b"<a/>" for n in range(60_000)})


@attack("laughs.docx")
def _laughs() -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    return docx("<w:p><w:r><w:t>&e11;</w:t></w:r></w:p>", f'<!DOCTYPE w [<!ENTITY e0 "lol">{entities}]>')


@attack("external-entity.docx")
def _external_entity() -> bytes:
    doctype = (
        '<!DOCTYPE w [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"><!ENTITY b SYSTEM "file:///etc/passwd">%a;]>'
    )
    return docx("<w:p><w:r><w:t>&b;</w:t></w:r></w:p>", doctype)


@attack("deep.docx")
def _deep_docx() -> bytes:
    return docx("<w:tbl><w:tr><w:tc>" * 20_000 + PARAGRAPH + "</w:tc></w:tr></w:tbl>" * 20_000)


@attack("deep-runs.docx")
def _deep_runs() -> bytes:
    return docx("<w:p>" + "<w:ins><w:smartTag>" * 30_000 + "</w:smartTag></w:ins>" * 30_000 + "</w:p>")


@attack("paragraphs.docx")
def _paragraphs() -> bytes:
    return docx("<w:p><w:r><w:t>a</w:t></w:r></w:p>" * 900_000)


@attack("lists.docx")
def _lists() -> bytes:
    item = '<w:p><w:pPr><w:numPr><w:ilvl w:val="%d"/><w:numId w:val="1"/></w:numPr></w:pPr>%s</w:p>'
    return docx("".join(item % (n % 9, "<w:r><w:t>a</w:t></w:r>") for n in range(60_000)))


@attack("own-parent.docx")
def _style_cycle() -> bytes:
    styles = (
        f'<w:styles {W}><w:style w:type="paragraph" w:styleId="A"><w:name w:val="a"/><w:basedOn w:val="A"/>'
        "</w:style></w:styles>"
    )
    body = '<w:p><w:pPr><w:pStyle w:val="A"/></w:pPr><w:r><w:t>text</w:t></w:r></w:p>'
    return docx(body, extra={"word/styles.xml": styles.encode()})


@attack("traversal.docx")
def _traversal() -> bytes:
    return docx(
        PARAGRAPH, extra={"../../../../tmp/evil.xml": b"<a/>", "/etc/passwd": b"x", "C:\\x.xml": b"<a/>"}
    )


@attack("overlapping.docx")
def _overlapping() -> bytes:
    """Every entry of the directory points at the same compressed bytes."""
    body = zlib.compress(b"<a>" + b" " * (20 * MIB) + b"</a>", 9)[2:-4]
    crc, size = zlib.crc32(b"<a>" + b" " * (20 * MIB) + b"</a>"), 20 * MIB + 7
    local = (
        struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(body), size, 5, 0) + b"a.xml" + body
    )
    directory = b"".join(
        struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(body), size, 9, 0, 0, 0, 0, 0, 0
        )
        + b"word/%04d" % n
        for n in range(5_000)
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 5_000, 5_000, len(directory), len(local), 0)
    return local + directory + end


@attack("zip-in-zip.docx")
def _zip_in_zip() -> bytes:
    inner = docx(PARAGRAPH)
    for _ in range(50):
        inner = docx(PARAGRAPH, extra={"word/embeddings/inner.docx": inner})
    return inner


@attack("html-in-a-package.docx")
def _html_in_docx() -> bytes:
    return docx('<w:altChunk r:id="h"/>' + PARAGRAPH, extra={"word/a.html": b"<script>alert(1)</script>"})


def xlsx(sheet: str, extra: dict[str, bytes] | None = None) -> bytes:
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    return package(
        {
            "[Content_Types].xml": (
                '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
                '<Default Extension="rels" '
                'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
                f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
                f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}.sharedStrings+xml"/></Types>'
            ).encode(),
            "_rels/.rels": _RELATIONS.replace("word/document.xml", "xl/workbook.xml").encode(),
            "xl/workbook.xml": (
                f'<workbook {main} xmlns:r="{relation}"><sheets>'
                '<sheet name="A" sheetId="1" r:id="r1"/></sheets></workbook>'
            ).encode(),
            "xl/_rels/workbook.xml.rels": (
                '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
                f'<Relationship Id="r1" Type="{relation}/worksheet" Target="worksheets/sheet1.xml"/>'
                f'<Relationship Id="r2" Type="{relation}/sharedStrings" Target="sharedStrings.xml"/>'
                "</Relationships>"
            ).encode(),
            "xl/worksheets/sheet1.xml": f"<worksheet {main}>{sheet}</worksheet>".encode(),
            **(extra or {}),
        }
    )


@attack("far-cells.xlsx")
def _far_cells() -> bytes:
    return xlsx(
        '<dimension ref="A1:XFD1048576"/><sheetData><row r="1"><c r="A1"><v>1</v></c></row>'
        '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    )


@attack("rows.xlsx")
def _rows() -> bytes:
    row = "".join(f'<c r="{column}1" t="inlineStr"><is><t>ab</t></is></c>' for column in "ABCDEFGH")
    return xlsx("<sheetData>" + f"<row>{row}</row>" * 200_000 + "</sheetData>")


@attack("shared-strings.xlsx")
def _shared_strings() -> bytes:
    strings = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" count="1"><si><t>'
    cells = "".join(f'<row r="{n}"><c r="A{n}" t="s"><v>0</v></c></row>' for n in range(1, 60_000))
    extra = {"xl/sharedStrings.xml": strings + b"long text " * 2_000 + b"</t></si></sst>"}
    return xlsx(f"<sheetData>{cells}</sheetData>", extra)


@attack("bad-cells.xlsx")
def _bad_cells() -> bytes:
    return xlsx(
        '<sheetData><row r="0"><c r="A0"><v>1</v></c><c r="ZZZZZZ1"><v>x</v></c><c t="s"><v>-1</v></c>'
        '<c t="d"><v>99999-99-99</v></c><c r="A99999999999"><v>1</v></c></row></sheetData>'
    )


@attack("merged.xlsx")
def _merged() -> bytes:
    merged = '<mergeCell ref="A1:XFD1048576"/>' * 50_000
    return xlsx(
        f'<sheetData><row r="1"><c r="A1"><v>1</v></c></row></sheetData><mergeCells>{merged}</mergeCells>'
    )


@attack("not-a-deck.pptx")
def _not_a_deck() -> bytes:
    return package({"[Content_Types].xml": b"<Types/>", "ppt/presentation.xml": b"<p>" * 100_000})
