"""Retrieval: the passages of a tenant's collections that answer a query, as one caller may see them.

The index trims by tenant, collection and readers. What it cannot know is which version of a document is
visible now: the records tell, and they are read after the search. A hit of a version that has meanwhile
been replaced shows that the index was searched too early, so it is searched again; a hit of a version that
is not visible yet, or no longer, is left out and replaced by the next in rank.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from shared.errors import InvalidParameter, PromptTooLong
from shared.inferencing.caching import (
    BoundedCache,
    CachePolicy,
    Count,
    EmbeddingCache,
    count_lookups,
    digest,
)
from shared.inferencing.calls import CallContext, Embedded, JobAccount, Usage
from shared.knowledge import reranking
from shared.knowledge.corpus import Corpus, open_corpus
from shared.knowledge.index.protocol import MAX_TOP, FacetValue, SearchRequest

if TYPE_CHECKING:
    from shared.identity import Principal
    from shared.inferencing import Gateway
    from shared.knowledge.collections import Collections
    from shared.knowledge.documents import Document, Documents
    from shared.knowledge.index import Filter, Hit, IndexedChunk
    from shared.knowledge.indexes import Indexes
    from shared.knowledge.layouts import Layout

Mode = Literal["hybrid", "keyword", "vector"]

# Chunks asked for beyond those wanted: a document of ordinary size has about as many in two versions.
SPARE_CHUNKS = 8
# How often a search is repeated, wider or later; a document that changes faster than this is not ingested.
SEARCHES_MAX = 4
# Tokens are not spread evenly over a text that is cut by characters.
CUT_MARGIN = 0.05
USUAL = CachePolicy()
# A character of a text in Python's memory, on average, and what a passage holds besides its texts.
CHARACTER_BYTES = 1.5
PASSAGE_BYTES = 1500
# k of reciprocal rank fusion: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion" (2009).
RRF_K = 60


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of the visible version of a document, and how well it matches.

    ``score`` compares passages of one answer only. ``caption`` and ``reranker_score`` come from a semantic
    ranker, where the index has one. ``sha256`` is that of the bytes which the passage's version was made
    from, by the record that let it pass: whoever holds the bytes can prove which version was found.
    """

    chunk: IndexedChunk
    score: float
    caption: str | None = None
    reranker_score: float | None = None
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found. ``timings`` are in milliseconds: ``embed``, ``search`` and ``rerank``.

    ``vectors`` holds the query's vector for each embedding model that was asked. ``count`` and ``facets``
    are the index's own: while a version is being replaced they count chunks of both.
    """

    passages: tuple[Passage, ...]
    count: int | None = None
    facets: Mapping[str, tuple[FacetValue, ...]] = field(default_factory=dict)
    semantic: bool = False
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    timings: Mapping[str, float] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True, slots=True)
class _Answered:
    """One index's answer, cut down to visible versions."""

    hits: list[Hit]
    digests: Mapping[tuple[str, str], str]
    count: int | None
    facets: Mapping[str, tuple[FacetValue, ...]]
    semantic: bool


