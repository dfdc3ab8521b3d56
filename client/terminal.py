"""Text for a terminal: progress in one line, tables, and nothing that a document could control it with."""

from __future__ import annotations

import re
import shutil
import textwrap
import time
from collections.abc import Sequence
from typing import TextIO

from client.models import JobStatus, Progress

BAR_CHARACTERS = 24
# Where there is no terminal, a line of progress at most this often.
PLAIN_INTERVAL_SECONDS = 5.0
TABLE_CELL_CHARACTERS = 60
FALLBACK_COLUMNS = 100

# Control characters drive a terminal, bidirectional ones show text in another order than it has.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STATE_STYLES = {
    "succeeded": "green",
    "indexed": "green",
    "unchanged": "green",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "yellow",
}


def plain(text: str) -> str:
    """``text`` without characters that control a terminal; lines and tabs stay."""
    return _CONTROLS.sub("", text)


class Terminal:
    """Writes to ``out``; colours, bars and rewritten lines only where it is a terminal."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.is_tty = out.isatty()
        self._blocks = _can_encode(out, "█░·→")
        self._line_length = 0
        self._last_plain = ""
        self._last_plain_time = 0.0

    @property
    def columns(self) -> int:
        return shutil.get_terminal_size((FALLBACK_COLUMNS, 24)).columns if self.is_tty else FALLBACK_COLUMNS

    def style(self, name: str, text: str) -> str:
        return f"\x1b[{_STYLES[name]}m{text}\x1b[0m" if self.is_tty else text

    def state(self, state: str, width: int = 0) -> str:
        """A state in its colour."""
        padded = plain(state).ljust(width)
        return self.style(_STATE_STYLES[state], padded) if state in _STATE_STYLES else padded

    def line(self, text: str = "") -> None:
        """A line of its own; a progress line that stands there goes first."""
        self.clear_progress()
        self._write(text + "\n")

    def piece(self, text: str) -> None:
        """Text that goes on where the last piece ended."""
        self._write(plain(text))

    def wrapped(self, text: str, indent: str) -> None:
        """``text`` in lines of the terminal's width, each with ``indent``."""
        words = " ".join(plain(text).split())
        width = max(40, min(self.columns, FALLBACK_COLUMNS))
        for row in textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent):
            self.line(row)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows in columns as wide as their widest cell; ends of long cells are cut."""
        cells = [
            [_cut(plain(cell).replace("\n", " "), TABLE_CELL_CHARACTERS) for cell in row] for row in rows
        ]
        widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]
        self.line(self.style("dim", _row(head, widths)))
        for row in cells:
            padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            styled = [
                self.state(cell.strip(), len(cell)) if cell.strip() in _STATE_STYLES else cell
                for cell in padded
            ]
            self.line("  ".join(styled).rstrip())

    def progress(self, status: JobStatus) -> None:
        """Show how far the job is: in place on a terminal, else now and then in a line of its own."""
        text = f"{status.state}  {progress_text(status.progress, blocks=self._blocks)}".rstrip()
        if status.cancel_requested and not status.final:
            text = f"cancelling  {text}"
        text = plain(text)
        if self.is_tty:
            text = _cut(text, self.columns - 1)
            self._write("\r" + text.ljust(self._line_length))
            self._line_length = len(text)
            return
        now = time.monotonic()
        changed = text.partition(" ")[0] != self._last_plain.partition(" ")[0]
        due = now - self._last_plain_time >= PLAIN_INTERVAL_SECONDS
        if changed or (due and text != self._last_plain):
            self._write(text + "\n")
            self._last_plain, self._last_plain_time = text, now

    def clear_progress(self) -> None:
        """Remove the progress line, if one stands there."""
        if self._line_length:
            self._write("\r" + " " * self._line_length + "\r")
            self._line_length = 0

    def _write(self, text: str) -> None:
        encoding = self.out.encoding or "utf-8"
        self.out.write(text.encode(encoding, "replace").decode(encoding))
        self.out.flush()


def progress_text(progress: Progress | None, *, blocks: bool = True) -> str:
    """A job's progress in one line: bar, count, time left, rate, stages, each where it is known."""
    if progress is None:
        return ""
    parts: list[str] = []
    if progress.total:
        count = f"{progress.done}/{progress.total} {progress.unit}"
        parts.append(f"{_bar(_share(progress, progress.total), blocks)} {count}")
    elif progress.done:
        parts.append(f"{progress.done} {progress.unit}")
    if progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if progress.rate:
        parts.append(f"{progress.rate:.3g}/s")
    stages = [
        f"{stage.name} {stage.done}/{stage.total}" if stage.total else f"{stage.name} {stage.done}"
        for stage in progress.stages
        if stage.done or stage.total
    ]
    if stages:
        parts.append((" → " if blocks else " > ").join(stages))
    return (" · " if blocks else ", ").join(part.strip() for part in parts)


def _share(progress: Progress, total: int) -> float:
    """How much is done over all stages: documents alone count only when their last stage is over."""
    known = [min(1.0, stage.done / stage.total) for stage in progress.stages if stage.total]
    return sum(known) / len(progress.stages) if known else progress.done / total


def duration(seconds: float) -> str:
    """A time in the two largest of its units: ``8 s``, ``3 min 20 s``, ``1 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _bar(share: float, blocks: bool) -> str:
    full = round(max(0.0, min(1.0, share)) * BAR_CHARACTERS)
    done, open_ = ("█", "░") if blocks else ("#", ".")
    return done * full + open_ * (BAR_CHARACTERS - full)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(0, length - 3)] + "..."


def _can_encode(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
