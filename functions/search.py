"""Search over HTTP: hybrid retrieval with filters, facets and an exact count."""

from __future__ import annotations

from typing import Any, Literal

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.http import Call, Model, route
from functions.services import services
from shared.knowledge.index import IndexedChunk, parse_filter
from shared.knowledge.index.protocol import format_instant

blueprint = df.Blueprint()

MAX_QUERY_CHARACTERS = 4000
MAX_TOP = 50


class SearchBody(Model):
    """A query. ``filter`` is a tree of conditions, described in docs/search-index.md."""

    query: str = Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)
    top: int = Field(8, ge=1, le=MAX_TOP)
    skip: int = Field(0, ge=0, le=1000)
    filter: dict[str, Any] | None = None
    facets: tuple[str, ...] = Field((), max_length=8)
    count: bool = False
    mode: Literal["hybrid", "keyword", "vector"] = "hybrid"
    semantic: bool = False


@route(blueprint, "POST", "/api/collections/{collection}/search", body=SearchBody)
async def search(call: Call) -> Response:
    """Find passages in a collection."""
    body = await call.json(SearchBody)
    found = await services().retrieval.search(
        call.principal,
        [call.path("collection")],
        body.query,
        top=body.top,
        skip=body.skip,
        filter=None if body.filter is None else parse_filter(body.filter),
        facets=body.facets,
        count=body.count,
        mode=body.mode,
        semantic=body.semantic,
        cache=call.cache_mode().policy,
    )
    facets = {
        name: [{"value": value.value, "count": value.count} for value in values]
        for name, values in found.facets.items()
    }
    return JSONResponse(
        {
            "hits": [
                passage_document(
                    passage.chunk, passage.score, caption=passage.caption, sha256=passage.sha256 or None
                )
                for passage in found.passages
            ],
            "count": found.count,
            "facets": facets,
            "semantic": found.semantic,
            "timings": found.timings,
            "cached": found.cached,
        }
    )


def passage_document(chunk: IndexedChunk, score: float, **more: Any) -> dict[str, Any]:
    """A passage as the API shows it; offsets count characters of the document's text."""
    return {
        "score": score,
        "document": chunk.document,
        "collection": chunk.collection,
        "version": chunk.version,
        "title": chunk.title,
        "headings": list(chunk.headings),
        "page": chunk.page,
        "page_end": chunk.page_end,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "media_type": chunk.media_type,
        "source": chunk.source,
        "tags": list(chunk.tags),
        "updated": format_instant(chunk.updated),
        **more,
    }
