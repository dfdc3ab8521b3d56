"""JSON and JSON Lines as lines of "path: value"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shared.errors import CorruptDocument, DocumentTooComplex
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import ParsedDocument, TextBuilder, check_output
from shared.knowledge.parsing.limits import ParseLimits
from shared.knowledge.parsing.text import read_text


class _Object(list[tuple[str, Any]]):
    """The members of a JSON object in order, duplicates included."""


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    text = read_text(content, limits)
    records = _records(text, limits) if media is Media.JSONL else [_load(text, limits)]
    builder = TextBuilder(limits)
    for record in records:
        for block in _blocks(record, limits):
            builder.add(block)
    return ParsedDocument(builder.text(), None, (), (), (), media)


def _records(text: str, limits: ParseLimits) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _load(line, limits, number)


def _load(text: str, limits: ParseLimits, first_line: int = 1) -> Any:
    try:
        # Numbers stay as they are written: nothing is rounded, and no huge integer is computed.
        return json.loads(text, object_pairs_hook=_Object, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise CorruptDocument(f"The JSON is not valid at line {line}, column {error.colno}.") from None
    except RecursionError:
        raise _too_deep(limits) from None


def _blocks(value: Any, limits: ParseLimits) -> Iterator[str]:
    """Yield the lines of each record of a top-level array, or of the whole value, as one block."""
    if _is_array(value):
        for index, item in enumerate(value):
            yield "\n".join(_lines(f"[{index}]" if _is_array(item) else "", item, limits))
    else:
        yield "\n".join(_lines("", value, limits))


def _is_array(value: Any) -> bool:
    return isinstance(value, list) and not isinstance(value, _Object)


def _lines(path: str, value: Any, limits: ParseLimits) -> Iterator[str]:
    """Yield "path: value" for each leaf; arrays of plain values share one line."""
    length = 0
    pending: list[tuple[str, Any, int]] = [(path, value, 0)]
    while pending:
        path, value, depth = pending.pop()
        if depth > limits.nesting_depth:
            raise _too_deep(limits)
        if isinstance(value, _Object):
            dotted = f"{path}." if path else ""
            pending += [(dotted + name, member, depth + 1) for name, member in reversed(value)]
            continue
        if isinstance(value, list) and any(isinstance(item, list) for item in value):
            indexed = list(enumerate(value))
            pending += [(f"{path}[{index}]", item, depth + 1) for index, item in reversed(indexed)]
            continue
        shown = ", ".join(map(_scalar, value)) if isinstance(value, list) else _scalar(value)
        line = f"{path}: {shown}" if path else shown
        length += len(line)
        check_output(length, limits)
        if shown:
            yield line


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value
    return {None: "", True: "true", False: "false"}.get(value, str(value))


def _too_deep(limits: ParseLimits) -> DocumentTooComplex:
    return DocumentTooComplex("The JSON is nested too deeply.", limit=limits.nesting_depth)
