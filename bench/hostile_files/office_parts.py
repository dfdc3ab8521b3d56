"""Attacks in the parts of Office packages: relationships, styles, sheets, slides, and the archive around."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable

from bench.hostile_files.files import MIB, attack
from bench.hostile_files.office import PARAGRAPH, W, docx, package, xlsx

_LAUGHS = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e0 "lol">{}]><a>&e11;</a>'.format(
    "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
)
_PARTS = (
    "[Content_Types].xml",
    "_rels/.rels",
    "docProps/core.xml",
    "docProps/app.xml",
    "word/_rels/document.xml.rels",
    "word/styles.xml",
    "word/numbering.xml",
    "word/footnotes.xml",
    "word/comments.xml",
    "word/settings.xml",
    "customXml/item1.xml",
)
for _number, _part in enumerate(_PARTS):
    attack(f"laughs-in-part-{_number}.docx")(
        lambda part=_part: docx(PARAGRAPH, extra={part: _LAUGHS.encode()})
    )
attack("laughs-in-utf16.docx")(
    lambda: docx(PARAGRAPH, extra={"word/styles.xml": _LAUGHS.replace("1.0", "1.0").encode("utf-16")})
)
attack("laughs-in-utf16-unmarked.docx")(
    lambda: docx(PARAGRAPH, extra={"word/styles.xml": _LAUGHS.encode("utf-16-be")})
)
attack("laughs-in-utf7.docx")(
    lambda: docx(
        PARAGRAPH,
        extra={
            "word/styles.xml": b'<?xml version="1.0" encoding="utf-7"?>'
            + _LAUGHS.split("?>", 1)[1].encode("utf-7")
        },
    )
)
attack("laughs-in-ebcdic.docx")(lambda: docx(PARAGRAPH, extra={"word/styles.xml": _LAUGHS.encode("cp037")}))
attack("laughs.xlsx")(lambda: xlsx("<sheetData/>", {"xl/sharedStrings.xml": _LAUGHS.encode()}))


# --- Word ---


def _relations(*targets: str, mode: str = "Internal") -> bytes:
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    lines = "".join(
        f'<Relationship Id="r{n}" Type="{kind}/{"styles" if n == 0 else "footnotes" if n == 1 else "image"}" '
        f'Target="{target}" TargetMode="{mode}"/>'
        for n, target in enumerate(targets)
    )
    space = "http://schemas.openxmlformats.org/package/2006/relationships"
    return f'<Relationships xmlns="{space}">{lines}</Relationships>'.encode()


_RELS = "word/_rels/document.xml.rels"
attack("own-relation.docx")(
    lambda: docx(
        PARAGRAPH, extra={_RELS: _relations("document.xml", "document.xml", "_rels/document.xml.rels")}
    )
)
attack("outside-relations.docx")(
    lambda: docx(
        PARAGRAPH,
        extra={
            _RELS: _relations("file:///etc/passwd", "http://127.0.0.1:9/", "\\\\host\\a", mode="External")
        },
    )
)
attack("relations-upwards.docx")(
    lambda: docx(PARAGRAPH, extra={_RELS: _relations("../../../../etc/passwd", "/../..", "%2e%2e/a")})
)
attack("many-relations.docx")(
    lambda: docx(PARAGRAPH, extra={_RELS: _relations(*(f"media/{n}.png" for n in range(100_000)))})
)


@attack("wide-cells.docx")
def _wide_cells() -> bytes:
    cell = '<w:tc><w:tcPr><w:gridSpan w:val="2147483647"/><w:vMerge/></w:tcPr>' + PARAGRAPH + "</w:tc>"
    return docx("<w:tbl>" + f"<w:tr>{cell * 3}</w:tr>" * 3000 + "</w:tbl>")


@attack("cells.docx")
def _cells() -> bytes:
    return docx("<w:tbl>" + f"<w:tr>{f'<w:tc>{PARAGRAPH}</w:tc>' * 60}</w:tr>" * 3000 + "</w:tbl>")


@attack("numbering-cycle.docx")
def _numbering_cycle() -> bytes:
    numbering = (
        f'<w:numbering {W}><w:abstractNum w:abstractNumId="0"><w:numStyleLink w:val="L"/></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>'
    )
    styles = (
        f'<w:styles {W}><w:style w:type="numbering" w:styleId="L"><w:name w:val="L"/><w:pPr><w:numPr>'
        '<w:numId w:val="1"/></w:numPr></w:pPr></w:style></w:styles>'
    )
    body = '<w:p><w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr>'
    return docx(
        body + "<w:r><w:t>text</w:t></w:r></w:p>",
        extra={
            "word/numbering.xml": numbering.encode(),
            "word/styles.xml": styles.encode(),
            _RELS: _relations("styles.xml"),
        },
    )


@attack("level-of-a-list.docx")
def _level_of_a_list() -> bytes:
    body = '<w:p><w:pPr><w:numPr><w:ilvl w:val="99999999999"/><w:numId w:val="-1"/></w:numPr></w:pPr>'
    return docx((body + "<w:r><w:t>text</w:t></w:r></w:p>") * 100)


@attack("fields.docx")
def _fields() -> bytes:
    begin = (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>HYPERLINK "x" </w:instrText></w:r>'
    )
    return docx(f"<w:p>{begin * 30_000}<w:r><w:t>text</w:t></w:r></w:p>")


@attack("footnotes.docx")
def _footnotes() -> bytes:
    notes = "".join(
        f'<w:footnote w:id="{n}"><w:p><w:r><w:footnoteReference w:id="{n}"/><w:t>a</w:t></w:r></w:p>'
        "</w:footnote>"
        for n in range(20_000)
    )
    body = "".join(f'<w:p><w:r><w:footnoteReference w:id="{n}"/></w:r></w:p>' for n in range(20_000))
    notes = f"<w:footnotes {W}>{notes}</w:footnotes>"
    return docx(
        body, extra={"word/footnotes.xml": notes.encode(), _RELS: _relations("styles.xml", "footnotes.xml")}
    )


@attack("text-boxes.docx")
def _text_boxes() -> bytes:
    box = "<w:r><w:pict><v:shape><v:textbox><w:txbxContent><w:p>"
    end = "</w:p></w:txbxContent></v:textbox></v:shape></w:pict></w:r>"
    return docx(
        f'<w:p xmlns:v="urn:schemas-microsoft-com:vml">{box * 30}<w:r><w:t>a</w:t></w:r>{end * 30}</w:p>'
    )


@attack("attributes.docx")
def _attributes() -> bytes:
    return docx("<w:p " + " ".join(f'a{n}="b"' for n in range(300_000)) + "><w:r><w:t>text</w:t></w:r></w:p>")


@attack("namespaces.docx")
def _namespaces() -> bytes:
    return docx(
        "<w:p " + " ".join(f'xmlns:n{n}="u:{n}"' for n in range(60_000)) + "><w:r><w:t>text</w:t></w:r></w:p>"
    )


attack("one-text.docx")(lambda: docx(f"<w:p><w:r><w:t>{'ab ' * 5_000_000}</w:t></w:r></w:p>"))
attack("markdown-in-it.docx")(lambda: docx(f"<w:p><w:r><w:t>{'*_`[' * 300_000}</w:t></w:r></w:p>"))
attack("processing-instructions.docx")(lambda: docx(PARAGRAPH + "<?a b?>" * 300_000 + "<!-- -->" * 300_000))
attack("surrogates.docx")(lambda: docx("<w:p><w:r><w:t>&#xD800;&#0;&#xFFFF;</w:t></w:r></w:p>"))

# --- Excel ---


def _cell(reference: str, content: str = "<v>1</v>", kind: str = "") -> str:
    return f'<c r="{reference}"{f" t={chr(34)}{kind}{chr(34)}" if kind else ""}>{content}</c>'


attack("dimension-lies.xlsx")(
    lambda: xlsx(f'<dimension ref="A1:XFD1048576"/><sheetData><row r="1">{_cell("A1")}</row></sheetData>')
)
attack("million-rows.xlsx")(
    lambda: xlsx("<sheetData>" + "".join(f'<row r="{n}"/>' for n in range(1, 1_000_001)) + "</sheetData>")
)
attack("far-rows.xlsx")(
    lambda: xlsx(
        f'<sheetData><row r="1">{"<c><v>1</v></c>" * 900}</row>'
        '<row r="1048576"><c><v>1</v></c></row></sheetData>'
    )
)
attack("open-cells.xlsx")(lambda: xlsx("<sheetData><row>" + "<c " * 300_000))
attack("repeated-cell.xlsx")(lambda: xlsx(f'<sheetData><row r="1">{_cell("A1") * 600_000}</row></sheetData>'))
attack("rows-backwards.xlsx")(
    lambda: xlsx(
        "<sheetData>"
        + "".join(f'<row r="{n}">{_cell(f"A{n}")}</row>' for n in range(200_000, 0, -1))
        + "</sheetData>"
    )
)
attack("shared-formulas.xlsx")(
    lambda: xlsx(
        '<sheetData><row r="1">'
        + _cell("A1", '<f t="shared" si="0" ref="A1:XFD1048576">A1</f><v>1</v>')
        + "</row></sheetData>"
    )
)
attack("formula-of-a-megabyte.xlsx")(
    lambda: xlsx(
        f'<sheetData><row r="1">{_cell("A1", "<f>" + "(" * 1_000_000 + "</f><v>1</v>")}</row></sheetData>'
    )
)
attack("numbers.xlsx")(
    lambda: xlsx(
        '<sheetData><row r="1">'
        + "".join(
            _cell(f"{column}1", f"<v>{value}</v>", kind)
            for column, value, kind in (
                ("A", "1e400", ""),
                ("B", "NaN", "n"),
                ("C", "-1e-400", ""),
                ("D", "9" * 400, ""),
                ("E", "4294967296", "s"),
                ("F", "2", "b"),
                ("G", "#REF!", "e"),
                ("H", "0000-00-00T99:99:99Z", "d"),
                ("I", "text", "no-such-type"),
            )
        )
        + "</row></sheetData>"
    )
)
_SST = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" count="{0}" uniqueCount="{0}">'
attack("count-of-strings.xlsx")(
    lambda: xlsx("<sheetData/>", {"xl/sharedStrings.xml": (_SST.format(4294967295) + "</sst>").encode()})
)
attack("million-strings.xlsx")(
    lambda: xlsx(
        f'<sheetData><row r="1">{_cell("A1", "<v>0</v>", "s")}</row></sheetData>',
        {"xl/sharedStrings.xml": (_SST.format(1) + "<si><t>ab</t></si>" * 2_000_000 + "</sst>").encode()},
    )
)
attack("rich-string.xlsx")(
    lambda: xlsx(
        f'<sheetData><row r="1">{_cell("A1", "<v>0</v>", "s")}</row></sheetData>',
        {
            "xl/sharedStrings.xml": (
                _SST.format(1) + "<si>" + "<r><t>ab</t></r>" * 1_000_000 + "</si></sst>"
            ).encode()
        },
    )
)
attack("nested-strings.xlsx")(
    lambda: xlsx(
        f'<sheetData><row r="1">{_cell("A1", "<v>0</v>", "s")}</row></sheetData>',
        {"xl/sharedStrings.xml": (_SST.format(1) + "<si><r>" * 100_000 + "</sst>").encode()},
    )
)


@attack("many-sheets.xlsx")
def _many_sheets() -> bytes:
    """One sheet under ten thousand names."""
    return _changed(
        xlsx(f'<sheetData><row r="1">{_cell("A1", "<is><t>text</t></is>", "inlineStr")}</row></sheetData>'),
        {
            "xl/workbook.xml": lambda part: re.sub(
                rb"<sheet .*?/>",
                b"".join(b'<sheet name="A%d" sheetId="%d" r:id="r1"/>' % (n, n) for n in range(1, 10_001)),
                part,
            )
        },
    )


@attack("styles.xlsx")
def _styles() -> bytes:
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    formats = '<numFmt numFmtId="164" formatCode="[h]:mm:ss;@"/>' * 300_000
    return xlsx(
        '<sheetData><row r="1"><c r="A1" s="4294967295"><v>1e300</v></c></row></sheetData>',
        {"xl/styles.xml": f"<styleSheet {main}><numFmts>{formats}</numFmts></styleSheet>".encode()},
    )


# --- PowerPoint ---


def _changed(content: bytes, changes: dict[str, Callable[[bytes], bytes]]) -> bytes:
    """The package with parts changed, those that it lacks from nothing."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return package({**parts, **{name: change(parts.get(name, b"")) for name, change in changes.items()}})


