"""PDF: text by page with the lines of a paragraph joined, tables as Markdown, and the headings.

A table stands between blank lines, each of its rows on one line: "| Mass | 815 kg |", below the row that
names its columns where there is one. That is the form tables have in other types, so rows are quoted alike.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from shared.errors import CorruptDocument, DocumentError, DocumentTooComplex, NoText, PasswordProtected
from shared.knowledge.media import Media
from shared.knowledge.parsing import layout
from shared.knowledge.parsing.document import (
    Heading,
    Page,
    ParsedDocument,
    TextBuilder,
    markdown_table,
    normalise,
    table_row,
)
from shared.knowledge.parsing.layout import Line, Table
from shared.knowledge.parsing.limits import ParseLimits

# fpdfview.h, FPDF_GetLastError
_ERROR_PASSWORD, _ERROR_SECURITY = 4, 5

# An outline of more entries than this is machine-made; each entry costs a search of its page.
_OUTLINE_ENTRIES = 5_000

_LINEARISED = re.compile(rb"/Linearized\b[^>]{0,300}?/L\s+(\d{1,12})")


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    import pypdfium2

    _check_complete(content)
    try:
        pdf = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        raise _failure(getattr(error, "err_code", None)) from None
    try:
        return _read(pdf, limits)
    finally:
        pdf.close()


def _check_complete(content: bytes) -> None:
    """Refuse a file that was cut off: the reader would repair it silently and leave pages out."""
    if b"%%EOF" not in content:
        raise CorruptDocument("The PDF is cut off: it has no end mark.")
    linearised = _LINEARISED.search(content[:2048])
    if linearised and int(linearised[1]) > len(content):
        raise CorruptDocument("The PDF is cut off: it is shorter than it says.")


def _failure(code: int | None) -> DocumentError:
    if code in (_ERROR_PASSWORD, _ERROR_SECURITY):
        return PasswordProtected()
    return CorruptDocument("The PDF's structure cannot be read.")


def _read(pdf: Any, limits: ParseLimits) -> ParsedDocument:
    count = len(pdf)
    if count == 0:
        raise CorruptDocument("The PDF has no pages.")
    if count > limits.pages:
        raise DocumentTooComplex("The document has too many pages.", limit=limits.pages)
    builder = TextBuilder(limits)
    pages: list[Page] = []
    lines: list[_PlacedLine] = []
    without_text, unreadable = [], 0
    for index in range(count):
        blocks = _page_blocks(pdf, index)
        unreadable += blocks is None
        text, placed = _page_text(blocks or [])
        start, end = builder.add(text)
        pages.append(Page(index + 1, start, end))
        for line in placed:
            line.start += start
        lines += placed
        if start == end:
            without_text.append(index + 1)
    if len(without_text) == count:
        if unreadable == count:
            raise CorruptDocument("None of the PDF's pages can be read.")
        raise NoText(pages=count)
    title = normalise(" ".join(pdf.get_metadata_value("Title").split())) or None
    headings = list(_outline(pdf, _Lines(lines), pages)) or list(_large_lines(lines))
    headings.sort(key=lambda heading: heading.start)
    return ParsedDocument(
        builder.text(), title, tuple(pages), tuple(headings), tuple(without_text), Media.PDF
    )


def _page_blocks(pdf: Any, index: int) -> list[Line | Table] | None:
    import pypdfium2

    try:
        page = pdf[index]
        text_page = page.get_textpage()
    except pypdfium2.PdfiumError:
        return None
    try:
        return layout.read(text_page)
    finally:
        text_page.close()
        page.close()


@dataclass(slots=True)
class _PlacedLine:
    """A line of the document's text at ``start``; ``top`` and ``size`` are of its beginning on the page."""

    text: str
    start: int
    top: float
    size: float
    in_table: bool


def _page_text(blocks: list[Line | Table]) -> tuple[str, list[_PlacedLine]]:
    """The text of a page, and its lines with their offsets in it."""
    text = ""
    placed: list[_PlacedLine] = []
    after_table = False
    for block in _paragraphs(blocks):
        is_table = isinstance(block, Table)
        written = _written(block) if is_table else _clean(layout.joined(block))
        if not written:
            continue
        if text:
            text += "\n\n" if is_table or after_table else "\n"
        first = block if is_table else block[0]
        placed.append(
            _PlacedLine(written, len(text), first.top, 0.0 if is_table else block[0].size, is_table)
        )
        text += written
        after_table = is_table
    return text, placed


