"""Requests that are wrong: each is refused with its code as problem details, and nothing of it is kept."""

from __future__ import annotations

import socket
import urllib.parse
from typing import Any

import pytest
from edge_tenant import Answer, Tenant, check_problem

LONGEST_ID = 900
MAX_DOCUMENT_BYTES = 50 * 1024 * 1024


@pytest.fixture(scope="module")
def place(shared_tenant: Tenant) -> tuple[Tenant, str]:
    return shared_tenant, shared_tenant.collection("here")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_stored(place: tuple[Tenant, str]):
    """Whatever the requests of this module were: they have left nothing behind."""
    tenant, _ = place
    before = tenant.stored()
    yield
    assert tenant.stored() == before


def put(place: tuple[Tenant, str], raw_path: str, **headers: str) -> Answer:
    """PUT a document at a path that is sent as it stands here."""
    tenant, collection = place
    sent = {"Content-Type": "text/plain", **headers}
    return tenant.call(
        "PUT", f"/api/collections/{collection}/documents/{raw_path}", b"Something.", headers=sent
    )


@pytest.mark.security("API8")
@pytest.mark.parametrize(
    "name",
    [
        "a//b.txt",
        "a/b/",
        "a%5Cb.txt",
        "..%5Cb.txt",
        "a%0Ab.txt",
        "%E2%80%8Bzero-width.txt",
        "a%E2%80%AEtxt.exe",
        "%20",
        "a" * (LONGEST_ID + 1),
        "%C3%A9" * (LONGEST_ID + 1),
    ],
)
def test_a_document_cannot_have_a_name_that_leads_elsewhere(place, name: str):
    check_problem(put(place, name), 400, "invalid_name")


@pytest.mark.security("API8")
@pytest.mark.parametrize(
    "name", ["..", "../..", "%2e%2e", "%2e%2e/b.txt", "../../../b.txt", "a/../../b.txt", "a%00.txt", "%00"]
)
def test_dot_segments_and_nul_lead_nowhere(place, name: str):
    """A host takes dot segments out of a path before it looks for a route, and refuses NUL."""
    assert put(place, name).status in (400, 404, 405)


@pytest.mark.parametrize("name", ["Capitals", "under_score", "-x", "x-", "a" * 64, "a.b", "..a", "é", "%20"])
def test_a_collection_cannot_have_such_a_name(place, name: str):
    tenant, _ = place
    answer = tenant.call("PUT", f"/api/collections/{urllib.parse.quote(name, safe='%')}", {})
    check_problem(answer, 400, "invalid_name")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.exe", b"MZ\x90\x00\x03\x00"),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.zip", b"PK\x03\x04" + b"a.bin" * 9),
        ("a.rtf", b"{\\rtf1 text}"),
        ("a.unknown", b"text"),
        ("report.pdf.exe", b"%nothing"),
    ],
)
def test_a_type_that_cannot_be_read_is_refused(place, name: str, content: bytes):
    tenant, collection = place
    answer = tenant.call("PUT", f"/api/collections/{collection}/documents/{name}", content)
    check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.security("API4")
