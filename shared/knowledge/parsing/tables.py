"""csv, and rows of cells as text in which each row can be understood by itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from shared.errors import CorruptDocument
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import ParsedDocument, TextBuilder, check_output
from shared.knowledge.parsing.limits import ParseLimits
from shared.knowledge.parsing.text import read_text

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 50


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    text = read_text(content, limits)
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first) == 5:  # Excel's own way to name the delimiter
        delimiter, text = first[4], rest
    else:
        delimiter = _delimiter(text)
    check_output(len(text), limits)
    csv.field_size_limit(limits.output_chars)
    builder = TextBuilder(limits)
    try:
        builder.add("\n".join(rows_as_lines(csv.reader(io.StringIO(text), delimiter=delimiter), limits)))
    except csv.Error as error:
        raise CorruptDocument("The rows cannot be told apart.") from error
    return ParsedDocument(builder.text(), None, (), (), (), media)


def _delimiter(text: str) -> str:
    """The character that cuts the first rows into the most columns, the same number in each."""
    sample = "\n".join(text[:64_000].split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES])

    def consistency(delimiter: str) -> tuple[float, int]:
        try:
            widths = [len(row) for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row]
        except csv.Error:
            return 0.0, 0
        usual = max(set(widths), key=widths.count, default=1)
        return (widths.count(usual) / len(widths) if usual > 1 else 0.0), usual

    return max(_DELIMITERS, key=consistency)


def rows_as_lines(rows: Iterable[list[str]], limits: ParseLimits) -> Iterator[str]:
    """Yield a line for each row that is not empty: "column: value; column: value".

    Each row repeats the names of its columns, so that a chunk that holds only some rows still says what
    their values are. The header is the first row of which at least half is filled; what stands before it
    (a caption) and a row of the table of which only the first cell is filled (a note) are kept as they are.
    """
    header: list[str] | None = None
    length = 0
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        filled = sum(map(bool, cells))
        if not filled:
            continue
        if header is None and filled >= max(2, len(cells) / 2):
            header = cells
            line = " | ".join(filter(None, cells))
        else:
            line = _row(header, cells)
        length += len(line)
        check_output(length, limits)
        yield line


def _row(header: list[str] | None, cells: list[str]) -> str:
    names = header or []
    if cells[0] and not any(cells[1:]):
        return cells[0]
    pairs = []
    for column, value in enumerate(cells):
        name = names[column] if column < len(names) else ""
        if value:
            pairs.append(f"{name}: {value}" if name else value)
    return "; ".join(pairs)
