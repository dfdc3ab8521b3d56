"""What a search index keeps and answers, whichever product is behind it.

One physical index holds the chunks of every tenant whose collections use the same embedding model. The
adapters add tenant, collection and reader clauses themselves to every request; a caller cannot leave
them out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from shared.errors import InvalidParameter
from shared.knowledge.index.filters import FACETABLE_FIELDS, Eq, Filter, Ne, Range, check_filter

MAX_TOP = 1000  # Azure AI Search returns at most 1,000 results a page
MAX_SKIP = 100_000  # Azure AI Search: $skip may not exceed 100,000
FIRST_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class IndexedChunk:
    """A piece of one version of a document. ``vector`` is None in whatever a search returns.

    ``start`` and ``end`` are character offsets in the document's text; ``readers`` are the principals who
    may read it, such as ``tenant:*``, ``user:alice`` or ``group:hr``. ``layout`` numbers the way in which the
    collection was cut and embedded: the same version may lie beside itself in two layouts.
    """

    id: str
    tenant: str
    collection: str
    document: str
    version: int
    ordinal: int
    text: str
    title: str
    headings: tuple[str, ...]
    page: int | None
    page_end: int | None
    start: int
    end: int
    media_type: str
    source: str
    tags: tuple[str, ...]
    updated: datetime
    readers: tuple[str, ...]
    layout: int = FIRST_LAYOUT
    vector: Sequence[float] | None = None


def document_key(tenant: str, collection: str, document: str) -> str:
    """A document's key in tables, blob names and chunk ids: 160 bits of the SHA-256 of its full name."""
    return hashlib.sha256(f"{tenant}\0{collection}\0{document}".encode()).hexdigest()[:40]


def chunk_key(
    tenant: str, collection: str, document: str, version: int, ordinal: int, layout: int = FIRST_LAYOUT
) -> str:
    """The same chunk's id every time: letters, digits and hyphens only, as Azure AI Search keys demand."""
    return f"{document_key(tenant, collection, document)}-{layout}-{version}-{ordinal}"


def to_payload(chunk: IndexedChunk) -> dict[str, Any]:
    """The chunk's fields as JSON values, without its vector."""
    return {
        "id": chunk.id,
        "tenant": chunk.tenant,
        "collection": chunk.collection,
        "document": chunk.document,
        "version": chunk.version,
        "ordinal": chunk.ordinal,
        "text": chunk.text,
        "title": chunk.title,
        "headings": list(chunk.headings),
        "page": chunk.page,
        "page_end": chunk.page_end,
        "start": chunk.start,
        "end": chunk.end,
        "media_type": chunk.media_type,
        "source": chunk.source,
        "tags": list(chunk.tags),
        "updated": format_instant(chunk.updated),
        "readers": list(chunk.readers),
        "layout": chunk.layout,
    }


def from_payload(payload: Mapping[str, Any]) -> IndexedChunk:
    """The chunk that ``to_payload`` made these values from."""
    values: dict[str, Any] = {
        name: payload.get(name) for name in IndexedChunk.__dataclass_fields__ if name != "vector"
    }
    for name in ("headings", "tags", "readers"):
        values[name] = tuple(values[name] or ())
    values["updated"] = parse_instant(values["updated"])
    return IndexedChunk(**values)


