"""The search index: one protocol, Azure AI Search and an embedded index behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import InvalidParameter
from shared.knowledge.index.filters import And, AnyOf, Eq, Filter, In, Ne, Not, Or, Range, parse_filter
from shared.knowledge.index.protocol import (
    ALL_VERSIONS,
    FIRST_LAYOUT,
    DocumentVersion,
    FacetValue,
    Hit,
    IndexedChunk,
    IndexSpec,
    SearchIndex,
    SearchRequest,
    SearchResult,
    VersionRange,
    chunk_key,
    document_key,
)

__all__ = [
    "ALL_VERSIONS",
    "FIRST_LAYOUT",
    "And",
    "AnyOf",
    "DocumentVersion",
    "Eq",
    "FacetValue",
    "Filter",
    "Hit",
    "In",
    "IndexSpec",
    "IndexedChunk",
    "Ne",
    "Not",
    "Or",
    "Range",
    "SearchIndex",
    "SearchRequest",
    "SearchResult",
    "VersionRange",
    "chunk_key",
    "document_key",
    "open_index",
    "parse_filter",
]


def open_index(
    target: str, spec: IndexSpec, *, key: str | None = None, credential: Any = None
) -> SearchIndex:
    """The index at ``embedded:FOLDER`` or at the URL of an Azure AI Search service.

    The service takes an admin ``key`` or an async token ``credential`` of azure.identity.
    """
    if target.startswith("embedded:"):
        from shared.knowledge.index.embedded import EmbeddedIndex

        return EmbeddedIndex(Path(target.removeprefix("embedded:")), spec)
    if target.startswith(("https://", "http://")):
        from shared.knowledge.index.azure_search import AzureSearchIndex

        return AzureSearchIndex(target, spec, key=key, credential=credential)
    raise InvalidParameter(
        "The search index must be embedded:FOLDER or the URL of an Azure AI Search service."
    )
