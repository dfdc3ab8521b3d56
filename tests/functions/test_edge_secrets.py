"""Nothing that was confided is repeated: not in logs, not in errors."""

from __future__ import annotations

import re
import uuid

import pytest
from edge_tenant import Tenant, call
from running_stack import API_KEY, GIVEN_AWAY

from shared.config import APP_ROOT

pytestmark = pytest.mark.security("LLM02", "API8")

# The first part of every signed token: {"alg": …
TOKEN = re.compile(rb"eyJhbGciOi[\w-]+\.eyJ[\w-]+\.")
CANARY = f"canary{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def traffic(shared_tenant: Tenant) -> Tenant:
    """Requests of all kinds, good and bad, each with the canary where callers put what they confide."""
    tenant = shared_tenant
    collection = tenant.collection()
    text = f"The pass phrase is {CANARY}. " * 3
    tenant.put(collection, "a.txt", text)
    tenant.put(collection, "a.json", f'{{"text": "{CANARY}')
    tenant.put(collection, "a.pdf", f"%PDF-1.7 {CANARY}")
    tenant.put(collection, "a.docx", f"PK\x03\x04word/{CANARY}")
    tenant.put(collection, "a.eml", f"Subject: {CANARY}\n\n{CANARY}")
    tenant.search(collection, CANARY)
    question = {"collections": [collection], "messages": [{"role": "user", "content": f"Where is {CANARY}?"}]}
    for more in ({}, {"stream": True}, {"model": "nothing"}, {"unknown": CANARY}, {"max_tokens": CANARY}):
        answer = tenant.call("POST", "/api/chat", {**question, **more})
        assert answer.status == 200 or CANARY.encode() not in answer.body
    job = tenant.call("POST", "/api/chat", question, headers={"Prefer": "respond-async"}).json["id"]
    tenant.finished(job)
    rag = {"model": f"rag:{collection}", "messages": question["messages"]}
    tenant.call("POST", "/v1/chat/completions", rag)
    tenant.call("POST", "/v1/chat/completions", {**rag, "model": "chat", "max_tokens": 4})
    tenant.call("POST", "/v1/embeddings", {"model": "embedding", "input": CANARY})
    path = f"/api/collections/{collection}/search"
    for body in (
        f'{{"query": "{CANARY}'.encode(),
        {"query": CANARY, "unknown": CANARY},
        {"query": CANARY, "filter": {"field": "source", "eq": {"x": CANARY}}},
        {"query": CANARY, "filter": {"field": "updated", "ge": CANARY}},
        {"query": CANARY, "top": CANARY},
    ):
        answer = tenant.call("POST", path, body)
        assert answer.status == 400
        assert CANARY.encode() not in answer.body
    for token in (tenant.stack.openid.token(), tenant.stack.openid.token(exp=1, more=CANARY)):
        call(tenant.stack.url, "GET", "/api/me", key=token)
    call(tenant.stack.url, "GET", "/api/me", headers={"X-MS-CLIENT-PRINCIPAL": CANARY})
    refused = {"user": "someone", "label": CANARY, "unknown": CANARY}
    assert CANARY.encode() not in tenant.call("POST", "/api/keys", refused).body
    call(tenant.stack.url, "GET", "/api/me", key=f"{tenant.key}x")
    call(tenant.stack.url, "GET", f"/api/me?key={tenant.key}")
    return tenant


def test_logs_hold_neither_texts_nor_questions_nor_keys(traffic: Tenant):
    logs = sorted((traffic.stack.stack.folder / "logs").iterdir())
    assert {log.name for log in logs} >= {"host.log", "azurite.log"}
    held = {log.name: log.read_bytes() for log in logs}
    assert held["host.log"], "the host's log is empty: this test would prove nothing"
    for name, data in held.items():
        assert CANARY.encode() not in data, name
        key = API_KEY.search(data)
        assert key is None, (name, data[max(0, key.start() - 200) : key.start()])
        assert not GIVEN_AWAY.search(data), name
        assert not TOKEN.search(data), name


def test_no_key_lies_in_storage_or_in_the_hosts_files(traffic: Tenant):
    """Keys are kept as digests; the development key alone lies in its own file."""
    stack = traffic.stack.stack
    for path in stack.folder.rglob("*"):
        if path.is_file() and path.name != "development-key" and "index" not in path.parts:
            data = path.read_bytes()
            assert traffic.key.encode() not in data, path.relative_to(stack.folder)
            assert stack.key.encode() not in data, path.relative_to(stack.folder)


def test_the_histories_of_orchestrations_hold_no_content(traffic: Tenant):
    folder = traffic.stack.stack.folder / "devhost"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        assert CANARY.encode() not in data, path.name
        assert not GIVEN_AWAY.search(data), path.name
        assert not TOKEN.search(data), path.name


def test_no_table_holds_texts_questions_credentials_or_addresses_of_the_host(traffic: Tenant):
    tables = traffic.stack.rows_of_all_tables()
    assert tables.keys() >= {"jobs", "documents", "collections", "keys", "audit", "quotas"}
    assert any(traffic.name in row for row in tables["audit"]), "the trail is empty: this would prove nothing"
    for name, rows in tables.items():
        for row in rows:
            assert CANARY not in row, (name, row[:500])
            for pattern in (GIVEN_AWAY, API_KEY, TOKEN):
                assert not pattern.search(row.encode()), (name, row[:500])


def test_the_apps_files_are_not_served(traffic: Tenant):
    for name in ("local.settings.json", "host.json", "function_app.py", "models.local.toml"):
        assert (APP_ROOT / name).exists() or name == "local.settings.json"
        assert traffic.call("GET", f"/{name}").status == 404
        assert traffic.call("GET", f"/console/{name}").status == 404
