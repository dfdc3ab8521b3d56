"""The typed filter tree: what is accepted, what is refused and where, and how it is quoted."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import InvalidFilter, InvalidParameter
from shared.knowledge.index import And, AnyOf, Eq, In, Ne, Not, Or, Range, chunk_key, parse_filter
from shared.knowledge.index.filters import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_VALUE_CHARACTERS,
    MAX_VALUES,
    MAX_WHOLE_NUMBER,
)
from shared.knowledge.index.fusion import fuse
from shared.knowledge.index.odata import render

from .odata_subset import compile_filter

WIKI = {"field": "source", "eq": "wiki"}
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (WIKI, Eq("source", "wiki")),
        ({"field": "page", "ne": 3}, Ne("page", 3)),
        ({"field": "version", "in": [1, 2]}, In("version", (1, 2))),
        ({"field": "tags", "any": ["hr"]}, AnyOf("tags", ("hr",))),
        ({"field": "updated", "ge": "2026-01-01T00:00:00Z"}, Range("updated", ge=NEW_YEAR)),
        ({"field": "updated", "lt": "2026-01-01T02:00:00+02:00"}, Range("updated", lt=NEW_YEAR)),
        ({"field": "page", "gt": 1, "le": 9}, Range("page", gt=1, le=9)),
        ({"and": [WIKI, {"not": WIKI}]}, And((Eq("source", "wiki"), Not(Eq("source", "wiki"))))),
        ({"or": [WIKI]}, Or((Eq("source", "wiki"),))),
    ],
)
def test_the_json_form_is_read(document: Any, expected: Any) -> None:
    assert parse_filter(document) == expected


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ("tenant eq 'x'", "filter"),
        (None, "filter"),
        ({}, "filter"),
        ({"and": []}, "filter.and"),
        ({"or": {}}, "filter.or"),
        ({"and": [WIKI], "or": [WIKI]}, "filter"),
        ({"nor": [WIKI]}, "filter"),
        ({"and": [WIKI, {"field": "tenant", "eq": "x"}]}, "filter.and[1].field"),
        ({"field": "readers", "any": ["tenant:*"]}, "filter.field"),
        ({"field": "collection", "eq": "x"}, "filter.field"),
        ({"field": "page eq 1 or page", "eq": 1}, "filter.field"),
        ({"field": ["page"], "eq": 1}, "filter.field"),
        ({"field": "page"}, "filter"),
        ({"field": "page", "eq": 1, "ne": 2}, "filter"),
        ({"field": "page", "eq": 1, "gt": 0}, "filter"),
        ({"field": "page", "like": "x"}, "filter"),
        ({"field": "page", "eq": "1"}, "filter.eq"),
        ({"field": "page", "eq": True}, "filter.eq"),
        ({"field": "page", "eq": 1.5}, "filter.eq"),
        ({"field": "page", "eq": None}, "filter.eq"),
        ({"field": "page", "eq": MAX_WHOLE_NUMBER + 1}, "filter.eq"),
        ({"field": "source", "eq": 1}, "filter.eq"),
        ({"field": "source", "eq": "x" * (MAX_VALUE_CHARACTERS + 1)}, "filter.eq"),
        ({"field": "source", "eq": "\ud800"}, "filter.eq"),
        ({"field": "source", "gt": "a"}, "filter"),
        ({"field": "updated", "ge": "yesterday"}, "filter.ge"),
        ({"field": "updated", "ge": "2026-01-01T00:00:00"}, "filter.ge"),
        ({"field": "updated", "ge": 5}, "filter.ge"),
        ({"field": "source", "in": []}, "filter"),
        ({"field": "source", "in": "wiki"}, "filter.in"),
        ({"field": "source", "in": ["a", 1]}, "filter.in[1]"),
        ({"field": "source", "in": ["a"] * (MAX_VALUES + 1)}, "filter"),
        ({"field": "tags", "eq": "hr"}, "filter"),
        ({"field": "source", "any": ["wiki"]}, "filter"),
    ],
)
def test_a_fault_is_refused_with_its_path(document: Any, path: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(document)
    assert caught.value.extra["path"] == path
    assert caught.value.detail.startswith(path)


def nested(depth: int) -> Any:
    return WIKI if depth == 1 else {"not": nested(depth - 1)}


def test_limits_hold_on_both_sides() -> None:
    parse_filter(nested(MAX_DEPTH))
    with pytest.raises(InvalidFilter, match="nested deeper"):
        parse_filter(nested(MAX_DEPTH + 1))
    parse_filter({"or": [WIKI] * (MAX_NODES - 1)})
    with pytest.raises(InvalidFilter, match="allowed"):
        parse_filter({"or": [WIKI] * MAX_NODES})
    parse_filter({"field": "source", "in": ["x"] * MAX_VALUES})
    parse_filter({"field": "source", "eq": "x" * MAX_VALUE_CHARACTERS})
    parse_filter({"field": "page", "eq": MAX_WHOLE_NUMBER})


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (Eq("source", "it's"), "source eq 'it''s'"),
        (Range("page", gt=1, le=9), "page gt 1 and page le 9"),
        (
            Range("updated", ge=datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))),
            "updated ge 2026-01-01T00:00:00.000Z",
        ),
        (In("source", ("a", "b")), "search.in(source, 'a|b', '|')"),
        (In("source", ("a|b", "c")), "search.in(source, 'a|b,c', ',')"),
        (In("source", ("a|b", "c,;~^\x1f")), "source eq 'a|b' or source eq 'c,;~^\x1f'"),
        (In("source", ("", "b")), "source eq '' or source eq 'b'"),
        (In("source", (" a", "b")), "source eq ' a' or source eq 'b'"),
        (In("page", (1, 2)), "page eq 1 or page eq 2"),
        (AnyOf("tags", ("a",)), "tags/any(x: search.in(x, 'a', '|'))"),
        (Not(And((Eq("page", 1), Ne("page", 2)))), "not ((page eq 1) and (page ne 2))"),
    ],
)
def test_odata_is_quoted(tree: Any, text: str) -> None:
    assert render(tree) == text


@pytest.mark.security("API1", "LLM08")
def test_a_tree_that_would_match_everything_is_not_rendered() -> None:
    for tree in (And(()), Or(()), In("source", ()), AnyOf("tags", ()), Range("page")):
        with pytest.raises(InvalidParameter):
            render(tree)


texts = st.text(alphabet=st.sampled_from("ab'|,;~^\x1f ()é\"\\"), max_size=8)


@pytest.mark.security("API8", "LLM08")
@settings(max_examples=300, deadline=None)
@given(values=st.lists(texts, min_size=1, max_size=4), stored=texts)
def test_no_value_escapes_its_quotes(values: list[str], stored: str) -> None:
    item = {"source": stored, "tags": [stored], "tenant": "other"}
    listed = compile_filter(render(And((Eq("tenant", "acme"), In("source", tuple(values))))))
    assert listed(item) is False
    assert listed({**item, "tenant": "acme"}) is (stored in values)
    assert compile_filter(render(AnyOf("tags", tuple(values))))(item) is (stored in values)


def test_chunk_keys_are_stable_distinct_and_fit_the_service() -> None:
    key = chunk_key("acme", "hand", "a/ü '.md", 12, 3)
    assert key == chunk_key("acme", "hand", "a/ü '.md", 12, 3)
    assert set(key) <= set("0123456789abcdef-")
    parts = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", 'b","c', ""), ("a", "b", "c\x00")]
    assert len({chunk_key(*part, 1, 1) for part in parts}) == len(parts)
    assert len({chunk_key("a", "b", "c", v, n) for v in (1, 11) for n in (1, 11)}) == 4


def test_fusion_keeps_how_far_apart_the_scores_are() -> None:
    clear = fuse({"a": 0.9, "b": 0.1}, {"b": 5.0, "a": 4.9})
    assert clear["a"] > clear["b"]
    assert fuse({"a": 0.5}, {}) == {"a": pytest.approx(0.75)}
    assert fuse({}, {"a": 3.0}) == {"a": pytest.approx(0.25)}
    assert fuse({"a": 0.5, "b": 0.5}, {"a": 7.0})["a"] == pytest.approx(1.0)
    assert fuse({"a": -1.0}, {"a": 0.0}) == {"a": 0.0}
    assert fuse({}, {}) == {}


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys; from shared.knowledge.index import azure_search, embedded, shard;"
        "print([m for m in sys.modules if m.split('.')[0] in ('azure', 'qdrant_edge', 'numpy', 'aiohttp')])"
    )
    project = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
