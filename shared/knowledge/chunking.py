"""Cutting a parsed document into chunks that an embedding model sees whole.

A chunk is a span of the document's text, exact to the character, so that a citation can point at it. What
helps to understand the span but stands elsewhere (title, headings, a table's header) is its ``context``.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from shared.inferencing.tokens import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from shared.knowledge.parsing.document import ParsedDocument

_PLAIN_MEDIA = frozenset(
    {"text/plain", "application/pdf", "text/csv", "application/json", "application/jsonl"}
    | {"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"}
)

# The splitter's time grows with the square of its input (400,000 characters without a space: 0.8 s in windows
# of 32,768, 0.2 s in these), so long texts are first cut into windows, at headings where possible. On real
# documents that adds no chunk.
_WINDOW_CHARS = 8_192
_WINDOW_CHUNKS = 8

# The share of the token limit that context may take; the rest belongs to the text itself.
_CONTEXT_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class ChunkBudget:
    """How large a chunk may be: ``max_tokens`` of the embedding model's own ``tokenizer``, a `load_tokenizer`
    specification, including special tokens and context; and about ``target_chars`` characters."""

    tokenizer: str
    max_tokens: int
    target_chars: int = 1_000

    def __post_init__(self) -> None:
        if self.max_tokens < 32 or self.target_chars < 64:
            raise ValueError("A chunk needs max_tokens >= 32 and target_chars >= 64.")


@dataclass(frozen=True, slots=True)
class Chunk:
    """``document.text[start:end]``, with what a reader of only this span needs to know.

    ``headings`` is the path of headings in force, ``context`` what `embedding_text` puts before the text,
    ``tokens`` the number of tokens of `embedding_text`. ``page`` and ``page_end`` are the numbers of the
    first and last page, where the document has pages.
    """

    ordinal: int
    text: str
    start: int
    end: int
    page: int | None
    page_end: int | None
    headings: tuple[str, ...]
    context: str
    tokens: int

    def embedding_text(self) -> str:
        """What is embedded for this chunk: its context, then its text."""
        return _with_context(self.context, self.text)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Chunk:
        return cls(**{**data, "headings": tuple(data["headings"])})


def _with_context(context: str, text: str) -> str:
    return f"{context}\n{text}" if context else text


Span = tuple[int, int]


def chunk(document: ParsedDocument, budget: ChunkBudget) -> tuple[Chunk, ...]:
    """Cut ``document`` into chunks in reading order.

    Nothing but white space between chunks is left out, no two overlap, and no `Chunk.embedding_text` has
    more than ``budget.max_tokens`` tokens. There is no overlap: cuts fall between sections, paragraphs or
    sentences, and the context carries over what a cut would lose.
    """
    tokenizer = load_tokenizer(budget.tokenizer)
    contexts = _Contexts(document, tokenizer, int(budget.max_tokens * _CONTEXT_SHARE))
    text = document.text
    accepted: list[tuple[Span, str, int]] = []
    pending = _split(document, (0, len(text)), _fitting_chars(text, budget, tokenizer))
    while pending:
        described = [contexts.of(start) for start, _ in pending]
        texts = [
            _with_context(context, text[start:end])
            for (start, end), context in zip(pending, described, strict=True)
        ]
        oversize: list[Span] = []
        counts = tokenizer.count_many(texts)
        for span, context, tokens in zip(pending, described, counts, strict=True):
            if tokens <= budget.max_tokens or span[1] - span[0] == 1:
                accepted.append((span, context, tokens))
            else:
                oversize += _split(document, span, _smaller(span, tokens, budget.max_tokens))
        pending = oversize
    accepted.sort()
    places = _Places(document)
    return tuple(
        places.chunk(ordinal, span, context, tokens)
        for ordinal, (span, context, tokens) in enumerate(accepted)
    )


def _fitting_chars(text: str, budget: ChunkBudget, tokenizer: Tokenizer) -> int:
    """The target, or less where a sample of a long text shows that most chunks would exceed the tokens."""
    if len(text) <= _WINDOW_CHARS:
        return budget.target_chars
    middle = len(text) // 2
    sample = text[middle : middle + _WINDOW_CHARS // 4]
    fitting = len(sample) * budget.max_tokens / max(1, tokenizer.count(sample))
    return budget.target_chars if fitting >= budget.target_chars else max(64, int(fitting))


def _smaller(span: Span, tokens: int, max_tokens: int) -> int:
    """The number of characters that should fit, always less than before."""
    length = span[1] - span[0]
    return max(1, min(length - 1, int(length * max_tokens / tokens * 0.9)))


def _split(document: ParsedDocument, span: Span, chars: int) -> list[Span]:
    """Cut a span at the best places into spans of at most ``chars`` characters, without outer white space."""
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    splitter = (TextSplitter if document.media.value in _PLAIN_MEDIA else MarkdownSplitter)(chars)
    spans: list[Span] = []
    for first, last in _windows(document, span, max(_WINDOW_CHARS, _WINDOW_CHUNKS * chars)):
        for offset, piece in splitter.chunk_indices(document.text[first:last]):
            start = first + offset
            spans.append((start, start + len(piece)))
    return _merge_small(spans, chars)


def _windows(document: ParsedDocument, span: Span, size: int) -> Iterator[Span]:
    """Cut a span into windows of bounded size: before a heading, else between paragraphs, lines or words."""
    start, end = span
    text = document.text
    long = end - start > size
    headings = [heading.start for heading in document.headings] if long else []
    while end - start > size:
        low, high = start + size // 2, start + size
        at = bisect_right(headings, high) - 1
        cut = headings[at] if at >= 0 and headings[at] >= low else -1
        for mark in ("\n\n", "\n", " "):
            if cut < 0:
                cut = text.rfind(mark, low, high)
        yield start, (cut := cut if cut > start else high)
        start = cut
    yield start, end


def _merge_small(spans: list[Span], chars: int) -> list[Span]:
    """Put a span too small to be found by itself, such as a lone heading, to the one that follows."""
    merged: list[Span] = []
    for span in spans:
        if merged:
            start, end = merged[-1]
            if end - start < chars // 4 and span[1] - start <= chars:
                merged[-1] = (start, span[1])
                continue
        merged.append(span)
    return merged


# A table's header and the rule below it; the rows go on to the next blank line.
_TABLE_HEAD = re.compile(r"^(\|[^\n]+\|)[ \t]*\n\|(?:[ \t]*:?-+:?[ \t]*\|)+[ \t]*$", re.M)


class _Contexts:
    """The context of each place in a document, never longer than a number of tokens."""

    def __init__(self, document: ParsedDocument, tokenizer: Tokenizer, max_tokens: int) -> None:
        self._document = document
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._paths = _Paths(document)
        self._fitting: dict[tuple[str, ...], str] = {}
        self._tables: list[tuple[int, int, str]] = []
        if document.media.value not in _PLAIN_MEDIA:
            for match in _TABLE_HEAD.finditer(document.text):
                end = document.text.find("\n\n", match.end())
                self._tables.append((match.end(), end if end >= 0 else len(document.text), match[1]))

    def of(self, start: int) -> str:
        """Title and headings above ``start``, and the header of a table whose rows begin before it."""
        path = [self._document.title or "", *self._paths.above(start)]
        distinct = tuple(dict.fromkeys(filter(None, (part.strip() for part in path))))
        return self._fit((*distinct, self._table_header(start)))

    def _table_header(self, start: int) -> str:
        at = bisect_right(self._tables, (start, len(self._document.text), "")) - 1
        if at < 0:
            return ""
        first, last, header = self._tables[at]
        return header if first <= start < last else ""

    def _fit(self, parts: tuple[str, ...]) -> str:
        """The fullest form within the limit: the outer headings go first, then the table's header."""
        if parts not in self._fitting:
            *path, table = parts
            candidates = [_joined(path[:1] + path[first:], table) for first in range(1, len(path) + 1)]
            candidates += [_joined(path[-1:], table), _joined([], table), _joined(path[:1], "")]
            self._fitting[parts] = next(filter(self._fits, candidates), "")
        return self._fitting[parts]

    def _fits(self, context: str) -> bool:
        return len(context) < 8 * self._max_tokens and self._tokenizer.count(context) <= self._max_tokens


