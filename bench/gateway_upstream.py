"""Model services with switchable faults, cheap enough to measure clients against: their own process.

    python -m bench.gateway_upstream PORT…

`Connection` says how the fault of a port is set, and its counters read.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from bench.upstream import Connection, completion, response

STREAM_TOKENS = 20
GAP_SECONDS = 0.005
HANG_SECONDS = 30.0


def event(text: str | None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop" if text is None else None}
    data = json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})
    return chunk(f"data: {data}\n\n".encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Service:
    """One port: its fault and its counters."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.message = completion(f"pong from {port}")
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


class Asked(Connection):
    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def control(self, wanted: dict[str, Any] | None) -> dict[str, Any]:
        if wanted is not None:
            self._service.set(wanted)
        return {"hits": self._service.hits, "open": self._service.open}

    def answer_at_once(self, body: bytes) -> bytes | None:
        # Drawn once for each request, and here since no request is missed.
        self._mode = self._service.mode()
        self._streams = b'"stream": true' in body or b'"stream":true' in body
        return response(200, self._service.message) if self._mode == "ok" and not self._streams else None

    async def answer(self, body: bytes) -> None:
        self._service.open += 1
        try:
            await self._answer(self._mode, self._streams)
        finally:
            self._service.open -= 1

    async def _answer(self, mode: str, stream: bool) -> None:
        write, fault = self.transport.write, self._service.fault
        if mode.isdigit():
            seconds = fault["retry_after"]
            headers = b"" if seconds is None else b"retry-after: %d\r\n" % seconds
            write(response(int(mode), b'{"error": {"message": "injected"}}', headers))
        elif mode == "reset":
            self.transport.abort()
        elif mode == "garbage":
            write(response(200, b"<html>"))
        elif mode == "truncate" and not stream:
            write(response(200, self._service.message)[:-40])
            self.transport.close()
        else:
            await asyncio.sleep(HANG_SECONDS if mode == "hang" else 0)
            if stream:
                await self._stream(mode, fault["after"])
            else:
                write(response(200, self._service.message))

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
            write(event(f"t{number}@{self._service.port} "))
            await asyncio.sleep(GAP_SECONDS)
        return write(event(None) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def serve(ports: list[int]) -> None:
    loop = asyncio.get_running_loop()
    for port in ports:
        service = Service(port)
        await loop.create_server(lambda service=service: Asked(service), "127.0.0.1", port, backlog=1024)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve([int(port) for port in sys.argv[1:]]))
