"""Events: blobs in the inbox and messages on the queue become jobs, and never vanish."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from edge_tenant import Tenant, in_storage

from functions.events import MAX_DEQUEUE_COUNT
from shared.config import APP_ROOT
from shared.storage import BLOB_POISON_QUEUE, INBOX, INGESTION_POISON_QUEUE, INGESTION_QUEUE, Storage

WAIT_SECONDS = 60


def drop(tenant: Tenant, name: str, data: bytes) -> None:
    """Write a blob into the tenant's inbox."""

    async def write(storage: Storage) -> None:
        await storage.put_blob(INBOX, f"{tenant.name}/{name}", data)

    in_storage(tenant.stack.storage, write)


def send(tenant: Tenant, *messages: Any) -> None:
    async def write(storage: Storage) -> None:
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            await storage.send(INGESTION_QUEUE, text)

    in_storage(tenant.stack.storage, write)


def jobs_when(tenant: Tenant, count: int) -> list[dict[str, Any]]:
    """The tenant's jobs, newest first, once there are ``count`` and all have ended."""
    deadline = time.monotonic() + WAIT_SECONDS
    while len(jobs := tenant.jobs()) < count:
        assert time.monotonic() < deadline, jobs
        time.sleep(0.1)
    assert len(jobs) == count
    return [tenant.finished(job["id"]) for job in jobs]


def settled(tenant: Tenant) -> None:
    """Return when an event that came before now must have been handled: by one that came after it."""
    other = Tenant(tenant.stack, tenant.stack.new_tenant(), "")
    other.key = tenant.stack.key_for(other.name)
    other.collection("c")
    drop(other, "c/marker.txt", b"A marker.")
    send(tenant, {"tenant": other.name, "collection": "c", "documents": [{"id": "m.txt", "content": "m"}]})
    jobs_when(other, 2)


# --- blobs ---


def test_a_blob_in_the_inbox_becomes_a_document(tenant: Tenant):
    collection = tenant.collection()
    drop(tenant, f"{collection}/2025/june/report.txt", b"The june report on fog.")
    (job,) = jobs_when(tenant, 1)
    assert (job["kind"], job["state"], job["collection"]) == ("ingestion", "succeeded", collection)
    assert tenant.found(collection, "fog") == ["2025/june/report.txt"]
    record = tenant.record(collection, "2025/june/report.txt").json
    assert (record["source"], record["version"]) == ("inbox", 1)


def test_a_blob_written_again_is_a_new_version_and_no_event_counts_twice(tenant: Tenant):
    collection = tenant.collection()
    drop(tenant, f"{collection}/a.txt", b"First words on fog.")
    jobs_when(tenant, 1)
    settled(tenant)
    assert len(tenant.jobs()) == 1
    drop(tenant, f"{collection}/a.txt", b"Second words on fog.")
    assert {job["state"] for job in jobs_when(tenant, 2)} == {"succeeded"}
    assert tenant.chunks(collection) == [("a.txt", 2, 0, "Second words on fog.")]


def test_blobs_written_over_and_over_end_in_what_was_written_last(tenant: Tenant):
    collection = tenant.collection()
    for number in range(8):
        drop(tenant, f"{collection}/a.txt", f"Words number {number}.".encode())
    settled(tenant)
    for job in tenant.jobs():
        assert tenant.finished(job["id"])["state"] == "succeeded"
    assert [text for _, _, _, text in tenant.chunks(collection)] == ["Words number 7."]


def test_a_blob_for_a_collection_that_is_not_there_is_a_failed_job(tenant: Tenant):
    drop(tenant, "nowhere/a.txt", b"Lost words.")
    (job,) = jobs_when(tenant, 1)
    assert (job["state"], job["collection"]) == ("failed", "nowhere")
    assert [(error["item"], error["code"]) for error in job["errors"]] == [("a.txt", "not_found")]
    assert tenant.call("GET", f"/api/jobs/{job['id']}/result").json["items"] == []


def test_a_blob_that_cannot_be_read_is_a_failed_job(tenant: Tenant):
    collection = tenant.collection()
    drop(tenant, f"{collection}/a.exe", b"MZ\x90\x00\x03")
    drop(tenant, f"{collection}/b.txt", b"")
    jobs = jobs_when(tenant, 2)
    assert {job["state"] for job in jobs} == {"failed"}
    assert {(e["item"], e["code"]) for job in jobs for e in job["errors"]} == {
        ("a.exe", "unsupported_media_type"),
        ("b.txt", "empty_document"),
    }


