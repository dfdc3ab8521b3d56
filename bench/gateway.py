"""Speed and behaviour of the model gateway against its bars: ``python dev.py bench gateway``.

With the shared harness (``GROUNDWORK_BENCH_GATEWAY``, by default ``../shared/gateway``) its runs are used;
without it the project's own, which measure the same things but LiteLLM's Router: that one runs in an
environment of its own, beside the shared harness, where it can be installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laptop import environment

ROOT = Path(__file__).resolve().parent.parent
CONCURRENCIES = (1, 16, 64)
ADAPTER = "bench.gateway_adapter:GatewayAlone"
SPEED_ADAPTERS = f"aiohttp,openai,openaiaio,{ADAPTER},bench.gateway_adapter:SdkOverGateway"

Record = dict[str, Any]


def _isolated(share: float) -> Callable[[Record], bool]:
    return lambda r: r["ok"] == 100 and r["A_hits"] <= share * r["n"]


def _typed_and_few(r: Record) -> bool:
    errors = sum(number for kind, number in r["kinds"].items() if kind != "ok")
    return errors <= 4 and all(kind == "ok" or kind.startswith("err:") for kind in r["kinds"])


def _all_well(r: Record) -> bool:
    return r["ok"] == 100


# What "done" means for each scenario; the texts are shown beside the figures.
BARS: dict[str, tuple[str, Callable[[Record], bool]]] = {
    "s1": (
        "100%, A asked once a window besides those in flight",
        lambda r: r["ok"] == 100 and r["A_hits"] <= 3,
    ),
    "s2": ("100%, p99 <= 2 s, A <= 5%", lambda r: _isolated(0.05)(r) and r["p99"] <= 2000),
    "s3": ("100%, A isolated", _isolated(0.1)),
    "s4": ("100%, A isolated", _isolated(0.1)),
    "s5": ("100%, A isolated (half its share)", _isolated(0.25)),
    "s6": ("100%", _all_well),
    "s7": ("100%", _all_well),
    "s8": ("error < 50 ms, <= 1.2 calls each", lambda r: r["ok"] == 0 and r["max"] < 50 and r["amp"] <= 1.2),
    "s9": (
        "100%, back within 5 s",
        lambda r: (
            r["ok"] == 100 and r["A_first_after_recovery"] is not None and r["A_first_after_recovery"] <= 5
        ),
    ),
    "t1": ("100%", _all_well),
    "t2": ("<= 4 typed errors, never spliced or cut", _typed_and_few),
    "t3": ("100%", _all_well),
    "t4": ("<= 4 typed errors, never spliced or cut", _typed_and_few),
    "t5": ("<= 4 typed errors, never spliced or cut", _typed_and_few),
    "t6": ("100%", _all_well),
}
# CPU a request over raw aiohttp at the same concurrency.
MOST_EXTRA_CPU_MICROSECONDS = {"gateway": 500, "openai+gateway": 1500}


def main(argv: list[str] | None = None) -> int:
    """Print both tables; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench gateway", description=__doc__)
    parser.add_argument("--only", default="", help="'speed', 'behaviour', or scenarios: s1,t2")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one cell of the speed run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    harness = Path(os.environ.get("GROUNDWORK_BENCH_GATEWAY") or ROOT.parent / "shared" / "gateway")
    only = {name for name in options.only.split(",") if name}
    runs = _SharedRuns(harness) if (harness / "behave.py").is_file() else _OwnRuns()
    print(f"harness: {runs.origin}")
    well = True
    with runs.upstreams() as ports:
        if not only or "speed" in only:
            well = report_speed(runs.speed(ports, options.seconds, options.rounds)) and well
        if only != {"speed"}:
            well = report_behaviour(runs.behaviour(ports, only - {"speed", "behaviour"})) and well
    return 0 if well else 1


class _OwnRuns:
    origin = "the project's own"

    @contextmanager
    def upstreams(self) -> Iterator[tuple[int, int]]:
        with _started(["-m", "bench.gateway_upstream"], ROOT) as ports:
            yield ports

    def speed(self, ports: tuple[int, int], seconds: float, rounds: int) -> list[Record]:
        from bench import gateway_runs

        urls = [f"http://127.0.0.1:{port}" for port in ports]
        return asyncio.run(gateway_runs.speed(urls, CONCURRENCIES, seconds, rounds))

    def behaviour(self, ports: tuple[int, int], only: set[str]) -> list[Record]:
        from bench import gateway_runs

        return asyncio.run(gateway_runs.behaviour(ports, only))


