"""Model services with switchable faults, cheap enough to measure clients against: their own process.

    python -m bench.gateway_upstream PORT…

``POST /control`` with a JSON object sets the fault of a port and its counters to zero; ``GET /control``
reads the counters.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

import httptools

STREAM_TOKENS = 20
GAP_SECONDS = 0.005
HANG_SECONDS = 30.0


def message(port: int) -> bytes:
    answer = {"role": "assistant", "content": f"pong from {port}"}
    choices = [{"index": 0, "message": answer, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": choices, "usage": usage}).encode()


def event(text: str | None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if text is None else None}
    data = json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})
    return chunk(f"data: {data}\n\n".encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def response(status: int, body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
    return head % (status, headers, len(body)) + body


class Service:
    """One port: its fault and its counters."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.message = message(port)
        self.set({})

    def set(self, fault: dict[str, Any]) -> None:
        self.fault = {
            "mode": "ok",
            "share": 1.0,
            "retry_after": None,
            "for_seconds": None,
            "after": 5,
            **fault,
        }
        self.since = time.monotonic()
        self.hits: list[float] = []
        self.open = 0

    def mode(self) -> str:
        seconds = time.monotonic() - self.since
        self.hits.append(round(seconds, 3))
        over = self.fault["for_seconds"] is not None and seconds > self.fault["for_seconds"]
        return "ok" if over or random.random() >= self.fault["share"] else self.fault["mode"]


class Connection(asyncio.Protocol):
    def __init__(self, service: Service) -> None:
        self.service = service
        self.work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.work is not None:
            self.work.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url = self.body = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.url == b"/control":
            self._control()
            return
        mode, stream = self.service.mode(), b'"stream": true' in self.body or b'"stream":true' in self.body
        if mode == "ok" and not stream:
            self.transport.write(response(200, self.service.message))
        else:
            self.work = asyncio.ensure_future(self._work(mode, stream))

    def _control(self) -> None:
        if self.parser.get_method() == b"POST":
            self.service.set(json.loads(self.body))
        counters = {"hits": self.service.hits, "open": self.service.open}
        self.transport.write(response(200, json.dumps(counters).encode()))

    async def _work(self, mode: str, stream: bool) -> None:
        self.service.open += 1
        try:
            await self._answer(mode, stream)
        finally:
            self.service.open -= 1

    async def _answer(self, mode: str, stream: bool) -> None:
        write, fault = self.transport.write, self.service.fault
        if mode.isdigit():
            seconds = fault["retry_after"]
            headers = b"" if seconds is None else b"retry-after: %d\r\n" % seconds
            write(response(int(mode), b'{"error": {"message": "injected"}}', headers))
        elif mode == "reset":
            self.transport.abort()
        elif mode == "garbage":
            write(response(200, b"<html>"))
        elif mode == "truncate" and not stream:
            write(response(200, self.service.message)[:-40])
            self.transport.close()
        else:
            await asyncio.sleep(HANG_SECONDS if mode == "hang" else 0)
            if stream:
                await self._stream(mode, fault["after"])
            else:
                write(response(200, self.service.message))

    async def _stream(self, mode: str, after: int) -> None:
        write = self.transport.write
        write(b"HTTP/1.1 200 -\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(STREAM_TOKENS):
            if number == after and mode == "drop":
                await asyncio.sleep(0.01)
                return self.transport.close()
            if number == after and mode == "stall":
                await asyncio.sleep(HANG_SECONDS)
            if number == after and mode == "error_event":
                error = b'data: {"error": {"message": "injected", "code": "server_error"}}\n\n'
                return write(chunk(error) + b"0\r\n\r\n")
            write(event(f"t{number}@{self.service.port} "))
            await asyncio.sleep(GAP_SECONDS)
        return write(event(None) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        service = Service(port)
        await loop.create_server(lambda service=service: Connection(service), "127.0.0.1", port, backlog=1024)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[1:]]))
