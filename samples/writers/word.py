"""Set an outline as a Word document: WordprocessingML (ECMA-376 part 1) written by hand."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from samples.writers.archive import pack
from samples.writers.outline import (
    Block,
    CallOut,
    Heading,
    ListItems,
    Outline,
    PageBreak,
    Paragraph,
    Table,
    runs,
)

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml"
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# A4 with 2.5 cm margins, in twentieths of a point.
_PAGE_WIDTH_TWIPS, _PAGE_HEIGHT_TWIPS, _MARGIN_TWIPS = 11906, 16838, 1417
_TEXT_WIDTH_TWIPS = _PAGE_WIDTH_TWIPS - 2 * _MARGIN_TWIPS
_CREATED = "2025-01-01T08:00:00Z"


def write_docx(outline: Outline) -> bytes:
    """The document, with heading styles, real lists and tables, and page numbers in its footer."""
    meta = outline.meta
    body = [_paragraph(meta["title"], "Title")]
    if "subtitle" in meta:
        body.append(_paragraph(meta["subtitle"], "Subtitle"))
    numbered_lists = 0
    for block in outline.blocks:
        if isinstance(block, ListItems) and block.numbered:
            numbered_lists += 1
        body.append(_block(block, numbered_lists))
    parts = {
        "[Content_Types].xml": _content_types(),
        "_rels/.rels": _relations(
            (f"{_OFFICE}/officeDocument", "word/document.xml"),
            (f"{_PACKAGE}/relationships/metadata/core-properties", "docProps/core.xml"),
        ),
        "docProps/core.xml": _core(meta),
        "word/document.xml": _document("".join(body)),
        "word/styles.xml": _styles(),
        "word/numbering.xml": _numbering(numbered_lists),
        "word/footer1.xml": _footer(f"{meta['author']}  ·  {meta.get('number', meta['title'])}"),
        "word/_rels/document.xml.rels": _relations(
            (f"{_OFFICE}/styles", "styles.xml"),
            (f"{_OFFICE}/numbering", "numbering.xml"),
            (f"{_OFFICE}/footer", "footer1.xml"),
        ),
    }
    return pack({name: (_DECLARATION + xml).encode() for name, xml in parts.items()})


def _block(block: Block, numbered_list: int) -> str:
    match block:
        case Heading(level, text):
            return _paragraph(text, f"Heading{level}")
        case Paragraph(text):
            return _paragraph(text)
        case CallOut(text):
            return _paragraph(text, "CallOut")
        case ListItems(items, numbered):
            number = 1 + numbered_list if numbered else 1
            link = f'<w:numPr><w:ilvl w:val="0"/><w:numId w:val="{number}"/></w:numPr>'
            return "".join(_paragraph(item, "ListParagraph", link) for item in items)
        case Table():
            return _table(block) + _paragraph("", "AfterTable")
        case PageBreak():
            return '<w:p><w:r><w:br w:type="page"/></w:r></w:p>'


def _paragraph(text: str, style: str = "", extra: str = "", *, bold: bool = False) -> str:
    properties = (f'<w:pStyle w:val="{style}"/>' if style else "") + extra
    return f"<w:p><w:pPr>{properties}</w:pPr>{_runs(text, bold)}</w:p>"


def _runs(text: str, bold: bool) -> str:
    out = []
    for run in runs(text):
        properties = ("<w:b/>" if run.bold or bold else "") + ("<w:i/>" if run.italic else "")
        out.append(
            f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{escape(run.text)}</w:t></w:r>'
        )
    return "".join(out)


def _table(table: Table) -> str:
    longest = [max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))]
    shares = [min(length + 4, 45) for length in longest]
    widths = [_TEXT_WIDTH_TWIPS * share // sum(shares) for share in shares]
    grid = "".join(f'<w:gridCol w:w="{width}"/>' for width in widths)
    head = _row(table.header, widths, table.numeric, head=True)
    rows = "".join(_row(row, widths, table.numeric) for row in table.rows)
    properties = '<w:tblPr><w:tblStyle w:val="Grid"/><w:tblW w:w="5000" w:type="pct"/></w:tblPr>'
    return f"<w:tbl>{properties}<w:tblGrid>{grid}</w:tblGrid>{head}{rows}</w:tbl>"


def _row(cells: tuple[str, ...], widths: list[int], numeric: tuple[bool, ...], *, head: bool = False) -> str:
    shade = '<w:shd w:val="clear" w:color="auto" w:fill="DFE8F0"/>' if head else ""
    out = []
    for cell, width, right in zip(cells, widths, numeric, strict=True):
        align = '<w:jc w:val="right"/>' if right else ""
        paragraph = _paragraph(cell, "Cell", align, bold=head)
        out.append(f'<w:tc><w:tcPr><w:tcW w:w="{width}" w:type="dxa"/>{shade}</w:tcPr>{paragraph}</w:tc>')
    properties = "<w:trPr><w:tblHeader/></w:trPr>" if head else ""
    return f"<w:tr>{properties}{''.join(out)}</w:tr>"


def _document(body: str) -> str:
    section = (
        '<w:sectPr><w:footerReference w:type="default" r:id="rId3"/>'
        f'<w:pgSz w:w="{_PAGE_WIDTH_TWIPS}" w:h="{_PAGE_HEIGHT_TWIPS}"/>'
        f'<w:pgMar w:top="{_MARGIN_TWIPS}" w:right="{_MARGIN_TWIPS}" w:bottom="{_MARGIN_TWIPS}" '
        f'w:left="{_MARGIN_TWIPS}" w:header="709" w:footer="709" w:gutter="0"/></w:sectPr>'
    )
    return f'<w:document xmlns:w="{_W}" xmlns:r="{_OFFICE}"><w:body>{body}{section}</w:body></w:document>'


def _footer(text: str) -> str:
    page = '<w:fldSimple w:instr="PAGE"><w:r><w:t>1</w:t></w:r></w:fldSimple>'
    line = f'<w:pPr><w:pStyle w:val="Footer"/></w:pPr>{_runs(f"{text}  ·  Page ", False)}{page}'
    return f'<w:ftr xmlns:w="{_W}"><w:p>{line}</w:p></w:ftr>'


# Name, shown name, paragraph properties, run properties. Sizes are in half-points.
_STYLES = (
    ("Title", "Title", '<w:spacing w:after="60"/>', '<w:b/><w:color w:val="17324D"/><w:sz w:val="44"/>'),
    ("Subtitle", "Subtitle", '<w:spacing w:after="240"/>', '<w:color w:val="4B6A88"/><w:sz w:val="24"/>'),
    (
        "Heading1",
        "heading 1",
        '<w:keepNext/><w:spacing w:before="280" w:after="100"/><w:outlineLvl w:val="0"/>',
        '<w:b/><w:color w:val="17324D"/><w:sz w:val="30"/>',
    ),
    (
        "Heading2",
        "heading 2",
        '<w:keepNext/><w:spacing w:before="200" w:after="80"/><w:outlineLvl w:val="1"/>',
        '<w:b/><w:color w:val="4B6A88"/><w:sz w:val="24"/>',
    ),
    ("ListParagraph", "List Paragraph", '<w:spacing w:after="60"/>', ""),
    (
        "Cell",
        "Cell",
        '<w:spacing w:before="40" w:after="40" w:line="240" w:lineRule="auto"/>',
        '<w:sz w:val="19"/>',
    ),
    ("AfterTable", "After Table", '<w:spacing w:after="80"/>', ""),
    (
        "CallOut",
        "Call-out",
        '<w:pBdr><w:left w:val="single" w:sz="24" w:space="8" w:color="4B6A88"/></w:pBdr>'
        '<w:shd w:val="clear" w:color="auto" w:fill="EEF3F7"/><w:ind w:left="227"/>',
        "",
    ),
    ("Footer", "footer", "", '<w:color w:val="4B6A88"/><w:sz w:val="17"/>'),
)


def _styles() -> str:
    defaults = (
        "<w:docDefaults><w:rPrDefault><w:rPr>"
        '<w:rFonts w:ascii="Calibri" w:hAnsi="Calibri"/><w:sz w:val="22"/><w:lang w:val="en-GB"/>'
        "</w:rPr></w:rPrDefault><w:pPrDefault><w:pPr>"
        '<w:spacing w:after="120" w:line="271" w:lineRule="auto"/></w:pPr></w:pPrDefault></w:docDefaults>'
        '<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/></w:style>'
    )
    named = "".join(
        f'<w:style w:type="paragraph" w:styleId="{key}"><w:name w:val="{name}"/><w:basedOn w:val="Normal"/>'
        f"<w:pPr>{paragraph}</w:pPr><w:rPr>{run}</w:rPr></w:style>"
        for key, name, paragraph, run in _STYLES
    )
    edges = "".join(
        f'<w:{edge} w:val="single" w:sz="4" w:color="B8C7D4"/>' for edge in ("top", "bottom", "insideH")
    )
    grid = (
        '<w:style w:type="table" w:styleId="Grid"><w:name w:val="Grid"/>'
        f"<w:tblPr><w:tblBorders>{edges}</w:tblBorders></w:tblPr></w:style>"
    )
    return f'<w:styles xmlns:w="{_W}">{defaults}{named}{grid}</w:styles>'


def _numbering(numbered_lists: int) -> str:
    def level(kind: str, text: str) -> str:
        return (
            f'<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="{kind}"/><w:lvlText w:val="{text}"/>'
            '<w:pPr><w:ind w:left="425" w:hanging="340"/></w:pPr></w:lvl>'
        )

    kinds = [("bullet", "•"), *[("decimal", "%1.")] * numbered_lists]
    abstract = "".join(
        f'<w:abstractNum w:abstractNumId="{i}">{level(kind, text)}</w:abstractNum>'
        for i, (kind, text) in enumerate(kinds)
    )
    numbers = "".join(
        f'<w:num w:numId="{i + 1}"><w:abstractNumId w:val="{i}"/></w:num>' for i in range(len(kinds))
    )
    return f'<w:numbering xmlns:w="{_W}">{abstract}{numbers}</w:numbering>'


def _core(meta: dict[str, str]) -> str:
    return (
        f'<cp:coreProperties xmlns:cp="{_PACKAGE}/metadata/core-properties" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<dc:title>{escape(meta['title'])}</dc:title><dc:creator>{escape(meta['author'])}</dc:creator>"
        f'<dcterms:created xsi:type="dcterms:W3CDTF">{_CREATED}</dcterms:created></cp:coreProperties>'
    )


def _content_types() -> str:
    parts = {
        "/word/document.xml": f"{_TYPE}.document.main+xml",
        "/word/styles.xml": f"{_TYPE}.styles+xml",
        "/word/numbering.xml": f"{_TYPE}.numbering+xml",
        "/word/footer1.xml": f"{_TYPE}.footer+xml",
        "/docProps/core.xml": "application/vnd.openxmlformats-package.core-properties+xml",
    }
    overrides = "".join(f'<Override PartName="{name}" ContentType="{kind}"/>' for name, kind in parts.items())
    return (
        f'<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>'
    )


def _relations(*targets: tuple[str, str]) -> str:
    links = "".join(
        f'<Relationship Id="rId{i}" Type="{kind}" Target={quoteattr(target)}/>'
        for i, (kind, target) in enumerate(targets, 1)
    )
    return f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>'
