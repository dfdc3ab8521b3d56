"""What every search index does, whichever product is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from shared.errors import InvalidFilter, InvalidParameter
from shared.knowledge.index import (
    And,
    AnyOf,
    DocumentVersion,
    Eq,
    FacetValue,
    In,
    IndexedChunk,
    Ne,
    Not,
    Or,
    Range,
    SearchIndex,
    SearchRequest,
    VersionRange,
    document_key,
    parse_filter,
)

Make = Callable[..., IndexedChunk]
ANYONE = SearchRequest("acme", ("handbook",), ("tenant:*",), top=50)


async def found(index: SearchIndex, **changes: Any) -> list[int]:
    result = await index.search(replace(ANYONE, **changes))
    return [hit.chunk.ordinal for hit in result.hits]


async def test_a_chunk_comes_back_as_it_was_uploaded_but_without_its_vector(
    index: SearchIndex, chunk: Make
) -> None:
    written = chunk(document="Ordner/Übersicht 'neu'.md", headings=(), page=None, page_end=None, tags=())
    await index.upload([written])
    (hit,) = (await index.search(replace(ANYONE, text="train tickets"))).hits
    assert hit.chunk == replace(written, vector=None)
    assert hit.score > 0


async def test_hybrid_ranking_puts_what_both_rankings_favour_first(index: SearchIndex, chunk: Make) -> None:
    await index.upload(
        [
            chunk(ordinal=0, text="Parking permits are yearly.", vector=(0.0, 1.0, 0.0, 0.0)),
            chunk(ordinal=1, text="Bicycle insurance covers theft.", vector=(1.0, 0.0, 0.0, 0.0)),
            chunk(ordinal=2, text="Bicycle racks stand outside.", vector=(0.0, 0.0, 1.0, 0.0)),
        ]
    )
    assert (await found(index, text="bicycle insurance", vector=(1.0, 0.1, 0.0, 0.0)))[0] == 1
    assert await found(index, text="bicycle", top=2) in ([1, 2], [2, 1])
    assert await found(index, vector=(0.0, 0.0, 1.0, 0.0), top=1) == [2]


async def test_nothing_is_found_without_readers_or_collections(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk()])
    for request in (replace(ANYONE, readers=()), replace(ANYONE, collections=()), replace(ANYONE, tenant="")):
        result = await index.search(replace(request, text="train", count=True, facets=("tags",)))
        assert (result.hits, result.count, result.facets) == ((), 0, {"tags": ()})
    assert await found(index, text="train") == [0]


async def test_only_chunks_with_one_of_the_callers_principals_are_found(
    index: SearchIndex, chunk: Make
) -> None:
    await index.upload(
        [
            chunk(ordinal=0, readers=("tenant:*",)),
            chunk(ordinal=1, readers=("user:alice", "group:hr")),
            chunk(ordinal=2, readers=("group:it",)),
            chunk(ordinal=3, readers=()),
        ]
    )
    for query in ({"text": "train"}, {"vector": (1.0, 0.0, 0.0, 0.0)}, {}):
        assert sorted(await found(index, **query)) == [0]
        assert sorted(await found(index, **query, readers=("tenant:*", "group:hr"))) == [0, 1]
        assert sorted(await found(index, **query, readers=("user:al",))) == []
    hostile = ("x' or readers/any(r: true) or 'x' eq 'x", "group:it|tenant:*", "", " group:it")
    assert await found(index, text="train", readers=hostile) == []


async def test_other_tenants_and_collections_stay_out_of_sight(index: SearchIndex, chunk: Make) -> None:
    await index.upload(
        [
            chunk(ordinal=0),
            chunk(ordinal=1, tenant="globex"),
            chunk(ordinal=2, collection="secrets"),
            chunk(ordinal=3, collection="o'neill, notes|x"),
        ]
    )
    assert await found(index, text="train") == [0]
    # A filter narrows what may be seen; no form of it widens that.
    everything = Or((Ne("source", "nowhere"), Not(Eq("source", "nowhere"))))
    assert await found(index, text="train", filter=everything) == [0]
    assert sorted(await found(index, collections=("handbook", "o'neill, notes|x"))) == [0, 3]


FILTERS = [
    (Eq("source", "wiki"), [0, 1]),
    (Eq("source", "it's"), [2]),
    (Ne("source", "wiki"), [2, 3]),
    (In("source", ("wiki", "it's")), [0, 1, 2]),
    (In("page", (1, 2)), [0, 1]),
    (In("updated", (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))), [0]),
    (Eq("page", 2), [1]),
    (Ne("page", 2), [0, 2, 3]),
    (AnyOf("tags", ("a",)), [0, 1]),
    (AnyOf("tags", ("b", "c d")), [1, 2]),
    (AnyOf("tags", ("a|b,;~^",)), []),
    (Range("page", gt=1), [1, 2]),
    (Range("page", ge=1, lt=2), [0]),
    (Not(Range("page", ge=2)), [0, 3]),
    (Range("updated", ge=datetime(2026, 2, 1, tzinfo=UTC)), [1, 2, 3]),
    (Range("updated", gt=datetime(2026, 2, 1, tzinfo=UTC), le=datetime(2026, 3, 1, tzinfo=UTC)), [2]),
    (Eq("updated", datetime(2026, 2, 1, tzinfo=UTC)), [1]),
    (Or((Eq("page", 1), AnyOf("tags", ("c d",)))), [0, 2]),
    (And((Eq("source", "wiki"), Not(Eq("page", 1)))), [1]),
    (And((Or((Eq("page", 1), Eq("page", 2))), Or((AnyOf("tags", ("b",)), Eq("source", "none"))))), [1]),
    (Eq("document", "a/ü.md"), [2]),
    (Eq("version", 1), [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("tree", "expected"), FILTERS, ids=[str(number) for number in range(len(FILTERS))])
async def test_filters_mean_the_same(index: SearchIndex, chunk: Make, tree: Any, expected: list[int]) -> None:
    month = [datetime(2026, number, 1, tzinfo=UTC) for number in (1, 2, 3, 4)]
    await index.upload(
        [
            chunk(ordinal=0, source="wiki", page=1, tags=("a",), updated=month[0]),
            chunk(ordinal=1, source="wiki", page=2, tags=("a", "b"), updated=month[1]),
            chunk(ordinal=2, source="it's", page=3, tags=("c d",), updated=month[2], document="a/ü.md"),
            chunk(ordinal=3, source="", page=None, tags=(), updated=month[3]),
        ]
    )
    assert sorted(await found(index, filter=tree)) == expected
    assert sorted(await found(index, filter=tree, vector=(1.0, 0.0, 0.0, 0.0), text="train")) == expected


async def test_a_filter_that_was_not_parsed_is_checked_too(index: SearchIndex) -> None:
    for tree in (
        Eq("tenant", "globex"),
        Or(()),
        And(()),
        In("source", ()),
        Eq("page", "1"),
        AnyOf("source", ("a",)),
    ):
        with pytest.raises(InvalidFilter):
            await index.search(replace(ANYONE, filter=tree))


async def test_pages_follow_one_another_without_gap_or_repeat(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(ordinal=n, vector=(1.0, n / 100, 0.0, 0.0)) for n in range(130)])
    for query in ({"vector": (1.0, 0.0, 0.0, 0.0)}, {"text": "train", "vector": (1.0, 0.0, 0.0, 0.0)}, {}):
        pages = [await found(index, **query, top=50, skip=skip) for skip in (0, 50, 100, 150)]
        assert [len(page) for page in pages] == [50, 50, 30, 0]
        assert sorted(ordinal for page in pages for ordinal in page) == list(range(130))


@pytest.mark.parametrize(
    ("top", "skip", "accepted"),
    [
        (0, 0, True),
        (1000, 0, True),
        (1001, 0, False),
        (-1, 0, False),
        (1, 100_000, True),
        (1, 100_001, False),
        (1, -1, False),
    ],
)
async def test_the_page_has_limits(index: SearchIndex, top: int, skip: int, accepted: bool) -> None:
    request = replace(ANYONE, top=top, skip=skip)
    if accepted:
        assert (await index.search(request)).hits == ()
    else:
        with pytest.raises(InvalidParameter):
            await index.search(request)


async def test_count_and_facets_cover_what_the_caller_may_see(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(ordinal=n, tags=("all", f"t{n % 2}"), version=1 + n // 4) for n in range(6)])
    await index.upload([chunk(ordinal=9, readers=("group:it",), tags=("hidden",))])
    request = replace(ANYONE, text="train", top=1, count=True, facets=("tags", "version"))
    result = await index.search(request)
    assert len(result.hits) == 1
    assert result.count == 6
    assert result.facets["tags"] == (FacetValue("all", 6), FacetValue("t0", 3), FacetValue("t1", 3))
    assert result.facets["version"] == (FacetValue(1, 4), FacetValue(2, 2))
    assert (await index.search(replace(request, filter=AnyOf("tags", ("t1",)), top=0))).count == 3
    assert (await index.search(replace(request, count=False))).count is None
    with pytest.raises(InvalidParameter):
        await index.search(replace(request, facets=("readers",)))


async def test_uploading_again_changes_nothing(index: SearchIndex, chunk: Make) -> None:
    chunks = [chunk(ordinal=n, text=f"Paragraph {n}") for n in range(20)]
    await index.upload(chunks)
    before = await index.digest("acme", "handbook")
    await asyncio.gather(index.upload(chunks[::-1]), index.upload(chunks[5:]), index.upload(chunks[:5]))
    assert await index.digest("acme", "handbook") == before
    assert await index.count("acme", "handbook") == 20
    await index.upload([chunk(ordinal=3, text="Another text")])
    assert await index.digest("acme", "handbook") != before
    await index.upload([chunk(ordinal=3, text="Paragraph 3", updated=datetime(2030, 1, 1, tzinfo=UTC))])
    assert await index.digest("acme", "handbook") == before


async def test_an_empty_upload_and_an_empty_collection_are_fine(index: SearchIndex) -> None:
    await index.upload([])
    assert await index.count("acme", "handbook") == 0
    assert await index.document_versions("acme", "handbook") == []
    assert await index.delete_collection("acme", "handbook") == 0


@pytest.mark.parametrize(
    ("versions", "deleted", "left"),
    [
        (VersionRange(below=2), 2, [2, 2, 3, 3]),
        (VersionRange(only=2), 2, [1, 1, 3, 3]),
        (VersionRange(except_for=3), 4, [3, 3]),
        (VersionRange(below=1), 0, [1, 1, 2, 2, 3, 3]),
        (VersionRange(), 6, []),
    ],
)
async def test_versions_of_a_document_are_deleted_by_number(
    index: SearchIndex, chunk: Make, versions: VersionRange, deleted: int, left: list[int]
) -> None:
    await index.upload([chunk(ordinal=n, version=v) for v in (1, 2, 3) for n in range(2)])
    await index.upload([chunk(document="other.md"), chunk(tenant="globex"), chunk(collection="secrets")])
    assert await index.delete_document("acme", "handbook", "travel.md", versions) == deleted
    kept = await index.search(replace(ANYONE, filter=Eq("document", "travel.md")))
    assert sorted(hit.chunk.version for hit in kept.hits) == left
    assert await index.count("acme", "handbook", "other.md") == 1
    assert await index.count("globex", "handbook") == 1
    assert await index.count("acme", "secrets") == 1


def test_a_range_of_versions_has_one_bound() -> None:
    with pytest.raises(InvalidParameter):
        VersionRange(below=2, only=1)


async def test_deleting_a_collection_spares_the_others(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(ordinal=n) for n in range(3)])
    await index.upload([chunk(tenant="globex"), chunk(collection="handbook2")])
    assert await index.delete_collection("acme", "handbook") == 3
    assert await index.count("acme", "handbook") == 0
    assert (await index.count("globex", "handbook"), await index.count("acme", "handbook2")) == (1, 1)


async def test_reconciliation_lists_versions_with_their_chunks(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(document="b/ü 'x'.md", version=7, ordinal=n) for n in range(2)])
    await index.upload([chunk(document="a.md", version=v, ordinal=n) for v in (1, 2) for n in range(v)])
    await index.upload([chunk(document="a.md", tenant="globex"), chunk(collection="secrets")])
    assert await index.document_versions("acme", "handbook") == [
        DocumentVersion("a.md", 1, 1),
        DocumentVersion("a.md", 2, 2),
        DocumentVersion("b/ü 'x'.md", 7, 2),
    ]


async def test_a_search_stays_within_the_layout_that_is_asked_for(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(layout=layout, text=f"Cut number {layout}") for layout in (1, 2)])
    await index.upload([chunk(layout=3, collection="secrets", text="Cut number 3")])

    async def texts(**layouts: int) -> list[str]:
        request = replace(
            ANYONE, collections=("handbook", "secrets"), layouts=layouts, text="number", count=True
        )
        result = await index.search(request)
        assert result.count == len(result.hits)
        return sorted(hit.chunk.text for hit in result.hits)

    assert await texts() == ["Cut number 1"]
    assert await texts(handbook=2) == ["Cut number 2"]
    assert await texts(handbook=2, secrets=3) == ["Cut number 2", "Cut number 3"]
    assert await texts(handbook=3, secrets=2) == []


async def test_one_layout_is_deleted_and_the_other_left(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(layout=layout, version=v) for layout in (1, 2) for v in (1, 2)])
    assert await index.delete_document("acme", "handbook", "travel.md", VersionRange(only=2), layout=1) == 1
    assert await index.document_versions("acme", "handbook") == [
        DocumentVersion("travel.md", 1, 1, 1),
        DocumentVersion("travel.md", 1, 1, 2),
        DocumentVersion("travel.md", 2, 1, 2),
    ]
    assert await index.delete_collection("acme", "handbook", layout=2) == 2
    assert await index.document_versions("acme", "handbook") == [DocumentVersion("travel.md", 1, 1, 1)]


async def test_a_chunk_made_since_is_spared(index: SearchIndex, chunk: Make) -> None:
    moments = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)]
    await index.upload([chunk(ordinal=n, updated=moment) for n, moment in enumerate(moments)])
    assert await index.delete_document("acme", "handbook", "travel.md", made_before=moments[1]) == 1
    assert await index.count("acme", "handbook") == 2


async def test_a_listing_can_be_had_page_by_page(index: SearchIndex, chunk: Make) -> None:
    names = [f"{n}.md" for n in range(8)]
    await index.upload([chunk(document=name, ordinal=n) for name in names for n in range(2)])
    keys = sorted(document_key("acme", "handbook", name) for name in names)
    bounds = ["", keys[3], keys[6], ""]
    pages = [
        await index.document_versions("acme", "handbook", first=first, last=last)
        for first, last in pairwise(bounds)
    ]
    assert [len(page) for page in pages] == [3, 3, 2]
    assert sorted(item for page in pages for item in page) == await index.document_versions(
        "acme", "handbook"
    )


async def test_a_listing_goes_past_the_largest_page(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(ordinal=n) for n in range(2001)])
    assert await index.document_versions("acme", "handbook") == [DocumentVersion("travel.md", 1, 2001)]
    assert await index.delete_document("acme", "handbook", "travel.md") == 2001
    assert await index.count("acme", "handbook") == 0


async def test_a_chunk_without_a_vector_is_found_by_its_words(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(ordinal=0, vector=None), chunk(ordinal=1, text="Canteen hours.")])
    assert 0 in await found(index, text="tickets", vector=(0.0, 1.0, 0.0, 0.0))
    assert await found(index, vector=(0.0, 1.0, 0.0, 0.0)) == [1]


async def test_odd_queries_are_answered(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk()])
    for text in ("", "   ", "the of and", "?!'\"*()", "x" * 5000, "日本語", "train\x00tickets"):
        await index.search(replace(ANYONE, text=text))
        await index.search(replace(ANYONE, text=text, vector=(1.0, 0.0, 0.0, 0.0)))


async def test_the_public_form_of_a_filter_works_end_to_end(index: SearchIndex, chunk: Make) -> None:
    await index.upload([chunk(ordinal=0), chunk(ordinal=1, tags=("it",))])
    tree = parse_filter(
        {"and": [{"field": "tags", "any": ["hr"]}, {"field": "updated", "ge": "2026-01-01T00:00:00Z"}]}
    )
    assert await found(index, text="train", filter=tree) == [0]
