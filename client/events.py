"""Server-sent events, read from bytes as they arrive (HTML standard, section 9.2.6)."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# An answer's last event holds the whole answer; far more than that is no event of ours.
MAX_EVENT_CHARACTERS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: its name (``message`` where the stream gave none) and its data as text."""

    name: str
    data: str

    def json(self) -> Any:
        return json.loads(self.data)


def parse_events(parts: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events in ``parts``, however these cut lines and characters; an unfinished event is dropped."""
    name = ""
    data: list[str] = []
    size = 0
    for line in _lines(parts):
        if not line:
            if data:
                yield ServerEvent(name or "message", "\n".join(data))
            name, data, size = "", [], 0
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            size += len(value)
            if size > MAX_EVENT_CHARACTERS:
                raise ValueError(f"An event is longer than {MAX_EVENT_CHARACTERS} characters.")
            data.append(value)
        # A line that begins with a colon is a comment (a heartbeat); other fields are of no use here.


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    """The complete lines of a UTF-8 stream; they end with LF, CR or both."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest: list[str] = []
    held = 0
    after_cr = False
    first = True
    for part in parts:
        text = decoder.decode(part)
        if not text:
            continue
        if first:
            text, first = text.removeprefix("\ufeff"), False
        if after_cr:
            # The CR at the end of the last part has ended its line; an LF right after it belongs to it.
            text, after_cr = text.removeprefix("\n"), False
        after_cr = text.endswith("\r")
        *complete, tail = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in complete:
            rest.append(line)
            yield "".join(rest)
            rest, held = [], 0
        if tail:
            rest.append(tail)
            held += len(tail)
            if held > MAX_EVENT_CHARACTERS:
                raise ValueError(f"A line is longer than {MAX_EVENT_CHARACTERS} characters.")
