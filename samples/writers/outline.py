"""Read a document source: front matter and a small, strict subset of Markdown.

The subset is what the writers can set: headings, paragraphs, lists, pipe tables, ``>`` call-outs and
``<!-- page -->`` breaks, with ``**bold**`` and ``*italic*`` inside a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class ListItems:
    items: tuple[str, ...]
    numbered: bool


@dataclass(frozen=True, slots=True)
class Table:
    """``numeric[i]`` is true for a column whose source rule ends in a colon: it is set to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class CallOut:
    text: str


@dataclass(frozen=True, slots=True)
class PageBreak:
    pass


Block = Heading | Paragraph | ListItems | Table | CallOut | PageBreak


@dataclass(frozen=True, slots=True)
class Outline:
    meta: dict[str, str]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Run:
    text: str
    bold: bool = False
    italic: bool = False


_BULLET = re.compile(r"- +(.*)")
_NUMBER = re.compile(r"\d+\. +(.*)")
_EMPHASIS = re.compile(r"\*\*(?P<bold>.+?)\*\*|\*(?P<italic>.+?)\*")


def read_outline(source: str) -> Outline:
    """The parsed source; a line that fits no rule is an error that names it."""
    opening, front, body = source.split("---\n", 2)
    if opening:
        raise ValueError("A source opens with front matter between two lines of ---.")
    meta = dict(line.split(": ", 1) for line in front.splitlines() if line)
    return Outline(meta, tuple(_block(lines) for lines in _groups(body)))


def runs(text: str) -> Iterator[Run]:
    """The text cut at its emphasis marks."""
    position = 0
    for match in _EMPHASIS.finditer(text):
        if match.start() > position:
            yield Run(text[position : match.start()])
        if match["bold"]:
            yield Run(match["bold"], bold=True)
        else:
            yield Run(match["italic"], italic=True)
        position = match.end()
    if position < len(text):
        yield Run(text[position:])


def plain(text: str) -> str:
    return "".join(run.text for run in runs(text))


def _groups(body: str) -> Iterator[list[str]]:
    for group in re.split(r"\n\s*\n", body.strip("\n")):
        lines = [line.rstrip() for line in group.splitlines()]
        while lines and lines[0].startswith("#"):
            yield [lines.pop(0)]
        if lines:
            yield lines


def _block(lines: list[str]) -> Block:
    first = lines[0]
    if first == "<!-- page -->":
        return PageBreak()
    if first.startswith("#"):
        marks, text = first.split(" ", 1)
        return Heading(len(marks), text)
    if first.startswith("|"):
        return _table(lines)
    if first.startswith("> "):
        return CallOut(" ".join(line.removeprefix(">").strip() for line in lines))
    if _BULLET.match(first) or _NUMBER.match(first):
        return _list(lines)
    return Paragraph(" ".join(line.strip() for line in lines))


def _table(lines: list[str]) -> Table:
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    header, rule, *body = rows
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"A table row has {len(row)} cells and its header {len(header)}: {row}")
    return Table(header, tuple(body), tuple(cell.endswith(":") for cell in rule))


def _list(lines: list[str]) -> ListItems:
    rule = _BULLET if _BULLET.match(lines[0]) else _NUMBER
    items: list[str] = []
    for line in lines:
        match = rule.match(line)
        if match:
            items.append(match[1])
        elif line.startswith("  "):
            items[-1] += " " + line.strip()
        else:
            raise ValueError(f"A line of a list is neither an item nor indented: {line!r}")
    return ListItems(tuple(items), rule is _NUMBER)
