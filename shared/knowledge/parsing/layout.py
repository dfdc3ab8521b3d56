"""The layout of a PDF page: its lines with their places, and which of them are rows of a table.

A table is recognised by geometry alone: rows that follow each other in the page's own order, each with cells
side by side, whose columns do not run into each other. Columns of prose are written one after the other,
and so give no row.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

# PDFium's marks for a hyphen that the end of a line made: as text, as a single character.
_HYPHENS = ("\ufffe", "\x02")
_LINE = re.compile("[^\r\n\ufffe\x02]+")
# The dots that lead from a title to its page number in a list of contents.
LEADER = re.compile(r"(?:\s?[.·…]){4,}\s*")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_LETTERS = re.compile(r"\S+")
_WORD = re.compile(r"[^\W\d_]{3}")
_MARKER = re.compile(r"(?:[-*•‣▪◦·–—]|\(?\d{1,3}[.)]|\(?[a-z][.)]|\d{1,2}(?:\.\d{1,2})*)")

# Gaps in units of the height of a font's box. Words are at most about half of it apart, even where a line is
# justified; the columns of a table at least the padding of two cells, and the number of a heading or of a
# list's item is nearer to its text than that of two columns.
_CELL_GAP = 0.9
_MARKER_GAP = 2.5
_WORD_GAP = 0.2
# Lines of one cell follow each other this closely, from middle to middle.
_LINE_PITCH = 1.6
# The rows of a table are no further apart, from the bottom of one to the top of the next.
_ROW_GAP = 2.5
# More columns than a sheet of paper holds are a drawing.
_COLUMNS = 64
# A cell of more lines than this is rather a column of prose.
_CELL_LINES = 12
# A row is of no more pieces: what has more is a drawing, and each piece of it would begin another row to try.
_ROW_PIECES = 128
# Lines set side by side that are all this long, on many rows, are columns of prose written across the page.
_PROSE_CHARS, _PROSE_ROWS = 28, 5


@dataclass(slots=True)
class Line:
    """A piece of text on one baseline, in points from the page's lower left corner; ``size`` is the height
    of its font's box, 0 where the place is not known. ``hyphenated`` words go on in the next line."""

    text: str
    left: float = 0.0
    bottom: float = 0.0
    right: float = 0.0
    top: float = 0.0
    size: float = 0.0
    hyphenated: bool = False
    first_char: int = 0
    starts_line: bool = True

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


@dataclass(slots=True)
class Table:
    """Rows of the same number of cells. ``has_header``: the first row names the columns."""

    rows: list[list[str]]
    has_header: bool
    top: float


def joined(lines: list[Line]) -> str:
    """The text of lines that belong together, with the words that were parted there whole again."""
    text = lines[0].text
    for previous, line in pairwise(lines):
        whole = previous.hyphenated or _touches(previous, line)
        text += line.text if whole else f" {line.text}"
    return text


def _touches(previous: Line, line: Line) -> bool:
    """Whether no space parts them. A raised digit stays apart from a number, or they would become one."""
    one_number = previous.text[-1].isdigit() and line.text[0].isdigit()
    return beside(previous, line) and _gap(previous, line) < _WORD_GAP and not one_number


def beside(previous: Line, line: Line) -> bool:
    """Whether ``line`` goes on with ``previous`` at its height, as what follows a raised letter does."""
    if not previous.size or not line.size:
        return False
    level = abs(previous.middle - line.middle) < max(line.size, previous.size) / 2
    return level and -0.5 < _gap(previous, line) < _CELL_GAP


def _gap(previous: Line, line: Line) -> float:
    return (line.left - previous.right) / max(line.size, previous.size)


def read(text_page: Any) -> list[Line | Table]:
    """The page's lines and tables in the page's own order."""
    pieces: list[Line] = []
    text = _text(text_page)
    places = _Places(text_page)
    for match in _LINE.finditer(text):
        pieces += _pieces(places, match[0], match.start())
        if pieces and text.startswith(_HYPHENS, match.end()):
            pieces[-1].hyphenated = True
    return list(_blocks(text_page, pieces))


