"""Set an outline as a workbook: each level-1 heading opens a sheet with its table and its notes below."""

from __future__ import annotations

import io
import re
from datetime import datetime

import xlsxwriter
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from samples.writers.archive import repack
from samples.writers.outline import Heading, Outline, Paragraph, Table, plain

_CREATED = datetime(2025, 1, 1, 8, 0, 0)
_WHOLE = re.compile(r"-?\d{1,3}(,\d{3})*|-?\d+")
_DECIMAL = re.compile(r"-?\d[\d,]*\.\d+")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_WIDEST_COLUMN_CHARACTERS = 60


def write_xlsx(outline: Outline) -> bytes:
    """The workbook; cells that read as numbers or ISO dates are stored as such."""
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(buffer, {"in_memory": True})
    book.set_properties(
        {"title": outline.meta["title"], "author": outline.meta["author"], "created": _CREATED}
    )
    formats = {
        "head": book.add_format(
            {"bold": True, "bg_color": "#17324D", "font_color": "#FFFFFF", "text_wrap": True}
        ),
        "whole": book.add_format({"num_format": "#,##0"}),
        "decimal": book.add_format({"num_format": "#,##0.00"}),
        "date": book.add_format({"num_format": "yyyy-mm-dd", "align": "left"}),
        "text": book.add_format({"valign": "top"}),
        "note": book.add_format({"italic": True}),
    }
    sheet: Worksheet | None = None
    row = 0
    for block in outline.blocks:
        if isinstance(block, Heading):
            sheet, row = book.add_worksheet(block.text), 0
        elif sheet is None:
            raise ValueError("A workbook's content follows the heading that names its sheet.")
        elif isinstance(block, Table):
            row = _write_table(sheet, block, row, formats)
        elif isinstance(block, Paragraph):
            sheet.write_string(row, 0, plain(block.text), formats["note"])
            row += 1
        else:
            raise ValueError(f"A sheet cannot hold {block!r}.")
    book.close()
    return repack(buffer.getvalue())


def _write_table(sheet: Worksheet, table: Table, top: int, formats: dict[str, Format]) -> int:
    for column, name in enumerate(table.header):
        longest = max(len(row[column]) for row in (table.header, *table.rows))
        sheet.set_column(column, column, min(longest + 3, _WIDEST_COLUMN_CHARACTERS))
        sheet.write_string(top, column, name, formats["head"])
    for r, row in enumerate(table.rows, top + 1):
        for column, text in enumerate(row):
            _write_cell(sheet, r, column, text, formats)
    if top == 0:
        sheet.freeze_panes(1, 0)
    return top + len(table.rows) + 2


def _write_cell(sheet: Worksheet, row: int, column: int, text: str, formats: dict[str, Format]) -> None:
    if _WHOLE.fullmatch(text):
        sheet.write_number(row, column, int(text.replace(",", "")), formats["whole"])
    elif _DECIMAL.fullmatch(text):
        sheet.write_number(row, column, float(text.replace(",", "")), formats["decimal"])
    elif _DATE.fullmatch(text):
        sheet.write_datetime(row, column, datetime.fromisoformat(text), formats["date"])
    elif text:
        sheet.write_string(row, column, text, formats["text"])
