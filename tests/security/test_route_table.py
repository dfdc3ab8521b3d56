"""Every way in has the one decorator, asks for a credential, and serves the roles it is meant for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from edge_tenant import Tenant, call
from everything import GUARDED, NEEDS, OPEN, Names, body_of, name_of, paths_of, refused

from functions.http import ROUTES, RouteEntry
from shared.config import APP_ROOT
from shared.identity import Principal, Role

# Prints what the Functions host is told, in a process of its own: an app can be indexed only once.
INDEXED = """
import json, function_app
triggers = [f.get_trigger() for f in function_app.app.get_functions()]
http = [t for t in triggers if t.get_binding_name() == "httpTrigger"]
print(json.dumps([[m.value, "/" + t.route] for t in http for m in t.methods]))
"""


@pytest.mark.security("API2", "API9")
def test_every_http_function_of_the_app_went_through_the_one_decorator():
    done = subprocess.run(
        [sys.executable, "-c", INDEXED], cwd=APP_ROOT, capture_output=True, text=True, check=True
    )
    indexed = sorted(map(tuple, json.loads(done.stdout.splitlines()[-1])))
    assert indexed == sorted((entry.method, entry.path) for entry in ROUTES)
    assert len(indexed) > 20


@pytest.mark.security("API5", "API9")
def test_a_route_needs_the_role_that_the_table_says():
    assert {name_of(entry) for entry in ROUTES if entry.role is None} == OPEN
    stated = {name_of(entry): NEEDS.get(name_of(entry), Role.READER) for entry in GUARDED}
    assert {name_of(entry): entry.role for entry in GUARDED} == stated
    assert NEEDS.keys() <= stated.keys(), "a route of the table is gone"


@pytest.mark.security("API2")
@pytest.mark.parametrize("entry", GUARDED, ids=name_of)
def test_no_route_answers_without_a_valid_credential(owner: tuple[Tenant, Names], ended, entry: RouteEntry):
    tenant, names = owner
    path, body = next(paths_of(entry, names))[0], body_of(entry, names)
    wrong = tenant.key[:-4] + ("AAAA" if not tenant.key.endswith("AAAA") else "BBBB")
    for key in (None, "", "gw_", wrong, tenant.key.upper(), f"{tenant.key} "[:-2], "a.b.c", *ended):
        answer = call(tenant.stack.url, entry.method, path, body, key=key)
        refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.fixture(scope="session")
def ended(stack, owner: tuple[Tenant, Names]) -> list[str]:
    """Credentials of the owner that were good once: an expired and a revoked key, an expired token."""
    tenant, _ = owner
    brief = tenant.call("POST", "/api/keys", {"user": "a", "expires_seconds": 0.01}).json["key"]
    revoked = tenant.call("POST", "/api/keys", {"user": "a", "roles": ["administrator"]}).json
    assert tenant.call("DELETE", f"/api/keys/{revoked['id']}").status == 200
    return [brief, revoked["key"], stack.openid.token(roles=["administrator"], exp=1)]


@pytest.mark.security("API5")
@pytest.mark.parametrize("entry", GUARDED, ids=name_of)
def test_a_route_serves_the_roles_that_include_its_own_and_no_others(
    owner: tuple[Tenant, Names], key_of_role: dict[Role, str], entry: RouteEntry
):
    assert entry.role is not None
    tenant, names = owner
    path, body = next(paths_of(entry, names))[0], body_of(entry, names)
    # Those who may are sent to something that is not there, with a body that is none.
    absent = next(paths_of(entry, {name: ["absent"] for name in names}))[0]
    for role in Role:
        if Principal("t", "u", roles=(role,)).may(entry.role):
            answer = call(tenant.stack.url, entry.method, absent, b"[", key=key_of_role[role])
            assert answer.status not in (401, 403), (role, answer.status, answer.body[:300])
            assert answer.status < 500, (role, answer.body[:300])
        else:
            refused(call(tenant.stack.url, entry.method, path, body, key=key_of_role[role]), 403)


@pytest.fixture(scope="session")
def key_of_role(stack, owner: tuple[Tenant, Names]) -> dict[Role, str]:
    """A key for each role alone. The platform's cannot be given away; it is the stack's own."""
    tenant, _ = owner
    keys = {
        role: tenant.other(f"only-{role}", roles=(role.value,)) for role in Role if role is not Role.PLATFORM
    }
    return {**keys, Role.PLATFORM: stack.key}
