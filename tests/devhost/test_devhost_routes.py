"""Route templates match as they do in ASP.NET Core routing."""

import pytest

from devhost.errors import AppLoadError
from devhost.routes import RouteTable, decode_path


def table(*templates, methods=None):
    routes = RouteTable()
    for template in templates:
        routes.add(template, methods, template)
    return routes


def matched(routes, path, method="GET"):
    found = routes.match(method, path)
    return found[0] if found else None


def values(template, path):
    found = table(template).match("GET", path)
    return found[1] if found else None


@pytest.mark.parametrize(
    ("constraint", "accepted", "refused"),
    [
        ("int", ["0", "-5", "2147483647", "-2147483648"], ["2147483648", "-2147483649", "1.5", "x"]),
        ("long", ["9223372036854775807"], ["9223372036854775808", "x"]),
        ("bool", ["true", "FALSE"], ["1", "yes"]),
        ("guid", ["6f9619ff-8b86-d011-b42d-00cf4fc964ff"], ["6f9619ff-8b86-d011-b42d-00cf4fc964f"]),
        ("alpha", ["abcXYZ"], ["abc1", "a-b"]),
        ("decimal", ["1", "1.5", "-.5"], ["x", "1,5x"]),
        ("length(3)", ["abc"], ["ab", "abcd"]),
        ("length(2,4)", ["ab", "abcd"], ["a", "abcde"]),
        ("minlength(3)", ["abc"], ["ab"]),
        ("maxlength(3)", ["abc"], ["abcd"]),
        ("min(5)", ["5"], ["4", "x"]),
        ("max(5)", ["5"], ["6", "x"]),
        ("range(2,4)", ["2", "4"], ["1", "5", "x"]),
        (r"regex(^\d{{3}}-x$)", ["123-x", "123-X"], ["12-x", "1234-x"]),
        ("int:min(10)", ["10"], ["9", "x"]),
    ],
)
def test_a_constraint_accepts_what_fits_and_nothing_else(constraint, accepted, refused):
    template = f"items/{{id:{constraint}}}"
    for value in accepted:
        assert values(template, f"/items/{value}") == {"id": value}
    for value in refused:
        assert values(template, f"/items/{value}") is None, value


def test_a_literal_beats_a_constrained_parameter_beats_a_plain_one_beats_a_catch_all():
    routes = table("x/{*rest}", "x/{id}", "x/{id:int}", "x/new")
    assert matched(routes, "/x/new") == "x/new"
    assert matched(routes, "/x/5") == "x/{id:int}"
    assert matched(routes, "/x/five") == "x/{id}"
    assert matched(routes, "/x/five/more") == "x/{*rest}"


def test_a_dead_end_behind_a_literal_falls_back_to_a_parameter():
    routes = table("x/new/only", "x/{id}/other")
    assert matched(routes, "/x/new/other") == "x/{id}/other"


def test_the_empty_path_matches_a_parameter_that_may_be_left_out():
    assert values("{ignored:maxlength(0)?}", "/") == {}
    assert values("{ignored:maxlength(0)?}", "/a") is None


def test_an_optional_parameter_is_absent_and_a_default_stands_in():
    assert values("x/{id?}", "/x") == {}
    assert values("x/{id?}", "/x/7") == {"id": "7"}
    assert values("x/{id=5}", "/x") == {"id": "5"}
    assert values("x/{id=5}", "/x/7") == {"id": "7"}


def test_a_catch_all_takes_everything_that_is_left_also_nothing():
    assert values("files/{*path}", "/files/a/b.txt") == {"path": "a/b.txt"}
    assert values("files/{*path}", "/files/a//b/") == {"path": "a//b/"}
    assert values("files/{*path}", "/files") == {}
    assert values("files/{*path}", "/files/") == {}
    assert values("files/{*path}", "/filesystem") is None


def test_literals_match_in_any_case_and_one_trailing_slash_does_not_count():
    assert values("Api/Items", "/api/ITEMS/") == {}
    assert values("api/items", "/api/items//") is None
    assert values("api/{id}", "/api//") is None


def test_a_segment_may_mix_text_and_parameters():
    assert values("reports/{name}.{kind}", "/reports/a.b.pdf") == {"name": "a.b", "kind": "pdf"}
    assert values("reports/{name}.{kind}", "/reports/pdf") is None


def test_a_known_path_with_another_method_is_unknown_as_in_the_functions_host():
    routes = table("items", methods=frozenset({"GET"}))
    assert matched(routes, "/items", "GET") == "items"
    assert matched(routes, "/items", "POST") is None
    assert matched(routes, "/items", "HEAD") is None


def test_two_functions_share_a_path_by_method():
    routes = RouteTable()
    routes.add("items/{id}", frozenset({"GET"}), "read")
    routes.add("items/{key}", frozenset({"DELETE"}), "remove")
    assert routes.match("GET", "/items/1") == ("read", {"id": "1"})
    assert routes.match("DELETE", "/items/1") == ("remove", {"key": "1"})


@pytest.mark.parametrize(
    "template",
    ["a/{id", "a/id}", "a/{}", "a//b", "{*all}/b", "{a?}/b", "{a}/{A}", "x/{id:even}", "x/{id:length(a)}",
     "x/{id:int(3)}", "x/{id:regex([)}", "x/pre{*rest}"],
)  # fmt: skip
def test_a_bad_template_is_refused_when_the_app_loads(template):
    with pytest.raises(AppLoadError, match="route"):
        table(template)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/plain", "/plain"),
        (b"/a%20b", "/a b"),
        (b"/a%2Fb/%2fc", "/a%2Fb/%2fc"),
        (b"/%C3%A4", "/ä"),
        (b"/%ff/%C3%A4", "/%FF/ä"),
        (b"/a/../b/./c", "/b/c"),
        (b"/a/%2e%2e/b", "/b"),
        (b"/../x", "/x"),
        (b"/a/..", "/"),
        (b"/%252F", "/%2F"),
        (b"/a%00b", None),
        (b"*", None),
    ],
)
def test_the_path_is_decoded_as_kestrel_does(raw, path):
    assert decode_path(raw) == path
