"""A campaign: one machine, one workload, and a host that dies again and again while it runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from devhost import failpoints as host_failpoints
from shared import failpoints

from . import clocks, disks
from .breaks import BREAKS
from .documents import Line
from .invariants import Stores, check_documents
from .machine import Machine
from .plan import FAULTS, PAUSE, End, Life, Strain, plan
from .report import Report
from .workload import ANSWER_SECONDS, EventWriter, Reader, Reindexer, Service, Writer

POINTS = (*failpoints.POINTS, *host_failpoints.POINTS)
# Where a host is stopped whose writes are to come late.
STOP_POINTS = ("accept.kept", "accept.announced", "prepare.read", "embed.embedded", "commit.decided")
WRITERS = 3
PROGRESS_LIVES = 25
# At the end everything is sent once more, so many times side by side.
TIMES_AGAIN = 3
WARM_UP_SECONDS = 3.0
# Without any progress: announced jobs are started after 30 s, messages come back after 30 s, and a retry
# waits for up to 60 s.
QUIET_SECONDS = 180.0
JSON = {"Content-Type": "application/json"}


class Campaign:
    """A workload on a machine whose host does not live long."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.report = Report(seed, machine)
        self.machine = machine
        self.tenant, self.collection = f"t-{uuid.uuid4().hex[:12]}", "chaos"
        self._writers: list[Writer | EventWriter | Reindexer] = []
        self._readers: list[Reader] = []

    @property
    def documents(self) -> list[Line]:
        return [
            line for writer in self._writers if not isinstance(writer, Reindexer) for line in writer.lines
        ]

    def run(self, lives: Sequence[Life]) -> None:
        """Live through ``lives`` under the workload, let all of it end, and check what came of it."""
        self._begin()
        began = time.monotonic()
        time.sleep(WARM_UP_SECONDS)
        self.machine.kill()
        for number, life in enumerate(lives):
            reached = self.machine.live(life)
            if not reached and life.end is End.POINT:
                reached = self.machine.live(replace(life, passes=1))
            self.report.lived(life, reached)
            if (number + 1) % PROGRESS_LIVES == 0:
                print(f"{number + 1} of {len(lives)} lives", flush=True)
            self.service.url = self.machine.url
        self.machine.start_host()
        if not self.machine.serves():
            self.report.faults.append("the host did not start again")
        for writer in self._writers:
            writer.stop()
        for writer in self._writers:
            writer.join(ANSWER_SECONDS)
        self.report.figures["minutes under fire"] = (time.monotonic() - began) / 60
        self._settle()
        self._check()
        self._send_all_again()

    def _begin(self) -> None:
        """A host, a tenant with its key and a collection, and the workload's threads."""
        self.machine.start_host()
        if not self.machine.serves():
            raise AssertionError("the host does not start")
        ledger = self.report.ledger
        service = Service(self.machine.url, self.machine.stack.key, ledger)
        body = {"tenant": self.tenant, "user": "chaos", "roles": ["administrator"]}
        _, key = service.insist("POST", "/api/keys", json.dumps(body).encode(), **JSON)
        self.service = Service(self.machine.url, key["key"], ledger)
        self.service.insist("PUT", f"/api/collections/{self.collection}", b"{}", **JSON)
        seed = self.report.seed
        writers = [Writer(number, self.service, self.collection, seed) for number in range(WRITERS)]
        self._events = EventWriter(self.machine.storage, self.tenant, self.collection, seed, ledger)
        self._writers = [*writers, self._events, Reindexer(self.service, self.collection, seed)]
        self._readers = [Reader(self.service, self.collection, self.documents)]
        for thread in (*self._writers, *self._readers):
            thread.start()

    # --- the end ---

    def _settle(self) -> None:
        """Let everything come to its end."""
        began = time.monotonic()
        self._wait_for_events()
        self._wait_for_jobs()
        self._retry_failed()
        for reader in self._readers:
            reader.stop()
            reader.join()
        self.report.figures["s to settle"] = time.monotonic() - began
        self.report.figures["s to start a host (median)"] = statistics.median(self.machine.starts)
        jobs = self._jobs()
        self.report.ledger.count("jobs", len(jobs))
        missing = {*self.report.ledger.jobs} - {job["id"] for job in jobs}
        self.report.faults += [f"lost: there is no job {job}" for job in missing]
        for job in jobs:
            if job["state"] != "succeeded":
                self.report.faults.append(f"lost: the job {job['id']} is {job['state']} {_reasons(job)}")

    def _wait_for_events(self) -> None:
        """Return when the last events have become documents, or jobs that have failed."""
        deadline = time.monotonic() + QUIET_SECONDS
        waiting = {line.name: line for line in self._events.lines if line.serial}
        while waiting and time.monotonic() < deadline:
            for record in self._records():
                line = waiting.get(record["id"])
                if line is not None and _has_arrived(line, record):
                    del waiting[line.name]
                    deadline = time.monotonic() + QUIET_SECONDS
            if waiting and self._retry_failed():
                deadline = time.monotonic() + QUIET_SECONDS
            time.sleep(0.3)
        self.report.faults += [f"lost: the event of {name} has not come" for name in waiting]

    def _wait_for_jobs(self) -> None:
        deadline = time.monotonic() + QUIET_SECONDS
        before = -1
        while time.monotonic() < deadline:
            running = [job for job in self._jobs() if job["state"] in ("queued", "running")]
            if not running:
                return
            if len(running) != before:
                before, deadline = len(running), time.monotonic() + QUIET_SECONDS
            time.sleep(0.5)

    def _retry_failed(self) -> bool:
        """Run again each job that failed and says that this may help, as a person would; whether one did.

        A job that failed is not lost: it says so. It is lost where it cannot be brought to its end.
        """
        failed = [
            job
            for job in self._jobs()
            if job["state"] in ("failed", "partial") and job["attempt"] == 1 and _may_succeed(job)
        ]
        for job in failed:
            self.report.failed(job["kind"], _reasons(job))
            status, answer = self.service.insist("POST", f"/api/jobs/{job['id']}/retry")
            if status != 202:
                self.report.faults.append(f"lost: the job {job['id']} cannot be retried: {answer}")
        if failed:
            self._wait_for_jobs()
        return bool(failed)

    def _jobs(self) -> list[dict[str, Any]]:
        return self._all("/api/jobs", 200)

    def _records(self) -> list[dict[str, Any]]:
        return self._all(f"/api/collections/{self.collection}/documents", 1000)

    def _all(self, path: str, limit: int) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        after = ""
        while True:
            _, page = self.service.insist("GET", f"{path}?limit={limit}&after={after}")
            items += page["items"]
            after = page["next"]
            if not after:
                return items

    def _stores(self) -> Stores:
        return Stores(self.machine.storage, self.machine.index, self.tenant, self.collection)

    def _check(self) -> None:
        self.machine.stop_host()
        self.report.faults += self.report.ledger.faults + self.machine.faults
        self.report.faults += check_documents(self._stores(), self.documents)

    def _send_all_again(self) -> None:
        """All that is visible sent once more, by every entrance and side by side: nothing is made of it."""
        before = self._stores().digest()
        models = self.machine.models
        models.rate, calls = 0.0, models.posts
        self.machine.start_host(Life(End.KILL, Strain.MODELS))
        self.machine.serves()
        known = {job["id"] for job in self._jobs()}
        new: list[dict[str, Any]] = []
        self._events.send_again()
        present = [line for line in self.documents if line.expected and not line.name.startswith("blob/")]
        blobs = sum(line.serial > 0 for line in self._events.lines if line.name.startswith("blob/"))
        with ThreadPoolExecutor(TIMES_AGAIN) as pool:
            answers = [*pool.map(self._put_together, [present] * TIMES_AGAIN)]
        self.report.faults += [f"lost: sent again, answered {status}" for status in answers if status != 202]
        deadline = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < deadline:
            new = [job for job in self._jobs() if job["id"] not in known]
            done = len(new) >= TIMES_AGAIN + blobs and all(job["state"] == "succeeded" for job in new)
            if done and not self._events.waiting:
                break
            time.sleep(0.5)
        else:
            self.report.faults.append(f"lost: of {TIMES_AGAIN + blobs} jobs sent again there are {len(new)}")
        if len(new) > TIMES_AGAIN + blobs:
            self.report.faults.append("doubled: messages that were sent again have new jobs")
        counts = [job["counts"] for job in new if not job["counts"].keys() <= {"unchanged", "superseded"}]
        if counts:
            self.report.faults.append(f"doubled: documents that were there came to {counts}")
        if calls := models.posts - calls:
            self.report.faults.append(f"doubled: {calls} model calls for documents that were there")
        self.machine.stop_host()
        if self._stores().digest() != before:
            self.report.faults.append("doubled: the index changed by documents that were there")
        self.report.figures["documents sent again"] = TIMES_AGAIN * len(present) + blobs

    def _put_together(self, lines: Sequence[Line]) -> int:
        documents = [{"id": line.name, "content": line.texts[line.expected]} for line in lines]
        path = f"/api/collections/{self.collection}/ingestions"
        return self.service.insist("POST", path, json.dumps({"documents": documents}).encode(), **JSON)[0]


