"""A host that is killed: what was accepted is done, once; and limits of a stack with settings of its own.

This stack is the module's own: its host is killed over and over.
"""

from __future__ import annotations

import http.client
import sqlite3
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from edge_tenant import Tenant, check_problem, in_storage

from laptop.stack import Stack
from shared.jobs import TABLE
from shared.storage import INBOX, Storage
from tests.conftest import RunningStack

MAX_DOCUMENT_BYTES = 20_000
WAIT_SECONDS = 120


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    stack = Stack(
        python=Path(sys.executable),
        folder=tmp_path_factory.mktemp("killed"),
        settings={"GROUNDWORK_MAX_DOCUMENT_BYTES": str(MAX_DOCUMENT_BYTES)},
    )
    stack.start()
    try:
        running = RunningStack(stack)
        name = running.new_tenant()
        yield Tenant(running, name, running.key_for(name))
    finally:
        stack.stop()


def kill(tenant: Tenant) -> None:
    stack: Stack = tenant.stack.stack
    stack.kill_host()
    stack.start_host()
    stack.wait("host", f"{stack.url}/health/live")


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def documents(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{n:02d}.txt", "content": f"Crossing {n} left quay {n % 7} with {n * 3} crates of salt. " * 4}
        for n in range(count)
    ]


def start(tenant: Tenant, collection: str, count: int) -> str:
    path = f"/api/collections/{collection}/ingestions"
    answer = tenant.call("POST", path, {"documents": documents(count)})
    assert answer.status == 202
    return answer.json["id"]


def stages(tenant: Tenant, job: str) -> dict[str, int]:
    progress = tenant.call("GET", f"/api/jobs/{job}").json["progress"]
    return {stage["name"]: stage["done"] for stage in progress["stages"]}


def check_complete(tenant: Tenant, collection: str, expected: list) -> None:
    """Every document is there once, as a clean run leaves it."""
    assert sorted(tenant.chunks(collection)) == expected
    assert tenant.search(collection, " ", count=True)["count"] == len(expected)
    items = tenant.call("GET", f"/api/collections/{collection}/documents?limit=1000").json["items"]
    assert {(item["state"], item["visible_version"]) for item in items} == {("indexed", 1)}
    assert sum(item["chunks"] for item in items) == len(expected)


def test_a_host_has_its_index_and_a_parser_before_anyone_asks(own: Tenant):
    kill(own)
    host = psutil.Process(own.stack.stack.process_id("host"))

    def started() -> bool:
        lines = [" ".join(child.cmdline()) for child in host.children()]
        return all(any(part in line for line in lines) for part in ("index.shard", "parsing.worker"))

    wait_for(started)


def test_a_host_killed_during_an_ingestion_completes_it_and_does_nothing_twice(own: Tenant):
    clean = own.collection()
    assert own.finished(start(own, clean, 60))["counts"] == {"indexed": 60}
    expected = sorted(own.chunks(clean))
    assert len(expected) >= 60

    reached = {
        "at once": lambda job: True,
        "reading": lambda job: stages(own, job)["read"] > 0,
        "embedding": lambda job: stages(own, job)["embed"] > 0,
    }
    for moment, is_reached in reached.items():
        collection = own.collection()
        job = start(own, collection, 60)
        wait_for(lambda is_reached=is_reached, job=job: is_reached(job))
        kill(own)
        status = own.finished(job)
        assert (status["state"], status["counts"]) == ("succeeded", {"indexed": 60}), moment
        check_complete(own, collection, expected)


def test_every_document_accepted_before_a_kill_reaches_its_end(own: Tenant):
    collection = own.collection()
    accepted: dict[str, str] = {}
    stop = threading.Event()

    def put() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                answer = own.send(collection, f"{number}.txt", f"Crate {number} of salt.")
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)  # the host was killed before it answered
                continue
            if answer.status == 202:
                accepted[f"{number}.txt"] = answer.json["id"]

    writer = threading.Thread(target=put)
    writer.start()
    try:
        for count in (5, 15):
            wait_for(lambda count=count: len(accepted) >= count)
            kill(own)
        wait_for(lambda: len(accepted) >= 20)
    finally:
        stop.set()
        writer.join()
    for document, job in accepted.items():
        assert own.finished(job)["counts"] in ({"indexed": 1}, {"superseded": 1})
        assert own.record(collection, document).json["state"] == "indexed"
    names = [chunk[0] for chunk in own.chunks(collection)]
    assert len(names) == len(set(names))
    assert {*accepted} <= {*names}


def test_a_reindexing_survives_kills_and_loses_nothing(own: Tenant):
    collection = own.collection()
    assert own.finished(start(own, collection, 60))["counts"] == {"indexed": 60}
    before = {chunk[0] for chunk in own.chunks(collection)}
    path = f"/api/collections/{collection}/reindex"
    job = own.call("POST", path, {"chunk_characters": 100}).json["id"]
    for stage in ("read", "embed"):
        wait_for(lambda stage=stage: stages(own, job).get(stage, 0) > 0)
        kill(own)
    status = own.finished(job)
    assert (status["state"], status["counts"]) == ("succeeded", {"indexed": 60})
    layouts = own.call("GET", f"/api/collections/{collection}").json["layouts"]
    assert [(layout["layout"], layout["state"]) for layout in layouts] == [(1, "kept"), (2, "serving")]
    chunks = own.chunks(collection)
    assert {chunk[0] for chunk in chunks} == before
    assert len({chunk[:3] for chunk in chunks}) == len(chunks)
    clean = own.collection(chunk_characters=100)
    assert own.finished(start(own, clean, 60))["counts"] == {"indexed": 60}
    assert sorted(chunks) == sorted(own.chunks(clean))


