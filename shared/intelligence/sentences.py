"""Sentences of a chunk, exact to the character: prose, bullet points, lines and table rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Before these a full stop ends no sentence. Titles, Latin, months, units and references of office texts.
_ABBREVIATIONS = re.compile(
    r"mr|mrs|ms|dr|prof|rev|st|sr|jr|gen|col|sgt|capt|lt|hon|pres|gov|sen|rep|e\.g|i\.e|cf|vs|etc|approx|al|ca|"
    r"nos?|nr|figs?|eq|sec|ch|vols?|pp?|eds?|est|art|para|inc|ltd|co|corp|dept|univ|ave|blvd|rd|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tue|wed|thu|fri|max|min|tel|"
    r"z\.b|d\.h|u\.a|bzw|evtl|ggf|usw|hr|fr|str|abs"
)
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[」』”）]*")
_LAST_WORD = re.compile(r"([^\s(\[\"“']+)$")
_OPENER = re.compile(r"[\s\"'“‘«(\[*_]*(\S)")
_ROW = re.compile(r"[ \t]*\|.*\|[ \t]*")
_RULE = re.compile(r"[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)*\|?[ \t]*")
_ITEM = re.compile(
    r"[ \t]*(?:(?:[-*+•‣◦·–]|\(?\d{1,3}[.)]|\(?[a-z][.)])[ \t]+|\d{1,2}(?:\.\d{1,2})*\.? +[^\W\d_a-z])"
)
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]+")
_FIELDS = re.compile(r"[^\s:;|][^:;|]{0,60}: \S")
_FIELD = re.compile(r"[ \t]*[^\W_][\w.\-]{0,60}: \S")
_COLUMNS = re.compile(r"[^|:\n]+(?: \| [^|:\n]+)+")
_TERMINAL = re.compile(r"[.!?:;…。！？][\"'”’»)\]*_]*\s*$")
# A wrapped line of prose is about this long; a shorter one that does not end a sentence stands by itself.
_WRAPPED_LINE_CHARACTERS = 60
# No abbreviation is longer; what stands further back need not be looked at.
_WORD_CHARACTERS = 40
# A record of "name: value" lines is quoted whole up to this length: one of its lines says little by itself.
_RECORD_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Sentence:
    """``text[start:end]`` of the text it was found in. ``kind``: "prose", "row", "field" or "heading".

    A row is one of a table or a whole record, a field one line of a longer record; a table's column names
    count as a heading. ``header`` is the header row of the Markdown table that a row belongs to.
    """

    start: int
    end: int
    kind: str
    header: str = ""


def split(text: str) -> list[Sentence]:
    """The sentences of ``text`` in order, without outer white space; together they hold all its words."""
    found: list[Sentence] = []
    for start, end in _blocks(text):
        found += _block(text, start, end)
    return found


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in re.finditer(r"\n[ \t]*\n\s*", text):
        if gap.start() > start:
            yield start, gap.start()
        start = gap.end()
    if start < len(text):
        yield start, len(text)


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    lines = re.finditer(r"[^\n]+", text[start:end])
    return [(start + line.start(), start + line.end()) for line in lines if line[0].strip()]


def _block(text: str, start: int, end: int) -> Iterator[Sentence]:
    lines = _lines(text, start, end)
    pieces = [text[first:last] for first, last in lines]
    if len(pieces) > 1 and all(_FIELD.match(piece) and not _is_fields(piece) for piece in pieces):
        if lines[-1][1] - lines[0][0] <= _RECORD_CHARACTERS:
            yield _trimmed(text, lines[0][0], lines[-1][1], "row")
        else:
            yield from (_trimmed(text, *line, "field") for line in lines)
        return
    header = ""
    if len(lines) > 1 and _ROW.fullmatch(pieces[0]) and _RULE.fullmatch(pieces[1]):
        header = pieces[0].strip()
    run: tuple[int, int] | None = None
    for number, line in enumerate(lines):
        following = pieces[number + 1] if number + 1 < len(pieces) else ""
        kind = _line_kind(pieces[number], following)
        if kind == "rule":
            continue
        if run is not None and kind == "prose" and _continues(text[slice(*run)], pieces[number]):
            run = run[0], line[1]
            continue
        if run is not None:
            yield from _prose(text, *run)
            run = None
        if kind == "prose":
            run = line
        else:
            yield _trimmed(text, *line, kind, header if kind == "row" else "")
    if run is not None:
        yield from _prose(text, *run)


def _line_kind(line: str, following: str) -> str:
    if _RULE.fullmatch(line):
        return "rule"
    names_columns = _ROW.fullmatch(line) and _RULE.fullmatch(following)
    if _HEADING.match(line) or names_columns or (_COLUMNS.fullmatch(line) and _is_fields(following)):
        return "heading"
    return "row" if _ROW.fullmatch(line) or _is_fields(line) else "prose"


def _is_fields(line: str) -> bool:
    return len(_FIELDS.findall(line)) > 1 and "; " in line


def _continues(before: str, line: str) -> bool:
    """Whether ``line`` goes on with the prose ``before`` it, which a line break merely wraps."""
    if _ITEM.match(line) or _FIELD.match(line):
        return False
    last = before.rpartition("\n")[2].strip()
    return line.strip()[0].islower() or len(last) >= _WRAPPED_LINE_CHARACTERS


def _prose(text: str, start: int, end: int) -> Iterator[Sentence]:
    first = start
    for match in _END.finditer(text, start, end):
        if match.end() < end and _ends_sentence(text, first, match, end):
            yield _trimmed(text, first, match.end(), "prose")
            first = match.end()
    if text[first:end].strip():
        yield _trimmed(text, first, end, "prose")


def _ends_sentence(text: str, first: int, match: re.Match[str], end: int) -> bool:
    opener = _OPENER.match(text, match.end(), end)
    if opener is None:
        return False
    if match[0][0] != ".":
        return not opener[1].islower()
    word = _LAST_WORD.search(text, max(first, match.start() - _WORD_CHARACTERS), match.start())
    last = word[1].lower() if word else ""
    initial = len(last) == 1 and last.isalpha() and word is not None and word[1].isupper()
    if initial or _ABBREVIATIONS.fullmatch(last):
        return False
    opens_item = (
        last.isdigit() and len(last) <= 2 and not text[first : word.start() if word else first].strip()
    )
    return not opens_item and not opener[1].islower()


def _trimmed(text: str, start: int, end: int, kind: str, header: str = "") -> Sentence:
    piece = text[start:end]
    lead = len(piece) - len(piece.lstrip())
    return Sentence(start + lead, start + len(piece.rstrip()), kind, header)
