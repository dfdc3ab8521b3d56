"""One document over HTTP: put, read, found, replaced, deleted; and what is told of an unreadable one."""

from __future__ import annotations

import hashlib
import io
import re
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from edge_tenant import Tenant, check_problem, in_storage

from shared.knowledge.media import Media
from shared.storage import PARSED, RAW, Storage

SAMPLES = Path(__file__).parents[2] / "samples" / "documents"


def smallest_samples() -> dict[str, Path]:
    """The smallest sample of each type."""
    files = sorted((path for path in SAMPLES.rglob("*.*") if path.is_file()), key=lambda p: -p.stat().st_size)
    return {path.suffix: path for path in files}


SAMPLE_OF_TYPE = smallest_samples()


def test_the_samples_hold_every_type_that_is_supported():
    assert len(SAMPLE_OF_TYPE) == len(Media)


@pytest.fixture(scope="module")
def samples(shared_tenant: Tenant) -> tuple[Tenant, str, dict[str, dict]]:
    """A sample of each type put into one collection, with the status of each job."""
    collection = shared_tenant.collection()
    accepted = {}
    for suffix, path in SAMPLE_OF_TYPE.items():
        accepted[suffix] = shared_tenant.send(collection, f"samples/{path.name}", path.read_bytes())
        assert accepted[suffix].status == 202, accepted[suffix].body
    jobs = {}
    for suffix, answer in accepted.items():
        status = answer.json
        assert answer.headers["location"] == status["links"]["self"]
        assert urllib.parse.urlsplit(answer.headers["location"]).path == f"/api/jobs/{status['id']}"
        assert int(answer.headers["retry-after"]) >= 1
        jobs[suffix] = shared_tenant.finished(status["id"])
    return shared_tenant, collection, jobs


@pytest.mark.parametrize("suffix", sorted(SAMPLE_OF_TYPE))
def test_a_document_of_each_type_can_be_put_and_searched_and_read(samples, suffix: str):
    tenant, collection, jobs = samples
    name = f"samples/{SAMPLE_OF_TYPE[suffix].name}"
    assert jobs[suffix]["state"] == "succeeded", jobs[suffix]
    assert jobs[suffix]["counts"] == {"indexed": 1}

    record = tenant.record(collection, name).json
    assert (record["id"], record["state"], record["visible_version"]) == (name, "indexed", 1)
    assert record["size"] == SAMPLE_OF_TYPE[suffix].stat().st_size
    assert record["chunks"] >= 1

    text = tenant.record(collection, name, view="text").json
    assert len(text["chunks"]) == record["chunks"]
    start, end = text["chunks"][0]
    words = " ".join(re.findall(r"\w+", text["text"][start:end])[:12])
    hits = tenant.search(collection, words, filter={"field": "document", "eq": name})["hits"]
    assert hits
    for hit in hits:
        assert hit["document"] == name
        assert text["text"][hit["start"] : hit["end"]] == hit["text"]


def test_a_document_is_listed_once_with_its_state(samples):
    tenant, collection, _ = samples
    seen: list[str] = []
    after = ""
    while True:
        page = tenant.call("GET", f"/api/collections/{collection}/documents?limit=4{after}").json
        seen += [item["id"] for item in page["items"]]
        assert len(page["items"]) <= 4
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert sorted(seen) == sorted(f"samples/{path.name}" for path in SAMPLE_OF_TYPE.values())


# --- documents that cannot be read ---


def encrypted_pdf() -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(image_pdf(text="For those who know."))))
    writer.encrypt("a password", algorithm="AES-256")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def image_pdf(text: str = "") -> bytes:
    """A page with a picture, and with text where there is some."""
    from reportlab.pdfgen.canvas import Canvas

    target = io.BytesIO()
    canvas = Canvas(target)
    canvas.rect(100, 100, 200, 200, fill=1)
    canvas.drawString(100, 500, text)
    canvas.showPage()
    canvas.save()
    return target.getvalue()


UNREADABLE = {
    "empty.txt": (b"", "empty_document"),
    "blank.md": (b" \n\t \n", "empty_document"),
    "locked.pdf": (encrypted_pdf(), "password_protected"),
    "scan.pdf": (image_pdf(), "no_text"),
    "torn.docx": (SAMPLE_OF_TYPE[".docx"].read_bytes()[:3000], "corrupt_document"),
    "torn.pdf": (b"%PDF-1.7\n" + b"x" * 400, "corrupt_document"),
}


