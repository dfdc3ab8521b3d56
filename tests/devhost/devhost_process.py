"""Starts embedded hosts in processes of their own, for tests."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
APPS = Path(__file__).resolve().parent / "apps"
START_SECONDS = 30


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()


class HostProcess:
    """A running `python -m devhost`."""

    def __init__(self, process, address, data_dir, log_file):
        self.process, self.address, self.data_dir, self.log_file = process, address, data_dir, log_file

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    @property
    def keys(self):
        return json.loads((self.data_dir / "keys.json").read_text())

    @property
    def log(self):
        return self.log_file.read_text()

    def call(self, path, method="GET", body=None, headers=None):
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        request = urllib.request.Request(self.address + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return Answer(response.status, dict(response.headers.items()), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers.items()), error.read())

    def status(self):
        """What the host tells of itself to whoever has its master key."""
        headers = {"x-functions-key": self.keys["master"]}
        return json.loads(self.call("/admin/host/status", headers=headers).body)

    def raw(self, head):
        """Send a request head as it stands and return the whole answer."""
        with self.connect() as connection:
            connection.sendall(head.replace("\n", "\r\n").encode() + b"connection: close\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def kill(self):
        self.process.kill()
        self.process.wait()


def command(app, data_dir, *more):
    base = [sys.executable, "-m", "devhost", "--app", str(app), "--data", str(data_dir)]
    return [*base, *(() if "--port" in more else ("--port", "0")), *more]


@contextmanager
def running_host(app, data_dir, settings=None, *more, ready=True):
    """A host of `app`, ready to serve; killed at the end if the test has not stopped it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log_file = data_dir / "log.txt"
    environment = {**os.environ, **(settings or {})}
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command(app, data_dir, *more), stdout=subprocess.PIPE, stderr=log, env=environment, cwd=PROJECT
        )
    try:
        line = process.stdout.readline().decode()
        found = re.search(r"http://\S+", line)
        assert found, f"the host did not start: {log_file.read_text()}"
        yield HostProcess(process, found[0], data_dir, log_file)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


def eventually(check, seconds=15.0):
    """The first truthy value of `check()` within `seconds`; fails with the last value otherwise."""
    give_up = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < give_up, f"still {value!r}"
        time.sleep(0.05)


def write_app(folder: Path, source: str, host_json: str = '{"version": "2.0"}') -> Path:
    """An app folder with that function_app.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "function_app.py").write_text(source)
    (folder / "host.json").write_text(host_json)
    return folder
