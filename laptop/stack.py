"""The processes of a stack: Azurite, the model host, the embedded Functions host; their ports and logs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from laptop.environment import ROOT, SetupError, ensure_azurite, say

# The well-known account of the storage emulators ("Use Azurite", Azure Storage documentation): no secret.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
HOST = "127.0.0.1"
DEFAULT_PORTS = {"host": 7071, "model": 8091, "blob": 10000, "queue": 10001, "table": 10002}
READY_SECONDS = 90.0
STOP_SECONDS = 15.0
LOG_TAIL_BYTES = 3000


def free_port(preferred: int = 0) -> int:
    """``preferred`` where it is free, else one that the system picks."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise SetupError("No free port was found.")


@dataclass
class Process:
    """One running part of the stack; its output goes to a file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        data = self.log.read_bytes() if self.log.exists() else b""
        return data[-LOG_TAIL_BYTES:].decode(errors="replace")

    def stop(self) -> None:
        """End it, gracefully at first."""
        if self.popen.poll() is not None:
            return
        self.popen.terminate()
        try:
            self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@dataclass
class Stack:
    """A stack in ``folder``. ``ports`` are wishes; a taken one is replaced by a free one."""

    python: Path
    folder: Path
    ports: Mapping[str, int] = field(default_factory=dict)
    model_endpoint: str | None = None
    models_file: str = "models.local.toml"
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, Process] = {}
        self._ports: dict[str, int] = {}
        self.key, self.key_is_new = _development_key(self.folder / "development-key")
        self.signing_key, _ = _development_key(self.folder / "signing-key")

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port('host')}"

    @property
    def storage(self) -> str:
        """The connection string of the stack's Azurite."""
        endpoints = "".join(
            f"{name.capitalize()}Endpoint=http://{HOST}:{self.port(name)}/{ACCOUNT};"
            for name in ("blob", "queue", "table")
        )
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};{endpoints}"

    def port(self, name: str) -> int:
        if name not in self._ports:
            wish = self.ports.get(name, 0)
            self._ports[name] = free_port(wish)
            if wish and self._ports[name] != wish:
                say(f"  Port {wish} ({name}) is taken; {self._ports[name]} it is.")
        return self._ports[name]

    def start(self) -> None:
        """Start all parts and return when they serve; raises `SetupError` with a log's end otherwise."""
        try:
            self.start_azurite()
            if self.model_endpoint is None:
                self.start_model_host()
            self.wait_for_azurite()
            if self.model_endpoint is None:
                self.wait("model host", f"http://{HOST}:{self.port('model')}/health/live")
            self.start_host()
            self.wait("host", f"{self.url}/health/live")
        except BaseException:
            self.stop()
            raise

    def start_azurite(self) -> None:
        command = [*ensure_azurite(self.python), "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        for service in ("blob", "queue", "table"):
            command += [f"--{service}Host", HOST, f"--{service}Port", str(self.port(service))]
        self._spawn("azurite", [*command, "--location", str(self.folder / "azurite")], {})

    def wait_for_azurite(self) -> None:
        for service in ("blob", "queue", "table"):
            self.wait("azurite", f"http://{HOST}:{self.port(service)}/{ACCOUNT}?comp=list")

    def start_model_host(self) -> None:
        command = [str(self.python), "-m", "modelhost", "--host", HOST, "--port", str(self.port("model"))]
        self._spawn("model host", command, {"OMP_WAIT_POLICY": "passive"})

    def start_host(self) -> None:
        command = [str(self.python), "-m", "devhost", "--host", HOST, "--port", str(self.port("host"))]
        command += ["--data", str(self.folder / "devhost"), "--settings", str(self.folder / "no-settings")]
        self._spawn("host", command, self.app_settings())

    def app_settings(self) -> dict[str, str]:
        """The settings that the app reads, as `local.settings.json` would give them."""
        return {
            "AzureWebJobsStorage": self.storage,
            "GroundworkStorage": self.storage,
            "GROUNDWORK_SEARCH": f"embedded:{self.folder / 'index'}",
            "GROUNDWORK_MODELS": self.models_file,
            "GROUNDWORK_MODEL_ENDPOINT": self.model_endpoint or f"http://{HOST}:{self.port('model')}/v1",
            "GROUNDWORK_BOOTSTRAP_KEY_SHA256": hashlib.sha256(self.key.encode()).hexdigest(),
            "GROUNDWORK_PUBLIC_URL": self.url,
            "GROUNDWORK_SIGNING_KEY": self.signing_key,
            "TASKHUB_NAME": "groundwork",
            "PYTHON_ENABLE_INIT_INDEXING": "1",
            **self.settings,
        }

    def process_id(self, name: str) -> int:
        """The process id of a part, for tests and benchmarks that measure or kill it."""
        return self._processes[name].popen.pid

    def kill_host(self) -> None:
        """End the host without any grace, as a crash would."""
        process = self._processes.pop("host")
        process.popen.kill()
        process.popen.wait()

    def wait(self, name: str, url: str) -> None:
        """Return when ``url`` answers anything; raise `SetupError` if the process ends before."""
        process = self._processes[name]
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if process.popen.poll() is not None:
                raise SetupError(f"The {name} ended at its start:\n{process.tail()}")
            try:
                urllib.request.urlopen(url, timeout=2)
                return
            except urllib.error.HTTPError:
                return
            except (OSError, ValueError):
                time.sleep(0.05)
        raise SetupError(f"The {name} did not answer within {READY_SECONDS:.0f} s:\n{process.tail()}")

    def check(self) -> None:
        """Raise `SetupError` where a part has ended by itself."""
        for process in self._processes.values():
            if process.popen.poll() is not None:
                raise SetupError(f"The {process.name} has ended:\n{process.tail()}")

    def stop(self) -> None:
        """End all parts, the host first, so that what it still writes has somewhere to go."""
        for name in ("host", "model host", "azurite"):
            if name in self._processes:
                self._processes.pop(name).stop()

    def _spawn(self, name: str, command: Sequence[str], settings: Mapping[str, str]) -> None:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{name.replace(' ', '-')}.log"
        # A terminal's Ctrl-C goes to this process alone, which then ends the parts in their order.
        apart = {"creationflags": 0x200} if os.name == "nt" else {"start_new_session": True}
        with log.open("wb") as output:
            popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                **apart,  # pyright: ignore[reportArgumentType, reportCallIssue]
            )
        self._processes[name] = Process(name, popen, log)


def _die_with_parent() -> None:
    """A killed parent leaves nothing running behind (Linux: prctl PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _development_key(file: Path) -> tuple[str, bool]:
    """A key of the stack, made at the first start and readable by its owner alone; whether it is new."""
    if file.exists():
        return json.loads(file.read_text())["key"], False
    key = f"gw_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        json.dump({"key": key}, opened)
    return key, True
