"""Who may do what: keys, roles, tenants, access lists; swept over every route there is."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

import pytest
from edge_tenant import Answer, Tenant, call, check_problem

import function_app  # noqa: F401 - fills ROUTES
from functions.http import ROUTES, RouteEntry
from shared.identity import Principal, Role

GUARDED = [entry for entry in ROUTES if entry.role is not None]
PARAMETER = re.compile(r"\{\*?(\w+)[^}]*\}")
SECRET = "The vault code of the lighthouse is seven."
QUESTION = [{"role": "user", "content": "What is the vault code of the lighthouse?"}]


def name_of(entry: RouteEntry) -> str:
    return f"{entry.method} {entry.path}"


@pytest.fixture(scope="module")
def owner(stack) -> tuple[Tenant, dict[str, str]]:
    """A tenant with one of everything, and what its things are called."""
    name = stack.new_tenant()
    tenant = Tenant(stack, name, stack.key_for(name))
    collection = tenant.collection("vault")
    assert tenant.put(collection, "code.txt", SECRET)["state"] == "succeeded"
    failed = tenant.put(collection, "empty.txt", b"")  # there is something to retry
    return tenant, {
        "collection": collection,
        "document": "code.txt",
        "job": failed["id"],
        "model": f"rag:{collection}",
        "deployment": f"rag:{collection}",
        "file": "index.html",
        "file_id": uploaded(tenant),
    }


@pytest.fixture(scope="module")
def stranger(stack) -> Tenant:
    name = stack.new_tenant()
    return Tenant(stack, name, stack.key_for(name))


def uploaded(tenant: Tenant) -> str:
    """A file of the owner's that holds the secret; its id."""
    parts = {'name="purpose"': "batch", 'name="file"; filename="vault.jsonl"': SECRET}
    form = "".join(f"--x\r\nContent-Disposition: form-data; {n}\r\n\r\n{v}\r\n" for n, v in parts.items())
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = tenant.call("POST", "/v1/files", f"{form}--x--\r\n".encode(), headers=headers)
    assert answer.status == 200, answer.body
    return answer.json["id"]


def path_of(entry: RouteEntry, names: dict[str, str]) -> str:
    """The route's path with the given names; a parameter that is not known here fails the test."""
    return PARAMETER.sub(lambda parameter: names[parameter[1]], entry.path)


def body_of(entry: RouteEntry, names: dict[str, str]) -> Any:
    """A body that the route takes, which names what belongs to the owner."""
    if entry.body is None:
        return b"Some bytes." if entry.method == "PUT" else None
    return {
        "SearchBody": {"query": "vault code"},
        "ChatBody": {"collections": [names["collection"]], "messages": QUESTION},
        "CollectionSettings": {"description": "changed"},
        "KeyBody": {"user": "someone"},
        "IngestionRequest": {"documents": [{"id": names["document"], "content": "Changed."}]},
        "ChatCompletionBody": {"model": names["model"], "messages": QUESTION},
        "EmbeddingsBody": {"model": names["model"], "input": "text"},
        "ResponsesBody": {"model": names["model"], "input": QUESTION[0]["content"]},
    }[entry.body.__name__]


def refused(answer: Answer, status: int) -> None:
    """Refused with ``status`` in the shape of its surface: problem details, or OpenAI's errors."""
    assert answer.status == status, (answer.status, answer.body[:300])
    document = answer.json
    assert "error" in document or document["status"] == status
    assert SECRET.encode() not in answer.body


# --- sweeps ---


@pytest.mark.parametrize("entry", GUARDED, ids=name_of)
def test_no_route_answers_without_a_valid_key(owner, entry: RouteEntry):
    tenant, names = owner
    path, body = path_of(entry, names), body_of(entry, names)
    wrong = tenant.key[:-4] + ("AAAA" if not tenant.key.endswith("AAAA") else "BBBB")
    for key in (None, "", "gw_", wrong, tenant.key.upper(), f"{tenant.key} "[:-2]):
        answer = call(tenant.stack.url, entry.method, path, body, key=key)
        refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer") or "error" in answer.json


