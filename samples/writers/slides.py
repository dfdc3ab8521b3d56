"""Set an outline as slides: each level-1 heading opens one, and call-outs are its speaker notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from lxml.etree import SubElement
from pptx import Presentation
from pptx.dml.color import RGBColor
from pptx.enum.shapes import MSO_SHAPE
from pptx.enum.text import MSO_ANCHOR, PP_ALIGN
from pptx.oxml.ns import qn
from pptx.util import Emu, Inches, Pt

from samples.writers.archive import repack
from samples.writers.outline import (
    Block,
    CallOut,
    Heading,
    ListItems,
    Outline,
    Paragraph,
    Table,
    runs,
)

_NAVY, _STEEL, _MIST, _WHITE = (
    RGBColor.from_string(code) for code in ("17324D", "4B6A88", "EEF3F7", "FFFFFF")
)
_WIDTH, _HEIGHT, _LEFT = Inches(13.333), Inches(7.5), Inches(0.8)
_TEXT_WIDTH = Emu(_WIDTH - 2 * _LEFT)
_ROW_HEIGHT = Inches(0.56)
_TITLE_ONLY = 5  # the layout's place in python-pptx's default template


def write_pptx(outline: Outline) -> bytes:
    """The presentation, 16:9, with a title slide made from the front matter."""
    deck: Any = Presentation()
    deck.slide_width, deck.slide_height = _WIDTH, _HEIGHT
    _keep_one_layout(deck)
    deck.core_properties.title = outline.meta["title"]
    deck.core_properties.author = outline.meta["author"]
    deck.core_properties.last_modified_by = outline.meta["author"]
    _title_slide(deck, outline.meta)
    for number, (title, blocks) in enumerate(_sections(outline.blocks), 2):
        _slide(deck, title, blocks, f"{outline.meta['author']}  ·  {number}")
    buffer = io.BytesIO()
    deck.save(buffer)
    return repack(buffer.getvalue())


def _keep_one_layout(deck: Any) -> None:
    for index, layout in enumerate(list(deck.slide_layouts)):
        if index != _TITLE_ONLY:
            deck.slide_layouts.remove(layout)
    package = deck.part.package
    for key, relation in list(package._rels.items()):
        if relation.reltype.endswith("/thumbnail"):
            package._rels.pop(key)


def _sections(blocks: tuple[Block, ...]) -> Iterator[tuple[str, list[Block]]]:
    title, held = "", []
    for block in blocks:
        if isinstance(block, Heading) and block.level == 1:
            if title:
                yield title, held
            title, held = block.text, []
        else:
            held.append(block)
    yield title, held


def _title_slide(deck: Any, meta: dict[str, str]) -> None:
    slide = deck.slides.add_slide(deck.slide_layouts[0])
    slide.background.fill.solid()
    slide.background.fill.fore_color.rgb = _NAVY
    _set_title(slide, meta["title"], Inches(2.4), Inches(1.6), 44, _WHITE)
    box = slide.shapes.add_textbox(_LEFT, Inches(4.1), _TEXT_WIDTH, Inches(1.2)).text_frame
    box.word_wrap = True
    box.text = meta["subtitle"]
    _paint(box.paragraphs[0], 22, _MIST)
    slide.notes_slide.notes_text_frame.text = meta["notes"]


def _slide(deck: Any, title: str, blocks: list[Block], footer: str) -> None:
    slide = deck.slides.add_slide(deck.slide_layouts[0])
    bar = slide.shapes.add_shape(MSO_SHAPE.RECTANGLE, 0, 0, Inches(0.28), _HEIGHT)
    bar.fill.solid()
    bar.fill.fore_color.rgb = _NAVY
    bar.line.fill.background()
    _set_title(slide, title, Inches(0.45), Inches(0.95), 32, _NAVY)
    top = Inches(1.6)
    notes = []
    for block in blocks:
        if isinstance(block, CallOut):
            notes.append(block.text)
        elif isinstance(block, Table):
            top = _table(slide, block, top)
        else:
            top = _text(slide, block, top)
    foot = slide.shapes.add_textbox(_LEFT, Inches(6.95), _TEXT_WIDTH, Inches(0.35)).text_frame
    foot.word_wrap = True
    foot.text = footer
    _paint(foot.paragraphs[0], 11, _STEEL)
    if notes:
        slide.notes_slide.notes_text_frame.text = "\n".join(notes)


def _set_title(slide: Any, text: str, top: int, height: int, size: int, colour: RGBColor) -> None:
    title = slide.shapes.title
    title.left, title.top, title.width, title.height = _LEFT, top, _TEXT_WIDTH, height
    title.text_frame.text = text
    title.text_frame.vertical_anchor = MSO_ANCHOR.MIDDLE
    title.text_frame.paragraphs[0].alignment = PP_ALIGN.LEFT
    _paint(title.text_frame.paragraphs[0], size, colour, bold=True)


def _text(slide: Any, block: Block, top: int) -> int:
    if not isinstance(block, ListItems | Paragraph):
        raise ValueError(f"A slide cannot hold {block!r}.")
    lines = block.items if isinstance(block, ListItems) else (block.text,)
    # About 80 characters of 24 pt text fit a line of this width.
    height = Inches(sum(0.45 * (1 + len(line) // 80) + 0.2 for line in lines))
    frame = slide.shapes.add_textbox(_LEFT, top, _TEXT_WIDTH, height).text_frame
    frame.word_wrap = True
    for index, line in enumerate(lines):
        paragraph = frame.paragraphs[0] if index == 0 else frame.add_paragraph()
        paragraph.space_after = Pt(14)
        if isinstance(block, ListItems):
            _mark(paragraph, numbered=block.numbered)
        for run in runs(line):
            piece = paragraph.add_run()
            piece.text = run.text
            piece.font.size, piece.font.bold, piece.font.italic = Pt(24), run.bold, run.italic
    return Emu(top + height + Inches(0.15))


def _mark(paragraph: Any, *, numbered: bool) -> None:
    """Give the paragraph a hanging bullet or number, for which python-pptx has no call of its own."""
    properties = paragraph._p.get_or_add_pPr()
    properties.set("marL", str(Inches(0.42)))
    properties.set("indent", str(-Inches(0.42)))
    mark = SubElement(properties, qn("a:buAutoNum" if numbered else "a:buChar"))
    mark.set(*(("type", "arabicPeriod") if numbered else ("char", "•")))


def _table(slide: Any, table: Table, top: int) -> int:
    rows = (table.header, *table.rows)
    height = Emu(_ROW_HEIGHT * len(rows))
    grid = slide.shapes.add_table(len(rows), len(table.header), _LEFT, top, _TEXT_WIDTH, height).table
    longest = [max(len(row[column]) for row in rows) + 4 for column in range(len(table.header))]
    for column, length in enumerate(longest):
        grid.columns[column].width = Emu(_TEXT_WIDTH * length // sum(longest))
    for r, row in enumerate(rows):
        for c, text in enumerate(row):
            cell = grid.cell(r, c)
            cell.text = text
            cell.vertical_anchor = MSO_ANCHOR.MIDDLE
            cell.fill.solid()
            cell.fill.fore_color.rgb = _NAVY if r == 0 else (_MIST if r % 2 == 0 else _WHITE)
            paragraph = cell.text_frame.paragraphs[0]
            paragraph.alignment = PP_ALIGN.RIGHT if table.numeric[c] else PP_ALIGN.LEFT
            _paint(paragraph, 19, _WHITE if r == 0 else _NAVY, bold=r == 0)
    return Emu(top + height + Inches(0.3))


def _paint(paragraph: Any, size: int, colour: RGBColor, *, bold: bool = False) -> None:
    for run in paragraph.runs:
        run.font.size, run.font.bold, run.font.color.rgb = Pt(size), bold, colour
