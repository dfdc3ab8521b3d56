"""The model host as a process: start it, wait for it, speak to it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2

REPOSITORY = Path(__file__).parents[2]
API_KEY = "key-of-the-tests"
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ModelHost:
    url: str
    process: subprocess.Popen[str]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "modelhost", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=pipe, stderr=pipe, text=True)


def announced_url(process: subprocess.Popen[str]) -> str:
    """The address in the line that the server prints when it is ready."""
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        assert process.stdout
        line = process.stdout.readline()
    finally:
        timer.cancel()
    assert "ready on http://" in line, f"the server did not start: {line!r}"
    return line.split()[3]


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while httpx2.get(f"{url}/health/ready").status_code != 200:
        assert time.monotonic() < deadline, "the models were not loaded in time"
        time.sleep(0.05)