def _text(text_page: Any) -> str:
    """The page's text, in which the index of a character is PDFium's own."""
    from pypdfium2.raw import FPDFText_GetUnicode

    count = text_page.count_chars()
    text = text_page.get_text_range()
    right_to_left = _RIGHT_TO_LEFT.search(text) is not None
    if len(text) == count and not right_to_left:
        return text
    letters = [chr(FPDFText_GetUnicode(text_page, index)) for index in range(count)]
    if right_to_left:
        _reorder(text_page, letters)
    return "".join(letters)


def _reorder(text_page: Any, letters: list[str]) -> None:
    """Put the letters of right-to-left words into the order in which they are read.

    PDFium leaves some such words in the order they are drawn, and reverses the letters of a glyph that
    stands for a whole word. Either way the letters' boxes tell: those of a word that reads right run to the
    left.
    """
    for word in re.finditer(rf"(?:{_RIGHT_TO_LEFT.pattern})+", "".join(letters)):
        places = []
        for index in range(word.start(), word.end()):
            left, _, right, _ = text_page.get_charbox(index)
            places.append(left + right)
        leftward = sum(after < before for before, after in pairwise(places))
        rightward = sum(after > before for before, after in pairwise(places))
        if leftward <= rightward:
            letters[word.start() : word.end()] = word[0][::-1]


def _pieces(places: _Places, text: str, start: int) -> list[Line]:
    """One of PDFium's lines, cut where a clear gap parts it, or where it goes back to the left.

    PDFium does not notice a new line that begins with a single character, such as a number.
    """
    words = [(start + first, start + last - 1) for first, last in map(re.Match.span, _LETTERS.finditer(text))]
    if not words:
        return []
    bottom, top = places.height(words[0][0])
    gap = _CELL_GAP * (top - bottom)
    cuts: list[tuple[int, bool]] = []
    if gap and not LEADER.search(text) and not _RIGHT_TO_LEFT.search(text):
        for number, room in enumerate(places.gaps(words), 1):
            if not -gap < room < gap:
                cuts.append((number, room < 0))
    pieces = []
    for (first, starts_line), (last, _) in pairwise([(0, True), *cuts, (len(words), True)]):
        begin, end = words[first][0], words[last - 1][1]
        left, right = places.width(begin, end)
        if first:
            bottom, top = places.height(begin)
        piece = text[begin - start : end + 1 - start]
        pieces.append(
            Line(piece, left, bottom, right, top, top - bottom, first_char=begin, starts_line=starts_line)
        )
    return pieces


class _Places:
    """Where characters stand on a page. Asked for each word, so it calls PDFium directly.

    A box is as high as its font and as wide as the character with the room it takes.
    """

    def __init__(self, text_page: Any) -> None:
        from ctypes import byref

        from pypdfium2.raw import FS_RECTF, FPDFText_GetLooseCharBox

        self._page = text_page.raw
        self._read = FPDFText_GetLooseCharBox
        self._box = FS_RECTF()
        self._into = byref(self._box)

    def height(self, index: int) -> tuple[float, float]:
        """(bottom, top) of a character, both 0 where it has no box."""
        if not self._read(self._page, index, self._into):
            return 0.0, 0.0
        return min(self._box.bottom, self._box.top), max(self._box.bottom, self._box.top)

    def width(self, first: int, last: int) -> tuple[float, float]:
        """(left, right) of the characters from ``first`` to ``last``, whichever way they run."""
        self._read(self._page, first, self._into)
        left, right = self._box.left, self._box.right
        self._read(self._page, last, self._into)
        return min(left, self._box.left), max(right, self._box.right)

    def gaps(self, words: list[tuple[int, int]]) -> Iterator[float]:
        """The room between each word's last character and the next one's first."""
        page, read, box, into = self._page, self._read, self._box, self._into
        for (_, last), (first, _) in pairwise(words):
            read(page, last, into)
            end = box.right
            read(page, first, into)
            yield box.left - end