class Retrieval:
    """Searches the collections of a tenant."""

    def __init__(
        self,
        *,
        collections: Collections,
        documents: Documents,
        indexes: Indexes,
        gateway: Gateway,
        found: BoundedCache[Found] | None = None,
        vectors: EmbeddingCache | None = None,
        count: Count | None = None,
    ) -> None:
        """``found`` and ``vectors`` are caches; ``count`` is told how often they had what was looked up."""
        self._collections = collections
        self._documents = documents
        self._indexes = indexes
        self._gateway = gateway
        self._found = found
        self._vectors = vectors
        self._count = count

    async def search(
        self,
        principal: Principal,
        collections: Sequence[str],
        query: str,
        *,
        top: int = 8,
        skip: int = 0,
        filter: Filter | None = None,
        facets: Sequence[str] = (),
        count: bool = False,
        mode: Mode = "hybrid",
        semantic: bool = False,
        deadline: float | None = None,
        job: JobAccount | None = None,
        cache: CachePolicy = USUAL,
        corpus: Corpus | None = None,
        layouts: Mapping[str, Layout] | None = None,
    ) -> Found:
        """The passages ranked from ``skip`` on, at most ``top``; a blank query lists chunks unranked.

        Collections with different embedding models are searched one by one and merged by reciprocal rank.
        Each is searched in its serving layout, or in the one that ``layouts`` names for it.
        ``semantic`` asks for the index's semantic ranker, or for the catalogue's re-ranker where it has none.
        Raises `NotFound` for a collection that the caller's tenant does not have, `InvalidParameter`,
        `InvalidFilter`, and what the gateway and the index raise: a search that asks for vectors and cannot
        have them fails. ``corpus`` is that of these collections, where the caller has it.
        """
        wanted = skip + top
        semantic = semantic and mode != "vector" and bool(query.strip())
        if top < 0 or skip < 0 or wanted > MAX_TOP:
            raise InvalidParameter(f"skip and top must add up to 0 to {MAX_TOP}.", parameter="top")
        if mode not in ("hybrid", "keyword", "vector"):
            raise InvalidParameter("mode must be 'hybrid', 'keyword' or 'vector'.", parameter="mode")
        call = CallContext(
            tenant=principal.tenant, user=principal.user, purpose="query", deadline=deadline, job=job
        )
        started = time.perf_counter()
        if corpus is None:
            corpus = await self.corpus(principal, collections, cache, layouts)
        by_model = corpus.by_model
        key = None
        # Counts and facets are the index's own, which tidies up after a change without changing the stamp.
        if self._found is not None and corpus.fingerprint is not None and not (count or facets):
            key = digest(corpus.fingerprint, query, top, skip, filter, tuple(facets), count, mode, semantic)
            known = self._found.get(key) if cache.reads else None
            self._count_lookup(call, by_model, known is not None)
            if known is not None:
                elapsed = (time.perf_counter() - started) * 1e3
                return replace(known, usage=Usage(), timings={"embed": 0.0, "search": elapsed}, cached=True)
        readers_of = {
            collection.name: collection.readers for members in by_model.values() for collection, _ in members
        }
        vectors: Mapping[str, Sequence[float]] = {}
        usage = Usage()
        if query.strip() and mode != "keyword":
            vectors, usage = await self._embed(list(by_model), query, call, cache)
        embedded = time.perf_counter()
        request = SearchRequest(
            tenant=principal.tenant,
            collections=(),
            readers=principal.readers,
            text=query if query.strip() and mode != "vector" else None,
            filter=filter,
            facets=tuple(facets),
            count=count,
            semantic=semantic,
        )
        # The first page depends on what is read for the second, and the other way round.
        depth = max(wanted, reranking.DEPTH) if semantic and wanted else wanted
        answers = await asyncio.gather(
            *(
                self._visible(
                    model,
                    replace(
                        request,
                        collections=tuple(collection.name for collection, _ in members),
                        layouts={collection.name: layout.number for collection, layout in members},
                        vector=vectors.get(model),
                    ),
                    depth,
                    readers_of,
                )
                for model, members in by_model.items()
            )
        )
        searched = time.perf_counter()
        digests = {name: sha256 for answer in answers for name, sha256 in answer.digests.items()}
        passages = [
            Passage(
                hit.chunk,
                hit.score,
                hit.caption,
                hit.reranker_score,
                digests[hit.chunk.collection, hit.chunk.document],
            )
            for hit in _merged([answer.hits for answer in answers])
        ]
        ranked = bool(answers) and all(answer.semantic for answer in answers)
        if semantic and not ranked:
            better = await reranking.reranked(
                self._gateway, query, passages, call=replace(call, purpose="rerank")
            )
            if better is not None:
                passages, cost = better
                usage, ranked = usage + cost, True
        result = Found(
            passages=tuple(passages[skip:wanted]),
            count=sum(answer.count or 0 for answer in answers) if count else None,
            facets=_merged_facets([answer.facets for answer in answers]),
            semantic=ranked,
            vectors=vectors,
            usage=usage,
            timings={
                "embed": (embedded - started) * 1e3,
                "search": (searched - embedded) * 1e3,
                "rerank": (time.perf_counter() - searched) * 1e3,
            },
        )
        # A search that had to do without its re-ranker is better tried again.
        complete = ranked or not semantic
        if key is not None and self._found is not None and cache.writes and corpus.settled and complete:
            self._found.put(key, result, _size(result))
        return result

    async def corpus(
        self,
        principal: Principal,
        collections: Sequence[str],
        cache: CachePolicy = USUAL,
        layouts: Mapping[str, Layout] | None = None,
    ) -> Corpus:
        """What the caller may find in ``collections`` now; raises `NotFound` and `InvalidParameter`.

        A layout that is not serving has no fingerprint: it is still being built.
        """
        return await open_corpus(
            principal,
            collections,
            collections=self._collections,
            documents=self._documents,
            indexes=self._indexes,
            catalogue=self._gateway.catalogue,
            layouts=layouts or {},
            fingerprint=self._found is not None and not layouts and (cache.reads or cache.writes),
        )

    async def embed(
        self, model: str, texts: Sequence[str], *, call: CallContext, cache: CachePolicy = USUAL
    ) -> Embedded:
        """A vector for each text, or for its beginning; those that are known cost no call."""
        entry = self._gateway.catalogue.models.get(model)
        if self._vectors is None or entry is None or not (cache.reads or cache.writes):
            return await embed_beginnings(self._gateway, model, texts, call=call)
        known = self._vectors.find(call, entry, texts) if cache.reads else {}
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if not missing:
            return Embedded([known[text] for text in texts], Usage())
        embedded = await embed_beginnings(self._gateway, model, missing, call=call)
        fresh = dict(zip(missing, embedded.vectors, strict=True))
        if cache.writes:
            for text, vector in fresh.items():
                self._vectors.keep(call, entry, text, vector)
        return Embedded([fresh.get(text) or known[text] for text in texts], embedded.usage)

    async def _embed(
        self, models: Sequence[str], query: str, call: CallContext, cache: CachePolicy
    ) -> tuple[Mapping[str, Sequence[float]], Usage]:
        embedded = await asyncio.gather(
            *(self.embed(model, [query], call=call, cache=cache) for model in models)
        )
        vectors = {model: one.vectors[0] for model, one in zip(models, embedded, strict=True)}
        return vectors, sum((one.usage for one in embedded), Usage())

    def _count_lookup(self, call: CallContext, models: Iterable[str], hit: bool) -> None:
        for name in models:
            entry = self._gateway.catalogue.models.get(name)
            version = entry.version if entry else ""
            count_lookups(self._count, call, name, version, "retrieval", int(hit), int(not hit))
            return  # a search is one lookup, however many models it would have asked

    async def _visible(
        self, model: str, request: SearchRequest, wanted: int, readers_of: Mapping[str, Sequence[str]]
    ) -> _Answered:
        """The first ``wanted`` hits of visible versions that the caller may read, where there are so many.

        The index trims by the access lists of the time of ingestion; the records and the collections tell
        today's, which may be narrower.
        """
        index = await self._indexes.of(model)
        asked = min(MAX_TOP, wanted + SPARE_CHUNKS) if wanted else 0
        searches = 0
        seen: dict[tuple[str, str], int] = {}
        while True:
            searches += 1
            result = await index.search(replace(request, top=asked))
            records = await self._records(request.tenant, result.hits)
            hits = [
                hit
                for hit in result.hits
                if _is_visible(hit, records) and _may_be_read(hit, records, request.readers, readers_of)
            ]
            complete = len(hits) >= wanted or len(result.hits) < asked or asked == MAX_TOP
            overtaken = any(_is_overtaken(hit, records, seen) for hit in result.hits)
            seen |= {name: record.visible for name, record in records.items()}
            if (complete and not overtaken) or searches == SEARCHES_MAX:
                digests = {name: record.visible_sha256 for name, record in records.items()}
                return _Answered(hits, digests, result.count, result.facets, result.semantic)
            if not complete:
                asked = min(MAX_TOP, asked * 4)

    async def _records(self, tenant: str, hits: Sequence[Hit]) -> dict[tuple[str, str], Document]:
        documents: dict[str, set[str]] = {}
        for hit in hits:
            documents.setdefault(hit.chunk.collection, set()).add(hit.chunk.document)
        found = await asyncio.gather(
            *(self._documents.find_all(tenant, name, ids) for name, ids in documents.items())
        )
        return {
            (name, document): record
            for name, records in zip(documents, found, strict=True)
            for document, record in records.items()
        }


