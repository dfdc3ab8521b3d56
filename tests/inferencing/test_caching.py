from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from shared.inferencing import CallContext, parse_catalogue
from shared.inferencing.caching import ENTRY_BYTES, BoundedCache, CacheMode, EmbeddingCache, digest
from shared.inferencing.ledger import Source

CATALOGUE = """
[models.{name}]
kind = "embedding"
tokenizer = "o200k"
dimensions = 2
max_input_tokens = 100
[[models.{name}.deployments]]
name = "a"
endpoint = "http://a/v1"
deployment = "m"
api = "openai"
version = "{version}"
data_zone = "z"
"""


def model(name: str = "embedding", version: str = "1"):
    return parse_catalogue(CATALOGUE.format(name=name, version=version), {}).models[name]


parts = st.lists(
    st.one_of(st.text(max_size=6), st.integers(-3, 3), st.none(), st.tuples(st.text(max_size=3)))
)


@given(parts, parts)
def test_keys_are_the_same_only_for_the_same_parts(one: list[object], other: list[object]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_what_is_older_than_its_time_is_gone() -> None:
    now = [0.0]
    cache: BoundedCache[str] = BoundedCache(10_000, 60, clock=lambda: now[0])
    cache.put(b"a", "value", 10)
    now[0] = 59.9
    assert cache.get(b"a") == "value"
    now[0] = 60.0
    assert cache.get(b"a") is None
    assert cache.size_bytes == 0


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.integers(0, 900), st.booleans())),
)
def test_memory_is_bounded_whatever_is_kept_and_read(steps: list[tuple[bytes, int, bool]]) -> None:
    cache: BoundedCache[int] = BoundedCache(2000, 60, clock=lambda: 0.0)
    kept: dict[bytes, int] = {}
    for key, size, reads in steps:
        if reads:
            found = cache.get(key)
            assert found is None or found == kept[key]
        else:
            cache.put(key, size, size)
            kept[key] = size
            assert cache.get(key) == size
        assert cache.size_bytes <= 2000
        assert cache.size_bytes >= len(cache) * ENTRY_BYTES


def test_what_was_used_longest_ago_goes_first_and_what_is_too_large_is_not_kept() -> None:
    cache: BoundedCache[str] = BoundedCache(2 * (100 + ENTRY_BYTES), 60)
    cache.put(b"a", "a", 100)
    cache.put(b"b", "b", 100)
    cache.get(b"a")
    cache.put(b"c", "c", 100)
    assert (cache.get(b"a"), cache.get(b"b"), cache.get(b"c")) == ("a", None, "c")
    cache.put(b"huge", "huge", 10_000)
    assert (cache.get(b"huge"), cache.get(b"a")) == (None, "a")


def test_a_vector_is_found_only_by_its_tenant_model_version_zone_and_text() -> None:
    counted: list[tuple[str, Source, dict[str, float]]] = []
    vectors = EmbeddingCache(BoundedCache(10_000, 60), lambda *what: counted.append(what))  # type: ignore[arg-type]
    mine = CallContext(tenant="contoso", user="ada", purpose="query")
    vectors.keep(mine, model(), "text", array("f", [1, 2]))
    assert vectors.find(mine, model(), ["text", "other"]) == {"text": array("f", [1, 2])}
    colleague = CallContext(tenant="contoso", user="bob", purpose="query")
    assert vectors.find(colleague, model(), ["text"])
    for call, entry, text in (
        (CallContext(tenant="fabrikam", user="ada", purpose="query"), model(), "text"),
        (CallContext(tenant="contoso", user="ada", data_zone="eu"), model(), "text"),
        (mine, model(version="2"), "text"),
        (mine, model("another"), "text"),
        (mine, model(), "text "),
    ):
        assert vectors.find(call, entry, [text]) == {}
    assert counted[0][2] == {"embedding_hits": 1, "embedding_misses": 1}


def test_modes_say_what_caches_may_do() -> None:
    policies = {
        mode.value: (mode.policy.reads, mode.policy.writes, mode.policy.semantic) for mode in CacheMode
    }
    assert policies == {
        "off": (False, False, False),
        "refresh": (False, True, False),
        "exact": (True, True, False),
        "semantic": (True, True, True),
    }
