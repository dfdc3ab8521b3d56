"""What a parser returns: one text, with the places of its pages and headings."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, dataclass, replace
from typing import Any

from shared.errors import DocumentTooComplex
from shared.knowledge.media import Media
from shared.knowledge.parsing.limits import ParseLimits


@dataclass(frozen=True, slots=True)
class Page:
    """A PDF page, slide or sheet: ``text[start:end]``. ``label`` is a sheet's name or a slide's title."""

    number: int
    start: int
    end: int
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading at ``text[start:]``; ``level`` 1 is the outermost."""

    level: int
    title: str
    start: int


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The text of a document in reading order, normalised by `normalise`.

    ``pages_without_text`` are the numbers of pages that were there but gave no text, such as scans.
    """

    text: str
    title: str | None
    pages: tuple[Page, ...]
    headings: tuple[Heading, ...]
    pages_without_text: tuple[int, ...]
    media: Media

    def titled(self, title: str) -> ParsedDocument:
        """The same document under another title, made one normalised line."""
        return replace(self, title=" ".join(normalise(title).split()) or None)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ParsedDocument:
        return cls(
            text=data["text"],
            title=data["title"],
            pages=tuple(Page(**page) for page in data["pages"]),
            headings=tuple(Heading(**heading) for heading in data["headings"]),
            pages_without_text=tuple(data["pages_without_text"]),
            media=Media(data["media"]),
        )


# Everything Unicode calls a control but tab and newline, plus byte order marks and non-characters.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ufdd0-\ufdef]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def normalise(text: str) -> str:
    """Return ``text`` in NFC with LF line ends and without control characters or lone surrogates."""
    text = _LINE_ENDS.sub("\n", text)
    text = _UNWANTED.sub("", text)
    text = _SURROGATES.sub("\ufffd", text)
    return unicodedata.normalize("NFC", text)


class TextBuilder:
    """Joins blocks with a blank line, and knows the offsets of each. Stops at the limit of characters."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._blocks: list[str] = []
        self._length = 0

    def add(self, block: str) -> tuple[int, int]:
        """Append a normalised, stripped ``block``; return its [start, end). An empty one adds nothing."""
        block = normalise(block).strip("\n").rstrip()
        if not block.strip():
            return self._length, self._length
        start = self._length + 2 if self._blocks else 0
        self._blocks.append(block)
        self._length = start + len(block)
        check_output(self._length, self._limits)
        return start, self._length

    def text(self) -> str:
        return "\n\n".join(self._blocks)


def check_output(chars: int, limits: ParseLimits) -> None:
    if chars > limits.output_chars:
        raise DocumentTooComplex("The document holds more text than is read.", limit=limits.output_chars)


_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(\S[^\n]*)$", re.M)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.M)
_INLINE_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")


def markdown_headings(text: str) -> tuple[Heading, ...]:
    """The ATX headings of a Markdown text, outside fenced code."""
    fences = _fenced(text)
    found = []
    for match in _ATX.finditer(text):
        while fences and fences[0][1] <= match.start():
            fences.pop(0)
        if fences and fences[0][0] <= match.start():
            continue
        title = plain(match[2].rstrip().rstrip("#"))
        if title:
            found.append(Heading(len(match[1]), title, match.start()))
    return tuple(found)


def _fenced(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    opened: tuple[int, str] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match.start(), match[1]
        elif match[1][0] == opened[1][0] and len(match[1]) >= len(opened[1]):
            spans.append((opened[0], match.end()))
            opened = None
    if opened is not None:
        spans.append((opened[0], len(text)))
    return spans


def plain(markdown: str) -> str:
    """One line of Markdown without its link targets, emphasis and code marks."""
    return re.sub(r"[*`]|\\(?=[^\w\s])", "", _INLINE_LINK.sub(r"\1", markdown)).strip()


def first_title(headings: tuple[Heading, ...]) -> str | None:
    """The document's title where it opens with a heading of the first level."""
    return next((heading.title for heading in headings if heading.level == 1), None)


def table_row(cells: list[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def markdown_table(rows: list[list[str]]) -> str:
    """A Markdown table of ``rows``, the first being its header."""
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return ""
    rule = "|" + " --- |" * len(rows[0])
    return "\n".join([table_row(rows[0]), rule, *map(table_row, rows[1:])])
