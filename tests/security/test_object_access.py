"""BOLA: what belongs to another tenant, or lies outside a key's limits, is not found, whatever is asked."""

from __future__ import annotations

import pytest
from edge_tenant import Answer, Tenant, call
from everything import GUARDED, PARAMETER, SECRET, Names, body_of, name_of, paths_of, refused

from functions.http import RouteEntry
from shared.identity import Role

# The name of a collection is free in every tenant: whoever puts one makes a collection of their own.
NAMED_IN_BODY = ("BatchBody", "ChatBody", "ChatCompletionBody", "ResponsesBody")
OWN_NAMESPACE = {"PUT /api/collections/{collection}"}


def names_things(entry: RouteEntry) -> bool:
    if "embeddings" in entry.path:
        return False  # a collection is no embedding model, whoever asks
    in_body = entry.body is not None and entry.body.__name__ in NAMED_IN_BODY
    return in_body or bool(PARAMETER.search(entry.path))


# Bodies of OpenAI's surface go on to the model, whatever members they have.
STRICT = [each for each in GUARDED if each.body and not each.body.__module__.endswith("openai_wire")]
ABOUT_THINGS = [entry for entry in GUARDED if names_things(entry)]


@pytest.mark.security("API1", "LLM02", "LLM08")
@pytest.mark.parametrize("entry", ABOUT_THINGS, ids=name_of)
def test_what_belongs_to_another_tenant_is_not_found_and_does_not_change(
    owner: tuple[Tenant, Names], stranger: Tenant, entry: RouteEntry
):
    tenant, names = owner
    before = tenant.stored()
    for path, _ in paths_of(entry, names):
        answer = call(tenant.stack.url, entry.method, path, body_of(entry, names), key=stranger.key)
        if name_of(entry) in OWN_NAMESPACE:
            assert answer.status == 201
            assert stranger.call("DELETE", path).status == 202
        else:
            refused(answer, 404)
    assert tenant.stored() == before


@pytest.mark.security("API1")
@pytest.mark.parametrize("entry", ABOUT_THINGS, ids=name_of)
def test_another_tenants_thing_is_answered_as_one_that_nobody_has(
    owner: tuple[Tenant, Names], stranger: Tenant, entry: RouteEntry
):
    tenant, names = owner
    if name_of(entry) in OWN_NAMESPACE:
        return
    nobodys = {name: [_unlike(value) for value in values[:1]] for name, values in names.items()}
    theirs = {name: values[:1] for name, values in names.items()}
    shapes = []
    for known in (theirs, nobodys):
        path, ids = next(paths_of(entry, known))
        answer = call(tenant.stack.url, entry.method, path, body_of(entry, known), key=stranger.key)
        shapes.append(_shape(answer, [*ids.values(), *(values[0] for values in known.values())]))
    assert shapes[0] == shapes[1]


def _unlike(value: str) -> str:
    """A name of the same form that nobody has."""
    if value.isdigit() and len(value) < 4:
        return value  # a number counts within a collection, which is what is not there
    if value.startswith("rag:"):
        return f"rag:un{value[4:]}"
    return f"{value[:-4]}0000" if value.isalnum() and len(value) >= 16 else f"un{value}"


def _shape(answer: Answer, ids: list[str]) -> tuple[int, str]:
    """Status and body without what differs in any two answers."""
    text = answer.body.decode().replace(answer.headers["x-correlation-id"], "CORRELATION")
    for each in sorted(ids, key=len, reverse=True):
        text = text.replace(each, "ID") if len(each) > 3 else text
    return answer.status, text


@pytest.mark.security("API1")
@pytest.mark.parametrize("entry", GUARDED, ids=name_of)
def test_a_key_for_other_collections_finds_none_of_this_one(owner: tuple[Tenant, Names], entry: RouteEntry):
    tenant, names = owner
    limited = tenant.call(
        "POST", "/api/keys", {"user": "limited", "roles": ["administrator"], "collections": ["elsewhere"]}
    ).json["key"]
    before = tenant.stored()
    for path, ids in paths_of(entry, names):
        answer = call(tenant.stack.url, entry.method, path, body_of(entry, names), key=limited)
        assert SECRET.encode() not in answer.body
        assert b"seven" not in answer.body
        if entry.role is Role.ADMINISTRATOR:
            refused(answer, 403)
        elif ids.keys() & {"collection", "job", "model", "deployment"} and "embeddings" not in entry.path:
            refused(answer, 404)
    assert tenant.stored() == before


@pytest.mark.security("API1")
def test_a_limited_key_is_good_for_its_own_collections(owner: tuple[Tenant, Names]):
    tenant, names = owner
    (collection,) = names["collection"]
    tenant.call("PUT", "/api/collections/elsewhere", {})
    body = {"user": "limited", "roles": ["contributor"], "collections": [collection]}
    limited = tenant.call("POST", "/api/keys", body).json["key"]
    assert tenant.found(collection, "vault code", key=limited)
    listed = tenant.call("GET", "/api/collections", key=limited).json["items"]
    assert [each["name"] for each in listed] == [collection]
    models = [each["id"] for each in tenant.call("GET", "/v1/models", key=limited).json["data"]]
    assert [each for each in models if each.startswith("rag:")] == [f"rag:{collection}"]
    assert {job["collection"] for job in tenant.call("GET", "/api/jobs", key=limited).json["items"]} == {
        collection
    }


@pytest.mark.security("API1", "API3")
@pytest.mark.parametrize("entry", [each for each in GUARDED if each.method == "GET"], ids=name_of)
def test_no_query_names_the_tenant_that_is_read(
    owner: tuple[Tenant, Names], bystander: Tenant, entry: RouteEntry
):
    tenant, names = owner
    for field in ("tenant", "tenant_id", "owner", "user"):
        for path, ids in paths_of(entry, names):
            answer = bystander.call("GET", f"{path}?{field}={tenant.name}")
            assert answer.status in ((403, 404) if ids else (200, 400, 403)), answer.body[:300]
            held = [each for kind in ("document", "job", "key") for each in names[kind]]
            assert answer.status != 200 or not any(each.encode() in answer.body for each in held)


@pytest.mark.security("API3")
@pytest.mark.parametrize("entry", STRICT, ids=name_of)
@pytest.mark.parametrize("field", ["tenant_id", "owner", "state", "id_", "version", "visible", "sha256"])
def test_no_body_sets_what_is_not_the_callers_to_set(
    owner: tuple[Tenant, Names], entry: RouteEntry, field: str
):
    tenant, names = owner
    assert entry.body is not None
    assert field not in entry.body.model_fields
    path = next(paths_of(entry, {**names, "collection": [names["collection"][0]]}))[0]
    before = tenant.stored()
    answer = tenant.call(entry.method, path, {**body_of(entry, names), field: "x"})
    refused(answer, 400)
    assert tenant.stored() == before
