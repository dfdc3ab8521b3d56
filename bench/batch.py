"""Batches against a service that fails at random: every line once, how fast, in how much memory.

Batches on a started stack whose only model is a service of its own process, which refuses 5% of its
requests with 429 and fails 1% with 500: a small one, then two large ones. During the second of these the host
is killed at a third, the batch is cancelled at two thirds, and the rest then retried. A last one meets a
service that also has a limit of its own. Beside them the same service is asked the same requests by a bare
loop over aiohttp that waits as it is told, with as many requests in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from laptop.environment import ROOT
from laptop.stack import HOST, Stack, free_port

SMALL, LARGE = 1_000, 50_000
# As many lines as a batch has in flight: four lanes of sixteen.
IN_FLIGHT = 64
FAULTS = {"throttled": 0.05, "failed": 0.01, "retry_after_ms": 20}
# A service's own limit, well below what this machine can do, and the share of it that a batch must reach.
LIMIT_LINES_PER_SECOND = 200
LIMIT_BAR = 0.90
MEMORY_BAR = 1.10
RUNS = ("small", "large", "disturbed", "limited")
BARE = "the bare loop's"
BATCH_SECONDS = 7200
CATALOGUE = """
[models.chat]
kind = "chat"
context_tokens = 4000
max_output_tokens = 100
[[models.chat.deployments]]
name = "only"
endpoint = "{endpoint}"
deployment = "echo"
api = "openai"
version = "1"
data_zone = "local"
"""


@dataclass
class Row:
    title: str
    lines: int
    seconds: float
    output: int
    errors: int
    once: bool
    requests: int
    cpu_ms: float
    peak_mib: float

    @property
    def rate(self) -> float:
        return self.lines / self.seconds


class Peak:
    """The highest memory of the host while the block runs; a killed host's successor is followed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._over = threading.Event()
        self.mib = 0.0

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            try:
                size = psutil.Process(self._stack.process_id("host")).memory_info().rss / 2**20
            except (KeyError, psutil.NoSuchProcess):
                continue  # just killed
            self.mib = max(self.mib, size)