def _written(table: Table) -> str:
    rows = [[_clean(cell) for cell in row] for row in table.rows]
    return markdown_table(rows) if table.has_header else "\n".join(map(table_row, rows))


# Typographic forms of letters: Latin ligatures, and Arabic letters by their position in a word.
_FORMS = re.compile("[\ufb00-\ufb06\ufb50-\ufdff\ufe70-\ufefc]+")


def _clean(text: str) -> str:
    """One normalised line, with the dots of a list of contents cut short."""
    text = _FORMS.sub(lambda match: unicodedata.normalize("NFKC", match[0]), normalise(text))
    text = layout.LEADER.sub(" … ", text)
    return normalise(" ".join(text.split()))


_LIST_ITEM = re.compile(r"(?:[-*•‣▪◦·–—]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s")

# A line at least this long, relative to the page's long lines, was broken by the margin, not by its writer.
_FULL_LINE_SHARE = 0.75
_FULL_LINE_CHARS = 30

# The lines of a paragraph follow each other this closely, from middle to middle in heights of the font's box
# (double spacing) and in terms of what is usual on the page. They are set in one size, but for the different
# boxes of fonts that one line mixes.
_PITCH = 2.2
_USUAL_PITCHES = 1.3
_SIZE_TOLERANCE = 0.12