@pytest.mark.parametrize("entry", GUARDED, ids=name_of)
def test_no_route_serves_a_role_that_does_not_include_its_own(owner, entry: RouteEntry):
    assert entry.role is not None
    tenant, names = owner
    others = [role for role in Role if not Principal("t", "u", roles=(role,)).may(entry.role)]
    for role in others:
        key = tenant.other(f"only-{role}", roles=(role.value,))
        answer = call(tenant.stack.url, entry.method, path_of(entry, names), body_of(entry, names), key=key)
        refused(answer, 403)
    assert bool(others) == (entry.role is not Role.READER)


def is_about_the_owners_things(entry: RouteEntry) -> bool:
    if "embeddings" in entry.path:
        return False  # a collection is no embedding model, whoever asks
    named_in_body = entry.body is not None and entry.body.__name__ in (
        "ChatBody",
        "ChatCompletionBody",
        "ResponsesBody",
    )
    return named_in_body or bool(PARAMETER.search(entry.path))


@pytest.mark.parametrize("entry", [*filter(is_about_the_owners_things, GUARDED)], ids=name_of)
def test_what_belongs_to_another_tenant_is_not_found_and_does_not_change(owner, stranger, entry: RouteEntry):
    tenant, names = owner
    before = tenant.stored()
    answer = call(
        tenant.stack.url, entry.method, path_of(entry, names), body_of(entry, names), key=stranger.key
    )
    if name_of(entry) == "PUT /api/collections/{collection}":
        # the name is free in the stranger's own tenant
        assert answer.status == 201
        assert stranger.call("DELETE", f"/api/collections/{names['collection']}").status == 202
    else:
        refused(answer, 404)
    assert tenant.stored() == before


@pytest.mark.parametrize("field", ["tenant", "tenant_id", "owner", "state", "readers"])
def test_no_body_and_no_query_sets_what_is_not_the_callers_to_set(owner, stranger, field: str):
    tenant, names = owner
    collection = stranger.collection()
    value = {"readers": ["tenant:*"]}.get(field, tenant.name)
    search = f"/api/collections/{names['collection']}/search?{field}={tenant.name}"
    check_problem(stranger.call("POST", search, {"query": "vault"}), 404, "not_found")
    for path in (f"/api/collections/{collection}/search", f"/api/collections/{collection}/ingestions"):
        body = {"query": "a"} if path.endswith("search") else {"documents": [{"id": "a.txt", "content": "a"}]}
        check_problem(stranger.call("POST", path, {**body, field: value}), 400, "invalid_request")
    put = f"/api/collections/{collection}/documents/a-{field}.txt?{field}={tenant.name}"
    assert stranger.call("PUT", put, b"Mine.").status == 202
    assert tenant.record(names["collection"], f"a-{field}.txt").status == 404


# --- keys ---


def test_a_key_is_taken_as_bearer_token_or_in_its_own_header(owner):
    tenant, _ = owner
    for headers in (
        {"Authorization": f"Bearer {tenant.key}"},
        {"authorization": f"bearer {tenant.key}"},
        {"api-key": tenant.key},
    ):
        answer = call(tenant.stack.url, "GET", "/api/me", headers=headers)
        assert answer.json["tenant"] == tenant.name
    for headers in (
        {"Authorization": tenant.key},
        {"Authorization": f"Basic {tenant.key}"},
        {"x-key": tenant.key},
    ):
        check_problem(call(tenant.stack.url, "GET", "/api/me", headers=headers), 401, "unauthenticated")
    check_problem(call(tenant.stack.url, "GET", f"/api/me?api-key={tenant.key}"), 401, "unauthenticated")


def test_a_key_ends_when_it_expires_also_where_it_was_just_used(owner):
    tenant, _ = owner
    made = tenant.call("POST", "/api/keys", {"user": "brief", "expires_seconds": 2})
    assert made.status == 201
    deadline = time.monotonic() + 2.2
    assert call(tenant.stack.url, "GET", "/api/me", key=made.json["key"]).status == 200
    time.sleep(max(0, deadline - time.monotonic()))
    check_problem(call(tenant.stack.url, "GET", "/api/me", key=made.json["key"]), 401, "unauthenticated")