def test_a_deletion_survives_a_kill(own: Tenant):
    collection = own.collection()
    own.finished(start(own, collection, 30))
    job = own.call("DELETE", f"/api/collections/{collection}").json["id"]
    kill(own)
    assert own.finished(job)["state"] == "succeeded"
    own.collection(collection)
    assert own.search(collection, " ", count=True)["count"] == 0


# --- the limit of a document, which this stack has set low ---


def test_a_document_at_the_limit_is_taken_and_one_beyond_it_refused(own: Tenant):
    collection = own.collection()
    at_limit = own.send(collection, "a.jsonl", b"\n" * (MAX_DOCUMENT_BYTES - 14) + b'{"text": "a"}\n')
    assert at_limit.status == 202
    assert own.finished(at_limit.json["id"])["state"] == "succeeded"
    before = own.stored()
    beyond = check_problem(
        own.send(collection, "b.txt", b"b" * (MAX_DOCUMENT_BYTES + 1)), 413, "payload_too_large"
    )
    assert beyond["limit"] == MAX_DOCUMENT_BYTES
    inline = {"documents": [{"id": "b.txt", "content": "b" * (MAX_DOCUMENT_BYTES + 1)}]}
    path = f"/api/collections/{collection}/ingestions"
    check_problem(own.call("POST", path, inline), 413, "payload_too_large")
    assert own.stored() == before


def test_a_body_of_unknown_length_is_refused_where_it_passes_the_limit(own: Tenant):
    collection = own.collection()
    address = urllib.parse.urlsplit(own.stack.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.putrequest("PUT", f"/api/collections/{collection}/documents/b.txt")
    connection.putheader("Authorization", f"Bearer {own.key}")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(MAX_DOCUMENT_BYTES // 1000 + 1):
        connection.send(b"3e8\r\n" + b"b" * 1000 + b"\r\n")
    response = connection.getresponse()  # the last chunk was never sent
    assert response.status == 413
    connection.close()
    assert own.record(collection, "b.txt").status == 404


def test_a_blob_beyond_the_limit_is_a_failed_document(own: Tenant):
    collection = own.collection()

    async def write(storage: Storage) -> None:
        await storage.put_blob(INBOX, f"{own.name}/{collection}/b.txt", b"b" * (MAX_DOCUMENT_BYTES + 1))

    known = {job["id"] for job in own.jobs()}
    in_storage(own.stack.storage, write)
    wait_for(lambda: len(own.jobs()) > len(known))
    by_event = own.finished(next(job["id"] for job in own.jobs() if job["id"] not in known))
    job = own.call("POST", f"/api/collections/{collection}/ingestions", {"inbox_prefix": ""}).json["id"]
    for status in (by_event, own.finished(job)):
        assert (status["state"], status["errors"][0]["code"]) == ("failed", "payload_too_large")


def test_a_job_that_lost_its_orchestration_fails_though_nobody_looks_at_it(own: Tenant):
    """As after a purge of the task hub, or a termination by hand: the timer finds both."""
    collection = own.collection()
    jobs = {start(own, collection, 60): how for how in ("purged", "terminated")}
    stack: Stack = own.stack.stack
    stack.kill_host()
    data = stack.folder / "devhost"
    with closing(sqlite3.connect(data / "durable.db")) as hub, hub:
        for job, how in jobs.items():
            if how == "terminated":
                hub.execute("update instances set status='Terminated' where id=?", (f"{job}-1",))
                hub.execute("delete from instances where parent=?", (f"{job}-1",))
                continue
            for table, column in (("instances", "id"), ("history", "instance"), ("inbox", "instance")):
                hub.execute(f"delete from {table} where {column} like ?", (f"{job}-1%",))
            hub.execute("delete from instances where parent=?", (f"{job}-1",))
        hub.execute("delete from activities")
    with closing(sqlite3.connect(data / "listeners.db")) as listeners, listeners:
        missed = "update timer_status set next_run='2020-01-01T00:00:00+00:00' where function='end_lost_jobs'"
        assert listeners.execute(missed).rowcount == 1
    in_storage(stack.storage, lambda storage: _as_if_still_for(storage, own.name, [*jobs], 700))
    stack.start_host()
    stack.wait("host", f"{stack.url}/health/live")

    def ended() -> bool:
        listed = {job["id"]: job for job in own.jobs()}
        return all(listed[job]["state"] == "failed" for job in jobs)

    wait_for(ended)
    listed = own.call("GET", f"/api/collections/{collection}/documents?limit=100").json["items"]
    ends = {(record["state"], (record["error"] or {}).get("code")) for record in listed}
    assert ends == {("failed", "orchestration_ended")}
    for job in jobs:
        status = own.call("GET", f"/api/jobs/{job}").json
        assert [error["code"] for error in status["errors"]] == ["orchestration_ended"]
        assert own.call("POST", f"/api/jobs/{job}/retry").status == 202
        assert own.finished(job)["state"] == "succeeded"


async def _as_if_still_for(storage: Storage, tenant: str, jobs: list[str], seconds: float) -> None:
    async for row in storage.query_rows(TABLE, tenant):
        if row["RowKey"].rpartition(":")[2] in jobs and "updated" in row:
            keys = {name: row[name] for name in ("PartitionKey", "RowKey")}
            await storage.merge_row(TABLE, {**keys, "updated": row["updated"] - seconds})
