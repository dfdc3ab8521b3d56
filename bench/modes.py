"""What each mode of an answer costs its client: ``python dev.py bench modes``.

One question over the sample documents, asked of a stack of its own: whole, as a stream, as a job that is
polled, and as a job whose answer is waited for. Medians of several rounds, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laptop.stack import Stack

QUESTION = "How much does the Heron 42 S weigh?"
DOCUMENT = "# Heron pumps\n\nThe Heron 42 S weighs 18.5 kilograms. It needs a supply of 230 volts.\n"
POLL_SECONDS = 0.05


class Asking:
    """A client of ``stack`` that tells when the first and the last byte of an answer came."""

    def __init__(self, stack: Stack) -> None:
        self._url = stack.url
        self._key = stack.key

    def whole(self) -> tuple[float, float]:
        return self._timed({}, prefer="")

    def stream(self) -> tuple[float, float]:
        return self._timed({"stream": True}, prefer="")

    def waiting_job(self) -> tuple[float, float]:
        return self._timed({}, prefer="respond-async, wait=60")

    def polled_job(self) -> tuple[float, float]:
        """When the job was accepted, and when its result was there."""
        began = time.perf_counter()
        job = json.load(self._open("POST", "/v1/chat/completions", self._body({}), "respond-async"))
        accepted = time.perf_counter() - began
        while json.load(self._open("GET", f"/api/jobs/{job['id']}"))["state"] in ("queued", "running"):
            time.sleep(POLL_SECONDS)
        self._open("GET", f"/api/jobs/{job['id']}/result").read()
        return accepted, time.perf_counter() - began

    def prepare(self) -> None:
        self._open("PUT", "/api/collections/pumps", {})
        body = {"documents": [{"id": "heron.md", "content": DOCUMENT}]}
        job = json.load(self._open("POST", "/api/collections/pumps/ingestions", body))
        while json.load(self._open("GET", f"/api/jobs/{job['id']}"))["state"] in ("queued", "running"):
            time.sleep(POLL_SECONDS)

    def _timed(self, more: dict[str, Any], prefer: str) -> tuple[float, float]:
        began = time.perf_counter()
        with self._open("POST", "/v1/chat/completions", self._body(more), prefer) as response:
            response.read(1)
            first = time.perf_counter() - began
            response.read()
        return first, time.perf_counter() - began

    def _body(self, more: dict[str, Any]) -> dict[str, Any]:
        return {"model": "rag:pumps", "messages": [{"role": "user", "content": QUESTION}], **more}

    def _open(self, method: str, path: str, body: Any = None, prefer: str = "") -> Any:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        if prefer:
            headers["Prefer"] = prefer
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data=data, headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=120)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench modes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args(argv).rounds
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(python=Path(sys.executable), folder=Path(folder))
        stack.start()
        try:
            asking = Asking(stack)
            asking.prepare()
            modes: dict[str, Callable[[], tuple[float, float]]] = {
                "JSON": asking.whole,
                "stream": asking.stream,
                "job, waited for": asking.waiting_job,
                "job, polled": asking.polled_job,
            }
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
            for _ in range(rounds):  # in turn, so that a pause of the machine meets all of them
                for name, ask in modes.items():
                    taken[name].append(ask())
        finally:
            stack.stop()
    print(f"{'mode':18}{'first byte ms':>15}{'whole answer ms':>17}")
    for name, times in taken.items():
        first, whole = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
        print(f"{name:18}{first:15.0f}{whole:17.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