def test_a_blob_that_names_no_document_is_a_failed_job(tenant: Tenant):
    drop(tenant, "no-collection.txt", b"Nowhere to go.")
    drop(tenant, "Not-A-Name/a.txt", b"Nowhere to go.")
    jobs = jobs_when(tenant, 2)
    assert {job["errors"][0]["code"] for job in jobs} == {"invalid_name"}
    assert {job["title"] for job in jobs} == {"Refused: no-collection.txt", "Refused: a.txt"}


def test_a_refused_blob_is_played_again_by_a_retry_of_its_job(tenant: Tenant):
    drop(tenant, "later/a.txt", b"Played again at last.")
    (refused,) = jobs_when(tenant, 1)
    assert (refused["state"], refused["errors"][0]["code"]) == ("failed", "not_found")
    assert retried(tenant, refused["id"])["errors"][0]["code"] == "not_found"
    tenant.collection("later")
    played = retried(tenant, refused["id"])
    assert (played["state"], played["counts"], played["attempt"]) == ("succeeded", {"indexed": 1}, 3)
    assert played["title"] == "Ingest a.txt"
    assert tenant.found("later", "played") == ["a.txt"]


def retried(tenant: Tenant, job: str) -> dict[str, Any]:
    assert tenant.call("POST", f"/api/jobs/{job}/retry").status == 202
    return tenant.finished(job)


# --- messages ---


def test_a_message_with_documents_starts_an_ingestion(tenant: Tenant):
    collection = tenant.collection()
    documents = [{"id": f"{n}.txt", "content": f"Signal {n} of the mast."} for n in range(3)]
    send(tenant, {"tenant": tenant.name, "collection": collection, "documents": documents})
    (job,) = jobs_when(tenant, 1)
    assert (job["state"], job["counts"]) == ("succeeded", {"indexed": 3})
    assert sorted(tenant.found(collection, "signal mast")) == ["0.txt", "1.txt", "2.txt"]


def test_freshness_counts_from_the_event(tenant: Tenant):
    collection = tenant.collection()
    # Seen by the host ten seconds after it was sent.
    message = {
        "tenant": tenant.name,
        "collection": collection,
        "documents": [{"id": "a.txt", "content": "A"}],
    }

    async def late(storage: Storage) -> None:
        queue = storage._queues().get_queue_client(INGESTION_QUEUE)
        await queue.send_message(json.dumps(message), visibility_timeout=10)

    in_storage(tenant.stack.storage, late)
    (job,) = jobs_when(tenant, 1)
    (outcome,) = tenant.call("GET", f"/api/jobs/{job['id']}/result").json["items"]
    assert outcome["freshness_seconds"] >= 9
    assert tenant.record(collection, "a.txt").json["freshness_seconds"] >= 9


def test_a_message_can_name_a_part_of_the_inbox(tenant: Tenant):
    collection = tenant.collection()
    send(tenant, {"tenant": tenant.name, "collection": collection, "inbox_prefix": "nothing/"})
    (job,) = jobs_when(tenant, 1)
    assert (job["state"], job["progress"]["total"]) == ("succeeded", 0)
    drop(tenant, f"{collection}/part/a.txt", b"A part of the inbox.")
    jobs_when(tenant, 2)
    send(tenant, {"tenant": tenant.name, "collection": collection, "inbox_prefix": "part/"})
    again = jobs_when(tenant, 3)[0]
    assert (again["state"], again["counts"]) == ("succeeded", {"unchanged": 1})


def test_messages_with_the_same_id_are_one_job(tenant: Tenant):
    collection = tenant.collection()
    message = {
        "tenant": tenant.name,
        "collection": collection,
        "id": "delivery-1",
        "documents": [{"id": "a.txt", "content": "Delivered once."}],
    }
    send(tenant, *[message] * 6)
    settled_job = jobs_when(tenant, 1)[0]
    send(tenant, *[message] * 2)
    settled(tenant)
    assert [job["id"] for job in tenant.jobs()] == [settled_job["id"]]
    assert tenant.chunks(collection) == [("a.txt", 1, 0, "Delivered once.")]
    record = tenant.record(collection, "a.txt").json
    assert (record["state"], record["version"]) == ("indexed", 1)