def _paragraphs(blocks: list[Line | Table]) -> Iterator[list[Line] | Table]:
    """Put together the lines that the margin broke."""
    lengths = sorted(len(block.text) for block in blocks if isinstance(block, Line))
    full = max(_FULL_LINE_CHARS, _FULL_LINE_SHARE * lengths[len(lengths) * 9 // 10]) if lengths else 0
    pitch = _widest_pitch(blocks)
    paragraph: list[Line] = []
    for block in blocks:
        if isinstance(block, Line) and not block.text:
            continue
        if paragraph and isinstance(block, Line) and _continues(paragraph[-1], block, full, pitch):
            paragraph.append(block)
            continue
        if paragraph:
            yield paragraph
        paragraph = []
        if isinstance(block, Line):
            paragraph = [block]
        else:
            yield block
    if paragraph:
        yield paragraph


def _widest_pitch(blocks: list[Line | Table]) -> float:
    """How far apart the lines of a paragraph are at most on this page."""
    lines = [block for block in blocks if isinstance(block, Line) and block.size]
    pitches = [(before.middle - after.middle) / after.size for before, after in pairwise(lines)]
    close = [pitch for pitch in pitches if 0 < pitch <= _PITCH]
    return min(_PITCH, _USUAL_PITCHES * median(close)) if close else _PITCH


def _continues(previous: Line, line: Line, full: float, pitch: float) -> bool:
    if previous.hyphenated or layout.beside(previous, line):
        return True
    if _LIST_ITEM.match(line.text) or layout.LEADER.search(previous.text):
        return False
    if not _may_follow(previous, line, pitch):
        return False
    if line.text[0].islower():
        return len(previous.text) >= full / 2
    return len(previous.text) >= full and previous.text[-1] not in ".:!?"


def _may_follow(previous: Line, line: Line, pitch: float) -> bool:
    """Whether ``line``, as large as ``previous``, stands close below it or in a column to its right."""
    if not previous.size or not line.size:
        return True
    if abs(line.size - previous.size) > _SIZE_TOLERANCE * max(line.size, previous.size):
        return False
    below = previous.middle - line.middle
    return below <= pitch * line.size if below >= 0 else line.left > previous.left + line.size


# A title that is broken into lines on its page may be one entry.
_TITLE_LINES = 3
_TITLE_CHARS = 200
_SECTION_NUMBER = re.compile(r"(?:\w{1,3}\.)*\w{1,3}[.:]? (?=\S)")


class _Lines:
    """Finds the lines that consist of a title, with or without its number."""

    def __init__(self, lines: list[_PlacedLine]) -> None:
        self._lines = lines
        self._starts = [line.start for line in lines]
        self._places: dict[str, list[int]] = {}
        for number, line in enumerate(lines):
            title = ""
            for part in lines[number : number + _TITLE_LINES]:
                title = f"{title} {part.text}" if title else part.text
                if part.in_table or len(title) > _TITLE_CHARS:
                    break
                for key in {_key(title), _key(_SECTION_NUMBER.sub("", title, count=1))}:
                    self._places.setdefault(key, []).append(line.start)

    def find(self, title: str, start: int, end: float) -> int | None:
        """The first place of ``title`` in [start, end)."""
        places = self._places.get(_key(title), ())
        at = bisect_left(places, start)
        return places[at] if at < len(places) and places[at] < end else None

    def nearest(self, title: str, page: Page, top: float) -> int | None:
        """The place of ``title`` on a page that is nearest to a height."""
        places = self._places.get(_key(title), ())
        on_page = places[bisect_left(places, page.start) : bisect_left(places, page.end)]
        return min(on_page, key=lambda start: abs(self._line(start).top - top), default=None)

    def below(self, page: Page, top: float) -> int:
        """The first line of a page that does not begin above a height, else the page's start."""
        first, last = bisect_left(self._starts, page.start), bisect_left(self._starts, page.end)
        lower = (line.start for line in self._lines[first:last] if 0 < line.top <= top)
        return next(lower, page.start)

    def _line(self, start: int) -> _PlacedLine:
        return self._lines[bisect_right(self._starts, start) - 1]


def _key(title: str) -> str:
    return " ".join(title.split()).casefold().rstrip(".:")


def _outline(pdf: Any, lines: _Lines, pages: list[Page]) -> Iterator[Heading]:
    """Yield the outline's entries where their titles stand."""
    previous = -1
    for level, title, page, top in _entries(pdf, pages):
        previous = _place(title, page, top, previous, lines)
        yield Heading(level, title, previous)


def _entries(pdf: Any, pages: list[Page]) -> Iterator[tuple[int, str, Page, float | None]]:
    """Yield level, title, page and, where it is told, height on the page of each entry that leads to text."""
    import pypdfium2

    try:
        for number, entry in enumerate(pdf.get_toc(max_depth=6)):
            if number >= _OUTLINE_ENTRIES:
                return
            title = normalise(" ".join(entry.get_title().split()))
            target = entry.get_dest()
            index = target.get_index() if target is not None else None
            if not title or target is None or index is None or not 0 <= index < len(pages):
                continue
            page = pages[index]
            if page.start < page.end:
                yield entry.level + 1, title, page, _height(*target.get_view())
    except pypdfium2.PdfiumError:
        return


def _height(mode: int, values: list[float]) -> float | None:
    """The height on its page that a destination names (ISO 32000-2, table 149), None where it names none."""
    from pypdfium2 import raw

    if mode == raw.PDFDEST_VIEW_XYZ and len(values) > 1:
        return values[1] or None
    if mode in (raw.PDFDEST_VIEW_FITH, raw.PDFDEST_VIEW_FITBH) and values:
        return values[0] or None
    return None


def _place(title: str, page: Page, top: float | None, previous: int, lines: _Lines) -> int:
    """Where the heading ``title`` stands: on the page that its entry leads to, nearest to the height told.

    Some writers let all entries lead to the first page. So where a page does not have the title and no height
    is told, the title is looked for on the pages after the ``previous`` heading.
    """
    if top is not None:
        found = lines.nearest(title, page, top)
        return lines.below(page, top) if found is None else found
    found = lines.find(title, max(page.start, previous + 1), page.end)
    if found is None:
        found = lines.find(title, page.start, page.end)
    if found is None:
        found = lines.find(title, max(page.start, previous + 1), float("inf"))
    return page.start if found is None else found


# Without an outline, short lines in clearly larger letters than most of the text are its headings, unless
# there are so many of them that size means something else.
_HEADING_SIZE = 1.15
_HEADING_CHARS = 120
_HEADING_SHARE = 0.2
_HEADING_LEVELS = 4


def _large_lines(lines: list[_PlacedLine]) -> Iterator[Heading]:
    """Yield the lines in large letters as headings, the largest as those of the first level."""
    chars: Counter[float] = Counter()
    for line in lines:
        chars[_half_points(line.size)] += len(line.text) if line.size else 0
    body = max(chars, key=lambda size: chars[size], default=0.0)
    large = [line for line in lines if line.size >= _HEADING_SIZE * body and _is_heading(line.text)]
    if not body or len(large) > max(1, _HEADING_SHARE * len(lines)):
        return
    sizes = sorted({_half_points(line.size) for line in large}, reverse=True)
    for line in large:
        level = min(sizes.index(_half_points(line.size)), _HEADING_LEVELS - 1) + 1
        yield Heading(level, line.text, line.start)


def _half_points(size: float) -> float:
    return round(size * 2) / 2


def _is_heading(text: str) -> bool:
    return (
        len(text) <= _HEADING_CHARS and text[-1] not in ".,;" and re.search(r"[^\W\d_]{2}", text) is not None
    )
