"""Access tokens over HTTP beside keys, and headers that claim an identity."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from edge_tenant import Tenant, call, check_problem
from everything import SECRET, Names


@pytest.fixture
def entra_tenant(stack) -> str:
    """The tenant here that the issuer's first Entra tenant stands for."""
    return next(iter(stack.openid.tenants.values()))


@pytest.mark.security("API2")
def test_a_token_is_as_good_as_a_key_for_the_same_person(stack, entra_tenant: str):
    user, group = str(uuid.uuid4()), str(uuid.uuid4())
    token = stack.openid.token(oid=user, groups=[group], roles=["contributor"])
    for headers in ({"Authorization": f"Bearer {token}"}, {"api-key": token}):
        who = call(stack.url, "GET", "/api/me", headers=headers).json
        assert (who["tenant"], who["user"], who["groups"]) == (entra_tenant, user, [group])
        assert who["roles"] == ["contributor"]
    by_token = Tenant(stack, entra_tenant, token)
    collection = by_token.collection()
    documents = [
        {"id": "group.txt", "content": SECRET, "readers": [f"group:{group}"]},
        {"id": "other.txt", "content": SECRET, "readers": ["group:others"]},
    ]
    by_token.ingest(collection, documents)
    assert by_token.found(collection, "vault code") == ["group.txt"]
    overage = stack.openid.token(oid=user, groups=[group], hasgroups=True)
    assert by_token.found(collection, "vault code", key=overage) == []


@pytest.mark.security("API1", "API2")
def test_tokens_of_two_entra_tenants_see_nothing_of_each_other(stack):
    tenants = [*stack.openid.tenants.values()]
    first, second = (
        Tenant(stack, name, stack.openid.token(number, roles=["administrator"]))
        for number, name in enumerate(tenants)
    )
    collection = first.collection()
    first.put(collection, "code.txt", SECRET)
    path = f"/api/collections/{collection}"
    for asked in (path, f"{path}/documents", f"{path}/documents/code.txt"):
        check_problem(second.call("GET", asked), 404, "not_found")
    keys = first.call("POST", "/api/keys", {"user": "a", "tenant": second.name})
    check_problem(keys, 403, "forbidden")


@pytest.mark.security("API5")
def test_a_token_without_a_role_is_told_so(stack):
    check_problem(call(stack.url, "GET", "/api/me", key=stack.openid.token(roles=None)), 403, "forbidden")


def claimed(tenant: str) -> dict[str, str]:
    claims: dict[str, Any] = {
        "auth_typ": "aad",
        "role_typ": "roles",
        "claims": [
            {"typ": "tid", "val": tenant},
            {"typ": "oid", "val": "administrator"},
            {"typ": "roles", "val": "administrator"},
        ],
    }
    encoded = base64.b64encode(json.dumps(claims).encode()).decode()
    return {
        "X-MS-CLIENT-PRINCIPAL": encoded,
        "x-ms-client-principal-id": tenant,
        "X-MS-CLIENT-PRINCIPAL-NAME": "administrator",
        "X-MS-CLIENT-PRINCIPAL-IDP": "aad",
        "X-MS-TOKEN-AAD-ACCESS-TOKEN": encoded,
        "X-Forwarded-User": "administrator",
        "X-Forwarded-For": "127.0.0.1",
        "X-Original-URL": "/health/live",
        "X-Rewrite-URL": "/health/live",
        "Forwarded": 'for=127.0.0.1;by="app-service"',
        "x-functions-key": "master",
    }


@pytest.mark.security("API2", "API8")
def test_no_header_that_a_client_can_write_makes_it_someone(
    stack, owner: tuple[Tenant, Names], stranger: Tenant
):
    tenant, names = owner
    for name in (tenant.name, *stack.openid.tenants):
        headers = claimed(name)
        for each in ({header: value} for header, value in headers.items()):
            check_problem(call(stack.url, "GET", "/api/me", headers=each), 401, "unauthenticated")
        check_problem(call(stack.url, "GET", "/api/me", headers=headers), 401, "unauthenticated")
        assert stranger.call("GET", "/api/me", headers=headers).json["tenant"] == stranger.name
        path = f"/api/collections/{names['collection'][0]}"
        check_problem(stranger.call("GET", path, headers=headers), 404, "not_found")
    assert call(stack.url, "GET", "/admin/host/keys", headers=claimed(tenant.name)).status in (401, 403, 404)
