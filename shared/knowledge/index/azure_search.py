"""The index on Azure AI Search.

Hybrid ranking, its fusion (reciprocal ranks, k = 60) and the semantic ranker are the service's. The SDK's
own retries are off: the one retry loop is above this module. The service makes writes searchable with a
delay of about a second, so a listing that follows an upload at once may miss it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, IndexUnavailable, InternalError, PayloadTooLarge, RateLimited
from shared.knowledge.index.filters import And, AnyOf, Eq, Filter, In, Or, Range
from shared.knowledge.index.odata import render
from shared.knowledge.index.protocol import (
    ALL_VERSIONS,
    ContentDigest,
    DocumentVersion,
    FacetValue,
    Hit,
    IndexedChunk,
    IndexSpec,
    SearchRequest,
    SearchResult,
    VersionRange,
    from_payload,
    listed_versions,
    nothing_found,
    to_payload,
)

if TYPE_CHECKING:
    from azure.search.documents.aio import SearchClient
    from azure.search.documents.indexes.aio import SearchIndexClient

# Service limits: https://learn.microsoft.com/azure/search/search-limits-quotas-capacity
MAX_BATCH_ACTIONS = 1000  # documents of one indexing request
MAX_BATCH_BYTES = 12 * 1024 * 1024  # of 16 MB, since ours is an estimate
PAGE_CHUNKS = 1000  # results of one page
VECTOR_DEPTH = 100  # nearest neighbours that enter the fusion
FACET_VALUES = 100  # most frequent values that a facet lists
RETRYABLE_ITEM_STATUSES = frozenset({409, 422, 429, 503})  # of one document in a 207: busy, not refused

VECTOR_FIELD, VECTOR_PROFILE, SEMANTIC_CONFIGURATION = "vector", "cosine-hnsw", "default"
_CHUNK_FIELDS = [name for name in IndexedChunk.__dataclass_fields__ if name != VECTOR_FIELD]
_FILTER_ONLY = ("tenant", "collection")
_FACETED = ("document", "source", "media_type")
_PLAIN_NUMBERS = ("ordinal", "page_end", "start", "end")


class AzureSearchIndex:
    """`SearchIndex` on a search service, with an admin ``key`` or an async token ``credential``."""

    def __init__(
        self, endpoint: str, spec: IndexSpec, *, key: str | None = None, credential: Any = None
    ) -> None:
        if (key is None) == (credential is None):
            raise ValueError("The search service needs either a key or a credential.")
        self._endpoint, self._spec = endpoint, spec
        self._key, self._credential = key, credential
        self._client: SearchClient | None = None
        self._closed = False

    async def ensure(self) -> None:
        from azure.core.exceptions import ResourceNotFoundError
        from azure.search.documents.indexes.models import SearchIndex

        definition = index_definition(self._spec)
        async with self._management() as management, self._translated_errors():
            try:
                found = (await management.get_index(self._spec.name)).as_dict()
            except ResourceNotFoundError:
                await management.create_or_update_index(SearchIndex(definition))
                return
            # The service adds fields to an index that is in use; chunks that are there have no value in them.
            if missing := _missing_fields(found, definition):
                found["fields"] += missing
                await management.create_or_update_index(SearchIndex(found))
        _check_schema(found, definition)

    async def upload(self, chunks: Sequence[IndexedChunk]) -> None:
        actions = []
        for chunk in chunks:
            vector = None if chunk.vector is None else [float(value) for value in chunk.vector]
            actions.append({"@search.action": "upload", **to_payload(chunk), VECTOR_FIELD: vector})
        for batch in _batches(actions):
            await self._index(batch)

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
        clauses = [*_owned(tenant, collection, layout), Eq("document", document), *versions.clauses()]
        if made_before is not None:
            clauses.append(Range("updated", lt=made_before))
        return await self._delete(And(tuple(clauses)))

    async def delete_collection(self, tenant: str, collection: str, *, layout: int | None = None) -> int:
        return await self._delete(And(_owned(tenant, collection, layout)))

    async def search(self, request: SearchRequest) -> SearchResult:
        request.check()
        if request.finds_nothing:
            return nothing_found(request)
        access = (Eq("tenant", request.tenant), _in_layouts(request), AnyOf("readers", request.readers))
        admitted = render(And(access if request.filter is None else (*access, request.filter)))
        hits, (count, facets) = await asyncio.gather(
            self._hits(request, admitted), self._totals(request, admitted)
        )
        ranked = request.semantic and bool(request.text)
        return SearchResult(hits=tuple(hits), count=count, facets=facets, semantic=ranked)

    async def document_versions(
        self, tenant: str, collection: str, *, first: str = "", last: str = ""
    ) -> list[DocumentVersion]:
        counts: Counter[tuple[str, int, int]] = Counter()
        clauses = _owned(tenant, collection)
        if first or last:
            clauses = (*clauses, Range("id", ge=first or None, lt=last or None))
        async for item in self._listed(And(clauses), ["id", "document", "version", "layout"]):
            # A chunk from before there were layouts has none: it belongs to no layout that is searched.
            counts[item["document"], item["version"], item["layout"] or 0] += 1
        return listed_versions(counts)

    async def digest(self, tenant: str, collection: str) -> str:
        digest = ContentDigest()
        async for item in self._listed(And(_owned(tenant, collection)), _CHUNK_FIELDS):
            digest.add(item)
        return digest.hexdigest()

    async def count(self, tenant: str, collection: str, document: str | None = None) -> int:
        of_document = () if document is None else (Eq("document", document),)
        count, _ = await self._counted(render(And((*_owned(tenant, collection), *of_document))), ())
        return count

    async def close(self) -> None:
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _hits(self, request: SearchRequest, admitted: str) -> list[Hit]:
        if request.top == 0:
            return []
        async with self._translated_errors():
            pages = await self._connected().search(**_query(request, admitted))
            return [_hit(item) async for item in pages]

    async def _totals(
        self, request: SearchRequest, admitted: str
    ) -> tuple[int | None, dict[str, tuple[FacetValue, ...]]]:
        """Count and facets of all that is admitted: a ranked request's own cover its candidates only."""
        if not request.count and not request.facets:
            return None, {}
        count, facets = await self._counted(admitted, request.facets)
        return (count if request.count else None), facets

    async def _counted(
        self, admitted: str, facets: tuple[str, ...]
    ) -> tuple[int, dict[str, tuple[FacetValue, ...]]]:
        async with self._translated_errors():
            pages = await self._connected().search(
                search_text="*",
                filter=admitted,
                top=0,
                include_total_count=True,
                facets=[f"{name},count:{FACET_VALUES}" for name in facets] or None,
            )
            count = await pages.get_count()
            found = await pages.get_facets() if facets else None
        return count, {name: _facet_values((found or {}).get(name, [])) for name in facets}

    async def _listed(self, which: Filter, fields: list[str]) -> AsyncIterator[dict[str, Any]]:
        """Every matching chunk in order of id. Pages continue after the last id: $skip ends at 100,000."""
        admitted, last = render(which), ""
        while True:
            after = f"({admitted}) and id gt '{last}'" if last else admitted
            async with self._translated_errors():
                pages = await self._connected().search(
                    search_text="*", filter=after, select=fields, order_by=["id asc"], top=PAGE_CHUNKS
                )
                items = [item async for item in pages]
            for item in items:
                yield item
            if len(items) < PAGE_CHUNKS:
                return
            last = items[-1]["id"]

    async def _delete(self, which: Filter) -> int:
        ids = [item["id"] async for item in self._listed(which, ["id"])]
        for batch in _batches([{"@search.action": "delete", "id": key} for key in ids]):
            await self._index(batch)
        return len(ids)

    async def _index(self, actions: list[dict[str, Any]]) -> None:
        """Send one batch, in halves where the service finds it too large, and check every result."""
        from azure.search.documents.models import IndexAction, IndexDocumentsBatch

        batch = IndexDocumentsBatch(actions=[IndexAction(action) for action in actions])
        try:
            async with self._translated_errors():
                results = await self._connected().index_documents(batch)
        except PayloadTooLarge:
            if len(actions) == 1:
                raise
            await self._index(actions[: len(actions) // 2])
            await self._index(actions[len(actions) // 2 :])
            return
        _check_results(results)

    def _connected(self) -> SearchClient:
        if self._closed:
            raise IndexUnavailable("The search index was closed.")
        if self._client is None:
            from azure.search.documents.aio import SearchClient

            self._client = SearchClient(
                self._endpoint, self._spec.name, self._authentication(), **_without_retries()
            )
        return self._client

    def _management(self) -> SearchIndexClient:
        from azure.search.documents.indexes.aio import SearchIndexClient

        return SearchIndexClient(self._endpoint, self._authentication(), **_without_retries())

    def _authentication(self) -> Any:
        if self._key is None:
            return self._credential
        from azure.core.credentials import AzureKeyCredential

        return AzureKeyCredential(self._key)

    @asynccontextmanager
    async def _translated_errors(self) -> AsyncIterator[None]:
        """Let only errors of ``shared.errors`` out."""
        from azure.core.exceptions import AzureError, HttpResponseError
        from azure.search.documents import RequestEntityTooLargeError

        try:
            yield
        except HttpResponseError as error:
            raise _translated(error, self._spec.name) from error
        except AzureError as error:
            raise IndexUnavailable("The search service cannot be reached.") from error
        except TypeError as error:
            # The async client of 12.0.0 means to send a batch that is too large in halves, but calls
            # itself wrongly for the second half.
            if not isinstance(error.__context__, RequestEntityTooLargeError):
                raise
            raise PayloadTooLarge("A batch is too large for the search service.") from error


def _owned(tenant: str, collection: str, layout: int | None = None) -> tuple[Filter, ...]:
    whose = (Eq("tenant", tenant), Eq("collection", collection))
    return whose if layout is None else (*whose, Eq("layout", layout))


def _in_layouts(request: SearchRequest) -> Filter:
    """Each collection in the one layout that is to be searched."""
    by_layout: dict[int, list[str]] = {}
    for collection in request.collections:
        by_layout.setdefault(request.layout_of(collection), []).append(collection)
    parts = tuple(
        And((Eq("layout", layout), In("collection", tuple(names)))) for layout, names in by_layout.items()
    )
    return parts[0] if len(parts) == 1 else Or(parts)


def _without_retries() -> dict[str, Any]:
    from azure.core.pipeline.policies import AsyncRetryPolicy

    return {"retry_policy": AsyncRetryPolicy.no_retries()}


def _translated(error: Any, index: str) -> Exception:
    status = error.status_code
    headers = error.response.headers if error.response is not None else {}
    retry_after = _seconds(headers.get("Retry-After"))
    if status == 404:
        return IndexUnavailable(f"The search service has no index {index!r}.")
    if status in (401, 403):
        return IndexUnavailable("The search service refused this application's credential.")
    if status == 413:
        return PayloadTooLarge("A batch is too large for the search service.")
    if status == 429:
        return RateLimited("The search service limits the rate.", retry_after=retry_after)
    if status == 400:
        return InternalError("The search service did not understand a request.")
    return IndexUnavailable(f"The search service answered {status}.", retry_after=retry_after)


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _query(request: SearchRequest, admitted: str) -> dict[str, Any]:
    query: dict[str, Any] = {
        "search_text": request.text or None,
        "filter": admitted,
        "select": _CHUNK_FIELDS,
        "top": request.top,
        "skip": request.skip or None,
    }
    if request.vector is not None:
        from azure.search.documents.models import VectorizedQuery

        query["vector_queries"] = [
            VectorizedQuery(
                vector=[float(value) for value in request.vector],
                k_nearest_neighbors=max(VECTOR_DEPTH, request.skip + request.top),
                fields=VECTOR_FIELD,
            )
        ]
        query["vector_filter_mode"] = "preFilter"
    elif not request.text:
        query |= {"search_text": "*", "order_by": ["id asc"]}
    if request.semantic and request.text:
        query |= {
            "query_type": "semantic",
            "semantic_configuration_name": SEMANTIC_CONFIGURATION,
            "query_caption": "extractive",
        }
    return query


def _hit(item: dict[str, Any]) -> Hit:
    captions = item.get("@search.captions") or []
    return Hit(
        chunk=from_payload(item),
        score=item["@search.score"],
        reranker_score=item.get("@search.reranker_score"),
        caption=captions[0].text if captions else None,
    )


def _facet_values(found: list[dict[str, Any]]) -> tuple[FacetValue, ...]:
    values = [FacetValue(facet["value"], facet["count"]) for facet in found]
    return tuple(sorted(values, key=lambda facet: (-facet.count, str(facet.value))))


def _batches(actions: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Parts within the service's limits of documents and bytes."""
    part: list[dict[str, Any]] = []
    size = 0
    for action in actions:
        length = len(json.dumps(action))
        if part and (len(part) == MAX_BATCH_ACTIONS or size + length > MAX_BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(action)
        size += length
    if part:
        yield part


def _check_results(results: Sequence[Any]) -> None:
    """Raise for the documents that the service did not take, naming those worth another try."""
    failed = [result for result in results if not result.succeeded]
    if not failed:
        return
    retryable = [result.key for result in failed if result.status_code in RETRYABLE_ITEM_STATUSES]
    refused = [result.key for result in failed if result.status_code not in RETRYABLE_ITEM_STATUSES]
    if refused:
        raise InternalError(
            f"The search service refused {len(refused)} of {len(results)} chunks.",
            refused_ids=refused,
            retryable_ids=retryable,
        )
    raise IndexUnavailable(
        f"The search service was too busy for {len(retryable)} of {len(results)} chunks.",
        retryable_ids=retryable,
    )


def index_definition(spec: IndexSpec) -> dict[str, Any]:
    """The index as the service's REST API describes it."""
    fields: list[dict[str, Any]] = [_field("id", "Edm.String", key=True, filterable=True, sortable=True)]
    fields += [_field(name, "Edm.String", filterable=True) for name in _FILTER_ONLY]
    fields += [_field(name, "Edm.String", filterable=True, facetable=True) for name in _FACETED]
    fields += [
        _field("version", "Edm.Int32", filterable=True, facetable=True),
        _field("page", "Edm.Int32", filterable=True),
        _field("layout", "Edm.Int32", filterable=True),
        *(_field(name, "Edm.Int32") for name in _PLAIN_NUMBERS),
        _field("updated", "Edm.DateTimeOffset", filterable=True, sortable=True),
        _field("tags", "Collection(Edm.String)", filterable=True, facetable=True),
        _field("readers", "Collection(Edm.String)", filterable=True),
        _field("title", "Edm.String", searchable=True, filterable=True, analyzer=spec.analyzer),
        _field("headings", "Collection(Edm.String)", searchable=True, analyzer=spec.analyzer),
        _field("text", "Edm.String", searchable=True, analyzer=spec.analyzer),
        {
            "name": VECTOR_FIELD,
            "type": "Collection(Edm.Single)",
            "searchable": True,
            "retrievable": False,
            "stored": False,
            "dimensions": spec.dimensions,
            "vectorSearchProfile": VECTOR_PROFILE,
        },
    ]
    return {
        "name": spec.name,
        "fields": fields,
        "vectorSearch": {
            "algorithms": [{"name": "hnsw", "kind": "hnsw", "hnswParameters": {"metric": "cosine"}}],
            "profiles": [{"name": VECTOR_PROFILE, "algorithm": "hnsw"}],
        },
        "semantic": {
            "configurations": [
                {
                    "name": SEMANTIC_CONFIGURATION,
                    "prioritizedFields": {
                        "titleField": {"fieldName": "title"},
                        "prioritizedContentFields": [{"fieldName": "text"}],
                        "prioritizedKeywordsFields": [{"fieldName": "headings"}],
                    },
                }
            ]
        },
    }


def _field(name: str, kind: str, **capabilities: Any) -> dict[str, Any]:
    off = dict.fromkeys(("key", "searchable", "filterable", "facetable", "sortable"), False)
    return {"name": name, "type": kind, "retrievable": True, **off, **capabilities}


def _missing_fields(found: dict[str, Any], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    present = {field["name"] for field in found["fields"]}
    return [field for field in wanted["fields"] if field["name"] not in present]


def _check_schema(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ``Conflict`` where a field of the service's index is of another kind."""
    present = {field["name"]: field for field in found["fields"]}
    for field in wanted["fields"]:
        other = present[field["name"]]
        for capability in ("type", "dimensions", "filterable", "facetable"):
            # `filterable` and `facetable` may be there without being needed; types must agree.
            if field.get(capability) and field[capability] != other.get(capability):
                raise Conflict(
                    f"The field {field['name']!r} of the index {wanted['name']!r} has {capability} "
                    f"{other.get(capability)!r}, but {field[capability]!r} is configured."
                )