def test_a_tenants_administrator_makes_keys_for_that_tenant_alone(owner, stranger):
    tenant, _ = owner
    made = tenant.call("POST", "/api/keys", {"user": "alice", "groups": ["keepers"], "roles": ["reader"]})
    assert made.json.keys() == {"key", "tenant", "user"}
    who = call(tenant.stack.url, "GET", "/api/me", key=made.json["key"]).json
    assert who == {"tenant": tenant.name, "user": "alice", "groups": ["keepers"], "roles": ["reader"]}
    foreign = {"user": "alice", "tenant": stranger.name}
    check_problem(tenant.call("POST", "/api/keys", foreign), 403, "forbidden")
    platform = {"user": "alice", "roles": ["platform"]}
    check_problem(tenant.call("POST", "/api/keys", platform), 403, "forbidden")
    check_problem(tenant.call("POST", "/api/keys", platform, key=tenant.stack.key), 403, "forbidden")


def test_headers_of_a_trusted_ingress_are_ignored(owner, stranger):
    tenant, names = owner
    claims = {"auth_typ": "aad", "claims": [{"typ": "roles", "val": "administrator"}], "tenant": tenant.name}
    headers = {
        "X-MS-CLIENT-PRINCIPAL": base64.b64encode(json.dumps(claims).encode()).decode(),
        "X-MS-CLIENT-PRINCIPAL-ID": tenant.name,
        "X-MS-CLIENT-PRINCIPAL-NAME": "administrator",
        "X-Forwarded-User": "administrator",
    }
    check_problem(call(tenant.stack.url, "GET", "/api/me", headers=headers), 401, "unauthenticated")
    assert stranger.call("GET", "/api/me", headers=headers).json["tenant"] == stranger.name
    answer = stranger.call("GET", f"/api/collections/{names['collection']}", headers=headers)
    check_problem(answer, 404, "not_found")


# --- access lists ---


@pytest.fixture(scope="module")
def listed(stack) -> tuple[Tenant, dict[str, str]]:
    """A tenant with documents for some, and keys of its users."""
    name = stack.new_tenant()
    tenant = Tenant(stack, name, stack.key_for(name))
    tenant.collection("open")
    tenant.collection("closed", readers=["user:alice", "group:keepers"])
    documents = [
        {"id": "everyone.txt", "content": "The lighthouse is open on Sunday."},
        {"id": "alice.txt", "content": SECRET, "readers": ["user:alice"]},
        {"id": "keepers.txt", "content": "The lighthouse keepers meet at six.", "readers": ["group:keepers"]},
        {"id": "no-one.txt", "content": "The lighthouse has a ghost.", "readers": []},
    ]
    assert tenant.ingest("open", documents)["counts"] == {"indexed": 4}
    inherited = [{"id": "inherited.txt", "content": SECRET}]
    assert tenant.ingest("closed", inherited)["counts"] == {"indexed": 1}
    keys = {
        "alice": tenant.other("alice"),
        "bob": tenant.other("bob"),
        "keeper": tenant.other("kim", groups=("keepers",)),
    }
    return tenant, keys


@pytest.mark.parametrize(
    ("user", "may_read"),
    [
        ("alice", {"everyone.txt", "alice.txt"}),
        ("bob", {"everyone.txt"}),
        ("keeper", {"everyone.txt", "keepers.txt"}),
    ],
)
def test_a_document_with_readers_is_there_for_them_alone(listed, user: str, may_read: set[str]):
    tenant, keys = listed
    key = keys[user]
    everything = {"everyone.txt", "alice.txt", "keepers.txt", "no-one.txt"}
    for mode in ("hybrid", "keyword", "vector"):
        assert set(tenant.found("open", "lighthouse", key=key, mode=mode, top=50)) == may_read
    found = tenant.search("open", " ", key=key, count=True, facets=["document"])
    assert found["count"] == len(may_read)
    assert {facet["value"] for facet in found["facets"]["document"]} == may_read
    items = tenant.call("GET", "/api/collections/open/documents", key=key).json["items"]
    assert {item["id"] for item in items} == may_read
    for document in everything:
        for query in ({}, {"view": "text"}, {"view": "text", "version": "1"}):
            answer = tenant.record("open", document, key=key, **query)
            if document in may_read:
                assert answer.status == 200
            else:
                check_problem(answer, 404, "not_found")
    body = {"collections": ["open"], "messages": QUESTION}
    for stream in (False, True):
        answer = tenant.call("POST", "/api/chat", {**body, "stream": stream}, key=key)
        assert (SECRET.encode() in answer.body or b"seven" in answer.body) == ("alice.txt" in may_read)
        for document in everything - may_read:
            assert document.encode() not in answer.body