def _deck(changes: dict[str, Callable[[bytes], bytes]]) -> bytes:
    """A deck of one slide with a title, changed."""
    from pptx import Presentation

    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[0])
    assert slide.shapes.title is not None
    slide.shapes.title.text_frame.text = "Title"
    target = io.BytesIO()
    deck.save(target)
    return _changed(target.getvalue(), changes)


_SLIDE, _SLIDE_RELS = "ppt/slides/slide1.xml", "ppt/slides/_rels/slide1.xml.rels"
attack("own-layout.pptx")(
    lambda: _deck(
        {_SLIDE_RELS: lambda part: re.sub(rb"\.\./slideLayouts/slideLayout1.xml", b"slide1.xml", part)}
    )
)
attack("own-master.pptx")(
    lambda: _deck(
        {
            "ppt/slideLayouts/_rels/slideLayout1.xml.rels": lambda part: re.sub(
                rb"\.\./slideMasters/slideMaster1.xml", b"../slideLayouts/slideLayout1.xml", part
            )
        }
    )
)
attack("presentation-as-slide.pptx")(
    lambda: _deck(
        {
            "ppt/_rels/presentation.xml.rels": lambda part: part.replace(
                b"slides/slide1.xml", b"presentation.xml"
            )
        }
    )
)
attack("slide-many-times.pptx")(
    lambda: _deck(
        {
            "ppt/presentation.xml": lambda part: re.sub(
                rb"(<p:sldId [^>]*/>)", lambda found: found[1] * 300_000, part
            )
        }
    )
)
attack("slide-nine-thousand-times.pptx")(
    lambda: _deck(
        {
            "ppt/presentation.xml": lambda part: re.sub(
                rb"(<p:sldId [^>]*/>)", lambda found: found[1] * 9_000, part
            )
        }
    )
)
attack("groups.pptx")(
    lambda: _deck(
        {
            _SLIDE: lambda part: part.replace(
                b"</p:spTree>", b"<p:grpSp>" * 200 + b"</p:grpSp>" * 200 + b"</p:spTree>"
            )
        }
    )
)
attack("deep-groups.pptx")(
    lambda: _deck(
        {
            _SLIDE: lambda part: part.replace(
                b"</p:spTree>", b"<p:grpSp>" * 50_000 + b"</p:grpSp>" * 50_000 + b"</p:spTree>"
            )
        }
    )
)
attack("shapes.pptx")(
    lambda: _deck(
        {
            _SLIDE: lambda part: re.sub(
                rb"(<p:sp>.*?</p:sp>)", lambda found: found[1] * 20_000, part, flags=re.S
            )
        }
    )
)
attack("paragraphs.pptx")(
    lambda: _deck(
        {_SLIDE: lambda part: re.sub(rb"(<a:p>.*?</a:p>)", lambda found: found[1] * 100_000, part, count=1)}
    )
)
attack("no-relations.pptx")(lambda: _deck({_SLIDE_RELS: lambda _: b"<Relationships/>"}))
attack("no-slides.pptx")(
    lambda: _deck({"ppt/presentation.xml": lambda part: re.sub(rb"<p:sldIdLst>.*?</p:sldIdLst>", b"", part)})
)
attack("laughs.pptx")(lambda: _deck({"ppt/theme/theme1.xml": lambda _: _LAUGHS.encode()}))