def _has_arrived(line: Line, record: dict[str, Any]) -> bool:
    digest = hashlib.sha256(line.texts[line.serial].encode()).hexdigest()
    return record["state"] == "indexed" and record["sha256"] == digest


def _reasons(job: dict[str, Any]) -> list[str]:
    return sorted({error["code"] for error in job["errors"]})


def _may_succeed(job: dict[str, Any]) -> bool:
    return all(error["retryable"] or error["code"] == "poisoned" for error in job["errors"])


def possible(faults: Sequence[str], mounted: bool) -> Iterator[str]:
    """Those of ``faults`` that can be injected on this machine; says which cannot."""
    for fault in faults:
        if fault in (Strain.AHEAD, Strain.BEHIND) and clocks.library() is None:
            print(f"skipped: {fault} (libfaketime is not installed: apt-get install faketime)", flush=True)
            continue
        if fault == Strain.DISK and not mounted:
            print("disk: mounting is not permitted; the size of the host's files is limited", flush=True)
        yield fault


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def main(argv: list[str]) -> int:
    """Run a campaign and print what came of it; 1 where an invariant broke or a point was not reached."""
    parser = argparse.ArgumentParser(prog="dev.py test --chaos")
    parser.add_argument("kills", type=int, help="so many random kills, beside those at fail points")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--point", action="append", help="only this fail point, may be repeated; '' for none")
    parser.add_argument("--fault", action="append", choices=(*FAULTS, "none"), help="only this, repeatable")
    parser.add_argument("--broken", choices=BREAKS, default="", help="break the app, to see it noticed")
    parser.add_argument("--keep", type=Path, help="a folder for the stack, kept afterwards")
    arguments = parser.parse_args(argv)
    print(f"seed {arguments.seed}", flush=True)
    logging.getLogger("azure").setLevel(logging.CRITICAL)  # it tells of each fault that is injected
    points = POINTS if arguments.point is None else [point for point in arguments.point if point]
    faults = [fault for fault in arguments.fault or FAULTS if fault != "none"]
    namespace = Strain.DISK in faults and disks.enter_namespace()
    with _folder(arguments.keep) as folder:
        machine = Machine(folder, arguments.seed, namespace=namespace, broken=arguments.broken)
        faults = [*possible(faults, machine.mounted)]
        stops = STOP_POINTS if PAUSE in faults else ()
        with machine.running():
            campaign = Campaign(machine, arguments.seed)
            campaign.run(plan(arguments.seed, arguments.kills, points, faults, stops))
        if arguments.keep:
            machine.keep(folder / "kept")
    for line in campaign.report.lines():
        print(line, flush=True)
    return 0 if campaign.report.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