def format_instant(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: the precision that Azure AI Search keeps."""
    if moment.tzinfo is None:
        raise InvalidParameter("A time needs its offset from UTC.")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """The moment that an RFC 3339 text names, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One physical index. ``analyzer`` is Azure AI Search's for text; the embedded index stems by itself."""

    name: str
    dimensions: int
    analyzer: str = "en.microsoft"


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A query over collections of one tenant, as one caller may see them.

    ``layouts`` names the layout of each collection that is to be searched; the first where it names none.
    Without ``readers`` or ``collections`` nothing is found. With ``text`` and ``vector`` the ranking is
    hybrid; with neither, chunks come in order of id. ``count`` and ``facets`` cover all chunks that the
    filter and the caller's access admit, whatever the query ranks.
    """

    tenant: str
    collections: tuple[str, ...]
    readers: tuple[str, ...]
    text: str | None = None
    vector: Sequence[float] | None = None
    filter: Filter | None = None
    top: int = 10
    skip: int = 0
    facets: tuple[str, ...] = ()
    count: bool = False
    semantic: bool = False
    layouts: Mapping[str, int] = field(default_factory=dict)

    def layout_of(self, collection: str) -> int:
        return self.layouts.get(collection, FIRST_LAYOUT)

    def check(self) -> None:
        """Raise ``InvalidParameter`` or ``InvalidFilter`` for what no index can answer."""
        if not 0 <= self.top <= MAX_TOP:
            raise InvalidParameter(f"top must be 0 to {MAX_TOP}.", parameter="top")
        if not 0 <= self.skip <= MAX_SKIP:
            raise InvalidParameter(f"skip must be 0 to {MAX_SKIP}.", parameter="skip")
        for name in self.facets:
            if name not in FACETABLE_FIELDS:
                raise InvalidParameter(f"{name!r} is not a field to count by.", parameter="facets")
        if self.filter is not None:
            check_filter(self.filter)

    @property
    def finds_nothing(self) -> bool:
        """Whether access trimming leaves nothing to search: an empty list must never mean 'all'."""
        return not (self.tenant and self.collections and self.readers)


@dataclass(frozen=True, slots=True)
class Hit:
    """``reranker_score`` and ``caption`` come from a semantic ranker alone."""

    chunk: IndexedChunk
    score: float
    reranker_score: float | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class FacetValue:
    value: str | int
    count: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """``semantic`` tells whether a semantic ranker ordered the hits; an index without one says False."""

    hits: tuple[Hit, ...] = ()
    count: int | None = None
    facets: Mapping[str, tuple[FacetValue, ...]] = field(default_factory=dict)
    semantic: bool = False


def nothing_found(request: SearchRequest) -> SearchResult:
    """The answer to a request that access trimming leaves nothing of."""
    return SearchResult(count=0 if request.count else None, facets=dict.fromkeys(request.facets, ()))


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Versions of a document: ``below`` a number, ``only`` one, all ``except_for`` one, or every one."""

    below: int | None = None
    only: int | None = None
    except_for: int | None = None

    def __post_init__(self) -> None:
        if sum(bound is not None for bound in (self.below, self.only, self.except_for)) > 1:
            raise InvalidParameter("A range of versions has one bound.")

    def clauses(self) -> tuple[Filter, ...]:
        """The range as conditions of a filter; none for every version."""
        if self.below is not None:
            return (Range("version", lt=self.below),)
        if self.only is not None:
            return (Eq("version", self.only),)
        return () if self.except_for is None else (Ne("version", self.except_for),)


ALL_VERSIONS = VersionRange()


@dataclass(frozen=True, slots=True, order=True)
class DocumentVersion:
    """One version of a document in one layout, and how many chunks it has there."""

    document: str
    version: int
    chunks: int
    layout: int = FIRST_LAYOUT


def listed_versions(chunks: Mapping[tuple[str, int, int], int]) -> list[DocumentVersion]:
    """Chunks counted by document, version and layout, as `SearchIndex.document_versions` gives them."""
    return sorted(
        DocumentVersion(document, version, count, layout)
        for (document, version, layout), count in chunks.items()
    )


class ContentDigest:
    """A digest of chunks, whatever their order. ``updated`` is left out: it tells when, not what."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, payload: Mapping[str, Any]) -> None:
        content = {name: payload.get(name) for name in IndexedChunk.__dataclass_fields__}
        content["updated"] = content["vector"] = None
        encoded = json.dumps(content, sort_keys=True).encode()
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(encoded).digest(), "big")) % (1 << 256)

    def hexdigest(self) -> str:
        return f"{self._sum:064x}"


class SearchIndex(Protocol):
    """An index of chunks. Every failure of the service behind it is one of ``shared.errors``."""

    async def ensure(self) -> None:
        """Create the index where it is absent; raise ``Conflict`` where it has another schema."""
        ...

    async def upload(self, chunks: Sequence[IndexedChunk]) -> None:
        """Insert or replace the chunks by id. When this returns they are durable."""
        ...

    async def delete_document(
        self,
        tenant: str,
        collection: str,
        document: str,
        versions: VersionRange = ALL_VERSIONS,
        *,
        layout: int | None = None,
        made_before: datetime | None = None,
    ) -> int:
        """Delete the chunks of these versions of a document; return how many there were.

        With ``layout`` those of that layout alone; with ``made_before`` those alone that are older.
        """
        ...

    async def delete_collection(self, tenant: str, collection: str, *, layout: int | None = None) -> int:
        """Delete every chunk of a collection, or of one layout of it; return how many there were."""
        ...

    async def search(self, request: SearchRequest) -> SearchResult:
        """The chunks that the caller may read, best first."""
        ...

    async def document_versions(
        self, tenant: str, collection: str, *, first: str = "", last: str = ""
    ) -> list[DocumentVersion]:
        """Which versions of which documents have chunks, sorted: what reconciliation compares.

        ``first`` and ``last`` bound the `document_key` of the documents: from ``first`` up to but without
        ``last``, so that a collection can be listed page by page.
        """
        ...

    async def digest(self, tenant: str, collection: str) -> str:
        """A digest of the collection's chunks that is the same in whatever order they came."""
        ...

    async def count(self, tenant: str, collection: str, document: str | None = None) -> int:
        """Exactly how many chunks a collection, or one document of it, has."""
        ...

    async def close(self) -> None:
        """Release the index. Further calls raise ``IndexUnavailable``."""
        ...
