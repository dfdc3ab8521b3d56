"""Who may do what: keys, tenants, access lists, the audit trail. tests/security sweeps over all routes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from edge_tenant import Tenant, call, check_problem

import function_app  # noqa: F401 - fills ROUTES

pytestmark = pytest.mark.security("API1", "LLM02")

SECRET = "The vault code of the lighthouse is seven."
QUESTION = [{"role": "user", "content": "What is the vault code of the lighthouse?"}]


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
    }


@pytest.fixture(scope="module")
def stranger(stack) -> Tenant:
    name = stack.new_tenant()
    return Tenant(stack, name, stack.key_for(name))


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
    assert made.status == 201
    who = call(tenant.stack.url, "GET", "/api/me", key=made.json["key"]).json
    assert who.pop("collections") is None
    assert who == {"tenant": tenant.name, "user": "alice", "groups": ["keepers"], "roles": ["reader"]}
    foreign = {"user": "alice", "tenant": stranger.name}
    check_problem(tenant.call("POST", "/api/keys", foreign), 403, "forbidden")
    platform = {"user": "alice", "roles": ["platform"]}
    check_problem(tenant.call("POST", "/api/keys", platform), 403, "forbidden")
    check_problem(tenant.call("POST", "/api/keys", platform, key=tenant.stack.key), 403, "forbidden")


def test_a_key_can_be_read_once_and_its_record_ever_after(owner):
    tenant, _ = owner
    made = tenant.call("POST", "/api/keys", {"user": "alice", "label": "ship", "collections": ["vault"]}).json
    key = made.pop("key")
    assert (made["state"], made["label"], made["collections"]) == ("active", "ship", ["vault"])
    assert made["issued_by"] == "tester"
    listed = tenant.call("GET", "/api/keys")
    assert made["id"] in {each["id"] for each in listed.json["items"]}
    assert key.encode() not in listed.body
    assert tenant.call("GET", f"/api/keys/{made['id']}").json["user"] == "alice"
    # whoever finds a leaked key can be told whose it is, whatever the tenant
    assert (
        tenant.call("GET", f"/api/keys/{key.split('_')[1]}", key=tenant.stack.key).json["tenant"]
        == tenant.name
    )


def test_a_revoked_key_ends_at_once_and_a_rotated_one_after_the_overlap(owner):
    tenant, _ = owner
    made = tenant.call("POST", "/api/keys", {"user": "alice"}).json
    assert call(tenant.stack.url, "GET", "/api/me", key=made["key"]).status == 200
    rotated = tenant.call("POST", f"/api/keys/{made['id']}/rotate", {"overlap_seconds": 600})
    assert rotated.status == 201
    for key in (made["key"], rotated.json["key"]):
        assert call(tenant.stack.url, "GET", "/api/me", key=key).json["user"] == "alice"
    again = tenant.call("POST", f"/api/keys/{made['id']}/rotate", {})
    check_problem(again, 409, "conflict")
    assert tenant.call("DELETE", f"/api/keys/{made['id']}").json["state"] == "revoked"
    check_problem(call(tenant.stack.url, "GET", "/api/me", key=made["key"]), 401, "unauthenticated")
    at_once = tenant.call("POST", f"/api/keys/{rotated.json['id']}/rotate", {"overlap_seconds": 0}).json
    check_problem(call(tenant.stack.url, "GET", "/api/me", key=rotated.json["key"]), 401, "unauthenticated")
    assert call(tenant.stack.url, "GET", "/api/me", key=at_once["key"]).status == 200


# --- audit ---


def trail(tenant: Tenant, **wanted: str) -> list[dict[str, Any]]:
    asked = "&".join(f"{name}={value}" for name, value in wanted.items())
    answer = tenant.call("GET", f"/api/audit?limit=1000&{asked}")
    assert answer.status == 200, answer.body
    return answer.json["items"]


def test_what_was_denied_is_in_the_trail_when_the_answer_comes(owner):
    tenant, names = owner
    bob = tenant.other("bob")
    tenant.ingest(names["collection"], [{"id": "alice.txt", "content": SECRET, "readers": ["user:alice"]}])
    path = f"/api/collections/{names['collection']}/documents/alice.txt"
    for method, object, reason in (("GET", path, "not_found"), ("DELETE", path, "forbidden")):
        correlation = f"denied-{method.lower()}-{time.time_ns()}"
        answer = tenant.call(method, object, key=bob, headers={"x-correlation-id": correlation})
        assert answer.json["code"] == reason
        (entry,) = trail(tenant, correlation_id=correlation)
        assert (entry["user"], entry["object"], entry["decision"]) == ("bob", object, "denied")
        assert (entry["reason"], entry["roles"]) == (reason, ["reader"])
        assert entry["credential"] == f"key:{bob.split('_')[1]}"


def test_a_refused_key_is_in_the_trail_of_its_tenant(owner):
    tenant, _ = owner
    key = tenant.other("carol")
    wrong = key[:-4] + ("AAAA" if not key.endswith("AAAA") else "BBBB")
    check_problem(call(tenant.stack.url, "GET", "/api/me", key=wrong), 401, "unauthenticated")
    (entry,) = trail(tenant, credential=f"key:{key.split('_')[1]}")
    assert (entry["action"], entry["user"], entry["reason"]) == ("authenticate", "carol", "wrong_secret")


def test_acts_of_administrators_and_deletions_are_in_the_trail(owner):
    tenant, _ = owner
    made = tenant.call("POST", "/api/keys", {"user": "dora"}).json
    tenant.call("DELETE", f"/api/keys/{made['id']}")
    gone = tenant.collection()
    tenant.call("DELETE", f"/api/collections/{gone}")
    done = {(entry["action"], entry["object"]) for entry in trail(tenant, decision="allowed")}
    assert ("issue_key", f"key:{made['id']}") in done
    assert ("revoke_key", f"/api/keys/{made['id']}") in done
    assert ("delete_collection", f"/api/collections/{gone}") in done


def test_a_role_that_opens_what_an_access_list_does_not_is_in_the_trail_soon(owner):
    tenant, names = owner
    operator = tenant.other("oscar", roles=("operator",))
    tenant.ingest(names["collection"], [{"id": "closed.txt", "content": SECRET, "readers": []}])
    assert tenant.record(names["collection"], "closed.txt", key=operator).status == 200
    deadline = time.monotonic() + 20
    while not (found := trail(tenant, user="oscar")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {entry["action"] for entry in found} == {"get_document as operator"}


def test_the_trail_is_paged_and_holds_no_content(owner):
    tenant, _ = owner
    first = tenant.call("GET", "/api/audit?limit=2").json
    assert len(first["items"]) == 2
    second = tenant.call("GET", f"/api/audit?limit=2&after={first['next']}").json
    assert not [each for each in second["items"] if each in first["items"]]
    everything = tenant.call("GET", "/api/audit?limit=1000").body
    assert SECRET.encode() not in everything
    check_problem(tenant.call("GET", "/api/audit?after=%27"), 400, "invalid_parameter")


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