@pytest.mark.parametrize(("user", "admitted"), [("alice", True), ("keeper", True), ("bob", False)])
def test_documents_without_readers_have_those_of_their_collection(listed, user: str, admitted: bool):
    tenant, keys = listed
    key = keys[user]
    assert bool(tenant.found("closed", "vault code", key=key)) == admitted
    items = tenant.call("GET", "/api/collections/closed/documents", key=key).json["items"]
    assert bool(items) == admitted
    for query in ({}, {"view": "text"}):
        assert tenant.record("closed", "inherited.txt", key=key, **query).status == (200 if admitted else 404)
    body = {"collections": ["closed"], "messages": QUESTION}
    assert (b"seven" in tenant.call("POST", "/api/chat", body, key=key).body) == admitted


def test_the_text_of_an_earlier_version_keeps_its_own_readers(tenant: Tenant):
    collection = tenant.collection()
    bob = tenant.other("bob")
    tenant.ingest(collection, [{"id": "a.txt", "content": SECRET, "readers": ["user:alice"]}])
    tenant.ingest(collection, [{"id": "a.txt", "content": "Nothing to see.", "readers": ["tenant:*"]}])
    assert tenant.record(collection, "a.txt", key=bob, view="text").status == 200
    earlier = tenant.record(collection, "a.txt", key=bob, view="text", version="1")
    check_problem(earlier, 404, "not_found")
    # an upload that fails opens nothing either: what is visible is still the version before
    tenant.ingest(collection, [{"id": "b.txt", "content": SECRET, "readers": ["user:alice"]}])
    tenant.ingest(collection, [{"id": "b.txt", "content": "", "readers": ["tenant:*"]}])
    check_problem(tenant.record(collection, "b.txt", key=bob, view="text"), 404, "not_found")
    assert "b.txt" not in tenant.found(collection, "vault code", key=bob)


def test_new_readers_hold_from_the_next_ingestion_without_a_change_of_content(tenant: Tenant):
    collection = tenant.collection()
    bob = tenant.other("bob")
    document = {"id": "a.txt", "content": SECRET}
    tenant.ingest(collection, [document])
    assert tenant.found(collection, "vault code", key=bob) == ["a.txt"]
    again = tenant.ingest(collection, [{**document, "readers": ["user:alice"]}])
    assert again["counts"] == {"indexed": 1}
    assert tenant.found(collection, "vault code", key=bob) == []


def test_a_text_is_not_shown_before_its_version_is_visible(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "First.")
    check_problem(tenant.record(collection, "a.txt", view="text", version="2"), 404, "not_found")
    tenant.put(collection, "a.txt", "Second.")
    assert tenant.record(collection, "a.txt", view="text", version="1").json["text"].strip() == "First."
    assert tenant.record(collection, "a.txt", view="text").json["text"].strip() == "Second."


def test_a_collection_that_is_closed_later_is_closed_to_search_and_chat_at_once(tenant: Tenant):
    collection = tenant.collection()
    tenant.ingest(collection, [{"id": "a.txt", "content": SECRET}])
    bob = tenant.other("bob")
    assert tenant.found(collection, "vault code", key=bob)
    closing = {"readers": ["user:alice"]}
    assert tenant.call("PUT", f"/api/collections/{collection}", closing).status == 200
    for mode in ("hybrid", "keyword", "vector"):
        assert not tenant.found(collection, "vault code", key=bob, mode=mode)
    body = {"collections": [collection], "messages": QUESTION}
    assert b"seven" not in tenant.call("POST", "/api/chat", body, key=bob).body
    assert tenant.found(collection, "vault code", key=tenant.other("alice"))
