"""Binding expressions capture and fill in values as the WebJobs SDK does."""

import pytest

from devhost.errors import AppLoadError
from devhost.expressions import PathPattern, fill


@pytest.mark.parametrize(
    ("pattern", "path", "captured"),
    [
        ("inbox/{name}", "inbox/a/b/c.txt", {"name": "a/b/c.txt"}),
        ("inbox/{tenant}/{name}", "inbox/t/c/d.txt", {"tenant": "t/c", "name": "d.txt"}),
        ("inbox/{name}.{kind}", "inbox/a.b.pdf", {"name": "a.b", "kind": "pdf"}),
        ("inbox/fixed.txt", "inbox/fixed.txt", {}),
        ("inbox/{{x}}/{name}", "inbox/{x}/y", {"name": "y"}),
        ("inbox/{name}", "outbox/x", None),
        ("inbox/{name}.txt", "inbox/x.pdf", None),
        ("inbox/a+b/{name}", "inbox/aab/x", None),
    ],
)
def test_a_pattern_captures_greedily_and_spans_slashes(pattern, path, captured):
    assert PathPattern(pattern).match(path) == captured


def test_the_literal_prefix_ends_at_the_first_name():
    assert PathPattern("inbox/a/{b}/c").literal_prefix == "inbox/a/"
    assert PathPattern("inbox/fixed").literal_prefix == "inbox/fixed"


@pytest.mark.parametrize("pattern", ["a/{*rest}", "a/{", "a/}", "a/{}", "a/{x}/{x}", "a/{1x}"])
def test_a_pattern_that_the_host_would_refuse_is_refused(pattern):
    with pytest.raises(AppLoadError):
        PathPattern(pattern)


def test_names_are_filled_in_whatever_their_case():
    assert fill("out/{Name}-{a.B}.txt", {"name": "x", "A": {"b": 3}}) == "out/x-3.txt"
    assert len(fill("{rand-guid}", {})) == 36


def test_a_name_without_a_value_is_an_error():
    with pytest.raises(KeyError, match="missing"):
        fill("out/{missing}", {"name": "x"})