Row = list[list[Line]]


def _blocks(text_page: Any, pieces: list[Line]) -> Iterator[Line | Table]:
    turns = _turns(pieces)
    at = 0
    while at < len(pieces):
        grid = _Grid()
        end = at
        while (found := _row(pieces, end, turns)) and grid.add(found[0]):
            end = found[1]
        if grid.is_table():
            yield Table(grid.cells(), _has_header(text_page, grid), pieces[at].top)
            at = end
            continue
        # What is no table is read by lines: all its rows, or the first line of a row that stands alone.
        at, first = (end if len(grid.rows) > 1 else at + 1), at
        while at < len(pieces) and not pieces[at].starts_line:
            at += 1
        yield from _lines(pieces[first:at])


def _lines(pieces: list[Line]) -> Iterator[Line]:
    """The lines that were cut into ``pieces``."""
    starts = [number for number, piece in enumerate(pieces) if piece.starts_line]
    for first, last in pairwise([0, *starts[1:], len(pieces)]):
        yield _whole(pieces[first:last])


def _turns(pieces: list[Line]) -> list[int]:
    """The pieces that can open the second cell of a row: they stand to the right of the one before them."""
    return [
        number
        for number, (previous, piece) in enumerate(pairwise(pieces), 1)
        if piece.left - previous.right >= _CELL_GAP * piece.size
        and piece.middle > previous.middle - piece.size / 2
    ]


def _whole(pieces: list[Line]) -> Line:
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return first
    return Line(
        " ".join(piece.text for piece in pieces),
        first.left,
        min(piece.bottom for piece in pieces),
        last.right,
        max(piece.top for piece in pieces),
        first.size,
        last.hyphenated,
        first.first_char,
    )


def _row(pieces: list[Line], start: int, turns: list[int]) -> tuple[Row, int] | None:
    """The row of two or more cells that begins at ``start``, and where the next one begins."""
    turn = bisect_right(turns, start)
    if turn == len(turns) or turns[turn] > start + _CELL_LINES or not pieces[start].size:
        return None
    cells: Row = [[pieces[start]]]
    top, bottom = pieces[start].top, pieces[start].bottom
    at = start + 1
    while at < len(pieces) and pieces[at].size:
        if at - start >= _ROW_PIECES:
            return None
        piece, cell = pieces[at], cells[-1]
        right = max(line.right for line in cell)
        if piece.left - right >= _CELL_GAP * piece.size and _is_level(piece, top, bottom):
            cells.append([piece])
        elif _goes_on(cells, piece) or beside(cell[-1], piece):
            cell.append(piece)
        else:
            break
        top, bottom = max(top, piece.top), min(bottom, piece.bottom)
        at += 1
    return (cells, at) if len(cells) > 1 and not _is_item(cells) else None


def _is_item(cells: Row) -> bool:
    """Whether these are the number or bullet of a heading or an item, and its text."""
    (marker, *more), (text, *_), *others = cells
    near = text.left - marker.right < _MARKER_GAP * marker.size
    return near and not more and not others and _MARKER.fullmatch(marker.text) is not None


def _is_level(piece: Line, top: float, bottom: float) -> bool:
    """Whether ``piece`` opens a cell of a row that reaches from ``top`` to ``bottom`` so far.

    It stands beside the first line or the middle; what stands beside the last line begins another row.
    """
    return (top + bottom) / 2 - piece.size / 4 <= piece.middle < top


