"""Quotas over HTTP: what a tenant at its limit may still do, and what it is told."""

from __future__ import annotations

import json
import time

import pytest
from edge_tenant import Tenant, check_problem, in_storage

from shared.limits import UNLIMITED, Source, TenantLimits
from shared.storage import Storage

pytestmark = pytest.mark.security("API4", "LLM10")


def limit(tenant: Tenant, **limits: int) -> None:
    """As the platform's administrator limits a tenant."""

    async def put(storage: Storage) -> None:
        await TenantLimits(storage, UNLIMITED).put(tenant.name, Source.PLATFORM, limits)

    in_storage(tenant.stack.storage, put)


def present(tenant: Tenant, quota: str) -> int:
    return tenant.call("GET", "/api/quotas").json[quota]["present"]


def test_a_document_too_many_is_refused_whole_and_room_can_be_made(tenant: Tenant):
    limit(tenant, documents=2, bytes=100)
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "a" * 40)
    tenant.put(collection, "b.txt", "b" * 40)
    before = tenant.stored()
    refused = check_problem(tenant.send(collection, "c.txt", "c"), 403, "quota_exceeded")
    assert (refused["quota"], refused["limit"], refused["present"]) == ("documents", 2, 2)
    many = {"documents": [{"id": "a.txt", "content": "a"}, {"id": "c.txt", "content": "c"}]}
    answer = tenant.call("POST", f"/api/collections/{collection}/ingestions", many)
    check_problem(answer, 403, "quota_exceeded")
    large = check_problem(tenant.send(collection, "b.txt", "b" * 61), 403, "quota_exceeded")
    assert (large["quota"], large["present"]) == ("bytes", 80)
    assert tenant.stored() == before
    assert tenant.put(collection, "b.txt", "b" * 60)["state"] == "succeeded"
    assert (present(tenant, "documents"), present(tenant, "bytes")) == (2, 100)
    gone = tenant.call("DELETE", f"/api/collections/{collection}/documents/a.txt")
    assert tenant.finished(gone.json["id"])["state"] == "succeeded"
    assert tenant.put(collection, "c.txt", "c" * 40)["state"] == "succeeded"
    gone = tenant.call("DELETE", f"/api/collections/{collection}")
    assert tenant.finished(gone.json["id"])["state"] == "succeeded"
    assert (present(tenant, "documents"), present(tenant, "bytes")) == (0, 0)
    assert present(tenant, "running_jobs") == 0


def test_jobs_beyond_the_days_number_are_refused_but_not_a_deletion_and_not_an_event(tenant: Tenant):
    limit(tenant, jobs_per_day=2)
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "One.")
    tenant.put(collection, "b.txt", "Two.")
    before = tenant.stored()
    answer = tenant.send(collection, "c.txt", "Three.")
    refused = check_problem(answer, 429, "quota_exceeded")
    assert refused["retryable"]
    assert 0 < int(answer.headers["retry-after"]) <= 86_400
    question = {"collections": [collection], "messages": [{"role": "user", "content": "One?"}]}
    later = tenant.call("POST", "/api/chat", question, headers={"Prefer": "respond-async"})
    check_problem(later, 429, "quota_exceeded")
    assert tenant.call("POST", "/api/chat", question).status == 200
    after = tenant.stored()
    kept = ("documents", "table jobs", "raw")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert present(tenant, "documents") == 2
    assert tenant.call("DELETE", f"/api/collections/{collection}/documents/a.txt").status == 202
    _send(tenant, {"documents": [{"id": "d.txt", "content": "Four."}]}, collection)
    assert "d.txt" in _until_found(tenant, collection, "Four")


def test_an_event_beyond_the_documents_of_a_tenant_is_a_failed_job_that_says_so(tenant: Tenant):
    limit(tenant, documents=1)
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "One.")
    _send(tenant, {"documents": [{"id": "b.txt", "content": "Two."}]}, collection)
    for _ in range(200):
        failed = [job for job in tenant.jobs() if job["state"] == "failed"]
        if failed:
            break
        time.sleep(0.1)
    assert failed[0]["errors"][0]["code"] == "quota_exceeded"


def test_documents_beyond_those_that_are_not_finished_are_to_come_later(tenant: Tenant):
    limit(tenant, unfinished_documents=3)
    collection = tenant.collection()
    many = {"documents": [{"id": f"{number}.txt", "content": "Words."} for number in range(4)]}
    path = f"/api/collections/{collection}/ingestions"
    first = tenant.call("POST", path, many)
    assert first.status == 202
    answer = tenant.call("POST", path, many)
    refused = check_problem(answer, 429, "quota_exceeded")
    assert (refused["quota"], refused["limit"], refused["present"]) == ("unfinished_documents", 3, 4)
    assert int(answer.headers["retry-after"]) > 0
    assert tenant.finished(first.json["id"])["state"] == "succeeded"
    assert present(tenant, "unfinished_documents") == 0
    assert tenant.call("POST", path, many).status == 202


def _send(tenant: Tenant, body: dict, collection: str) -> None:
    message = json.dumps({"tenant": tenant.name, "collection": collection, **body})
    in_storage(tenant.stack.storage, lambda storage: storage.send("ingestion-requests", message))


def _until_found(tenant: Tenant, collection: str, query: str) -> list[str]:
    for _ in range(200):
        found = tenant.found(collection, query)
        if len(found) > 1:
            break
        time.sleep(0.1)
    return found
