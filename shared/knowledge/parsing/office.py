"""Word, PowerPoint and Excel documents (Office Open XML)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from shared.errors import CorruptDocument, DocumentTooComplex, EmptyDocument, NoText
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import (
    Page,
    ParsedDocument,
    TextBuilder,
    first_title,
    markdown_headings,
    markdown_table,
    normalise,
)
from shared.knowledge.parsing.limits import ParseLimits
from shared.knowledge.parsing.markup import markdown
from shared.knowledge.parsing.package import Package
from shared.knowledge.parsing.tables import rows_as_lines


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    """Read the package as what its main part says it is, whatever it was called."""
    package = Package(content, limits)
    if any(name.startswith("word/document") for name in package.parts):
        return _read_docx(package, limits)
    if "ppt/presentation.xml" in package.parts:
        return _read_pptx(package, limits)
    if any(re.match(r"xl/workbook\d*\.xml", name) for name in package.parts):
        return _read_xlsx(package, limits)
    raise CorruptDocument("The package has no main document part.")


def _core_title(package: Package) -> str | None:
    core = package.parts.get("docProps/core.xml")
    if not core:
        return None
    try:
        title = ElementTree.fromstring(core).findtext("{http://purl.org/dc/elements/1.1/}title") or ""
    except ElementTree.ParseError:
        return None
    return normalise(" ".join(title.split())) or None


_STYLE_MAP = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"


def _read_docx(package: Package, limits: ParseLimits) -> ParsedDocument:
    import mammoth

    # Images are not part of the text; without this they would be inlined as base64.
    skip_image = mammoth.images.img_element(lambda image: {})
    html = mammoth.convert_to_html(package.repacked(), style_map=_STYLE_MAP, convert_image=skip_image).value
    _, text = markdown(html, limits)
    if not text:
        raise NoText() if any(name.startswith("word/media/") for name in package.media) else EmptyDocument()
    headings = markdown_headings(text)
    return ParsedDocument(text, _core_title(package) or first_title(headings), (), headings, (), Media.DOCX)


def _read_pptx(package: Package, limits: ParseLimits) -> ParsedDocument:
    from pptx import Presentation

    slides = list(Presentation(package.repacked()).slides)
    if not slides:
        raise EmptyDocument("The presentation has no slides.")
    _check_pages(len(slides), limits)
    builder = TextBuilder(limits)
    pages, without_text = [], []
    for number, slide in enumerate(slides, 1):
        blocks = list(_slide_blocks(slide, limits))
        start, end = builder.add("\n\n".join(blocks))
        title = slide.shapes.title
        label = " ".join(title.text_frame.text.split()) if title is not None else ""
        pages.append(Page(number, start, end, normalise(label) or None))
        if start == end:
            without_text.append(number)
    if len(without_text) == len(slides):
        raise NoText("The slides have no text.")
    text = builder.text()
    headings = markdown_headings(text)
    title = _core_title(package)
    if title in (None, "PowerPoint Presentation"):
        title = first_title(headings)
    return ParsedDocument(text, title, tuple(pages), headings, tuple(without_text), Media.PPTX)


def _slide_blocks(slide: Any, limits: ParseLimits) -> Iterator[str]:
    """Yield the title as a heading, then each shape's text or table in order, then the notes."""
    title = slide.shapes.title
    if title is not None and title.text_frame.text.strip():
        yield "# " + " ".join(title.text_frame.text.split())
    for shape in _shapes(slide.shapes, limits):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if shape.has_text_frame:
            yield "\n".join(_paragraphs(shape.text_frame))
        elif getattr(shape, "has_table", False):
            yield markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])
    if slide.has_notes_slide:
        frame = slide.notes_slide.notes_text_frame
        notes = frame.text.strip() if frame is not None else ""
        if notes:
            yield f"Notes: {notes}"


def _paragraphs(frame: Any) -> Iterator[str]:
    """Yield the paragraphs of a text frame, several of them as a list that keeps their levels."""
    paragraphs = [(item.level, " ".join(item.text.split())) for item in frame.paragraphs if item.text.strip()]
    for level, text in paragraphs:
        yield f"{'  ' * level}- {text}" if len(paragraphs) > 1 else text


def _shapes(shapes: Any, limits: ParseLimits) -> Iterator[Any]:
    """Yield the shapes in order, those of groups in place of the group."""
    pending = [(shape, 0) for shape in reversed(list(shapes))]
    while pending:
        shape, depth = pending.pop()
        if depth > limits.nesting_depth:
            raise DocumentTooComplex("The slide's groups are nested too deeply.", limit=limits.nesting_depth)
        if hasattr(shape, "shapes"):
            pending += [(inner, depth + 1) for inner in reversed(list(shape.shapes))]
        else:
            yield shape


def _read_xlsx(package: Package, limits: ParseLimits) -> ParsedDocument:
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    for name, data in package.parts.items():
        if name.startswith("xl/worksheets/"):
            _check_area(data, limits)
    workbook = CalamineWorkbook.from_filelike(package.repacked())
    sheets = [
        sheet.name
        for sheet in workbook.sheets_metadata
        if sheet.typ == SheetTypeEnum.WorkSheet and sheet.visible == SheetVisibleEnum.Visible
    ]
    _check_pages(len(sheets), limits)
    builder = TextBuilder(limits)
    pages = []
    for number, name in enumerate(sheets, 1):
        rows = workbook.get_sheet_by_name(name).iter_rows()
        lines = list(rows_as_lines(([_cell(value) for value in row] for row in rows), limits))
        start, end = builder.add("\n".join([f"# {name}", "", *lines]) if lines else "")
        pages.append(Page(number, start, end, normalise(name)))
    text = builder.text()
    if not text:
        raise EmptyDocument("The workbook's sheets are empty.")
    headings = markdown_headings(text)
    return ParsedDocument(text, _core_title(package), tuple(pages), headings, (), Media.XLSX)


_CELL = re.compile(rb'<(?:\w+:)?c\s[^>]*?\br="([A-Z]{1,3})(\d{1,7})"')


def _check_area(sheet: bytes, limits: ParseLimits) -> None:
    """Refuse a sheet whose cells lie so far apart that the reader's grid would not fit into memory."""
    last_row = first_row = last_column = 0
    for match in _CELL.finditer(sheet):
        row = int(match[2])
        first_row = min(first_row or row, row)
        last_row = max(last_row, row)
        last_column = max(last_column, _column(match[1]))
    if (last_row - first_row + 1) * last_column > limits.sheet_cells:
        raise DocumentTooComplex("A sheet spans too many cells.", limit=limits.sheet_cells)


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ") if value.time() != datetime.time() else value.date().isoformat()
    return "" if value is None else str(value)


def _check_pages(count: int, limits: ParseLimits) -> None:
    if count > limits.pages:
        raise DocumentTooComplex("The document has too many pages.", limit=limits.pages)