@pytest.fixture(scope="module")
def unreadable(shared_tenant: Tenant) -> tuple[Tenant, str, dict[str, dict]]:
    collection = shared_tenant.collection()
    sent = {name: shared_tenant.send(collection, name, content) for name, (content, _) in UNREADABLE.items()}
    return shared_tenant, collection, {n: shared_tenant.finished(a.json["id"]) for n, a in sent.items()}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_document_that_cannot_be_read_is_a_failed_job_with_the_reason(unreadable, name: str):
    tenant, collection, jobs = unreadable
    code = UNREADABLE[name][1]
    job = jobs[name]
    assert job["state"] == "failed"
    assert [(error["item"], error["code"], error["retryable"]) for error in job["errors"]] == [
        (name, code, False)
    ]
    record = tenant.record(collection, name).json
    assert (record["state"], record["visible_version"]) == ("failed", None)
    assert record["error"]["code"] == code
    assert tenant.record(collection, name, view="text").status == 404


def test_documents_that_cannot_be_read_leave_nothing_to_find(unreadable):
    tenant, collection, _ = unreadable
    assert tenant.search(collection, " ", count=True)["count"] == 0


def test_a_failed_version_leaves_the_visible_one_as_it_is(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "lamp.txt", "The lamp of the harbour is green.")
    failed = tenant.put(collection, "lamp.txt", b"")
    assert failed["state"] == "failed"
    record = tenant.record(collection, "lamp.txt").json
    assert (record["state"], record["version"], record["visible_version"]) == ("failed", 2, 1)
    assert tenant.found(collection, "harbour lamp") == ["lamp.txt"]
    assert tenant.record(collection, "lamp.txt", view="text").json["version"] == 1


# --- versions ---


def test_unchanged_content_is_told_so_and_keeps_its_version_in_sight(tenant: Tenant):
    collection = tenant.collection()
    first = tenant.put(collection, "pump.txt", "The pump in hall four is serviced in May.")
    before = tenant.chunks(collection)
    again = tenant.put(collection, "pump.txt", "The pump in hall four is serviced in May.")
    assert (first["counts"], again["counts"]) == ({"indexed": 1}, {"unchanged": 1})
    assert tenant.chunks(collection) == before
    record = tenant.record(collection, "pump.txt").json
    assert (record["state"], record["version"], record["visible_version"]) == ("indexed", 2, 1)
    items = tenant.call("GET", f"/api/jobs/{again['id']}/result").json["items"]
    assert [(item["state"], item["version"]) for item in items] == [("unchanged", 1)]
    # no batch was ever made of it, so the model had nothing to do
    stages = {stage["name"]: stage["total"] for stage in again["progress"]["stages"]}
    assert stages["embed"] == 0


def test_a_changed_title_alone_makes_a_new_version(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "pump.txt", "The pump in hall four.", title="Pump")
    changed = tenant.put(collection, "pump.txt", "The pump in hall four.", title="Pumps")
    assert changed["counts"] == {"indexed": 1}
    assert [hit["title"] for hit in tenant.search(collection, "pump")["hits"]] == ["Pumps"]


def test_a_new_version_replaces_all_chunks_of_the_old_one(tenant: Tenant):
    collection = tenant.collection()
    parts = (f"# Part {n}\n\nThe crane number {n} lifts {n * 3} tonnes in dock {n}." for n in range(40))
    long = "\n\n".join(parts)
    tenant.put(collection, "cranes.md", long)
    assert len(tenant.chunks(collection)) > 1
    tenant.put(collection, "cranes.md", "# Cranes\n\nAll cranes were sold.")
    assert [(v, t) for _, v, _, t in tenant.chunks(collection)] == [(2, "# Cranes\n\nAll cranes were sold.")]
    found = tenant.search(collection, "crane number 3 lifts tonnes", count=True)
    assert found["count"] == 1
    assert all("tonnes" not in hit["text"] for hit in found["hits"])


