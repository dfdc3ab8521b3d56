"""Many documents as one job: accepted, told of, cancelled, tried again; and how jobs are listed."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import pytest
from edge_tenant import Answer, Tenant, call, check_problem, in_storage, server_sent_events

from functions.jobs import RESULT_PAGE_SHARDS
from shared.knowledge.ingestion import SHARD_DOCUMENTS
from shared.storage import INBOX, JOBS


def start(tenant: Tenant, collection: str, body: dict[str, Any], **headers: str) -> Answer:
    return tenant.call("POST", f"/api/collections/{collection}/ingestions", body, headers=headers)


def inline(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "content": f"The file {name} tells of lighthouses."} for name in names]


def put_inbox(tenant: Tenant, collection: str, blobs: dict[str, bytes]) -> None:
    async def write(storage: Any) -> None:
        for name, data in blobs.items():
            await storage.put_blob(INBOX, f"{tenant.name}/{collection}/{name}", data)

    in_storage(tenant.stack.storage, write)


def test_documents_come_as_text_or_in_base64_with_their_own_fields(tenant: Tenant):
    collection = tenant.collection()
    job = tenant.ingest(
        collection,
        [
            {"id": "a.md", "content": "# Buoys\n\nRed to port.", "title": "Buoys", "tags": ["sea", "rule"]},
            {"id": "b", "content_base64": base64.b64encode(b"Green to starboard.").decode()},
            {"id": "c", "content": "Lights at night.", "content_type": "text/plain", "source": "almanac"},
        ],
    )
    assert (job["state"], job["counts"]) == ("succeeded", {"indexed": 3})
    hits = {hit["document"]: hit for hit in tenant.search(collection, " ")["hits"]}
    assert (hits["a.md"]["title"], sorted(hits["a.md"]["tags"])) == ("Buoys", ["rule", "sea"])
    assert hits["a.md"]["media_type"] == "text/markdown"
    assert (hits["c"]["source"], hits["b"]["text"]) == ("almanac", "Green to starboard.")
    tagged = tenant.found(collection, "port", filter={"field": "tags", "any": ["sea"]})
    assert tagged == ["a.md"]


def test_an_ingestion_where_some_fail_is_partial_and_a_retry_takes_only_those(tenant: Tenant):
    collection = tenant.collection()
    documents = [*inline("good-1.txt", "good-2.txt"), {"id": "bad.txt", "content": ""}]
    job = tenant.ingest(collection, documents)
    assert (job["state"], job["counts"]) == ("partial", {"indexed": 2, "failed": 1})
    assert [(error["item"], error["code"]) for error in job["errors"]] == [("bad.txt", "empty_document")]
    assert job["progress"]["done"] == job["progress"]["total"] == 3
    items = tenant.call("GET", f"/api/jobs/{job['id']}/result").json["items"]
    assert {item["id"]: item["state"] for item in items} == {
        "good-1.txt": "indexed",
        "good-2.txt": "indexed",
        "bad.txt": "failed",
    }
    before = tenant.chunks(collection)

    again = tenant.call("POST", f"/api/jobs/{job['id']}/retry")
    assert again.status == 202
    assert (again.json["id"], again.json["attempt"]) == (job["id"], 2)
    second = tenant.finished(job["id"])
    assert (second["state"], second["counts"], second["progress"]["total"]) == ("failed", {"failed": 1}, 1)
    assert tenant.chunks(collection) == before


def test_a_job_that_succeeded_can_be_neither_retried_nor_cancelled(tenant: Tenant):
    collection = tenant.collection()
    job = tenant.put(collection, "a.txt", "One keeper.")
    assert not job["links"].keys() & {"cancel", "retry"}
    for action in ("retry", "cancel"):
        problem = check_problem(tenant.call("POST", f"/api/jobs/{job['id']}/{action}"), 409, "conflict")
        assert problem["state"] == "succeeded"


def test_an_idempotency_key_gives_the_same_job_and_changes_nothing(tenant: Tenant):
    collection = tenant.collection()
    first = start(tenant, collection, {"documents": inline("a.txt")}, **{"Idempotency-Key": "k-1"}).json
    repeated = start(tenant, collection, {"documents": inline("a.txt")}, **{"Idempotency-Key": "k-1"})
    assert (repeated.status, repeated.json["id"]) == (202, first["id"])
    tenant.finished(first["id"])
    again = start(tenant, collection, {"documents": inline("a.txt")}, **{"Idempotency-Key": "k-1"})
    assert (again.status, again.json["id"], again.json["state"]) == (202, first["id"], "succeeded")
    # with another body: refused, and its documents are as they were
    other = start(tenant, collection, {"documents": inline("b.txt")}, **{"Idempotency-Key": "k-1"})
    assert not check_problem(other, 422, "idempotency_key_reused")["retryable"]
    listed = tenant.call("GET", f"/api/collections/{collection}/documents").json["items"]
    assert [(item["id"], item["version"]) for item in listed] == [("a.txt", 1)]
    result = tenant.call("GET", f"/api/jobs/{first['id']}/result").json
    assert [item["id"] for item in result["items"]] == ["a.txt"]
    third = start(tenant, collection, {"documents": inline("a.txt")}, **{"Idempotency-Key": "k-2"}).json
    assert third["id"] != first["id"]
    tenant.finished(third["id"])


def test_a_key_whose_request_was_refused_serves_the_request_that_is_mended(tenant: Tenant):
    collection = tenant.collection()
    headers = {"Idempotency-Key": "mended"}
    refused = start(tenant, collection, {"documents": [{"id": "../a.txt", "content": "a"}]}, **headers)
    check_problem(refused, 400, "invalid_name")
    mended = start(tenant, collection, {"documents": inline("a.txt")}, **headers)
    assert mended.status == 202
    tenant.finished(mended.json["id"])
    other = start(tenant, collection, {"documents": inline("b.txt")}, **headers)
    check_problem(other, 422, "idempotency_key_reused")


def test_of_two_requests_with_one_key_at_once_one_is_done_and_the_other_changes_nothing(tenant: Tenant):
    collection = tenant.collection()
    headers = {"Idempotency-Key": "two-at-once"}
    answers: list[Answer] = []

    def send(name: str) -> None:
        answers.append(start(tenant, collection, {"documents": inline(name)}, **headers))

    senders = [threading.Thread(target=send, args=(f"{number % 2}.txt",)) for number in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert {answer.status for answer in answers} == {202, 422}
    (job,) = {answer.json["id"] for answer in answers if answer.status == 202}
    tenant.finished(job)
    listed = tenant.call("GET", f"/api/collections/{collection}/documents").json["items"]
    assert [item["state"] for item in listed] == ["indexed"]
    result = tenant.call("GET", f"/api/jobs/{job}/result").json
    assert [item["id"] for item in result["items"]] == [listed[0]["id"]]


def test_query_and_content_type_belong_to_what_a_key_stands_for(tenant: Tenant):
    path = f"/api/collections/{tenant.collection()}/documents/a.txt"
    headers = {"Idempotency-Key": "one-document", "Content-Type": "text/plain"}
    job = tenant.call("PUT", f"{path}?title=One", b"Words.", headers=headers).json["id"]
    assert tenant.call("PUT", f"{path}?title=One", b"Words.", headers=headers).json["id"] == job
    other_type = {**headers, "Content-Type": "text/markdown"}
    for url, body, sent in (
        (f"{path}?title=Two", b"Words.", headers),
        (f"{path}?title=One", b"Words!", headers),
        (f"{path}?title=One", b"Words.", other_type),
    ):
        check_problem(tenant.call("PUT", url, body, headers=sent), 422, "idempotency_key_reused")
    tenant.finished(job)
    assert tenant.record(path.split("/")[3], "a.txt").json["version"] == 1


def test_an_idempotency_key_belongs_to_one_user_and_one_route(tenant: Tenant):
    collection = tenant.collection()
    headers = {"Idempotency-Key": "shared"}
    one = start(tenant, collection, {"documents": inline("a.txt")}, **headers).json["id"]
    path = f"/api/collections/{collection}/documents/a.txt"
    two = tenant.call("PUT", path, b"Two.", headers=headers).json["id"]
    three = tenant.call("DELETE", path, headers=headers).json["id"]
    colleague = tenant.other("colleague", roles=("contributor",))
    four = tenant.call("PUT", path, b"Four.", key=colleague, headers=headers).json["id"]
    assert len({one, two, three, four}) == 4
    assert tenant.call("DELETE", path, headers=headers).json["id"] == three
    for job in (one, two, three, four):
        tenant.finished(job)


def test_the_same_ingestion_sent_at_once_many_times_runs_once(tenant: Tenant):
    collection = tenant.collection()
    answers: list[Answer] = []
    headers = {"Idempotency-Key": "at-once"}

    def send() -> None:
        answers.append(start(tenant, collection, {"documents": inline("a.txt", "b.txt")}, **headers))

    senders = [threading.Thread(target=send) for _ in range(6)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert {answer.status for answer in answers} == {202}
    (job,) = {answer.json["id"] for answer in answers}
    assert tenant.finished(job)["counts"] == {"indexed": 2}
    assert len(tenant.jobs()) == 1
    assert {chunk[1] for chunk in tenant.chunks(collection)} == {1}
    listed = tenant.call("GET", f"/api/collections/{collection}/documents").json["items"]
    assert {(item["version"], item["state"]) for item in listed} == {(1, "indexed")}


def test_jobs_are_listed_newest_first_in_pages(tenant: Tenant):
    collection = tenant.collection()
    made = [tenant.send(collection, f"{number}.txt", f"Number {number}.").json["id"] for number in range(5)]
    for job in made:
        tenant.finished(job)
    seen: list[str] = []
    after = ""
    while True:
        page = tenant.call("GET", f"/api/jobs?limit=2{after}").json
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == made[::-1]
    assert {item["state"] for item in tenant.jobs()} == {"succeeded"}


def test_results_come_in_pages_that_hold_each_document_once(tenant: Tenant):
    collection = tenant.collection()
    count = SHARD_DOCUMENTS * RESULT_PAGE_SHARDS + 1  # one shard more than a page shows
    names = [f"{number:04d}.txt" for number in range(count)]
    job = tenant.ingest(collection, [{"id": name, "content": ""} for name in names])
    assert (job["state"], job["counts"]) == ("failed", {"failed": count})
    assert len(job["errors"]) == 50
    seen: list[str] = []
    page: str | None = "1"
    pages = 0
    while page is not None:
        document = tenant.call("GET", f"/api/jobs/{job['id']}/result?page={page}").json
        seen += [item["id"] for item in document["items"]]
        page, pages = document["next"], pages + 1
    assert pages == 2
    assert sorted(seen) == names


def test_errors_with_the_longest_names_still_end_the_job(tenant: Tenant):
    collection = tenant.collection()
    documents = [{"id": f"{number:03d}" + "n" * 890 + ".txt", "content": ""} for number in range(60)]
    job = tenant.ingest(collection, documents)
    assert (job["state"], job["counts"]) == ("failed", {"failed": 60})
    assert 20 < len(job["errors"]) < 50


def test_events_tell_the_job_until_its_end(tenant: Tenant):
    collection = tenant.collection()
    job = start(tenant, collection, {"documents": inline(*(f"{n}.txt" for n in range(20)))}).json["id"]
    events = list(server_sent_events(tenant.call("GET", f"/api/jobs/{job}/events")))
    assert {name for name, _ in events} == {"status"}
    states = [status["state"] for _, status in events]
    assert states[-1] == "succeeded"
    assert not {*states[:-1]} & {"succeeded", "failed"}
    done = [status["progress"]["done"] for _, status in events]
    assert done == sorted(done)
    assert done[-1] == 20
    # a job that has ended tells its state once
    assert len(list(server_sent_events(tenant.call("GET", f"/api/jobs/{job}/events")))) == 1


def test_a_result_is_not_given_before_the_end(tenant: Tenant):
    collection = tenant.collection()
    long = [{"id": f"{n}.txt", "content": f"Page {n} of the log. " * 100} for n in range(8)]
    job = start(tenant, collection, {"documents": long}).json["id"]
    problem = check_problem(tenant.call("GET", f"/api/jobs/{job}/result"), 409, "conflict")
    assert problem["state"] in ("queued", "running")
    assert problem["retry_after"] > 0
    tenant.call("POST", f"/api/jobs/{job}/cancel")
    tenant.finished(job)


# --- cancel ---


def test_a_cancelled_ingestion_stops_soon_and_a_retry_completes_it(tenant: Tenant):
    collection = tenant.collection()
    documents = [{"id": f"{n:03d}.txt", "content": f"Voyage {n} began in port {n}. " * 6} for n in range(600)]
    job = start(tenant, collection, {"documents": documents}).json["id"]
    while tenant.call("GET", f"/api/jobs/{job}").json["progress"]["stages"][1]["done"] == 0:
        time.sleep(0.02)
    cancel = tenant.call("POST", f"/api/jobs/{job}/cancel")
    assert cancel.status == 202
    assert cancel.json["cancel_requested"] is True
    at_cancel = tenant.call("GET", f"/api/jobs/{job}").json["progress"]["stages"][1]["done"]
    status = tenant.finished(job)
    assert status["state"] == "cancelled"
    assert status["counts"].get("cancelled", 0) > 0
    # one batch in each of the four shards in flight may have been with the model already
    assert status["progress"]["stages"][1]["done"] <= at_cancel + 4 * SHARD_DOCUMENTS
    visible = {chunk[0] for chunk in tenant.chunks(collection)}
    assert len(visible) == status["counts"].get("indexed", 0)
    assert (
        tenant.call("POST", f"/api/jobs/{job}/cancel").status == 202
    )  # it is cancelled: nothing to object to

    tenant.call("POST", f"/api/jobs/{job}/retry")
    again = tenant.finished(job)
    assert again["state"] == "succeeded"
    assert again["progress"]["total"] == 600 - len(visible)
    chunks = tenant.chunks(collection)
    assert {chunk[0] for chunk in chunks} == {document["id"] for document in documents}
    assert tenant.search(collection, " ", count=True)["count"] == len(chunks) == len(set(chunks))
    listed = tenant.call("GET", f"/api/collections/{collection}/documents?limit=1000").json["items"]
    assert {item["state"] for item in listed} == {"indexed"}


# --- from the inbox ---


def test_the_blobs_under_a_prefix_of_the_inbox_become_documents(tenant: Tenant):
    collection = tenant.collection()
    other = tenant.collection()
    blobs = {
        "log/a.txt": b"The log of the Alba.",
        "log/cafe\u0301.txt": b"The log of the cafe.",
        "log/empty.txt": b"",
        "log/bad//name.txt": b"No such name.",
        "log/what.exe": b"MZ\x90\x00\x03",
        "notes/b.txt": b"A note.",
    }
    # put where no event listens for this collection, as one that came before the collection did
    put_inbox(tenant, collection, blobs)
    put_inbox(tenant, other, {"log/c.txt": b"The log of another collection."})
    job = start(tenant, collection, {"inbox_prefix": "log/"}).json
    status = tenant.finished(job["id"])
    assert status["state"] == "partial", status
    assert {error["item"]: error["code"] for error in status["errors"]} == {
        "log/empty.txt": "empty_document",
        "log/bad//name.txt": "invalid_name",
        "log/what.exe": "unsupported_media_type",
    }
    items = tenant.call("GET", f"/api/jobs/{job['id']}/result").json["items"]
    good = {item["id"] for item in items if item["state"] != "failed"}
    assert good == {"log/a.txt", "log/caf\u00e9.txt"}
    found = set(tenant.found(collection, "log of the Alba"))
    assert good <= found
    assert "log/c.txt" not in found


@pytest.mark.parametrize("prefix", ["../", "..", "/", "nothing/"])
def test_a_prefix_does_not_lead_out_of_the_collections_inbox(tenant: Tenant, prefix: str):
    collection = tenant.collection()
    job = start(tenant, collection, {"inbox_prefix": prefix})
    assert job.status == 202
    status = tenant.finished(job.json["id"])
    assert (status["state"], status["counts"], status["progress"]["total"]) == ("succeeded", {}, 0)


def test_nothing_of_the_texts_stays_with_a_finished_job(tenant: Tenant):
    collection = tenant.collection()
    job = tenant.ingest(collection, inline("a.txt", "b.txt"))

    async def kept(storage: Any) -> bytes:
        names = [blob.name async for blob in storage.list_blobs(JOBS, f"{tenant.name}/{job['id']}/")]
        assert names
        return b"".join([await storage.get_blob(JOBS, name) or b"" for name in names])

    assert b"lighthouses" not in in_storage(tenant.stack.storage, kept)


def test_a_job_is_its_owners_and_the_contributors(tenant: Tenant):
    collection = tenant.collection()
    job = tenant.put(collection, "a.txt", "One keeper.")["id"]
    reader, contributor = tenant.other("bob"), tenant.other("carol", roles=("contributor",))
    for path in (f"/api/jobs/{job}", f"/api/jobs/{job}/result", f"/api/jobs/{job}/events"):
        assert call(tenant.stack.url, "GET", path, key=contributor).status == 200
        check_problem(call(tenant.stack.url, "GET", path, key=reader), 404, "not_found")
    assert call(tenant.stack.url, "GET", "/api/jobs", key=reader).json["items"] == []