def _joined(path: list[str], table: str) -> str:
    return "\n".join(filter(None, (" > ".join(path), table)))


class _Paths:
    """The headings in force at each place."""

    def __init__(self, document: ParsedDocument) -> None:
        self._starts: list[int] = []
        self._titles: list[tuple[str, ...]] = []
        open_headings: list[tuple[int, str]] = []
        for heading in document.headings:
            while open_headings and open_headings[-1][0] >= heading.level:
                open_headings.pop()
            open_headings.append((heading.level, heading.title))
            self._starts.append(heading.start)
            self._titles.append(tuple(title for _, title in open_headings))

    def at(self, start: int) -> tuple[str, ...]:
        """The path at ``start``, a heading that stands there included."""
        at = bisect_right(self._starts, start) - 1
        return self._titles[at] if at >= 0 else ()

    def above(self, start: int) -> tuple[str, ...]:
        """The path at ``start`` without a heading that stands there, since the text says it itself."""
        path = self.at(start)
        at = bisect_right(self._starts, start) - 1
        return path[:-1] if at >= 0 and self._starts[at] == start else path


class _Places:
    """Makes chunks of spans: finds their headings and pages."""

    def __init__(self, document: ParsedDocument) -> None:
        self._text = document.text
        self._paths = _Paths(document)
        self._pages = [page for page in document.pages if page.start < page.end]
        self._page_starts = [page.start for page in self._pages]

    def _page(self, position: int) -> int | None:
        at = bisect_right(self._page_starts, position) - 1
        return self._pages[max(at, 0)].number if self._pages else None

    def chunk(self, ordinal: int, span: Span, context: str, tokens: int) -> Chunk:
        start, end = span
        return Chunk(
            ordinal=ordinal,
            text=self._text[start:end],
            start=start,
            end=end,
            page=self._page(start),
            page_end=self._page(end - 1),
            headings=self._paths.at(start),
            context=context,
            tokens=tokens,
        )
