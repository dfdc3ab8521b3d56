"""The same index contract over two worlds: the embedded shard, and a search service over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.knowledge.index import IndexedChunk, IndexSpec, SearchIndex, chunk_key, open_index

from .search_service import KEY, SearchService

SPEC = IndexSpec("chunks", dimensions=4)
DEFAULT = IndexedChunk(
    id="",
    tenant="acme",
    collection="handbook",
    document="travel.md",
    version=1,
    ordinal=0,
    text="Employees book train tickets in advance.",
    title="Travel",
    headings=("Travel", "Tickets"),
    page=3,
    page_end=4,
    start=10,
    end=50,
    media_type="text/markdown",
    source="wiki",
    tags=("hr", "travel"),
    updated=datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC),
    readers=("tenant:*",),
    vector=(1.0, 0.0, 0.0, 0.0),
)


def make_chunk(**changes: Any) -> IndexedChunk:
    chunk = replace(DEFAULT, **changes)
    names = (chunk.tenant, chunk.collection, chunk.document, chunk.version, chunk.ordinal, chunk.layout)
    key = chunk_key(*names)
    return replace(chunk, id=key)


@pytest.fixture
def chunk() -> Callable[..., IndexedChunk]:
    return make_chunk


@pytest.fixture
async def service() -> AsyncIterator[tuple[SearchService, str]]:
    running = SearchService()
    url = await running.start()
    yield running, url
    await running.stop()


@pytest.fixture(params=["embedded", "azure"])
async def index(
    request: pytest.FixtureRequest, tmp_path: Path, service: tuple[SearchService, str]
) -> AsyncIterator[SearchIndex]:
    if request.param == "embedded":
        opened = open_index(f"embedded:{tmp_path}", SPEC)
    else:
        opened = open_index(service[1], SPEC, key=KEY)
    await opened.ensure()
    yield opened
    await opened.close()
