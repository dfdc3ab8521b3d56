"""The machine of a campaign: a stack, its disks and clocks, and a host that dies often."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from devhost import failpoints
from devhost.queues import LEASE_SECONDS
from laptop.environment import ROOT
from laptop.stack import HOST, Process, Stack, free_port

from . import clocks, disks
from .faults import MODEL_KINDS, STORAGE_KINDS, FaultProxy
from .hosts import HostForks
from .plan import End, Life, Strain
from .workload import Ledger, Service

SERVING_SECONDS = 60.0
# A host that has not come to its fail point by then ends where it is.
POINT_SECONDS = 60.0
# How long a host that was stopped goes on beside the one that took over.
ZOMBIE_SECONDS = 4.0
# Of the requests to storage, and of the calls of models, while they fail.
STORAGE_FAULT_RATE, MODEL_FAULT_RATE = 0.1, 0.4
SERVICES = ("blob", "queue", "table")
CALM = Life(End.KILL)


class Machine:
    """Azurite and the model host go on; the host of the app lives one `Life` after another."""

    def __init__(self, folder: Path, seed: int, *, namespace: bool, broken: str = "") -> None:
        self._broken = broken
        self.state, self.azurite = folder / "state", folder / "azurite"
        self.index = self.state / "index"
        folder.mkdir(parents=True, exist_ok=True)
        self.mounted = namespace and disks.mount(self.state) and disks.mount(self.azurite)
        self.state.mkdir(exist_ok=True)
        settings = {"GROUNDWORK_SEARCH": f"embedded:{self.index}"}
        self.stack = Stack(python=Path(sys.executable), folder=folder, settings=settings)
        self.starts: list[float] = []
        self.faults: list[str] = []
        self.injected: Counter[str] = Counter()
        self.lines = {
            name: FaultProxy(self._upstream(name), seed, STORAGE_FAULT_RATE, STORAGE_KINDS)
            for name in SERVICES
        }
        self.models = FaultProxy(self._upstream("model"), seed, MODEL_FAULT_RATE, MODEL_KINDS)
        self._data = self.state / "devhost"
        self._takeovers = 0
        self._port = self.stack.port("host")

    def _upstream(self, name: str) -> str:
        return f"http://{HOST}:{self.stack.port(name)}"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def storage(self) -> str:
        return self.stack.storage

    @contextmanager
    def running(self) -> Iterator[Machine]:
        with ExitStack() as ending:
            ending.callback(self.stack.stop)
            self.stack.start_azurite()
            self.stack.start_model_host()
            self.stack.wait_for_azurite()
            self.stack.wait("model host", f"http://{HOST}:{self.stack.port('model')}/health/live")
            for line in (*self.lines.values(), self.models):
                ending.callback(line.start().stop)
            self._forks = HostForks()
            ending.callback(self._forks.close)
            self._clock = clocks.Clock(self.stack.folder / "clock")
            self._clocked = HostForks(self._clock.environment) if clocks.library() else self._forks
            if self._clocked is not self._forks:
                ending.callback(self._clocked.close)
            ending.callback(self.end_host)
            yield self

    def _settings(self, life: Life) -> dict[str, str]:
        settings = self.stack.app_settings()
        if life.point:
            action = "kill" if life.end is End.POINT else "stop"
            settings[failpoints.SETTING] = f"{life.point}:{life.passes}:{action}"
        else:
            settings[failpoints.SETTING] = ""
        if life.strain is Strain.STORAGE:
            connection = self.stack.storage
            for name, line in self.lines.items():
                connection = connection.replace(f":{self.stack.port(name)}/", f":{line.port}/")
            settings |= {"AzureWebJobsStorage": connection, "GroundworkStorage": connection}
        if life.strain is Strain.MODELS:
            settings["GROUNDWORK_MODEL_ENDPOINT"] = f"{self.models.url}/v1"
        return settings

    # --- one life ---

    def start_host(self, life: Life = CALM, *, clock: int | None = None) -> None:
        """A host that bears what ``life`` says; ``clock`` is by how many seconds its clock is ahead."""
        arguments = ["--host", HOST, "--port", str(self._port), "--data", str(self._data)]
        arguments += ["--app", str(ROOT), "--settings", str(self.stack.folder / "no-settings")]
        clocked = clock is not None or life.strain in (Strain.AHEAD, Strain.BEHIND)
        if clocked:
            self._clock.set(clock or 0)
        forks = self._clocked if clocked else self._forks
        self._began = time.monotonic()
        logs = self.stack.folder / "logs"
        self._host = forks.start(arguments, self._settings(life), logs / "host.log", self._broken)

    def serves(self) -> bool:
        """Wait until the host serves; False where it ended before."""
        process = self._host.popen
        probe = Service(self.url, self.stack.key, Ledger())
        deadline = time.monotonic() + SERVING_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if probe.call("GET", "/health/live")[0] == 200:
                    self.starts.append(time.monotonic() - self._began)
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def kill(self) -> None:
        process = self._host.popen
        if process.poll() is not None:
            self.faults.append(f"the host ended by itself: {self._host.tail()[-500:]}")
        process.kill()
        process.wait()

    def stop_host(self) -> None:
        """End the host in good order."""
        self._host.stop()

    def live(self, life: Life) -> bool:
        """Live through ``life``; False where its fail point was not reached."""
        self.start_host(life)
        if life.end is End.POINT:
            return self.die_at_point()
        if life.end is End.PAUSE:
            return self._pause(life)
        if life.served or life.strain:
            self.serves()
        self.injected[life.strain.value] += bool(life.strain)
        if life.strain is Strain.DISK:
            self._fill_disk(life)
        elif life.strain in (Strain.AHEAD, Strain.BEHIND):
            time.sleep(life.seconds / 3)
            self._clock.set(clocks.HOUR_SECONDS if life.strain is Strain.AHEAD else -clocks.HOUR_SECONDS)
            time.sleep(life.seconds * 2 / 3)
        else:
            time.sleep(life.seconds)
        self.kill()
        return True

    def die_at_point(self) -> bool:
        """Wait until the host has ended at its fail point; False where it had to be killed elsewhere."""
        process = self._host.popen
        deadline = time.monotonic() + POINT_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            self.kill()
            return False
        if process.returncode != -signal.SIGKILL:
            self.faults.append(f"the host ended by itself: {self._host.tail()[-500:]}")
        return True

    def _fill_disk(self, life: Life) -> None:
        """Storage and the host's own state lie on full disks for a while; both have room again after it."""
        if self.mounted:
            with disks.full(self.state), disks.full(self.azurite):
                time.sleep(life.seconds)
        else:
            self.forbid_writing()
            time.sleep(life.seconds)
            self.permit_writing()
        time.sleep(life.seconds / 4)

    def forbid_writing(self) -> None:
        """The host, and what it has started, can write no file until they are permitted to."""
        for pid in (self._host.popen.pid, *self._children()):
            disks.forbid_writing(pid)

    def permit_writing(self) -> None:
        for pid in (self._host.popen.pid, *self._children()):
            disks.permit_writing(pid)

    # --- a host that is stopped past its lease ---

    def _pause(self, life: Life) -> bool:
        """Stop the host, let another one take over what it did, and let it go on when its lease is over.

        As a task hub does with a worker whose lock has expired, the stopped host's own store of
        orchestrations takes nothing more from it. What it was about to write to storage, it writes.
        """
        if not life.point:
            self.serves()
            time.sleep(life.seconds)
        zombie, stopped = self._host, time.monotonic()
        reached = self._stop(zombie, life)
        for pid in self._children():
            os.kill(pid, signal.SIGKILL)  # the index lets one host in at a time
        self._take_over()
        self.injected[End.PAUSE.value] += 1
        self.serves()
        time.sleep(max(0.0, stopped + LEASE_SECONDS + 1 - time.monotonic()))
        disks.forbid_writing(zombie.popen.pid)
        zombie.popen.send_signal(signal.SIGCONT)
        time.sleep(ZOMBIE_SECONDS)
        zombie.popen.kill()
        zombie.popen.wait()
        self.kill()
        return reached

    def _stop(self, host: Process, life: Life) -> bool:
        """Stop the host where ``life`` says; False where it had to be stopped elsewhere."""
        process = psutil.Process(host.popen.pid)
        deadline = time.monotonic() + (POINT_SECONDS if life.point else 0)
        while process.status() != psutil.STATUS_STOPPED:
            if time.monotonic() >= deadline:
                host.popen.send_signal(signal.SIGSTOP)
                deadline = float("inf")
                if life.point:
                    return False
            time.sleep(0.005)
        return True

    def _take_over(self) -> None:
        """Start another host with what the stopped one has committed."""
        self._takeovers += 1
        data = self.state / f"devhost-{self._takeovers}"
        shutil.copytree(self._data, data)
        self._data, self._port = data, free_port()
        self.start_host()

    def _children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self._host.popen.pid).children(recursive=True)]

    def end_host(self) -> None:
        """No host goes on."""
        host = getattr(self, "_host", None)
        if host is not None and host.popen.poll() is None:
            host.popen.kill()
            host.popen.wait()

    def keep(self, folder: Path) -> None:
        """Copy what lies on disks that are gone with this process."""
        if self.mounted:
            for disk in (self.state, self.azurite):
                shutil.copytree(disk, folder / disk.name)

    def figures(self) -> Iterator[str]:
        """What was injected, a line each."""
        for name, number in sorted(self.injected.items()):
            if number:
                yield f"{name}: {number} lives{self._detail(name)}"

    def _detail(self, name: str) -> str:
        lines = {Strain.STORAGE.value: [*self.lines.values()], Strain.MODELS.value: [self.models]}.get(name)
        if not lines:
            return ""
        kinds = sum((line.kinds for line in lines), Counter[str]())
        of = sum(line.requests for line in lines)
        return f", {kinds.total()} of {of} requests: " + ", ".join(f"{n} {k}" for k, n in kinds.most_common())