# --- the archive ---


def _archive(change: Callable[[bytearray], None]) -> bytes:
    content = bytearray(docx(PARAGRAPH))
    change(content)
    return bytes(content)


def _overwrite(signature: bytes, at: int, value: bytes) -> Callable[[bytearray], None]:
    """Overwrite a field of each record that begins with ``signature``."""

    def change(content: bytearray) -> None:
        for match in [*re.finditer(re.escape(signature), bytes(content))]:
            content[match.start() + at : match.start() + at + len(value)] = value

    return change


_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
for _name, _signature, _at, _value in (
    ("sizes-of-nothing", _CENTRAL, 24, bytes(4)),
    ("sizes-of-all", _CENTRAL, 20, b"\xff" * 8),
    ("local-sizes-lie", _LOCAL, 18, b"\x01\0\0\0\xff\xff\xff\x7f"),
    ("wrong-checksums", _CENTRAL, 16, b"\x01\x02\x03\x04"),
    ("encrypted-flag", _CENTRAL, 8, b"\x01\0"),
    ("patched-data-flag", _CENTRAL, 8, b"\x20\0"),
    ("method-lzma", _CENTRAL, 10, b"\x0e\0"),
    ("method-bzip2", _CENTRAL, 10, b"\x0c\0"),
    ("method-unknown", _CENTRAL, 10, b"\x63\0"),
    ("offsets-beyond", _CENTRAL, 42, b"\xff\xff\xff\x7f"),
    ("offsets-zip64", _CENTRAL, 42, b"\xff" * 4),
    ("names-beyond", _CENTRAL, 28, b"\xff\xff"),
    ("extra-beyond", _CENTRAL, 30, b"\xff\xff"),
    ("dates-of-nothing", _CENTRAL, 12, b"\xff" * 4),
    ("many-disks", _END, 4, b"\xff\xff\xff\xff"),
    ("directory-beyond", _END, 12, b"\xff\xff\xff\x7f\xff\xff\xff\x7f"),
    ("directory-empty", _END, 8, bytes(8)),
):
    attack(f"{_name}.docx")(lambda field=(_signature, _at, _value): _archive(_overwrite(*field)))


@attack("two-of-one-name.docx")
def _two_of_one_name() -> bytes:
    target = io.BytesIO(docx(PARAGRAPH))
    with zipfile.ZipFile(target, "a") as archive:
        entry = zipfile.ZipInfo("word/document.xml")
        archive.NameToInfo.clear()
        archive.writestr(entry, b"<a/>")
    return target.getvalue()


attack("long-name.docx")(lambda: docx(PARAGRAPH, extra={"word/" + "n" * 60_000 + ".xml": b"<a/>"}))
attack("names-that-differ-in-case.docx")(
    lambda: docx(PARAGRAPH, extra={"WORD/DOCUMENT.XML": b"<a/>", "Word/document.xml": b"<a/>"})
)
attack("end-in-comment.docx")(lambda: docx(PARAGRAPH)[:-2] + b"\x16\0" + b"PK\x05\x06" + bytes(18))
attack("prefixed.docx")(lambda: b"#!/bin/sh\n" * 100 + docx(PARAGRAPH))
attack("text-bomb.docx")(
    lambda: docx(PARAGRAPH, extra={"word/a.xml": b"<a>" + zlib.compress(bytes(30 * MIB)) * 50 + b"</a>"})
)
