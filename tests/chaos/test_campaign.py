"""A short campaign, as `python dev.py test --chaos` runs it, and what a kill costs in calls of the model."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from laptop.environment import ROOT

from .campaign import JSON
from .machine import Machine
from .plan import End, Life, Strain
from .workload import Ledger, Service

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts are forked, stopped and limited")

SEED = 4
POINTS = ("accept.announced", "embed.uploaded", "commit.flipped", "delete.marked", "queue.handled")
CAMPAIGN_SECONDS = 600
JOB_SECONDS = 180
# Two shards, and more batches than shards: a batch takes 128 chunks, and each document makes two.
DOCUMENTS = 110
DOCUMENT_WORDS = 70


@pytest.mark.timeout(CAMPAIGN_SECONDS + 60)
def test_a_short_campaign_finds_nothing_lost_doubled_orphaned_or_mixed():
    command = [sys.executable, "-m", "tests.chaos.campaign", "3", "--seed", str(SEED)]
    for point in POINTS:
        command += ["--point", point]
    for fault in (Strain.STORAGE, Strain.MODELS, Strain.DISK):
        command += ["--fault", fault]
    campaign = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CAMPAIGN_SECONDS)
    assert campaign.returncode == 0, campaign.stdout + campaign.stderr[-3000:]
    assert "0 lost, 0 doubled, 0 orphan, 0 mixed, 0 other" in campaign.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"), SEED, namespace=False)
    machine.models.rate = 0.0
    with machine.running():
        yield machine


@pytest.fixture(autouse=True)
def no_host_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves no host in the way of the next one."""
    yield
    if "machine" in request.fixturenames:
        request.getfixturevalue("machine").end_host()


def service_of(machine: Machine) -> Service:
    service = Service(machine.url, machine.stack.key, Ledger())
    body = {"tenant": "acme", "user": "resume", "roles": ["administrator"]}
    _, key = service.insist("POST", "/api/keys", json.dumps(body).encode(), **JSON)
    return Service(machine.url, key["key"], Ledger())


def ingest(service: Service, collection: str) -> str:
    """The job of the same documents in a collection of their own."""
    service.insist("PUT", f"/api/collections/{collection}", b"{}", **JSON)
    # No two chunks are alike: what was embedded before is not embedded again.
    documents = [
        {"id": f"{n}.txt", "content": " ".join(f"{collection} {n} buoy {k}" for k in range(DOCUMENT_WORDS))}
        for n in range(DOCUMENTS)
    ]
    body = json.dumps({"documents": documents}).encode()
    status, job = service.insist("POST", f"/api/collections/{collection}/ingestions", body, **JSON)
    assert status == 202, job
    return job["id"]


def finished(service: Service, job: str) -> dict:
    deadline = time.monotonic() + JOB_SECONDS
    while True:
        _, status = service.insist("GET", f"/api/jobs/{job}")
        if status["state"] not in ("queued", "running"):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.1)


@pytest.mark.parametrize("point", ["embed.embedded", "embed.uploaded"])
def test_a_killed_ingestion_repeats_at_most_one_batch_a_shard(machine: Machine, point: str):
    counted = Life(End.KILL, Strain.MODELS)
    machine.start_host(counted)
    assert machine.serves()
    service = service_of(machine)
    begun = machine.models.posts
    assert finished(service, ingest(service, f"clean-{point[6:]}"))["counts"] == {"indexed": DOCUMENTS}
    batches = machine.models.posts - begun
    assert batches > 2
    machine.kill()

    begun = machine.models.posts
    machine.start_host(Life(End.POINT, Strain.MODELS, point=point, passes=2))
    assert machine.serves()
    job = ingest(service, f"killed-{point[6:]}")
    assert machine.die_at_point()
    machine.start_host(counted)
    assert machine.serves()
    assert finished(service, job)["counts"] == {"indexed": DOCUMENTS}
    repeated = machine.models.posts - begun - batches
    shards_in_flight = 2
    assert 1 <= repeated <= shards_in_flight
    machine.kill()


def test_a_host_that_may_write_no_file_accepts_nothing_and_loses_nothing(machine: Machine):
    """What fills the disk of a campaign where mounting is not permitted."""
    machine.start_host()
    assert machine.serves()
    service = service_of(machine)
    service.insist("PUT", "/api/collections/full", b"{}", **JSON)
    machine.forbid_writing()
    path, key = "/api/collections/full/documents/a.txt", {"Idempotency-Key": "a"}
    status, refused, headers = service.call("PUT", path, b"All is well.", **key)
    assert (status, refused["retryable"]) == (503, True)
    assert float(headers["retry-after"]) > 0
    machine.permit_writing()
    status, job = service.insist("PUT", path, b"All is well.", **key)
    assert status == 202
    assert finished(service, job["id"])["counts"] == {"indexed": 1}
    machine.kill()
    assert machine.faults == []
