"""Reconciliation and erasure through the API."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from edge_tenant import Tenant, check_problem, in_storage

from shared import webhooks
from shared.identity import Principal
from shared.inferencing.batches.records import Batch, BatchRecords
from shared.jobs import new_id
from shared.storage import INBOX, JOBS, PARSED, RAW, Storage
from shared.webhooks import Webhook


def erase(tenant: Tenant, **subject: str) -> tuple[dict[str, Any], str]:
    """Run an erasure; its job and the nonce of its receipt."""
    answer = tenant.call("POST", "/api/erasures", subject)
    assert answer.status == 202, answer.body
    return tenant.finished(answer.json["id"]), answer.headers["x-receipt-nonce"]


def check_receipt(tenant: Tenant, job: dict[str, Any], nonce: str, kind: str, name: str) -> dict[str, Any]:
    receipt = tenant.call("GET", f"/api/erasures/{job['id']}").json
    named = f"{nonce}\0{kind}\0{name}"
    assert receipt["subject_digest"] == hashlib.sha256(named.encode()).hexdigest()
    told = {member: value for member, value in receipt.items() if member != "digest"}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    assert receipt["digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert not any(receipt["left"].values())
    assert name not in json.dumps(receipt)
    return receipt


def all_that_is_stored(tenant: Tenant) -> bytes:
    """Every blob and row of the tenant, names and contents."""

    async def read(storage: Storage) -> bytes:
        parts: list[bytes] = []
        for container in (RAW, PARSED, JOBS):
            async for blob in storage.list_blobs(container, f"{tenant.name}/"):
                parts += [blob.name.encode(), await storage.get_blob(container, blob.name) or b""]
        tables = ("jobs", "documents", "collections", "keys", "usage", "receipts", "batches", "webhooks")
        for table in tables:
            async for row in storage.scan_rows(table):
                if tenant.name in json.dumps(row, default=str):
                    parts.append(json.dumps(row, default=str).encode())
        return b"\n".join(parts)

    return in_storage(tenant.stack.storage, read)


def test_a_tenant_in_order_has_nothing_to_reconcile(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "Crates of salt.")
    tenant.put(collection, "a.txt", "Crates of sugar.")
    tenant.collection()
    before = tenant.chunks(collection)
    answer = tenant.call("POST", "/api/reconciliations")
    assert answer.status == 202
    job = tenant.finished(answer.json["id"])
    assert job["state"] == "succeeded"
    result = tenant.call("GET", f"/api/jobs/{job['id']}/result").json
    assert result["documents"] == 1
    assert not any(result["findings"].values())
    assert tenant.chunks(collection) == before
    reader = tenant.other("reader")
    check_problem(tenant.call("POST", "/api/reconciliations", key=reader), 403, "forbidden")


def test_an_inbox_that_is_erased_loses_its_blobs_and_what_was_cached_of_them(tenant: Tenant):
    collection = tenant.collection()
    blob = f"{tenant.name}/{collection}/crate.txt"
    in_storage(tenant.stack.storage, lambda storage: storage.put_blob(INBOX, blob, b"The zanzibar crate."))
    for _ in range(300):
        if tenant.record(collection, "crate.txt").json.get("state") == "indexed":
            break
        time.sleep(0.1)
    found = [tenant.search(collection, "zanzibar crate") for _ in range(2)]
    assert [(len(each["hits"]), each["cached"]) for each in found] == [(1, False), (1, True)]
    job, nonce = erase(tenant, source="inbox")
    assert job["state"] == "succeeded", job
    receipt = check_receipt(tenant, job, nonce, "source", "inbox")
    assert (receipt["removed"]["documents"], receipt["removed"]["arrivals"]) == (1, 1)
    assert receipt["caches_ended"] > receipt["verified"]
    assert in_storage(tenant.stack.storage, lambda storage: storage.get_blob(INBOX, blob)) is None
    assert tenant.search(collection, "zanzibar crate")["hits"] == []
    tenant.put(collection, "other.txt", "The marzipan crate.")
    job = tenant.finished(tenant.call("POST", "/api/reconciliations").json["id"])
    assert job["counts"] == {"compared": 1, "repaired": 0}


def test_what_came_from_a_source_is_gone_and_the_rest_is_there(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "The zanzibar crate.", source="wiki-of-yore")
    tenant.put(collection, "b.txt", "The marzipan crate.", source="elsewhere")
    job, nonce = erase(tenant, source="wiki-of-yore")
    assert job["state"] == "succeeded", job
    receipt = check_receipt(tenant, job, nonce, "source", "wiki-of-yore")
    assert receipt["removed"]["documents"] == 1
    assert tenant.found(collection, "crate") == ["b.txt"]
    assert tenant.record(collection, "a.txt").status == 404
    tenant.put(collection, "a.txt", "A new crate.")
    assert sorted(tenant.found(collection, "crate")) == ["a.txt", "b.txt"]


async def leave_traces(storage: Storage, tenant: str, user: str) -> None:
    """A batch whose job was removed when its time was over, and a webhook."""
    who = Principal(tenant, user)
    now = time.time()
    await BatchRecords(storage).add(Batch(new_id(), who, "/v1/embeddings", "file-1", "24h", now, now))
    webhook = Webhook(tenant, new_id(), "https://example.com/", states=("cancelled",), created_by=user)
    await storage.insert_row(webhooks.TABLE, webhook.to_row())


def test_nothing_of_a_user_is_left(tenant: Tenant):
    collection = tenant.collection()
    key = tenant.other("mortimer-quill", roles=("contributor",))
    mine = Tenant(tenant.stack, tenant.name, key)
    mine.put(collection, "mine.txt", "The zanzibar crate of mortimer-quill.")
    mine.put(collection, "mine.txt", "The second zanzibar crate.")
    tenant.put(collection, "ours.txt", "The marzipan crate.")
    asked = {
        "collections": [collection],
        "messages": [{"role": "user", "content": "Where is the zanzibar crate?"}],
    }
    answer = mine.call("POST", "/api/chat", asked, headers={"Prefer": "respond-async"})
    mine.finished(answer.json["id"])
    in_storage(tenant.stack.storage, lambda storage: leave_traces(storage, tenant.name, "mortimer-quill"))
    assert b"mortimer-quill" in all_that_is_stored(tenant)
    job, nonce = erase(tenant, user="mortimer-quill")
    assert job["state"] == "succeeded", job
    receipt = check_receipt(tenant, job, nonce, "user", "mortimer-quill")
    assert receipt["removed"]["documents"] == 1
    assert receipt["removed"]["jobs"] == 3
    assert receipt["removed"]["keys"] == 1
    assert (receipt["removed"]["batches"], receipt["removed"]["webhooks"]) == (1, 1)
    assert tenant.found(collection, "crate") == ["ours.txt"]
    stored = all_that_is_stored(tenant)
    assert b"mortimer-quill" not in stored
    assert b"zanzibar" not in stored


def test_an_erasure_names_one_subject(tenant: Tenant):
    for body in ({}, {"user": "a", "source": "b"}, {"user": ""}, {"tenant": "x"}):
        check_problem(tenant.call("POST", "/api/erasures", body), 400, "invalid_request")
    check_problem(tenant.call("GET", "/api/erasures/nothing"), 404, "not_found")
