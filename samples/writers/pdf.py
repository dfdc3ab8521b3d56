"""Set an outline as a PDF: title block, numbered pages, tables that break with their header repeated."""

from __future__ import annotations

import io
from html import escape
from itertools import pairwise
from typing import Any

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import stringWidth
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    CondPageBreak,
    Flowable,
    Frame,
    KeepTogether,
    ListFlowable,
    ListItem,
    PageTemplate,
    Paragraph,
    Spacer,
    TableStyle,
)
from reportlab.platypus import PageBreak as PdfPageBreak
from reportlab.platypus import Table as PdfTable
from reportlab.platypus.tableofcontents import TableOfContents

from samples.writers import outline as source

_NAVY, _STEEL, _MIST, _RULE = (HexColor(code) for code in ("#17324d", "#4b6a88", "#eef3f7", "#b8c7d4"))
_MARGIN = 22 * mm
_TEXT_WIDTH = A4[0] - 2 * _MARGIN
# A heading needs room for itself and three lines, a chapter also for its first section's heading.
_HEADING_ROOM = {1: 40 * mm, 2: 28 * mm}
# Short tables stay on one page; longer ones break and repeat their header.
_UNBROKEN_ROWS = 12


def _style(name: str, size: float, leading: float, **rest: Any) -> ParagraphStyle:
    return ParagraphStyle(
        name, fontName=rest.pop("font", "Helvetica"), fontSize=size, leading=leading, **rest
    )


_BODY = _style("body", 10.5, 15.4, spaceAfter=7)
_CELL = _style("cell", 9, 11.8)
_CELL_RIGHT = _style("cell-right", 9, 11.8, alignment=TA_RIGHT)
_HEAD = _style("head", 9, 11.8, font="Helvetica-Bold", textColor=Color(1, 1, 1))
_HEAD_RIGHT = _style(
    "head-right", 9, 11.8, font="Helvetica-Bold", textColor=Color(1, 1, 1), alignment=TA_RIGHT
)
_TITLE = _style("title", 23, 28, font="Helvetica-Bold", textColor=_NAVY, spaceAfter=2)
_SUBTITLE = _style("subtitle", 11.5, 16, textColor=_STEEL, spaceAfter=10)
_HEADINGS = {
    1: _style("h1", 15, 19, font="Helvetica-Bold", textColor=_NAVY, spaceBefore=12, spaceAfter=6),
    2: _style("h2", 11.5, 15, font="Helvetica-Bold", textColor=_STEEL, spaceBefore=8, spaceAfter=4),
}
_CONTENTS = [_style("toc1", 10, 14, font="Helvetica-Bold"), _style("toc2", 9.5, 12.6, leftIndent=6 * mm)]


def write_pdf(outline: source.Outline) -> bytes:
    """The PDF, with reportlab's fixed dates and ids, and streams left uncompressed (see `archive`)."""
    buffer = io.BytesIO()
    document = _Document(buffer, outline.meta)
    document.multiBuild(list(_story(outline)), canvasmaker=_NumberedCanvas)
    return buffer.getvalue()


class _Document(BaseDocTemplate):
    def __init__(self, buffer: io.BytesIO, meta: dict[str, str]) -> None:
        super().__init__(
            buffer,
            pagesize=A4,
            title=meta["title"],
            author=meta["author"],
            subject=meta.get("number", ""),
            invariant=1,
            pageCompression=0,
        )
        self._running = f"{meta['author']}  ·  {meta['title']}"
        self._number = meta.get("number", "")
        frame = Frame(_MARGIN, 20 * mm, _TEXT_WIDTH, A4[1] - 42 * mm, 0, 0, 0, 0)
        self.addPageTemplates(PageTemplate("page", [frame], onPage=self._decorate))

    def _decorate(self, canvas: Canvas, _: BaseDocTemplate) -> None:
        canvas.setFillColor(_NAVY)
        canvas.rect(0, A4[1] - 7 * mm, A4[0], 7 * mm, stroke=0, fill=1)
        canvas.setStrokeColor(_RULE)
        canvas.line(_MARGIN, 15 * mm, A4[0] - _MARGIN, 15 * mm)
        canvas.setFont("Helvetica", 8)
        canvas.setFillColor(_STEEL)
        canvas.drawString(_MARGIN, 11 * mm, self._running)
        canvas.drawCentredString(A4[0] / 2 + 22 * mm, 11 * mm, self._number)

    def beforeDocument(self) -> None:
        """Each pass over the story counts its headings anew, so that contents and bookmarks agree."""
        self._headings = 0

    def afterFlowable(self, flowable: Flowable) -> None:
        """Report a heading to the table of contents and to the PDF's own outline."""
        level = {"h1": 0, "h2": 1}.get(getattr(getattr(flowable, "style", None), "name", ""))
        if level is None or not isinstance(flowable, Paragraph):
            return
        text = flowable.getPlainText()
        self._headings += 1
        key = f"heading-{self._headings}"
        self.canv.bookmarkPage(key)
        self.canv.addOutlineEntry(text, key, level)
        self.notify("TOCEntry", (level, escape(text), self.page, key))


