"""What is particular to Azure AI Search: its errors, partial successes, limits and semantic ranker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import pytest

from shared.errors import (
    Conflict,
    GroundworkError,
    IndexUnavailable,
    InternalError,
    PayloadTooLarge,
    RateLimited,
)
from shared.knowledge.index import DocumentVersion, IndexedChunk, IndexSpec, SearchRequest, open_index
from shared.knowledge.index import azure_search as adapter

from .search_service import KEY, Refused, SearchService

Make = Callable[..., IndexedChunk]
Service = tuple[SearchService, str]
SPEC = IndexSpec("chunks", dimensions=4)
ANYONE = SearchRequest("acme", ("handbook",), ("tenant:*",), top=50)


@pytest.fixture
async def index(service: Service) -> AsyncIterator[adapter.AzureSearchIndex]:
    opened = adapter.AzureSearchIndex(service[1], SPEC, key=KEY)
    await opened.ensure()
    yield opened
    await opened.close()


async def test_ensure_creates_the_index_once(index: adapter.AzureSearchIndex, service: Service) -> None:
    await index.ensure()
    operations = [operation for operation, _ in service[0].requests]
    assert operations == ["get_index", "create_or_update_index", "get_index"]
    fields = {field["name"]: field for field in service[0].indexes["chunks"]["fields"]}
    assert fields["vector"]["dimensions"] == 4
    assert fields["readers"]["filterable"]
    assert fields["text"]["analyzer"] == "en.microsoft"


async def test_another_schema_is_a_conflict_that_names_the_field(service: Service) -> None:
    await adapter.AzureSearchIndex(service[1], SPEC, key=KEY).ensure()
    with pytest.raises(Conflict, match=r"'vector'.*dimensions 4"):
        await adapter.AzureSearchIndex(service[1], IndexSpec("chunks", 8), key=KEY).ensure()


async def test_a_field_that_is_new_is_added_to_an_index_in_use(service: Service, chunk: Make) -> None:
    await adapter.AzureSearchIndex(service[1], SPEC, key=KEY).ensure()
    fields = service[0].indexes["chunks"]["fields"]
    service[0].indexes["chunks"]["fields"] = [field for field in fields if field["name"] != "layout"]
    index = adapter.AzureSearchIndex(service[1], SPEC, key=KEY)
    await index.ensure()
    names = [field["name"] for field in service[0].indexes["chunks"]["fields"]]
    assert sorted(names) == sorted(field["name"] for field in fields)
    await index.upload([chunk()])
    next(iter(service[0].documents["chunks"].values()))["layout"] = None  # a chunk from before
    listed = await index.document_versions("acme", "handbook")
    assert listed == [DocumentVersion("travel.md", 1, 1, layout=0)]
    assert (await index.search(ANYONE)).hits == ()
    await index.close()


async def test_a_missing_index_is_named(service: Service, chunk: Make) -> None:
    index = adapter.AzureSearchIndex(service[1], SPEC, key=KEY)
    with pytest.raises(IndexUnavailable, match="no index 'chunks'"):
        await index.search(replace(ANYONE, text="train"))
    with pytest.raises(IndexUnavailable, match="no index 'chunks'"):
        await index.upload([chunk()])
    await index.close()


@pytest.mark.parametrize(
    ("status", "headers", "expected", "retry_after"),
    [
        (429, {"Retry-After": "7"}, RateLimited, 7.0),
        (429, {}, RateLimited, None),
        (503, {"Retry-After": "3"}, IndexUnavailable, 3.0),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, IndexUnavailable, None),
        (500, {}, IndexUnavailable, None),
        (403, {}, IndexUnavailable, None),
        (400, {}, InternalError, None),
    ],
)
async def test_failures_are_typed_and_tried_once(
    index: adapter.AzureSearchIndex,
    service: Service,
    status: int,
    headers: dict[str, str],
    expected: type[GroundworkError],
    retry_after: float | None,
) -> None:
    service[0].refuse = lambda operation: Refused(status, "planted secret", headers)
    before = len(service[0].requests)
    with pytest.raises(expected) as caught:
        await index.search(replace(ANYONE, text="train"))
    assert caught.value.retry_after == retry_after
    assert "planted" not in caught.value.detail
    assert len(service[0].requests) == before + 1


async def test_an_unreachable_service_is_unavailable(service: Service) -> None:
    index = adapter.AzureSearchIndex("http://127.0.0.1:9", SPEC, key=KEY)
    with pytest.raises(IndexUnavailable, match="reached"):
        await index.search(replace(ANYONE, text="train"))
    await index.close()


async def test_a_partial_upload_names_the_chunks_worth_another_try(
    index: adapter.AzureSearchIndex, service: Service, chunk: Make
) -> None:
    chunks = [chunk(ordinal=n) for n in range(4)]
    busy, refused = chunks[1].id, chunks[2].id
    service[0].item_result = lambda key: "item_busy" if key == busy else "item_created"
    with pytest.raises(IndexUnavailable) as caught:
        await index.upload(chunks)
    assert caught.value.retryable
    assert caught.value.extra == {"retryable_ids": [busy]}
    service[0].item_result = lambda key: {busy: "item_busy", refused: "item_refused"}.get(key, "item_created")
    with pytest.raises(InternalError) as caught_other:
        await index.upload(chunks)
    assert not caught_other.value.retryable
    assert caught_other.value.extra == {"refused_ids": [refused], "retryable_ids": [busy]}
    service[0].item_result = lambda key: "item_created"
    await index.upload(chunks)
    assert await index.count("acme", "handbook") == 4


@pytest.mark.parametrize("limit", [1, 3, 4])
async def test_a_batch_too_large_is_halved_until_it_fits(
    index: adapter.AzureSearchIndex, service: Service, chunk: Make, limit: int
) -> None:
    service[0].max_actions = limit
    await index.upload([chunk(ordinal=n) for n in range(9)])
    assert await index.count("acme", "handbook") == 9


async def test_one_chunk_too_large_is_an_error(
    index: adapter.AzureSearchIndex, service: Service, chunk: Make
) -> None:
    service[0].max_actions = 0
    with pytest.raises(PayloadTooLarge):
        await index.upload([chunk(), chunk(ordinal=1)])


async def test_batches_keep_the_limits_of_documents_and_bytes(
    index: adapter.AzureSearchIndex, service: Service, chunk: Make
) -> None:
    await index.upload([chunk(ordinal=n, vector=None) for n in range(adapter.MAX_BATCH_ACTIONS + 1)])
    sizes = [len(body["value"]) for name, body in service[0].requests if name == "index_documents" and body]
    assert sorted(sizes) == [1, adapter.MAX_BATCH_ACTIONS]
    service[0].requests.clear()
    third = "x" * (adapter.MAX_BATCH_BYTES // 3)
    await index.upload([chunk(ordinal=n, text=third) for n in range(5)])
    sizes = [len(body["value"]) for name, body in service[0].requests if name == "index_documents" and body]
    assert sizes == [2, 2, 1]


async def test_the_semantic_ranker_is_asked_when_wanted(
    index: adapter.AzureSearchIndex, service: Service, chunk: Make
) -> None:
    await index.upload([chunk()])
    plain = await index.search(replace(ANYONE, text="train"))
    assert (plain.semantic, plain.hits[0].reranker_score, plain.hits[0].caption) == (False, None, None)
    ranked = await index.search(replace(ANYONE, text="train", semantic=True))
    assert (ranked.semantic, ranked.hits[0].reranker_score, ranked.hits[0].caption) == (True, 2.5, "cap")
    # Without a text there is nothing to rank by, and the answer says so.
    assert not (await index.search(replace(ANYONE, vector=(1.0, 0.0, 0.0, 0.0), semantic=True))).semantic


async def test_access_clauses_are_in_every_search(
    index: adapter.AzureSearchIndex, service: Service, chunk: Make
) -> None:
    await index.upload([chunk()])
    service[0].requests.clear()
    await index.search(
        replace(ANYONE, text="train", count=True, facets=("tags",), readers=("user:o'hara", "group:hr"))
    )
    filters = [body["filter"] for name, body in service[0].requests if name == "search" and body]
    assert len(filters) == 2
    for text in filters:
        assert "(tenant eq 'acme')" in text
        assert "(search.in(collection, 'handbook', '|'))" in text
        assert "(readers/any(x: search.in(x, 'user:o''hara|group:hr', '|')))" in text


async def test_candidates_reach_as_deep_as_the_page(
    index: adapter.AzureSearchIndex, service: Service
) -> None:
    await index.search(replace(ANYONE, vector=(1.0, 0.0, 0.0, 0.0), top=10))
    await index.search(replace(ANYONE, vector=(1.0, 0.0, 0.0, 0.0), top=10, skip=200))
    depths = [
        body["vectorQueries"][0]["k"] for name, body in service[0].requests if name == "search" and body
    ]
    assert depths == [100, 210]


class TokenCredential:
    """Async token credential as azure.identity's are."""

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        from azure.core.credentials import AccessToken

        assert scopes == ("https://search.azure.com/.default",)
        return AccessToken("a-token", 4_000_000_000)

    async def close(self) -> None: ...

    async def __aenter__(self) -> TokenCredential:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


async def test_a_token_never_travels_without_encryption(service: Service) -> None:
    index = open_index(service[1], SPEC, credential=TokenCredential())
    with pytest.raises(IndexUnavailable):
        await index.count("acme", "handbook")
    assert service[0].authorizations == []
    await index.close()


def test_an_index_needs_one_way_to_authenticate() -> None:
    for arguments in ({}, {"key": "k", "credential": object()}):
        with pytest.raises(ValueError, match="either a key or a credential"):
            open_index("https://x.search.windows.net", SPEC, **arguments)


async def test_a_closed_index_says_so(index: adapter.AzureSearchIndex) -> None:
    await index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count("acme", "handbook")