def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(place):
    """Only the head of the request is sent: the answer comes without waiting for the body."""
    tenant, collection = place
    address = urllib.parse.urlsplit(tenant.stack.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as line:
        head = (
            f"PUT /api/collections/{collection}/documents/huge.txt HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: Bearer {tenant.key}\r\nContent-Length: {MAX_DOCUMENT_BYTES + 1}\r\n\r\n"
        )
        line.sendall(head.encode())
        answer = b""
        while b"}" not in answer and (part := line.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"payload_too_large"' in answer


def test_a_json_body_beyond_its_limit_is_refused(place):
    tenant, collection = place
    address = urllib.parse.urlsplit(tenant.stack.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as line:
        head = (
            f"POST /api/collections/{collection}/search HTTP/1.1\r\nHost: test\r\n"
            f"Authorization: Bearer {tenant.key}\r\nContent-Length: {32 * 1024 * 1024 + 1}\r\n\r\n"
        )
        line.sendall(head.encode())
        answer = line.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413 ")


# --- JSON ---

JSON_ROUTES = [
    ("PUT", "/api/collections/there"),
    ("POST", "/api/collections/here/search"),
    ("POST", "/api/collections/here/ingestions"),
    ("POST", "/api/chat"),
    ("POST", "/api/keys"),
]
MALFORMED = {
    "cut off": b'{"query": "a',
    "no JSON": b"query=a",
    "not UTF-8": b'{"query": "\xff\xfe"}',
    "surrogate in UTF-8": b'{"query": "\xed\xa0\x80"}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "surrogate in capitals": b'{"query": "\\uD800 a"}',
    "surrogate in UTF-16": '{"query": "\\ud800"}'.encode("utf-16"),
    "deep nesting": b'{"query":' + b"[" * 100_000,
    "endless number": b'{"top": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("fault", MALFORMED)
@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
def test_a_body_that_is_no_json_is_refused(place, method: str, path: str, fault: str):
    answer = place[0].call(method, path, MALFORMED[fault], headers={"Content-Type": "application/json"})
    check_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize("body", [[], "text", 7, None, True])
@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
def test_a_body_that_is_no_object_is_refused(place, method: str, path: str, body: Any):
    raw = b"null" if body is None else body
    check_problem(place[0].call(method, path, raw), 400, "invalid_request")


QUESTION = [{"role": "user", "content": "What?"}]
KEY = {"user": "u"}
INLINE = {"id": "a.txt", "content": "a"}
INVALID_BODIES = [
    # unknown members, among them such that would change what is not the caller's to change
    ("PUT", "/api/collections/there", {"tenant": "other"}, "tenant"),
    ("PUT", "/api/collections/there", {"deleting": True}, "deleting"),
    ("POST", "/api/collections/here/search", {"query": "a", "tenant": "other"}, "tenant"),
    ("POST", "/api/collections/here/search", {"query": "a", "readers": ["tenant:*"]}, "readers"),
    ("POST", "/api/collections/here/ingestions", {"documents": [INLINE], "state": "succeeded"}, "state"),
    ("POST", "/api/collections/here/ingestions", {"documents": [{**INLINE, "version": 9}]}, "version"),
    ("POST", "/api/chat", {"collections": ["here"], "messages": QUESTION, "user": "root"}, "user"),
    ("POST", "/api/chat", {"collections": ["here"], "messages": [{**QUESTION[0], "name": "x"}]}, "name"),
    ("POST", "/api/keys", {**KEY, "sha256": "0" * 64}, "sha256"),
    # missing or beyond a limit
    ("PUT", "/api/collections/there", {"description": "a" * 2001}, "description"),
    ("PUT", "/api/collections/there", {"readers": []}, "readers"),
    ("PUT", "/api/collections/there", {"readers": ["user:" + "a" * 5000]}, "readers"),
    ("POST", "/api/collections/here/search", {}, "query"),
    ("POST", "/api/collections/here/search", {"query": ""}, "query"),
    ("POST", "/api/collections/here/search", {"query": "a" * 4001}, "query"),
    ("POST", "/api/collections/here/search", {"query": "a", "top": 0}, "top"),
    ("POST", "/api/collections/here/search", {"query": "a", "top": 51}, "top"),
    ("POST", "/api/collections/here/search", {"query": "a", "top": "many"}, "top"),
    ("POST", "/api/collections/here/search", {"query": "a", "skip": -1}, "skip"),
    ("POST", "/api/collections/here/search", {"query": "a", "skip": 1001}, "skip"),
    ("POST", "/api/collections/here/search", {"query": "a", "mode": "magic"}, "mode"),
    ("POST", "/api/chat", {"collections": [], "messages": QUESTION}, "collections"),
    ("POST", "/api/chat", {"collections": ["here"], "messages": []}, "messages"),
    ("POST", "/api/chat", {"collections": ["here"]}, "messages"),
    (
        "POST",
        "/api/chat",
        {"collections": ["here"], "messages": [{"role": "system", "content": "a"}]},
        "role",
    ),
    ("POST", "/api/chat", {"collections": ["here"], "messages": QUESTION, "top": 51}, "top"),
    ("POST", "/api/keys", {}, "user"),
    ("POST", "/api/keys", {**KEY, "roles": ["emperor"]}, "roles"),
    ("POST", "/api/keys", {**KEY, "roles": []}, "roles"),
    ("POST", "/api/keys", {**KEY, "expires_seconds": 0}, "expires_seconds"),
    ("POST", "/api/keys", {**KEY, "expires_seconds": 1e9}, "expires_seconds"),
    ("POST", "/api/keys", {**KEY, "groups": ["a" * 5000]}, "groups"),
    ("POST", "/api/collections/here/ingestions", {"documents": [{**INLINE, "tags": ["t" * 5000]}]}, "tags"),
    ("POST", "/api/collections/here/ingestions", {"documents": [{**INLINE, "id": "a" * 1001}]}, "id"),
    ("POST", "/api/collections/here/ingestions", {"inbox_prefix": "a" * 901}, "inbox_prefix"),
]


@pytest.mark.security("API3")
@pytest.mark.parametrize(("method", "path", "body", "member"), INVALID_BODIES)
def test_a_member_that_is_unknown_or_out_of_bounds_is_named(place, method: str, path: str, body, member: str):
    problem = check_problem(place[0].call(method, path, body), 400, "invalid_request")
    assert any(member in fault["path"].split("/") for fault in problem["faults"]), problem


REFUSED_INGESTIONS = [
    ({}, "invalid_request"),
    ({"documents": []}, "invalid_request"),
    ({"documents": [INLINE], "inbox_prefix": ""}, "invalid_request"),
    ({"documents": [{"id": "a.txt"}]}, "invalid_request"),
    ({"documents": [{**INLINE, "content_base64": "YQ=="}]}, "invalid_request"),
    ({"documents": [{"id": "a.txt", "content_base64": "%%%"}]}, "invalid_request"),
    ({"documents": [INLINE, {"id": "b.txt", "content": "b"}, INLINE]}, "invalid_request"),
    (
        {"documents": [{"id": "e\u0301.txt", "content": "a"}, {"id": "\u00e9.txt", "content": "b"}]},
        "invalid_request",
    ),
    ({"documents": [INLINE, {"id": "../b.txt", "content": "b"}]}, "invalid_name"),
    ({"documents": [INLINE, {"id": "b.exe", "content": "b"}]}, "unsupported_media_type"),
    ({"documents": [{**INLINE, "readers": ["alice"]}]}, "invalid_name"),
    ({"documents": [{**INLINE, "readers": ["tenant:other"]}]}, "invalid_name"),
]


@pytest.mark.parametrize(("body", "code"), REFUSED_INGESTIONS)
def test_an_ingestion_with_one_bad_document_is_refused_as_a_whole(place, body: dict, code: str):
    tenant, collection = place
    answer = tenant.call("POST", f"/api/collections/{collection}/ingestions", body)
    check_problem(answer, 415 if code == "unsupported_media_type" else 400, code)


def test_an_ingestion_of_more_documents_than_the_limit_is_refused(place):
    tenant, collection = place
    documents = [{"id": f"{number}.txt", "content": "a"} for number in range(1001)]
    answer = tenant.call("POST", f"/api/collections/{collection}/ingestions", {"documents": documents})
    check_problem(answer, 400, "invalid_request")


@pytest.mark.parametrize("reader", ["alice", "tenant:other", "user:", "role:reader", ""])
def test_a_reader_that_names_no_one_is_refused(place, reader: str):
    check_problem(place[0].call("PUT", "/api/collections/there", {"readers": [reader]}), 400, "invalid_name")


@pytest.mark.parametrize("model", ["chat", "no-such-model", ""])
def test_a_collection_needs_an_embedding_model_that_there_is(place, model: str):
    answer = place[0].call("PUT", "/api/collections/there", {"embedding_model": model})
    assert check_problem(answer, 400, "invalid_parameter")["parameter"] == "embedding_model"


# --- filters ---


@pytest.mark.security("API8")
@pytest.mark.parametrize(
    ("filter", "path"),
    [
        ({"field": "tenant", "eq": "other"}, ""),
        ({"field": "readers", "eq": "tenant:*"}, ""),
        ({"field": "source"}, ""),
        ({"field": "page", "eq": "one"}, ""),
        ({"field": "source", "like": "a"}, ""),
        ({"and": [{"field": "source", "eq": "a"}, {"field": "nothing", "eq": "a"}]}, "and[1]"),
        ({"not": {"or": [{"field": "updated", "ge": "yesterday"}]}}, "not.or[0]"),
        ({"field": "source", "eq": "' or 1 eq 1 or source eq '", "raw": "x"}, ""),
        ({"raw": "tenant eq 'other'"}, ""),
    ],
)
def test_a_filter_that_is_wrong_is_told_where(place, filter: dict, path: str):
    tenant, collection = place
    body = {"query": "a", "filter": filter}
    problem = check_problem(
        tenant.call("POST", f"/api/collections/{collection}/search", body), 400, "invalid_filter"
    )
    assert path in problem["path"]
    chat = {"collections": [collection], "messages": QUESTION, "filter": filter}
    check_problem(tenant.call("POST", "/api/chat", chat), 400, "invalid_filter")


def test_a_facet_that_cannot_be_counted_is_refused(place):
    tenant, collection = place
    body = {"query": "a", "facets": ["readers"]}
    check_problem(
        tenant.call("POST", f"/api/collections/{collection}/search", body), 400, "invalid_parameter"
    )


# --- parameters ---


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many", "", "1001", "²", "9" * 5000])
@pytest.mark.parametrize("path", ["/api/jobs", "/api/collections/here/documents"])
def test_a_number_out_of_bounds_is_refused(place, path: str, number: str):
    answer = place[0].call("GET", f"{path}?limit={urllib.parse.quote(number)}")
    assert check_problem(answer, 400, "invalid_parameter")["parameter"] == "limit"


@pytest.mark.parametrize("path", ["/api/jobs?after=x", "/api/collections/here/documents?after=%27%20or%20x"])
def test_a_page_that_was_never_given_out_is_refused(place, path: str):
    check_problem(place[0].call("GET", path), 400, "invalid_parameter")


def test_more_or_longer_tags_than_the_limit_are_refused(place):
    check_problem(put(place, "a.txt?" + "&".join(["tag=a"] * 33)), 400, "invalid_parameter")
    check_problem(put(place, "a.txt?tag=" + "a" * 201), 400, "invalid_parameter")


@pytest.mark.parametrize("key", ["", "a" * 201])
def test_an_idempotency_key_out_of_bounds_is_refused(place, key: str):
    answer = put(place, "a.txt", **{"Idempotency-Key": key})
    check_problem(answer, 400, "invalid_parameter")


# --- what is not there ---

NOT_THERE = [
    ("GET", "/api/collections/nowhere", None),
    ("DELETE", "/api/collections/nowhere", None),
    ("GET", "/api/collections/nowhere/documents", None),
    ("GET", "/api/collections/nowhere/documents/a.txt", None),
    ("PUT", "/api/collections/nowhere/documents/a.txt", b"a"),
    ("DELETE", "/api/collections/nowhere/documents/a.txt", None),
    ("POST", "/api/collections/nowhere/ingestions", {"documents": [INLINE]}),
    ("POST", "/api/collections/nowhere/ingestions", {"inbox_prefix": ""}),
    ("POST", "/api/collections/nowhere/search", {"query": "a"}),
    ("POST", "/api/chat", {"collections": ["nowhere"], "messages": QUESTION}),
    ("POST", "/api/chat", {"collections": ["here", "nowhere"], "messages": QUESTION, "stream": True}),
    ("GET", "/api/collections/here/documents/nothing.txt", None),
    ("GET", "/api/collections/here/documents/nothing.txt?view=text", None),
    ("DELETE", "/api/collections/here/documents/nothing.txt", None),
    ("GET", f"/api/jobs/{'0' * 32}", None),
    ("GET", "/api/jobs/..%2f", None),
    ("GET", "/api/jobs/%27%20or%20true", None),
    ("GET", f"/api/jobs/{'0' * 32}/result", None),
    ("GET", f"/api/jobs/{'0' * 32}/events", None),
    ("POST", f"/api/jobs/{'0' * 32}/cancel", None),
    ("POST", f"/api/jobs/{'0' * 32}/retry", None),
]


@pytest.mark.parametrize(("method", "path", "body"), NOT_THERE)
def test_what_is_not_there_is_not_found(place, method: str, path: str, body: Any):
    answer = place[0].call(method, path, body)
    if path == "/api/jobs/..%2f":
        assert answer.status == 404
    else:
        check_problem(answer, 404, "not_found")


# --- what is just within the limits ---


def test_names_and_numbers_at_their_limits_are_taken(tenant: Tenant):
    collection = tenant.collection("a" * 63)
    longest = "d" * (LONGEST_ID - 4) + ".txt"
    document = {"id": longest, "content": "At the limit.", "tags": ["t" * 200] * 32, "title": "t" * 500}
    job = tenant.ingest(collection, [document], **{"Idempotency-Key": "k" * 200})
    assert job["counts"] == {"indexed": 1}
    assert tenant.found(collection, "limit", top=50, skip=0) == [longest]
    assert tenant.found(collection, "limit " * 600, top=8, skip=992) == []
    assert tenant.call("GET", "/api/jobs?limit=200").status == 200
    assert tenant.call("GET", f"/api/collections/{collection}/documents?limit=1000").status == 200


def test_a_name_is_the_same_in_either_unicode_form(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "cafe\u0301.txt", "Coffee, first.")
    tenant.put(collection, "caf\u00e9.txt", "Coffee, second.")
    listed = tenant.call("GET", f"/api/collections/{collection}/documents").json["items"]
    assert [(item["id"], item["version"]) for item in listed] == [("caf\u00e9.txt", 2)]
    assert tenant.record(collection, "cafe\u0301.txt").status == 200