class Bench:
    def __init__(self, stack: Stack, service: str) -> None:
        import openai

        self.stack = stack
        self._service = service
        self._client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=5)

    def row(
        self, title: str, lines: int, meanwhile: Callable[[Any], None] = lambda batch: None, **does: Any
    ) -> Row:
        self.control(FAULTS | does)
        file = self._client.files.create(file=("in.jsonl", io.BytesIO(_input(lines))), purpose="batch")
        host = psutil.Process(self.stack.process_id("host"))
        cpu = _cpu(host)
        began = time.time()
        with Peak(self.stack) as peak:
            asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = self._client.batches.create(input_file_id=file.id, **asked)
            meanwhile(batch)
            batch = self.ended(batch.id)
        seconds = time.time() - began
        cpu_ms = (_cpu(host) - cpu) / lines * 1000 if host.is_running() else float("nan")
        output, errors = self._ids(batch.output_file_id), self._ids(batch.error_file_id)
        once = _each_once(output + errors, lines)
        requests = self.control(None)["requests"]
        return Row(title, lines, seconds, len(output), len(errors), once, requests, cpu_ms, peak.mib)

    def kill_and_cancel(self, lines: int) -> Callable[[Any], None]:
        def meanwhile(batch: Any) -> None:
            self._wait_for_answers(lines // 3)
            self.stack.kill_host()
            self.stack.start_host()
            self.stack.wait("host", f"{self.stack.url}/health/live")
            print("  the host was killed", flush=True)
            self._wait_for_answers(lines * 2 // 3)
            self._client.batches.cancel(batch.id)
            batch = self.ended(batch.id)
            output, errors = self._ids(batch.output_file_id), self._ids(batch.error_file_id)
            if not _each_once(output + errors, batch.request_counts.total):
                raise SystemExit("The cancelled batch has lost lines or has some twice.")
            print(f"  cancelled: {len(output)} in the output, {len(errors)} in the errors", flush=True)
            url = f"{self.stack.url}/api/jobs/{batch.id.removeprefix('batch_')}/retry"
            headers = {"Authorization": f"Bearer {self.stack.key}"}
            urllib.request.urlopen(urllib.request.Request(url, b"", headers), timeout=60).close()

        return meanwhile

    def ended(self, batch: str) -> Any:
        deadline = time.monotonic() + BATCH_SECONDS
        while time.monotonic() < deadline:
            found = self._client.batches.retrieve(batch)
            if found.status in ("completed", "failed", "expired", "cancelled"):
                return found
            time.sleep(1)
        raise SystemExit("The batch did not end.")

    def control(self, wanted: Any) -> dict[str, int]:
        body = None if wanted is None else json.dumps(wanted).encode()
        with urllib.request.urlopen(f"{self._service}/control", body, timeout=30) as answer:
            return json.load(answer)

    def _wait_for_answers(self, lines: int) -> None:
        while self.control(None)["distinct"] < lines:
            time.sleep(0.2)

    def _ids(self, file: str | None) -> list[str]:
        if file is None:
            return []
        with self._client.files.with_streaming_response.content(file) as answer:
            return [json.loads(line)["custom_id"] for line in answer.iter_lines()]


def main(argv: list[str]) -> int:
    """Print a row for each batch and the bars; 1 where one is missed."""
    parser = argparse.ArgumentParser(prog="bench batch")
    parser.add_argument("--lines", type=int, default=LARGE)
    parser.add_argument("--only", default=",".join(RUNS), help=f"of {', '.join(RUNS)}")
    arguments = parser.parse_args(argv)
    lines, only, port = arguments.lines, arguments.only.split(","), free_port()
    service = f"http://{HOST}:{port}"
    upstream = [sys.executable, "-m", "bench.batch_upstream", str(port)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(upstream, cwd=ROOT, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        catalogue = Path(folder) / "models.toml"
        catalogue.write_text(CATALOGUE.format(endpoint=f"{service}/v1"))
        stack = Stack(
            python=Path(sys.executable),
            folder=Path(folder),
            model_endpoint=f"{service}/v1",
            models_file=str(catalogue),
        )
        stack.start()
        try:
            bench = Bench(stack, service)
            bare = _bare(bench, service, min(lines, 5_000))
            rows: dict[str, Row] = {}
            for name in only:
                match name:
                    case "small":
                        rows[name] = bench.row(name, SMALL)
                    case "large":
                        rows[name] = bench.row(name, lines)
                    case "disturbed":
                        title = "large, host killed, cancelled, retried"
                        rows[name] = bench.row(title, lines, bench.kill_and_cancel(lines))
                    case _:
                        title = f"a service of {LIMIT_LINES_PER_SECOND} a second"
                        rows[name] = bench.row(title, lines // 5, per_second=LIMIT_LINES_PER_SECOND)
                beside = (LIMIT_LINES_PER_SECOND, "the service's own") if name == "limited" else (bare, BARE)
                _print(rows[name], *beside)
        finally:
            stack.stop()
            process.kill()
    return _verdict(rows)


def _each_once(ids: list[str], lines: int) -> bool:
    return sorted(ids) == sorted(f"r-{number}" for number in range(lines))


def _input(lines: int) -> bytes:
    body = {"model": "chat", "messages": [{"role": "user", "content": ""}]}
    parts: list[str] = []
    for number in range(lines):
        body["messages"] = [{"role": "user", "content": f"say r-{number}"}]
        line = {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        parts.append(json.dumps(line))
    return "\n".join(parts).encode()


def _bare(bench: Bench, service: str, lines: int) -> float:
    """Lines a second of a loop without anything: the service's own limit for one that obeys it."""
    bench.control(FAULTS)
    began = time.time()
    asyncio.run(_ask_all(f"{service}/v1/chat/completions", lines))
    return lines / (time.time() - began)


async def _ask_all(url: str, lines: int) -> None:
    import aiohttp

    numbers = iter(range(lines))
    resume_at = 0.0

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal resume_at
        for number in numbers:
            body = {"model": "echo", "messages": [{"role": "user", "content": f"say r-{number}"}]}
            while True:
                await asyncio.sleep(max(0.0, resume_at - time.monotonic()))
                async with session.post(url, json=body) as answer:
                    await answer.read()
                if answer.status == 200:
                    break
                if answer.status == 429:
                    resume_at = time.monotonic() + int(answer.headers["retry-after-ms"]) / 1000

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(worker(session) for _ in range(IN_FLIGHT)))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _print(row: Row, beside: float, whose: str) -> None:
    print(
        f"{row.title}: {row.lines} lines in {row.seconds:.1f} s, {row.rate:.0f} lines/s "
        f"({row.rate / beside:.2f} of {whose} {beside:.0f}); {row.output} answered, {row.errors} failed, "
        f"{'each once' if row.once else 'NOT each once'}; {row.requests} requests; "
        f"host {row.cpu_ms:.2f} ms CPU a line, peak {row.peak_mib:.0f} MiB",
        flush=True,
    )


def _verdict(rows: dict[str, Row]) -> int:
    met = all(row.once and not row.errors for row in rows.values())
    print(f"every custom_id once in output or errors: {'yes' if met else 'NO'} (bar: yes)")
    if {"small", "large"} <= rows.keys():
        growth = rows["large"].peak_mib / rows["small"].peak_mib
        met = met and growth <= MEMORY_BAR
        print(f"peak memory, large over small: {growth:.2f} (bar: at most {MEMORY_BAR:.2f})")
    if "limited" in rows:
        share = rows["limited"].rate / LIMIT_LINES_PER_SECOND
        met = met and share >= LIMIT_BAR
        print(f"lines a second over the service's own limit: {share:.2f} (bar: at least {LIMIT_BAR:.2f})")
    return 0 if met else 1