def test_a_message_that_can_never_succeed_is_a_failed_job_with_its_reason(tenant: Tenant):
    collection = tenant.collection()
    head = {"tenant": tenant.name, "collection": collection}
    good = {"id": "a.txt", "content": "Good."}
    send(
        tenant,
        {**head, "documents": [good, {"id": "../b.txt", "content": "b"}]},
        {**head, "documents": [good, good]},
        {**head, "documents": []},
        {**head, "documents": [{"id": "a.exe", "content": "b"}]},
        {**head, "document": good},
        {**head, "collection": "nowhere", "documents": [good]},
    )
    jobs = jobs_when(tenant, 6)
    assert {job["state"] for job in jobs} == {"failed"}
    assert sorted(job["errors"][0]["code"] for job in jobs) == [
        "invalid_name",
        "invalid_request",
        "invalid_request",
        "invalid_request",
        "not_found",
        "unsupported_media_type",
    ]
    assert tenant.search(collection, " ", count=True)["count"] == 0


def test_a_refused_message_can_be_played_again(tenant: Tenant):
    message = {
        "tenant": tenant.name,
        "collection": "later",
        "id": "play-me",
        "documents": [{"id": "a.txt", "content": "Played again."}],
    }
    send(tenant, message)
    (refused,) = jobs_when(tenant, 1)
    assert (refused["state"], refused["errors"][0]["code"]) == ("failed", "not_found")
    tenant.collection("later")
    send(tenant, message)
    played = jobs_when(tenant, 2)[0]
    assert played["state"] == "succeeded"
    assert tenant.found("later", "played") == ["a.txt"]


def test_a_refused_message_is_played_again_by_a_retry_of_its_job(tenant: Tenant):
    send(
        tenant,
        {
            "tenant": tenant.name,
            "collection": "later",
            "documents": [{"id": "a.txt", "content": "Played by a retry."}],
        },
    )
    (refused,) = jobs_when(tenant, 1)
    assert refused["errors"][0]["code"] == "not_found"
    tenant.collection("later")
    assert retried(tenant, refused["id"])["counts"] == {"indexed": 1}
    assert tenant.found("later", "played") == ["a.txt"]
    assert len(tenant.jobs()) == 1


def test_a_message_in_the_poison_queue_is_a_failed_job_that_can_be_played_again(tenant: Tenant):
    collection = tenant.collection()
    message = {
        "tenant": tenant.name,
        "collection": collection,
        "documents": [{"id": "a.txt", "content": "Back from the poison queue."}],
    }

    async def put(storage: Storage) -> None:
        await storage.send(INGESTION_POISON_QUEUE, json.dumps(message))

    in_storage(tenant.stack.storage, put)
    (poisoned,) = jobs_when(tenant, 1)
    assert (poisoned["state"], poisoned["errors"][0]["code"]) == ("failed", "poisoned")
    assert poisoned["errors"][0]["retryable"]
    assert retried(tenant, poisoned["id"])["state"] == "succeeded"
    assert tenant.found(collection, "poison queue") == ["a.txt"]


def test_a_blob_in_the_poison_queue_is_a_failed_job_that_can_be_played_again(tenant: Tenant):
    collection = tenant.collection()
    drop(tenant, f"{collection}/a.txt", b"Back from the poison queue.")
    jobs_when(tenant, 1)
    poison = {"ContainerName": INBOX, "BlobName": f"{tenant.name}/{collection}/a.txt", "ETag": '"1"'}

    async def put(storage: Storage) -> None:
        await storage.send(BLOB_POISON_QUEUE, json.dumps(poison))

    in_storage(tenant.stack.storage, put)
    poisoned = jobs_when(tenant, 2)[0]
    assert (poisoned["state"], poisoned["errors"][0]["code"]) == ("failed", "poisoned")
    assert retried(tenant, poisoned["id"])["counts"] == {"unchanged": 1}


def test_a_message_that_names_no_tenant_is_a_failed_job_of_the_operators(stack):
    text = f"no JSON {uuid.uuid4().hex}"
    before = {job["id"] for job in operators_jobs(stack)}

    async def put(storage: Storage) -> None:
        await storage.send(INGESTION_POISON_QUEUE, text)

    in_storage(stack.storage, put)
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := [job for job in operators_jobs(stack) if job["id"] not in before]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    job = stack.finished(found[0]["id"])
    assert (job["title"], job["errors"][0]["code"]) == ("Refused: message", "malformed_json")
    status, _ = stack.call("POST", f"/api/jobs/{job['id']}/retry")
    assert status == 202
    again = stack.finished(job["id"])
    assert (again["state"], again["attempt"]) == ("failed", 2)
    assert again["errors"][0]["code"] == "malformed_json"


def operators_jobs(stack: Any) -> list[dict[str, Any]]:
    return stack.call("GET", "/api/jobs?limit=200")[1]["items"]


def test_the_tries_of_a_message_are_those_of_the_host():
    host = json.loads((APP_ROOT / "host.json").read_text())
    assert host["extensions"]["queues"]["maxDequeueCount"] == MAX_DEQUEUE_COUNT