def _size(found: Found) -> int:
    """About what a result takes in memory."""
    texts = sum(len(passage.chunk.text) + len(passage.caption or "") for passage in found.passages)
    vectors = sum(len(vector) * 4 for vector in found.vectors.values())
    facets = sum(len(values) for values in found.facets.values()) * 100
    return int(texts * CHARACTER_BYTES) + len(found.passages) * PASSAGE_BYTES + vectors + facets


async def embed_beginnings(
    gateway: Gateway, model: str, texts: Sequence[str], *, call: CallContext
) -> Embedded:
    """A vector for each text; for one that is longer than the model sees, the vector of its beginning."""
    cut = list(texts)
    while True:
        try:
            return await gateway.embed(model, cut, call=call)
        except PromptTooLong as error:
            if not {"index", "tokens", "limit"} <= error.extra.keys():
                raise
            index = error.extra["index"]
            share = error.extra["limit"] / error.extra["tokens"] * (1 - CUT_MARGIN)
            cut[index] = cut[index][: int(len(cut[index]) * share)]
            if not cut[index].strip():
                raise


_Records = Mapping[tuple[str, str], "Document"]


def _is_visible(hit: Hit, records: _Records) -> bool:
    record = records.get((hit.chunk.collection, hit.chunk.document))
    return record is not None and record.visible == hit.chunk.version


