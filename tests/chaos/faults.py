"""A proxy that lies: between the host and Azurite or the model host, over real HTTP, it fails some requests.

A failed request was either never delivered (refused, or the connection dropped before), or delivered and its
answer lost: the caller cannot tell which, and must be right in both cases.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import aiohttp
from aiohttp import web
from yarl import URL

# How a request fails, by the weight of each kind.
STORAGE_KINDS = {"refused": 4, "busy": 4, "dropped": 3, "answer lost": 3, "late": 2}
MODEL_KINDS = {
    "refused": 3,
    "busy": 3,
    "throttled": 3,
    "garbage": 3,
    "dropped": 2,
    "answer lost": 2,
    "late": 2,
}
LATE_SECONDS = 0.7
RETRY_AFTER_SECONDS = 1
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "content-length", "expect"}


@dataclass
class FaultProxy:
    """One upstream behind a port of its own. ``rate`` is the share of requests that fail."""

    upstream: str
    seed: int
    rate: float = 0.0
    weights: Mapping[str, int] = field(default_factory=lambda: STORAGE_KINDS)
    port: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    posts: int = 0

    def __post_init__(self) -> None:
        self._random = Random(self.seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner: web.AppRunner | None = None

    def start(self) -> FaultProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), skip_auto_headers=("User-Agent",)
        )
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        await self._session.close()

    def _fate(self) -> str:
        self.requests += 1
        if self._random.random() >= self.rate:
            return ""
        kind = self._random.choices([*self.weights], [*self.weights.values()])[0]
        self.kinds[kind] += 1
        return kind

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        fate = self._fate()
        self.posts += request.method == "POST"
        body = await request.read()
        if fate == "refused":
            return web.Response(status=500)
        if fate == "busy":
            return web.Response(status=503, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        if fate == "throttled":
            return web.Response(status=429, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        if fate == "garbage":
            return web.Response(status=200, content_type="application/json", body=b'{"data": [{"embedd')
        if fate == "dropped":
            return self._cut(request)
        if fate == "late":
            await asyncio.sleep(LATE_SECONDS)
        headers = [(n, v) for n, v in request.headers.items() if n.lower() not in _HOP_BY_HOP]
        url = URL(self.upstream + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=body or None, allow_redirects=False
            ) as answer:
                content = await answer.read()
                if fate == "answer lost":
                    return self._cut(request)
                kept = [(n, v) for n, v in answer.headers.items() if n.lower() not in _HOP_BY_HOP]
                response = web.Response(status=answer.status, body=content)
                response.headers.clear()
                for name, value in kept:
                    response.headers.add(name, value)
                return response
        except aiohttp.ClientError:
            return self._cut(request)

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
