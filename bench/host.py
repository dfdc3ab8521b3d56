"""What the embedded host costs over bare Starlette + uvicorn: CPU per request, and time to the first event.

Both servers run in processes of their own, with uvloop and httptools where there are any; CPU time is the
server process's own. Rounds alternate between the servers, and each figure is the median over the rounds.
Bars: at most 2 x the CPU for a JSON request and for a 50-event stream, at most 5 ms more to the first event.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parent.parent
CPU_BAR_RATIO = 2.0
FIRST_EVENT_BAR_MS = 5.0
EVENTS = 50
START_SECONDS = 30
CONCURRENCY = 8

HANDLERS = """
async def answer(req: Request) -> JSONResponse:
    return JSONResponse({"id": req.path_params["id"], "state": "running", "done": 3, "total": 17})

async def events(req: Request) -> StreamingResponse:
    async def produce():
        for number in range(EVENTS):
            yield f"event: token\\ndata: {{\\"number\\": {number}}}\\n\\n"
            await asyncio.sleep(0)
    return StreamingResponse(produce(), media_type="text/event-stream")
"""

BARE = f"""
import asyncio, sys
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
EVENTS = {EVENTS}
{HANDLERS}
app = Starlette(routes=[Route("/api/jobs/{{id}}", answer), Route("/api/events", events)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
"""

FUNCTION_APP = f"""
import asyncio
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, StreamingResponse
EVENTS = {EVENTS}
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
{HANDLERS}
app.route(route="jobs/{{id}}", methods=["GET"])(answer)
app.route(route="events", methods=["GET"])(events)
"""


class Server:
    """A server process under test."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name, self.port, self.process = name, port, process

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory_mib(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


def main(argv: list[str] | None = None) -> int:
    """Print the figures with their bars; 0 when every bar is kept, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="bench host", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=1500, help="JSON requests per round and server")
    parser.add_argument("--streams", type=int, default=150, help="event streams per round and server")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, _servers(Path(folder)) as servers:
        bare, host = servers
        first = asyncio.run(_first_event_ms(servers))
        json_cpu = asyncio.run(
            _cpu_per_request(servers, "/api/jobs/42", arguments.requests, arguments.rounds)
        )
        memory_before = host.memory_mib()
        stream_cpu = asyncio.run(
            _cpu_per_request(servers, "/api/events", arguments.streams, arguments.rounds)
        )
        memory_after = host.memory_mib()
    kept = [
        _print_ratio("JSON request", json_cpu[bare.name], json_cpu[host.name]),
        _print_ratio(f"stream of {EVENTS} events", stream_cpu[bare.name], stream_cpu[host.name]),
        _print_added(first[bare.name], first[host.name]),
    ]
    print(f"host memory before and after the streams: {memory_before:.0f} and {memory_after:.0f} MiB")
    return 0 if all(kept) else 1


def _print_ratio(what: str, bare: float, host: float) -> bool:
    ratio = host / bare
    verdict = "kept" if ratio <= CPU_BAR_RATIO else "MISSED"
    print(
        f"{what}: bare {bare * 1e6:.0f} us CPU, host {host * 1e6:.0f} us CPU, "
        f"ratio {ratio:.2f} (bar <= {CPU_BAR_RATIO:g}: {verdict})"
    )
    return ratio <= CPU_BAR_RATIO


def _print_added(bare: float, host: float) -> bool:
    added = host - bare
    verdict = "kept" if added <= FIRST_EVENT_BAR_MS else "MISSED"
    print(
        f"time to first event: bare {bare:.2f} ms, host {host:.2f} ms, "
        f"added {added:.2f} ms (bar <= {FIRST_EVENT_BAR_MS:g} ms: {verdict})"
    )
    return added <= FIRST_EVENT_BAR_MS


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[Server, Server]]:
    (folder / "bare.py").write_text(BARE)
    (folder / "app").mkdir()
    (folder / "app" / "function_app.py").write_text(FUNCTION_APP)
    (folder / "app" / "host.json").write_text('{"version": "2.0"}')
    ports = _free_port(), _free_port()
    commands = {
        "bare": [sys.executable, str(folder / "bare.py"), str(ports[0])],
        "host": [
            *(sys.executable, "-m", "devhost", "--app", str(folder / "app")),
            *("--port", str(ports[1]), "--data", str(folder / "data")),
        ],
    }
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with (folder / "log.txt").open("wb") as log:
        servers = [
            Server(name, port, subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder))
            for (name, command), port in zip(commands.items(), ports, strict=True)
        ]
        try:
            for server in servers:
                _wait_until_it_listens(server, folder / "log.txt")
            yield servers[0], servers[1]
        finally:
            for server in servers:
                server.process.terminate()
            for server in servers:
                server.process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait_until_it_listens(server: Server, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up and server.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the {server.name} server did not start:\n{log.read_text()}")


async def _cpu_per_request(
    servers: tuple[Server, Server], path: str, count: int, rounds: int
) -> dict[str, float]:
    spent: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(rounds + 1):
        for server in servers:
            before = server.cpu_seconds()
            await asyncio.gather(
                *(_requests(server.port, path, count // CONCURRENCY) for _ in range(CONCURRENCY))
            )
            if number:  # the first round warms up
                spent[server.name].append(
                    (server.cpu_seconds() - before) / (count // CONCURRENCY * CONCURRENCY)
                )
    return {name: statistics.median(values) for name, values in spent.items()}


async def _requests(port: int, path: str, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(count):
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        await _read_response(reader)
    writer.close()


async def _read_response(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"unexpected answer: {head.decode()}")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    if length is not None:
        await reader.readexactly(int(length.split(b":")[1]))
    else:
        await reader.readuntil(b"0\r\n\r\n")


async def _first_event_ms(servers: tuple[Server, Server], count: int = 100) -> dict[str, float]:
    taken: dict[str, list[float]] = {server.name: [] for server in servers}
    for _ in range(count):
        for server in servers:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            started = time.perf_counter()
            writer.write(b"GET /api/events HTTP/1.1\r\nhost: bench\r\n\r\n")
            await reader.readuntil(b"data: ")
            taken[server.name].append((time.perf_counter() - started) * 1000)
            await reader.readuntil(b"0\r\n\r\n")
            writer.close()
    return {name: statistics.median(values) for name, values in taken.items()}


if __name__ == "__main__":
    sys.exit(main())
