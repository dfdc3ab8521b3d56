"""A model service over real HTTP that does what the deployment's name says, and keeps what it was sent."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

from aiohttp import web

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
# Spaces and an unknown member, to see that bytes are passed on and not written anew.
WHOLE = (
    b'{"id": "chatcmpl-x",  "object": "chat.completion", "created": 1, "model": "echo-2026", "extra": 1.50,'
    b' "choices": [{"index": 0, "message": {"role": "assistant", "content": "Whole answer."},'
    b' "logprobs": {"content": [{"token": "Whole", "logprob": -0.5, "bytes": [87], "top_logprobs": []}],'
    b' "refusal": null}, "finish_reason": "stop"}], '
    b'"usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}}'
)
CALLS = [
    {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
    {"id": "call_b", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
]


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    whole = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 1, "model": "echo-2026"}
    return json.dumps({**whole, "choices": [choice]}).encode()


STREAM = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Streamed"}),
    chunk({"content": " answer [1]."}),
    chunk({}, "stop"),
]
USAGE_CHUNK = json.dumps(
    {"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": 1, "choices": [], "usage": USAGE}
).encode()
# More than 16 tokens: enough to tell the pace.
SLOW_SECONDS = 0.6
SLOW_USAGE_CHUNK = USAGE_CHUNK.replace(b'"completion_tokens": 3', b'"completion_tokens": 24')
CALL_STREAM = [
    chunk({"role": "assistant", "content": "Let me look."}),
    chunk({"tool_calls": [{"index": 0, **CALLS[0], "function": {"name": "weather", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}),
    chunk({"tool_calls": [{"index": 1, **CALLS[1]}]}),
    chunk({}, "tool_calls"),
]
REFUSAL = {"error": {"message": "'temperature' must be 0 to 2.", "param": "temperature", "code": "bad_value"}}


def script_of(body: dict[str, Any]) -> str:
    """The deployment's name, unless the last message ends with the name of another script in brackets."""
    _, opened, script = str(body["messages"][-1]["content"]).partition("(script ")
    return script.rstrip(")") if opened else body["model"]


class ScriptedService:
    """Runs in a thread of its own. ``requests`` are the bodies it got; ``open`` counts those it works on."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.open = 0
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_for_open(self, count: int, seconds: float = 15) -> None:
        """Return when exactly ``count`` requests are open."""
        deadline = time.monotonic() + seconds
        while self.open != count:
            assert time.monotonic() < deadline, f"{self.open} requests are open instead of {count}"
            time.sleep(0.02)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        # Without it a handler goes on when its client has left.
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.open += 1
        try:
            return await self._answer(request, body)
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        script = script_of(body)
        match script:
            case "silent":
                await asyncio.sleep(600)
            case "slow" if not body.get("stream"):
                await asyncio.sleep(SLOW_SECONDS)
            case "down":
                return web.json_response({"error": {"message": "down"}}, status=503)
            case "refuses":
                return web.json_response(REFUSAL, status=400)
        if body.get("stream"):
            return await self._stream(request, script)
        if script == "calls":
            message = {"role": "assistant", "content": "Let me look.", "tool_calls": CALLS}
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return web.json_response({"id": "c", "object": "chat.completion", "choices": [choice]})
        return web.Response(body=WHOLE, content_type="application/json")

    async def _stream(self, request: web.Request, script: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(data: bytes) -> None:
            await response.write(b"data: " + data + b"\n\n")

        for data in CALL_STREAM if script == "calls" else STREAM[:-1]:
            await send(data)
        match script:
            case "breaks" | "breaks-too":
                assert request.transport is not None
                request.transport.close()
                return response
            case "endless":
                while True:
                    await send(chunk({"content": " more"}))
                    await asyncio.sleep(0.02)
            case "slow":
                for _ in range(20):
                    await send(chunk({"content": " more"}))
                    await asyncio.sleep(SLOW_SECONDS / 20)
        if script != "calls":
            await send(STREAM[-1])
        await send(SLOW_USAGE_CHUNK if script == "slow" else USAGE_CHUNK)
        await send(b"[DONE]")
        return response
