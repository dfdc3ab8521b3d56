"""Runs a host behind uvicorn: binds its address, reports readiness, and stops by signals."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from devhost.errors import AddressError
from devhost.host import Host

# Kestrel keeps idle connections for 130 s; a client that reuses one must not find it closed under its hands.
KEEP_ALIVE_SECONDS = 130
# Connections still open once the functions have been drained: idle keep-alives and cut-off responses.
CLOSE_CONNECTIONS_SECONDS = 1


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; raises AddressError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # On Windows SO_REUSEADDR would share the port with another process; on POSIX it only skips TIME_WAIT.
    if sys.platform == "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise AddressError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def bound_to(listener: socket.socket) -> str:
    """The address and port that `listener` is bound to, which may be every address there is."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def base_url(listener: socket.socket) -> str:
    """The address under which this machine reaches `listener`."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` to its end on uvloop where there is one, else on asyncio's own loop."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def serve(host: Host, listener: socket.socket, announce: Callable[[], None]) -> int:
    """Serve until SIGINT or SIGTERM, then stop in order; a second signal ends the process at once.

    Returns the exit status: 0, or 1 when running functions had to be cut off.
    """
    stop = _stop_signal()
    server = _Server(
        uvicorn.Config(
            host.http,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSE_CONNECTIONS_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await host.start()
    await server.ready.wait()
    announce()
    await stop.wait()
    # The server outlives the functions: their Durable client calls it.
    drained = await host.stop()
    server.should_exit = True
    await serving
    return 0 if drained else 1


def _stop_signal() -> asyncio.Event:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    signals: list[int] = []

    def handle(number: int, _frame: Any) -> None:
        signals.append(number)
        if len(signals) > 1:
            os._exit(128 + number)
        loop.call_soon_threadsafe(stop.set)

    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), handle)
    return stop
