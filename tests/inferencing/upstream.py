"""A model service over real HTTP whose faults can be switched while it runs."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

DIMENSIONS = 4
TOKENS = [f"t{number} " for number in range(8)]
USAGE = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}


def completion(name: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"pong from {name}"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def delta(content: str | None, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    fields = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": {**fields, **more}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


@dataclass
class Fault:
    """``mode``: ``ok``, ``status``, ``hang``, ``reset``, ``garbage``, ``truncate``, ``drop``, ``stall``,
    ``error_event`` or ``cut`` (a clean end of the body before the stream is finished). The last four
    happen after ``after`` tokens of a stream."""

    mode: str = "ok"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": {"message": "injected", "type": "x", "code": "injected"}}'
    after: int = 3
    error: dict[str, Any] = field(default_factory=lambda: {"message": "injected", "code": "server_error"})


class Upstream:
    """One deployment. ``requests`` are the bodies it received, ``open`` those it is working on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fault = Fault()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.open = 0
        self.most_open = 0
        self.gap_seconds = 0.0
        self.latency_seconds = 0.0
        self.as_base64 = True
        self.reports_usage = True
        self.url = ""

    @property
    def hits(self) -> int:
        return len(self.requests)

    async def list_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.requests.append(body)
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        self.paths.append(request.path_qs)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(self.latency_seconds)
            return await self._answer(request, body)
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = self.fault
        if fault.mode == "hang":
            await asyncio.sleep(60)
        if fault.mode == "status":
            return web.Response(status=fault.status, headers=fault.headers, body=fault.body)
        if fault.mode == "reset":
            return self._reset(request)
        if fault.mode == "garbage":
            return web.Response(body=b"<html>not json</html>", content_type="text/html")
        if "documents" in body:
            return web.json_response(self._ranking(body))
        if "input" in body:
            return web.json_response(self._embeddings(body))
        if body.get("stream"):
            return await self._stream(request, body, fault)
        data = json.dumps(completion(self.name)).encode()
        if fault.mode == "truncate":
            response = web.Response(body=data, content_type="application/json")
            response.headers["Content-Length"] = str(len(data) + 40)
            response.force_close()
            return response
        return web.Response(body=data, content_type="application/json")

    def _reset(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _stream(self, request: web.Request, body: dict[str, Any], fault: Fault) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(event: Any) -> None:
            data = event if isinstance(event, bytes) else json.dumps(event).encode()
            await response.write(b"data: " + data + b"\n\n")

        await send(delta("", role="assistant"))
        for number, token in enumerate(TOKENS):
            if number == fault.after and fault.mode in ("drop", "stall", "error_event", "cut"):
                await self._break(request, send, fault)
                return response
            await send(delta(f"{token}"))
            await asyncio.sleep(self.gap_seconds)
        await send(delta(None, "stop"))
        if self.reports_usage and (body.get("stream_options") or {}).get("include_usage"):
            await send({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
        await send(b"[DONE]")
        return response

    async def _break(self, request: web.Request, send: Any, fault: Fault) -> None:
        if fault.mode == "drop":
            await asyncio.sleep(0.005)
            self._reset(request)
        elif fault.mode == "stall":
            await asyncio.sleep(60)
        elif fault.mode == "error_event":
            await send({"error": fault.error})

    def _ranking(self, body: dict[str, Any]) -> dict[str, Any]:
        """The longest first, in the form of Cohere: ordered by relevance."""
        lengths = sorted(((len(text), index) for index, text in enumerate(body["documents"])), reverse=True)
        answer: dict[str, Any] = {
            "results": [{"index": index, "relevance_score": float(length)} for length, index in lengths]
        }
        return answer | ({"usage": {"prompt_tokens": 30, "total_tokens": 30}} if self.reports_usage else {})

    def _embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        data = []
        for index, text in enumerate(body["input"]):
            vector = [float(len(text)), *[0.5] * (DIMENSIONS - 1)]
            packed = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *vector)).decode()
            data.append({"index": index, "embedding": packed if self.as_base64 else vector})
        tokens = len(body["input"])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data[::-1], "usage": usage}


@asynccontextmanager
async def serving(*names: str) -> AsyncIterator[list[Upstream]]:
    """Upstreams with these names, each on a port of its own."""
    upstreams, runners = [], []
    try:
        for name in names:
            upstream = Upstream(name)
            app = web.Application()
            app.router.add_get("/{tail:.*}", upstream.list_models)
            app.router.add_post("/{tail:.*}", upstream.handle)
            runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            runners.append(runner)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            upstreams.append(upstream)
        yield upstreams
    finally:
        for runner in runners:
            await runner.cleanup()
