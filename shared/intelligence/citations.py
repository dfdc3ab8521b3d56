"""Citations: where in which document an answer's words stand, and the check that they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.knowledge.retrieval import Passage

# [2], and the forms that models make of it: [2, 3], [2][3], 【2】, [^2].
_MARK = re.compile(r"[\[【]\^?(\d{1,3}(?:\s*[,;]\s*\^?\d{1,3})*)[\]】]")
_QUOTED = re.compile(r"[\"“„«]([^\"“”„«»]{15,})[\"”“»]")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Citation:
    """What the number ``[number]`` in an answer's text stands for.

    ``start`` and ``end`` are character offsets in the parsed text of that version of the document, of the
    words in ``quote``; ``chunk`` is the id of the chunk they were found in, ``sha256`` that of the bytes
    which the version was made from.
    """

    number: int
    chunk: str
    document: str
    collection: str
    version: int
    title: str
    page: int | None
    page_end: int | None
    start: int
    end: int
    quote: str
    headings: tuple[str, ...]
    score: float
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "headings": list(self.headings)
        }

    def place(self) -> dict[str, Any]:
        """Where the words stand, without them."""
        names = ("collection", "document", "version", "chunk", "page", "start", "end")
        return {name: getattr(self, name) for name in names}


def cite(number: int, passage: Passage, start: int = 0, end: int | None = None) -> Citation:
    """A citation of ``passage.chunk.text[start:end]``; of the whole chunk without offsets."""
    chunk = passage.chunk
    end = len(chunk.text) if end is None else end
    return Citation(
        number=number,
        chunk=chunk.id,
        document=chunk.document,
        collection=chunk.collection,
        version=chunk.version,
        title=chunk.title or chunk.document.rpartition("/")[2],
        page=chunk.page,
        page_end=chunk.page_end,
        start=chunk.start + start,
        end=chunk.start + end,
        quote=chunk.text[start:end],
        headings=chunk.headings,
        score=passage.score,
        sha256=passage.sha256,
    )


def checked_marks(text: str, passages: int) -> tuple[str, list[int]]:
    """``text`` without citation numbers that name no passage, and the valid numbers in order of use."""
    used: dict[int, None] = {}

    def rewrite(match: re.Match[str]) -> str:
        numbers = [int(digits) for digits in re.findall(r"\d+", match[1])]
        valid = [number for number in numbers if 1 <= number <= passages]
        used.update(dict.fromkeys(valid))
        return "".join(f"[{number}]" for number in valid)

    return _MARK.sub(rewrite, text), list(used)


def unfaithful_quotes(text: str, passages: Sequence[str]) -> int:
    """How many passages in quotation marks, of 15 characters or more, stand in none of ``passages``."""
    sources = [_SPACE.sub(" ", passage) for passage in passages]
    quotes = [_SPACE.sub(" ", quote).strip(" .,;:") for quote in _QUOTED.findall(text)]
    return sum(not any(quote in source for source in sources) for quote in quotes)