class _SharedRuns:
    def __init__(self, harness: Path) -> None:
        self.origin = str(harness)
        self._harness = harness

    @contextmanager
    def upstreams(self) -> Iterator[tuple[int, int]]:
        with _started(["upstream.py"], self._harness) as ports:
            yield ports

    def speed(self, ports: tuple[int, int], seconds: float, rounds: int) -> list[Record]:
        concurrencies = ",".join(map(str, CONCURRENCIES))
        options = ["--conc", concurrencies, "--secs", str(seconds), "--rounds", str(rounds)]
        records = self._run("bench_gw.py", ports, ["--adapters", SPEED_ADAPTERS, *options])
        try:
            python = environment.ensure_litellm(Path(sys.executable))
        except environment.SetupError as error:
            print(f"LiteLLM's Router is left out: {str(error).splitlines()[0]}")
            return records
        return records + self._run("bench_gw.py", ports, ["--adapters", "litellm", *options], python)

    def behaviour(self, ports: tuple[int, int], only: set[str]) -> list[Record]:
        chosen = ["--only", ",".join(sorted(only))] if only else []
        return self._run("behave.py", ports, ["--adapter", ADAPTER, *chosen])

    def _run(
        self, script: str, ports: tuple[int, int], options: list[str], python: Path = Path(sys.executable)
    ) -> list[Record]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            arguments = [script, "--ports", ",".join(map(str, ports)), "--out", str(out), *options]
            subprocess.run([str(python), *arguments], cwd=self._harness, env=_environment(), check=True)
            return json.loads(out.read_text())


def report_speed(records: list[Record]) -> bool:
    cells = {(record["client"], record["conc"]): record for record in records}
    clients = list(dict.fromkeys(record["client"] for record in records))
    print(f"\n{'client':18}{'in flight':>10}{'CPU us':>9}{'over aiohttp':>14}{'bar':>8}{'req/s':>9}")
    well = True
    for client in clients:
        most = MOST_EXTRA_CPU_MICROSECONDS.get(client)
        for concurrency in CONCURRENCIES:
            cell = cells[client, concurrency]
            extra = cell["cpu_us"] - cells["aiohttp", concurrency]["cpu_us"]
            missed = most is not None and extra > most
            well = well and not missed
            print(
                f"{client:18}{concurrency:10}{cell['cpu_us']:9.0f}{extra:14.0f}"
                f"{most or '':>8}{cell['rps']:9.0f}{'  MISSED' if missed else ''}"
            )
    scales = cells["gateway", 64]["rps"] >= cells["gateway", 1]["rps"]
    print(f"gateway: requests/s at 64 in flight >= at 1: {'met' if scales else 'MISSED'}")
    return well and scales


def report_behaviour(records: list[Record]) -> bool:
    print(f"\n{'scenario':24}{'n':>5}{'ok %':>7}{'p99 ms':>8}{'max ms':>8}{'A':>5}{'B':>5}{'calls':>7}  bar")
    well = True
    for record in records:
        text, met = BARS[record["scenario"].split()[0]]
        met_now = met(record)
        well = well and met_now
        print(
            f"{record['scenario']:24}{record['n']:5}{record['ok']:7.1f}{record['p99']:8.0f}{record['max']:8.0f}"
            f"{record['A_hits']:5}{record['B_hits']:5}{record['amp']:7.2f}  {text}: "
            f"{'met' if met_now else 'MISSED'} {record['kinds'] if record['ok'] < 100 else ''}"
        )
    return well


@contextmanager
def _started(arguments: list[str], folder: Path) -> Iterator[tuple[int, int]]:
    """Two upstreams in a process of their own, so that its CPU is not counted as the client's."""
    ports = _free_port(), _free_port()
    process = subprocess.Popen(
        [sys.executable, *arguments, *map(str, ports)],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it says when it listens
        yield ports
    finally:
        process.terminate()
        process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
