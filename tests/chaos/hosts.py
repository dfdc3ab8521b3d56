"""Embedded hosts that start in a moment: forked from a process that has imported all that a host needs.

The child runs `devhost`'s own entry point with its own arguments and environment: it differs from a host
that was started the usual way in nothing but the second that the imports take. POSIX alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laptop.environment import ROOT
from laptop.stack import Process, _die_with_parent

from .breaks import break_for_good

IMPORTED = (
    "functions.chat functions.console functions.openai_surface functions.ingestion devhost.host "
    "devhost.server devhost.queues devhost.blobs devhost.timers devhost.durable azure.storage.blob.aio "
    "azure.storage.queue.aio aiohttp shared.tables shared.inferencing.gateway "
    "shared.knowledge.ingestion shared.knowledge.deletion shared.knowledge.retrieval "
    "shared.knowledge.index.embedded"
)


class Forked:
    """A host made by a `HostForks`, as `subprocess.Popen` would show it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def ended(self, returncode: int) -> None:
        self.returncode = returncode
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("host", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class HostForks:
    """Starts hosts, with ``environment`` beside this process's own; `close` when the last one has ended."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.hosts"],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._hosts: dict[int, Forked] = {}
        self._started: list[Forked] = []
        self._news = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(
        self, arguments: Sequence[str], settings: Mapping[str, str], log: Path, broken: str = ""
    ) -> Process:
        """A host with `devhost`'s command line ``arguments``; one of `BREAKS` names what is ``broken``."""
        order = {"arguments": list(arguments), "settings": dict(settings), "log": str(log), "broken": broken}
        assert self._server.stdin is not None
        with self._news:
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            if not self._news.wait_for(lambda: bool(self._started), timeout=60):
                raise RuntimeError("The server of hosts does not answer.")
            return Process("host", self._started.pop(), log)  # pyright: ignore[reportArgumentType]

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            news = json.loads(line)
            with self._news:
                if "returncode" in news:
                    self._hosts.pop(news["pid"]).ended(news["returncode"])
                else:
                    host = self._hosts[news["pid"]] = Forked(news["pid"])
                    self._started.append(host)
                self._news.notify_all()


def _serve() -> None:
    """Fork a host for each line of the standard input; tell of its start and of its end."""
    for name in IMPORTED.split():
        __import__(name)
    lock = threading.Lock()

    def tell(**news: Any) -> None:
        with lock:
            os.write(1, (json.dumps(news) + "\n").encode())

    def reap(pid: int) -> None:
        tell(pid=pid, returncode=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become_host(order)
        tell(pid=pid)
        threading.Thread(target=reap, args=(pid,), daemon=True).start()


def _become_host(order: Mapping[str, Any]) -> None:
    status = 1
    try:
        if sys.platform == "linux":
            _die_with_parent()
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.update(order["settings"])
        if order["broken"]:
            break_for_good(order["broken"])
        from devhost.__main__ import main

        status = main(order["arguments"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve()