class _NumberedCanvas(Canvas):
    """A canvas that knows the number of pages before it prints the first footer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:
        self._pages.append(dict(self.__dict__))
        self._startPage()  # pyright: ignore[reportAttributeAccessIssue]

    def save(self) -> None:
        for number, state in enumerate(self._pages, 1):
            self.__dict__.update(state)
            self.setFont("Helvetica", 8)
            self.setFillColor(_STEEL)
            self.drawRightString(A4[0] - _MARGIN, 11 * mm, f"Page {number} of {len(self._pages)}")
            super().showPage()
        super().save()


def _story(outline: source.Outline) -> list[Flowable]:
    meta = outline.meta
    story: list[Flowable] = [Paragraph(_markup(meta["title"]), _TITLE)]
    if "subtitle" in meta:
        story.append(Paragraph(_markup(meta["subtitle"]), _SUBTITLE))
    if "contents" in meta:
        contents = TableOfContents(dotsMinLevel=0)
        contents.levelStyles = _CONTENTS
        contents.tableStyle = TableStyle(
            [("TOPPADDING", (0, 0), (-1, -1), 0.5), ("BOTTOMPADDING", (0, 0), (-1, -1), 0.5)]
        )
        story += [Paragraph("Contents", _style("contents", 13, 20, font="Helvetica-Bold", textColor=_NAVY))]
        story += [contents, PdfPageBreak()]
    for lead, block in pairwise((None, *outline.blocks)):
        flowables = _flowables(block) if block else []
        if isinstance(block, source.Table) and len(block.rows) <= _UNBROKEN_ROWS:
            # A heading must not be parted from a table that moves whole to the next page.
            heading = [story.pop()] if isinstance(lead, source.Heading) else []
            flowables = [KeepTogether([*heading, *flowables])]
        story += flowables
    return story


def _flowables(block: source.Block) -> list[Flowable]:
    match block:
        case source.Heading(level, text):
            return [CondPageBreak(_HEADING_ROOM[level]), Paragraph(_markup(text), _HEADINGS[level])]
        case source.Paragraph(text):
            return [Paragraph(_markup(text), _BODY)]
        case source.ListItems(items, numbered):
            return [_list(items, numbered), Spacer(0, 4)]
        case source.Table():
            return [_table(block), Spacer(0, 9)]
        case source.CallOut(text):
            return [_call_out(text), Spacer(0, 8)]
        case source.PageBreak():
            return [PdfPageBreak()]


def _list(items: tuple[str, ...], numbered: bool) -> ListFlowable:
    style = ParagraphStyle("item", _BODY, spaceAfter=2.5)
    kind: dict[str, Any] = (
        {"bulletType": "1", "bulletFormat": "%s."} if numbered else {"bulletType": "bullet"}
    )
    if not numbered:
        kind |= {"start": "•", "bulletFontSize": 10}
    entries = [ListItem(Paragraph(_markup(item), style)) for item in items]
    return ListFlowable(
        entries,  # pyright: ignore[reportArgumentType]
        leftIndent=6 * mm,
        bulletColor=_STEEL,
        bulletFontName="Helvetica",
        **kind,
    )


def _table(table: source.Table) -> PdfTable:
    head = [
        Paragraph(_markup(cell), _HEAD_RIGHT if right else _HEAD)
        for cell, right in zip(table.header, table.numeric, strict=True)
    ]
    rows = [
        [
            Paragraph(_markup(cell), _CELL_RIGHT if right else _CELL)
            for cell, right in zip(row, table.numeric, strict=True)
        ]
        for row in table.rows
    ]
    style = [
        ("BACKGROUND", (0, 0), (-1, 0), _NAVY),
        ("ROWBACKGROUNDS", (0, 1), (-1, -1), [Color(1, 1, 1), _MIST]),
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, _RULE),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("TOPPADDING", (0, 0), (-1, -1), 3.5),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 3.5),
    ]
    return PdfTable([head, *rows], colWidths=_widths(table), repeatRows=1, style=style)


def _widths(table: source.Table) -> list[float]:
    """Widths that keep a short column on one line: only the widest columns give way, all to one size."""
    longest = [
        max(
            stringWidth(source.plain(row[column]), "Helvetica-Bold", 9) for row in (table.header, *table.rows)
        )
        for column in range(len(table.header))
    ]
    widths = [width + 14 for width in longest]
    room, free = _TEXT_WIDTH, len(widths)
    for width in sorted(widths):
        if width * free > room:
            return [min(wanted, room / free) for wanted in widths]
        room, free = room - width, free - 1
    return [width * _TEXT_WIDTH / sum(widths) for width in widths]


def _call_out(text: str) -> PdfTable:
    style = [
        ("BACKGROUND", (0, 0), (-1, -1), _MIST),
        ("LINEBEFORE", (0, 0), (0, -1), 3, _STEEL),
        ("LEFTPADDING", (0, 0), (-1, -1), 10),
        ("TOPPADDING", (0, 0), (-1, -1), 6),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
    ]
    return PdfTable([[Paragraph(_markup(text), _BODY)]], colWidths=[_TEXT_WIDTH], style=style)


def _markup(text: str) -> str:
    parts = []
    for run in source.runs(text):
        part = escape(run.text)
        part = f"<b>{part}</b>" if run.bold else part
        parts.append(f"<i>{part}</i>" if run.italic else part)
    return "".join(parts)