def _goes_on(cells: Row, piece: Line) -> bool:
    """Whether ``piece`` is the next line of the text in the last cell."""
    cell = cells[-1]
    below = cell[-1].middle - piece.middle
    left, right = _span(cell)
    overlaps = piece.left < right and piece.right > left
    free = len(cells) == 1 or piece.left > _span(cells[-2])[1]
    return len(cell) < _CELL_LINES and 0 < below <= _LINE_PITCH * piece.size and overlaps and free


def _span(cell: list[Line]) -> tuple[float, float]:
    return min(line.left for line in cell), max(line.right for line in cell)


class _Grid:
    """Rows that follow each other closely, and the (left, right) of the columns that their cells form."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._columns: list[tuple[float, float]] = []
        self._bottom = 0.0

    def add(self, row: Row) -> bool:
        """Take a row whose cells fall into different columns, two of them known; tell whether it does."""
        top = max(line.top for cell in row for line in cell)
        if self.rows and not -1 <= (self._bottom - top) / row[0][0].size <= _ROW_GAP:
            return False
        columns = self._columns
        widened: dict[int, tuple[float, float]] = {}
        added: list[tuple[float, float]] = []
        for left, right in map(_span, row):
            first = bisect_right(columns, left, key=_right)
            last = bisect_left(columns, right, key=_left)
            if last - first > 1 or first in widened:
                return False
            if last == first:
                added.append((left, right))
            else:
                widened[first] = min(columns[first][0], left), max(columns[first][1], right)
        if self.rows and len(widened) < 2:
            return False
        for number, span in widened.items():
            columns[number] = span
        for span in added:
            insort(columns, span)
        self.rows.append(row)
        self._bottom = min(line.bottom for cell in row for line in cell)
        return True

    def column(self, cell: list[Line]) -> int:
        return bisect_right(self._columns, _span(cell)[0], key=_left) - 1

    def is_table(self) -> bool:
        """Whether there are rows with anything to read: the labels of a drawing are none, nor is a matrix."""
        if len(self.rows) < 2 or len(self._columns) > _COLUMNS:
            return False
        shortest = [min(len(joined(cell)) for cell in row) for row in self.rows]
        is_prose = len(shortest) >= _PROSE_ROWS and median(shortest) >= _PROSE_CHARS
        return not is_prose and any(
            _WORD.search(line.text) for row in self.rows for cell in row for line in cell
        )

    def cells(self) -> list[list[str]]:
        """The text of each row's cells, with an empty one where a row has none in a column."""
        grid = []
        for row in self.rows:
            cells = [""] * len(self._columns)
            for cell in row:
                cells[self.column(cell)] = joined(cell)
            grid.append(cells)
        return grid


def _left(span: tuple[float, float]) -> float:
    return span[0]


def _right(span: tuple[float, float]) -> float:
    return span[1]


def _has_header(text_page: Any, grid: _Grid) -> bool:
    """Whether the first row is set in other letters than the second, or names columns of numbers."""
    first, second = ({grid.column(cell): _style(text_page, cell[0]) for cell in row} for row in grid.rows[:2])
    shared = first.keys() & second.keys()
    if shared and all(first[column] != second[column] for column in shared):
        return True
    columns = zip(*grid.cells(), strict=True)
    return any(name and not _digits(name) and all(map(_digits, values)) for name, *values in columns)


def _digits(text: str) -> bool:
    return any(character.isdigit() for character in text)


def _style(text_page: Any, line: Line) -> tuple[Any, ...]:
    """Font and colour of the line's first letter."""
    from ctypes import byref, c_int, c_uint, create_string_buffer

    from pypdfium2.raw import FPDFText_GetFillColor, FPDFText_GetFontInfo

    name, flags = create_string_buffer(128), c_int()
    FPDFText_GetFontInfo(text_page, line.first_char, name, len(name), byref(flags))
    colour = [c_uint() for _ in range(4)]
    FPDFText_GetFillColor(text_page, line.first_char, *map(byref, colour))
    return name.value, flags.value, *(part.value for part in colour)