def test_queries_during_a_swap_see_the_old_version_or_the_new_one(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "tide.txt", "The tide table of version number 1.")
    seen: list[list[int]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            hits = tenant.search(collection, "tide table version", mode="keyword")["hits"]
            seen.append([hit["version"] for hit in hits])
            time.sleep(0.01)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for version in range(2, 7):
            job = tenant.put(collection, "tide.txt", f"The tide table of version number {version}.")
            assert job["counts"] == {"indexed": 1}
    finally:
        stop.set()
        for looker in lookers:
            looker.join()
    assert len(seen) > 20
    assert all(len(versions) == 1 for versions in seen), seen
    assert {versions[0] for versions in seen} <= set(range(1, 7))
    assert len({versions[0] for versions in seen}) > 1


def test_the_same_document_put_many_times_at_once_ends_in_one_version(tenant: Tenant):
    collection = tenant.collection()
    answers: list = []

    def send(number: int) -> None:
        answers.append(tenant.send(collection, "one.txt", f"The same buoy, variant {number % 2}."))

    senders = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert {answer.status for answer in answers} == {202}
    jobs = [tenant.finished(answer.json["id"]) for answer in answers]
    assert {job["state"] for job in jobs} == {"succeeded"}
    chunks = tenant.chunks(collection)
    record = tenant.record(collection, "one.txt").json
    assert record["state"] == "indexed"
    assert 1 <= record["version"] <= 6  # those that the others overtook on their way take none
    assert [version for _, version, _, _ in chunks] == [record["visible_version"]]
    assert tenant.search(collection, " ", count=True)["count"] == 1


# --- content ---


def kept(tenant: Tenant, container: str) -> bytes:
    """All that the tenant's blobs of one kind hold, one after the other."""

    async def read(storage: Storage) -> bytes:
        names = [blob.name async for blob in storage.list_blobs(container, f"{tenant.name}/")]
        return b"\n".join([await storage.get_blob(container, name) or b"" for name in names])

    return in_storage(tenant.stack.storage, read)


def test_bytes_of_a_replaced_version_go_and_its_text_stays_until_the_next(tenant: Tenant):
    collection = tenant.collection()
    for colour in ("red", "green", "blue"):
        tenant.put(collection, "hull.txt", f"The hull is {colour}.")
    raw, texts = kept(tenant, RAW), kept(tenant, PARSED)
    assert [colour in raw for colour in (b"red", b"green", b"blue")] == [False, False, True]
    assert [colour in texts for colour in (b"red", b"green", b"blue")] == [False, True, True]
    shown = {
        version: tenant.record(collection, "hull.txt", view="text", version=version) for version in "1234"
    }
    assert {version: answer.status for version, answer in shown.items()} == {
        "1": 404,
        "2": 200,
        "3": 200,
        "4": 404,
    }
    assert shown["2"].json["text"] == "The hull is green."


def test_unchanged_content_and_what_was_overtaken_or_replaced_in_a_failed_state_is_kept_once(tenant: Tenant):
    collection = tenant.collection()
    documents = [{"id": f"{n}.txt", "content": f"Rope {n} is coiled."} for n in range(10)]
    tenant.ingest(collection, documents)
    tenant.ingest(collection, [*documents[:9], {"id": "9.txt", "content": "Rope 9 is cut."}])
    assert sorted(kept(tenant, RAW).count(f"Rope {n} is".encode()) for n in range(10)) == [1] * 10
    for content in (b"", b" ", b"Rope 0 is frayed."):
        tenant.put(collection, "0.txt", content)
    answers = [tenant.send(collection, "1.txt", f"Rope 1 is new, {n}.").json["id"] for n in range(5)]
    for answer in answers:
        tenant.finished(answer)
    raw = kept(tenant, RAW)
    assert (raw.count(b"Rope 0 is"), raw.count(b"Rope 1 is")) == (1, 1)
    assert len(tenant.stored()["raw"]) == 4  # the packs of both ingestions, and two documents put alone
    assert sorted(tenant.found(collection, "rope", top=20)) == [f"{n}.txt" for n in range(10)]


def test_a_deleted_document_leaves_nothing_in_the_blobs_that_it_shared(tenant: Tenant):
    collection = tenant.collection()
    tenant.ingest(
        collection, [{"id": f"{n}.txt", "content": f"Mast {n} of {n}{n}{n} feet."} for n in range(12)]
    )
    for n in (3, 7):
        job = tenant.call("DELETE", f"/api/collections/{collection}/documents/{n}.txt").json["id"]
        assert tenant.finished(job)["state"] == "succeeded"
    for container in (RAW, PARSED):
        held = kept(tenant, container)
        assert [n for n in range(12) if f"Mast {n} of".encode() not in held] == [3, 7]
    assert tenant.record(collection, "4.txt", view="text").json["text"] == "Mast 4 of 444 feet."
    items = [f"/api/collections/{collection}/documents/{n}.txt" for n in range(12) if n not in (3, 7)]
    jobs = [tenant.call("DELETE", item).json["id"] for item in items]
    assert {tenant.finished(job)["state"] for job in jobs} == {"succeeded"}
    held = tenant.stored()
    assert not held["raw"] + held["parsed"]


# --- deletion ---


def test_a_deleted_document_is_out_of_sight_at_once_and_then_gone(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "keep.txt", "The anchor of the ferry is kept.")
    tenant.put(collection, "drop.txt", "The anchor of the tug is dropped.")
    answer = tenant.call("DELETE", f"/api/collections/{collection}/documents/drop.txt")
    assert answer.status == 202
    assert tenant.found(collection, "anchor tug dropped") == ["keep.txt"]
    check_problem(tenant.record(collection, "drop.txt"), 404, "not_found")
    check_problem(tenant.record(collection, "drop.txt", view="text"), 404, "not_found")
    listed = tenant.call("GET", f"/api/collections/{collection}/documents").json["items"]
    assert [item["id"] for item in listed] == ["keep.txt"]

    job = tenant.finished(answer.json["id"])
    assert (job["kind"], job["state"], job["counts"]) == ("deletion", "succeeded", {"deleted": 1})
    assert tenant.search(collection, " ", count=True)["count"] == 1
    held = tenant.stored()
    assert len(held["raw"]) == len(held["parsed"]) == 1
    again = tenant.call("DELETE", f"/api/collections/{collection}/documents/drop.txt")
    check_problem(again, 404, "not_found")


def test_a_document_put_again_after_its_deletion_has_a_higher_version(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "sail.txt", "The red sail.")
    deleted = tenant.call("DELETE", f"/api/collections/{collection}/documents/sail.txt").json["id"]
    again = tenant.send(collection, "sail.txt", "The red sail.")  # while its deletion may still run
    assert again.status == 202
    assert tenant.finished(deleted)["state"] == "succeeded"
    assert tenant.finished(again.json["id"])["counts"] == {"indexed": 1}
    record = tenant.record(collection, "sail.txt").json
    assert (record["state"], record["version"], record["visible_version"]) == ("indexed", 3, 3)
    assert tenant.chunks(collection) == [("sail.txt", 3, 0, "The red sail.")]
    assert tenant.record(collection, "sail.txt", view="text").json["text"].strip() == "The red sail."


def test_putting_and_deleting_in_turns_never_loses_an_accepted_document(tenant: Tenant):
    collection = tenant.collection()
    for number in range(6):
        job = tenant.put(collection, "turn.txt", f"Turn {number % 2} of the wheel.")
        assert job["counts"] == {"indexed": 1}, job
        assert len(tenant.chunks(collection)) == 1
        # the job of this deletion runs while the next version comes in
        assert tenant.call("DELETE", f"/api/collections/{collection}/documents/turn.txt").status == 202
    for job in tenant.jobs():
        assert tenant.finished(job["id"])["state"] == "succeeded"
    assert tenant.search(collection, " ", count=True)["count"] == 0


def test_a_version_that_fails_after_a_deletion_leaves_no_chunk_of_the_deleted_one(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "net.txt", "The net of the trawler.")
    deletion = tenant.call("DELETE", f"/api/collections/{collection}/documents/net.txt").json["id"]
    failed = tenant.send(collection, "net.txt", b"").json["id"]
    assert tenant.finished(failed)["state"] == "failed"
    assert tenant.finished(deletion)["state"] == "succeeded"
    assert tenant.search(collection, " ", count=True)["count"] == 0


def test_a_deleted_collection_is_gone_with_all_it_held(tenant: Tenant):
    collection = tenant.collection()
    tenant.ingest(collection, [{"id": f"{n}.txt", "content": f"Container {n}."} for n in range(5)])
    answer = tenant.call("DELETE", f"/api/collections/{collection}")
    assert answer.status == 202
    check_problem(tenant.call("GET", f"/api/collections/{collection}"), 404, "not_found")
    searched = tenant.call("POST", f"/api/collections/{collection}/search", {"query": "container"})
    check_problem(searched, 404, "not_found")
    check_problem(tenant.send(collection, "late.txt", "Too late."), 404, "not_found")
    job = tenant.finished(answer.json["id"])
    assert (job["state"], job["counts"]) == ("succeeded", {"deleted": 5})
    held = tenant.stored()
    assert not held["raw"] + held["parsed"] + held["documents"] + held["table collections"]

    tenant.collection(collection)
    assert tenant.search(collection, " ", count=True)["count"] == 0
    tenant.put(collection, "new.txt", "A new container.")
    assert tenant.found(collection, "container") == ["new.txt"]


def test_a_collection_deleted_during_an_ingestion_ends_that_job(tenant: Tenant):
    collection = tenant.collection()
    documents = [{"id": f"{n}.txt", "content": f"Freight list {n}. " * 60} for n in range(80)]
    started = tenant.call("POST", f"/api/collections/{collection}/ingestions", {"documents": documents}).json
    deletion = tenant.call("DELETE", f"/api/collections/{collection}").json
    job = tenant.finished(started["id"])
    assert job["state"] in ("failed", "cancelled", "partial", "succeeded")
    assert tenant.finished(deletion["id"])["state"] == "succeeded"
    tenant.collection(collection)
    assert tenant.search(collection, " ", count=True)["count"] == 0


# --- deletions that were broken off ---


def set_job(tenant: Tenant, job: str, **changes: Any) -> None:
    """Set fields of a job's row, whatever its state."""

    async def write(storage: Storage) -> None:
        row = await storage.get_row("jobs", tenant.name, f"job:{job}")
        assert row is not None
        row.pop("etag")
        await storage.put_row("jobs", {**row, **changes})

    in_storage(tenant.stack.storage, write)


def test_a_deletion_that_is_retried_removes_its_document_and_nothing_else(tenant: Tenant):
    collection = tenant.collection()
    for name in ("a.txt", "b.txt"):
        tenant.put(collection, name, f"The pilot boarded {name}.")
    job = tenant.call("DELETE", f"/api/collections/{collection}/documents/a.txt").json["id"]
    tenant.finished(job)
    set_job(tenant, job, state="failed")
    assert tenant.call("POST", f"/api/jobs/{job}/retry").status == 202
    assert tenant.finished(job)["state"] == "succeeded"
    assert tenant.found(collection, "pilot") == ["b.txt"]


def test_the_same_key_gives_the_same_deletion_of_a_collection(tenant: Tenant):
    collection = tenant.collection()
    path, key = f"/api/collections/{collection}", {"Idempotency-Key": "once"}
    first = tenant.call("DELETE", path, headers=key)
    assert tenant.call("DELETE", path, headers=key).json["id"] == first.json["id"]
    tenant.finished(first.json["id"])
    again = tenant.call("DELETE", path, headers=key)
    assert (again.status, again.json["id"]) == (202, first.json["id"])


# --- which version a hit is of ---


def test_each_hit_and_citation_proves_by_its_digest_which_bytes_it_was_made_from(tenant: Tenant):
    collection = tenant.collection()
    texts = ["The Heron pump weighs 18.5 kilograms.", "The Heron pump weighs 21.0 kilograms."]
    for number, text in enumerate(texts, 1):
        job = tenant.put(collection, "heron.txt", text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (hit,) = tenant.search(collection, "Heron pump")["hits"]
        assert (hit["text"], hit["version"], hit["sha256"]) == (text, number, digest)
        question = {
            "collections": [collection],
            "messages": [{"role": "user", "content": "How much does the Heron pump weigh?"}],
        }
        answer = tenant.call("POST", "/api/chat", question).json
        assert [each["sha256"] for each in answer["citations"]] == [digest] * len(answer["citations"])
        assert answer["citations"]
        (outcome,) = tenant.call("GET", f"/api/jobs/{job['id']}/result").json["items"]
        record = tenant.record(collection, "heron.txt").json
        assert 0 < outcome["freshness_seconds"] == record["freshness_seconds"]
        assert record["visible_sha256"] == digest
    # What cannot be read leaves the visible version, and its digest, as they are.
    tenant.put(collection, "heron.txt", b"%PDF-1.7 nothing", title="x")
    (hit,) = tenant.search(collection, "Heron pump")["hits"]
    assert hit["sha256"] == digest
    record = tenant.record(collection, "heron.txt").json
    assert (record["visible_sha256"], record["sha256"] != digest) == (digest, True)
