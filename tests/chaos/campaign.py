"""A campaign: one stack, one workload, and a host that is killed again and again while it runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from devhost import failpoints as host_failpoints
from laptop.environment import ROOT
from laptop.stack import HOST, Stack
from shared import failpoints

from .documents import Line
from .hosts import HostForks
from .invariants import check_documents
from .workload import ANSWER_SECONDS, EventWriter, Ledger, Reader, Service, Writer

POINTS = (*failpoints.POINTS, *host_failpoints.POINTS)
WRITERS = 3
# How long a host lives before a random kill: from the middle of its start to the middle of some ingestions.
LIFE_SECONDS = (0.05, 2.5)
# A host that has not come to its fail point by then is killed where it is.
POINT_SECONDS = 20.0
# Without any progress: announced jobs are started after 30 s, messages come back after 30 s, and a retry
# waits for up to 60 s.
QUIET_SECONDS = 180.0
SHOWN_FAULTS = 40


@dataclass
class Report:
    seed: int
    kills: int = 0
    points: dict[str, int] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def lines(self) -> Iterator[str]:
        kinds = {
            kind: sum(kind in fault for fault in self.faults)
            for kind in ("lost", "doubled", "orphan", "mixed")
        }
        yield f"seed {self.seed}: {self.kills} kills, {len(self.points)} of {len(POINTS)} fail points"
        yield ", ".join(f"{number} {name}" for name, number in sorted(self.ledger.counts.items()))
        yield ", ".join(f"{name} {figure:.1f}" for name, figure in self.figures.items())
        if self.missed:
            yield f"fail points that were not reached: {', '.join(self.missed)}"
        yield ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        counted = Counter(self.faults).most_common(SHOWN_FAULTS)
        yield from (f"{fault} ({number} times)" for fault, number in counted)


class Campaign:
    """One stack under fire. The host alone is killed; Azurite and the model host go on."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.report = Report(seed)
        self.random = Random(seed)
        self.stack = Stack(python=Path(sys.executable), folder=folder, settings={})
        self.tenant, self.collection = f"t-{uuid.uuid4().hex[:12]}", "chaos"
        self._writers: list[Writer | EventWriter] = []
        self._readers: list[Reader] = []
        self._starts: list[float] = []

    @contextmanager
    def running(self) -> Iterator[Campaign]:
        forks = self._forks = HostForks()
        try:
            self.stack.start_azurite()
            self.stack.start_model_host()
            self.stack.wait_for_azurite()
            self.stack.wait("model host", f"http://{HOST}:{self.stack.port('model')}/health/live")
            self.start_host()
            if not self.host_serves():
                raise AssertionError(f"the host does not start: {self._host.tail()}")
            yield self
        finally:
            self.stack.stop()
            forks.close()

    def prepare(self) -> None:
        """A tenant with its key and a collection; the workload's threads, not yet started."""
        service = Service(self.stack.url, self.stack.key, self.report.ledger)
        body = {"tenant": self.tenant, "user": "chaos", "roles": ["administrator"]}
        json_type = {"Content-Type": "application/json"}
        _, key = service.insist("POST", "/api/keys", json.dumps(body).encode(), **json_type)
        self.service = Service(self.stack.url, key["key"], self.report.ledger)
        self.service.insist("PUT", f"/api/collections/{self.collection}", b"{}", **json_type)
        seed = self.report.seed
        writers = [Writer(n, self.service, self.collection, seed) for n in range(WRITERS)]
        self._events = events = EventWriter(
            self.stack.storage, self.tenant, self.collection, seed, self.report.ledger
        )
        self._writers = [*writers, events]
        self._readers = [Reader(self.service, self.collection, self.documents)]

    @property
    def documents(self) -> list[Line]:
        return [line for writer in self._writers for line in writer.lines]

    # --- the host ---

    def start_host(self, fail_point: str = "") -> None:
        data, log = self.stack.folder / "devhost", self.stack.folder / "logs" / "host.log"
        arguments = ["--host", HOST, "--port", str(self.stack.port("host")), "--data", str(data)]
        arguments += ["--app", str(ROOT), "--settings", str(self.stack.folder / "no-settings")]
        settings = {**self.stack.app_settings(), host_failpoints.SETTING: fail_point}
        self._began = time.monotonic()
        self._host = self._forks.start(arguments, settings, log)
        self.stack._processes["host"] = self._host

    def host_serves(self) -> bool:
        """Wait until the host serves; False where it ended before."""
        process = self._host
        deadline = time.monotonic() + 60
        probe = Service(self.stack.url, self.stack.key, Ledger())
        while process.popen.poll() is None and time.monotonic() < deadline:
            try:
                if probe.call("GET", "/health/live")[0] == 200:
                    self._starts.append(time.monotonic() - self._began)
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def kill(self) -> None:
        self.stack.kill_host()
        self.report.kills += 1

    def die_at(self, point: str, passes: int) -> bool:
        """A host that ends at a fail point; False where it was killed elsewhere, having missed it."""
        self.start_host(f"{point}:{passes}:kill")
        process = self._host
        try:
            process.popen.wait(POINT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        reached = process.popen.returncode == -signal.SIGKILL
        self.stack._processes.pop("host")
        self.report.kills += 1
        if not reached:
            self.report.faults.append(f"the host ended by itself: {process.tail()[-500:]}")
            return True
        self.report.points[point] = self.report.points.get(point, 0) + 1
        return True

    # --- a run ---

    def run(self, kills: int, points: Sequence[str] = POINTS) -> None:
        """Kill the host at every fail point, then at random, until there were ``kills``; then check."""
        self.prepare()
        for thread in (*self._writers, *self._readers):
            thread.start()
        began = time.monotonic()
        self.kill()
        for point in points:
            if not any(self.die_at(point, passes) for passes in (self.random.randint(1, 4), 1)):
                self.report.missed.append(point)
        while self.report.kills < kills:
            self.start_host()
            if self.random.random() < 0.8:
                self.host_serves()
            time.sleep(self.random.uniform(*LIFE_SECONDS))
            self.kill()
        self.start_host()
        if not self.host_serves():
            self.report.faults.append("the host did not start again")
        for writer in self._writers:
            writer.stop()
        for writer in self._writers:
            writer.join(ANSWER_SECONDS)
        self.report.figures["s to start a host (median)"] = statistics.median(self._starts)
        self.report.figures["minutes under fire"] = (time.monotonic() - began) / 60
        self.settle()

    def settle(self) -> None:
        """Let everything come to its end, and hold it against the invariants."""
        began = time.monotonic()
        self._wait_for_jobs()
        for reader in self._readers:
            reader.stop()
            reader.join()
        self.report.figures["seconds to settle"] = time.monotonic() - began
        self.stack._processes.pop("host").stop()
        self.report.faults += self.report.ledger.faults
        self.report.faults += check_documents(
            self.stack.storage, self.stack.folder / "index", self.tenant, self.collection, self.documents
        )

    def _wait_for_jobs(self) -> None:
        """Return when the last events have become documents and every job of the tenant has ended."""
        deadline = time.monotonic() + QUIET_SECONDS
        waiting = {line.name: line for line in self._events.lines if line.serial}
        while waiting and time.monotonic() < deadline:
            for name in [name for name, line in waiting.items() if self._has_arrived(line)]:
                del waiting[name]
                deadline = time.monotonic() + QUIET_SECONDS
            time.sleep(0.3)
        self.report.faults += [f"lost: the event of {name} has not come" for name in waiting]
        while (jobs := self._jobs()) and any(not ended(job) for job in jobs) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.report.ledger.count("jobs", len(jobs))
        missing = {*self.report.ledger.jobs} - {job["id"] for job in jobs}
        self.report.faults += [f"lost: there is no job {job}" for job in missing]
        for job in jobs:
            if job["state"] != "succeeded":
                reasons = [error["code"] for error in job["errors"][:3]]
                self.report.faults.append(f"lost: the job {job['id']} is {job['state']} {reasons}")

    def _has_arrived(self, line: Line) -> bool:
        path = f"/api/collections/{self.collection}/documents/{line.name}"
        status, record = self.service.insist("GET", path)
        digest = hashlib.sha256(line.texts[line.serial].encode()).hexdigest()
        return status == 200 and record["state"] == "indexed" and record["sha256"] == digest

    def _jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []
        after = ""
        while True:
            _, page = self.service.insist("GET", f"/api/jobs?limit=200&after={after}")
            jobs += page["items"]
            after = page["next"]
            if not after:
                return jobs


def ended(job: dict[str, Any]) -> bool:
    return job["state"] not in ("queued", "running")


def main(argv: list[str]) -> int:
    """Run a campaign and print what came of it; 1 where an invariant broke."""
    parser = argparse.ArgumentParser(prog="dev.py test --chaos")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--point", action="append", help="only this fail point, may be repeated")
    parser.add_argument("--keep", type=Path, help="a folder for the stack, kept afterwards")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        campaign = Campaign(folder, arguments.seed)
        with campaign.running():
            campaign.run(arguments.kills, arguments.point or POINTS)
    for line in campaign.report.lines():
        print(line, flush=True)
    return 1 if campaign.report.faults or campaign.report.missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