def _may_be_read(
    hit: Hit, records: _Records, caller: Sequence[str], readers_of: Mapping[str, Sequence[str]]
) -> bool:
    own = records[hit.chunk.collection, hit.chunk.document].upload.readers
    return not {*caller}.isdisjoint(readers_of[hit.chunk.collection] if own is None else own)


def _is_overtaken(hit: Hit, records: _Records, seen: Mapping[tuple[str, str], int]) -> bool:
    """Whether the search may have missed the visible version, as one after it was ``seen`` cannot."""
    name = (hit.chunk.collection, hit.chunk.document)
    record = records.get(name)
    return record is not None and record.visible > hit.chunk.version and seen.get(name) != record.visible


def _merged(rankings: Sequence[list[Hit]]) -> list[Hit]:
    """One ranking: scores of different embedding models cannot be compared, their ranks can."""
    if len(rankings) == 1:
        return rankings[0]
    ranked = [
        replace(hit, score=1 / (RRF_K + rank)) for ranking in rankings for rank, hit in enumerate(ranking, 1)
    ]
    return sorted(ranked, key=lambda hit: (-hit.score, hit.chunk.id))


def _merged_facets(
    facets: Sequence[Mapping[str, tuple[FacetValue, ...]]],
) -> dict[str, tuple[FacetValue, ...]]:
    if len(facets) == 1:
        return dict(facets[0])
    sums: dict[str, Counter[str | int]] = {}
    for answer in facets:
        for name, values in answer.items():
            counter = sums.setdefault(name, Counter())
            for value in values:
                counter[value.value] += value.count
    return {
        name: tuple(FacetValue(value, count) for value, count in counter.most_common())
        for name, counter in sums.items()
    }
