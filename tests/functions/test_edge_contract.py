"""The contract, the console and the probes: what is served to everyone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from edge_tenant import Answer, call, check_problem
from openapi_spec_validator import OpenAPIV31SpecValidator

import function_app  # noqa: F401 - fills ROUTES
from functions.http import ROUTES
from shared import errors
from shared.errors import GroundworkError

pytestmark = pytest.mark.security("API8", "API9")

PARAMETER = re.compile(r"\{\*?(\w+)[^}]*\}")


def get(stack: Any, path: str, **more: Any) -> Answer:
    return call(stack.url, "GET", path, **more)


def every(error: type[GroundworkError]) -> Iterator[type[GroundworkError]]:
    yield error
    for child in error.__subclasses__():
        yield from every(child)


@pytest.mark.parametrize("render", sorted({entry.errors for entry in ROUTES}, key=lambda f: f.__name__))
def test_every_shape_of_an_error_carries_the_time_to_wait_in_a_header_and_in_its_body(render):
    for error in every(GroundworkError):
        if error.__module__ != errors.__name__:
            continue
        answer = render(error("x"), "the-request")
        body = json.loads(answer.body)
        told = body.get("error", body)
        assert ("retry-after" in answer.headers) == ("retry_after" in told) == (error.status in (429, 503))
        if error.status in (429, 503):
            assert int(answer.headers["retry-after"]) >= told["retry_after"] > 0


@pytest.fixture(scope="module")
def contract(stack) -> dict[str, Any]:
    return get(stack, "/openapi.json").json


def test_the_contract_is_valid_openapi(contract):
    assert contract["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(contract).iter_errors()) == []


def test_what_can_answer_later_says_how_to_ask_for_it(contract):
    told = {
        path
        for path, item in contract["paths"].items()
        for operation in item.values()
        if any(p["name"] == "Prefer" and p["in"] == "header" for p in operation["parameters"])
    }
    assert {path.rpartition("/")[2] for path in told} == {"chat", "completions", "responses"}
    assert told == {
        path
        for path, item in contract["paths"].items()
        if {"200", "202"} <= {*item.get("post", {}).get("responses", ())}
    }


def test_the_contract_lists_every_route_with_its_parameters(contract):
    for entry in ROUTES:
        if entry.path.startswith("/{ignored"):
            continue
        operation = contract["paths"][PARAMETER.sub(r"{\1}", entry.path)][entry.method.lower()]
        names = [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"]
        assert names == PARAMETER.findall(entry.path)
        assert {str(status) for status in entry.statuses} <= operation["responses"].keys()
        headers = [each["name"] for each in operation["parameters"] if each["in"] == "header"]
        assert [name for name in headers if name != "Prefer"] == ["Idempotency-Key"] * entry.keyed
        assert ("422" in operation["responses"]) == entry.keyed
        assert ("requestBody" in operation) or entry.body is None
        assert (operation.get("security") == []) == (entry.role is None)


def test_every_route_that_starts_a_job_takes_an_idempotency_key():
    changes_one = re.compile(r"/(cancel|retry)$")
    starts = {entry.path for entry in ROUTES if 202 in entry.statuses and not changes_one.search(entry.path)}
    assert starts
    assert starts <= {entry.path for entry in ROUTES if entry.keyed}


def test_the_contract_names_every_code_that_an_error_can_have(contract):
    def codes(error: type[GroundworkError]) -> Iterator[str]:
        yield error.code
        for child in error.__subclasses__():
            yield from codes(child)

    listed = contract["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert set(listed) >= set(codes(GroundworkError))


def test_the_root_serves_the_console_under_a_strict_policy(stack):
    answer = get(stack, "/")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    stated = answer.headers["content-security-policy"].split(";")
    policy = {name: value for name, _, value in (part.strip().partition(" ") for part in stated)}
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/console/nothing.js",
        "/console/..%2ffunction_app.py",
        "/console/%2e%2e/function_app.py",
        "/console//etc/passwd",
        "/console/%2Fetc%2Fpasswd",
        "/console/..%5cfunction_app.py",
        "/console/" + "a" * 2000,
        "/console/vendor",
    ],
)
def test_the_console_serves_its_own_files_alone(stack, path: str):
    answer = get(stack, path)
    assert answer.status == 404
    assert b"blueprint" not in answer.body


def test_a_file_name_with_nul_is_no_fault_of_the_server(stack):
    assert get(stack, "/console/a%00b").status in (400, 404)


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/nothing", "/v2/models", "/api/jobs/a/b/c"])
def test_an_unknown_path_is_not_found(stack, path: str):
    assert get(stack, path, key=stack.key).status == 404


def test_the_hosts_own_paths_are_not_the_callers(stack):
    """Durable's management routes need the host's own key, which no response ever gives."""
    for path in ("/runtime/webhooks/durabletask/instances", "/admin/functions", "/admin/host/keys"):
        for key in (None, stack.key):
            assert get(stack, path, key=key).status in (401, 403, 404)


def test_the_probes_tell_that_it_lives_and_can_serve(stack):
    assert get(stack, "/health/live").json == {"status": "live"}
    ready = get(stack, "/health/ready")
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert set(ready.json["parts"]) == {"storage", "embedding", "chat", "rerank"}


def test_a_method_that_a_path_does_not_have_is_refused(stack):
    assert call(stack.url, "POST", "/api/jobs", key=stack.key).status in (404, 405)


@pytest.mark.parametrize(
    ("given", "kept"), [("my-request-0001", True), ("x", False), ("a b c d e f g", False)]
)
def test_the_callers_correlation_id_is_kept_where_it_looks_like_one(stack, given: str, kept: bool):
    answer = get(stack, "/api/me", headers={"x-correlation-id": given})
    problem = check_problem(answer, 401, "unauthenticated")
    assert (problem["correlation_id"] == given) == kept
