"""An engine over the test app, and a real server in front of it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from azure.durable_functions.models.utils import http_utils
from starlette.applications import Starlette

from devhost.durable import DurableOptions, Engine, durable_routes
from devhost.functions import load_functions

APP = Path(__file__).parent / "app"
KEY = "system-key"


def sdk_input(value: Any) -> str:
    """An orchestration's input as the SDK's client encodes it."""
    return json.dumps(json.dumps(value))


class Host:
    """An engine over a fresh import of the test app, with what tests do with it."""

    def __init__(self, database: Path, **arguments: Any) -> None:
        functions = arguments.pop("functions", None) or load_functions(APP)
        self.app = SimpleNamespace(**vars(__import__("sys").modules["function_app"]))
        options = arguments.pop("options", DurableOptions(max_concurrent_activities=10))
        self.engine = Engine(functions, database, options, **arguments)

    async def run(
        self, name: str, value: Any = None, instance_id: str | None = None, seconds: float = 20
    ) -> Any:
        """Start, wait until it has finished, return its record."""
        started = await self.start(name, value, instance_id)
        return await self.finished(started, seconds)

    async def start(self, name: str, value: Any = None, instance_id: str | None = None) -> str:
        return await self.engine.start_instance(name, instance_id, sdk_input(value))

    async def finished(self, instance_id: str, seconds: float = 20) -> Any:
        instance = await self.engine.wait(instance_id, seconds)
        assert instance.finished, f"{instance_id} is {instance.status} after {seconds} s"
        return instance

    async def until(self, condition: Any, seconds: float = 10) -> None:
        """Wait until an async condition holds."""
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110  the engine tells nobody but itself
                await asyncio.sleep(0.01)

    async def status(self, instance_id: str) -> str:
        return (await self.engine.instance(instance_id)).status

    async def custom_status(self, instance_id: str) -> Any:
        custom = (await self.engine.instance(instance_id)).custom_status
        return json.loads(custom) if custom else None


def output(instance: Any) -> Any:
    assert instance.status == "Completed", instance.output
    return json.loads(instance.output)


@asynccontextmanager
async def running(database: Path, **arguments: Any) -> AsyncIterator[Host]:
    host = Host(database, **arguments)
    await host.engine.start()
    try:
        yield host
    finally:
        for gate in host.app.gates.values():
            gate.set()
        await host.engine.stop()


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[str]:
    """Serve the engine's routes; yield the base URL."""
    urls: list[str] = []
    async with listening(Starlette(routes=durable_routes(engine, lambda: urls[0], KEY))) as base_url:
        urls.append(base_url)
        yield base_url
        await http_utils._close_session()


@asynccontextmanager
async def listening(app: Starlette) -> AsyncIterator[str]:
    """Serve an app on a free port; yield the base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task
