"""A model service with a rate of its own that fails at random: its own process, for batches.

    python -m bench.batch_upstream PORT

It answers a chat with the text of its last message. ``POST /control`` with a JSON object sets what it does
and its counters to zero; ``GET /control`` reads the counters.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

import httptools

HEAD = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
DEFAULTS = {
    "throttled": 0.0,  # share of requests that are refused at random with 429
    "failed": 0.0,  # share that fail at random with 500
    "retry_after_ms": 1000,
    "per_second": 0.0,  # its own limit; 0 for none. What is beyond it is refused with 429
    "latency_ms": 0.0,
    "heals": False,  # whether it answers the requests that say "fail", which it refuses with 400 otherwise
}


COUNTED = ("requests", "answered", "throttled", "failed", "over_limit")


class Service:
    """What the service does, and what it has done."""

    def __init__(self) -> None:
        self.set({})

    def set(self, wanted: dict[str, Any]) -> None:
        self.does = DEFAULTS | wanted
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self.open = self.most_open = 0
        self.answered: set[str] = set()
        self._level = self.does["per_second"]
        self._filled_at = time.monotonic()

    def judge(self) -> str:
        """How one request ends."""
        self.counts["requests"] += 1
        drawn = random.random()
        if drawn < self.does["throttled"]:
            return "throttled"
        if drawn < self.does["throttled"] + self.does["failed"]:
            return "failed"
        return "answered" if self._within_limit() else "over_limit"

    def _within_limit(self) -> bool:
        rate = self.does["per_second"]
        if not rate:
            return True
        now = time.monotonic()
        self._level = min(rate, self._level + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def document(self) -> dict[str, Any]:
        return self.counts | {"distinct": len(self.answered), "open": self.open, "most_open": self.most_open}


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
            if self.parser.get_method() == b"POST":
                self.service.set(json.loads(self.body))
            self._send(200, json.dumps(self.service.document()).encode())
        elif self.parser.get_method() == b"GET":
            self._send(200, b'{"object":"list","data":[]}')
        else:
            self.work = asyncio.ensure_future(self._answer(self.body))

    async def _answer(self, body: bytes) -> None:
        service = self.service
        service.open += 1
        service.most_open = max(service.most_open, service.open)
        try:
            if service.does["latency_ms"]:
                await asyncio.sleep(service.does["latency_ms"] / 1000)
            ends = service.judge()
            service.counts[ends] += 1
            text = str(json.loads(body)["messages"][-1]["content"])
            if text == "fail" and not service.does["heals"]:
                self._send(400, b'{"error":{"message":"refused","code":"refused"}}')
            elif ends == "answered":
                service.answered.add(text)
                self._send(200, completion(text))
            elif ends == "failed":
                self._send(500, b'{"error":{"message":"injected","code":"500"}}')
            else:
                wait = service.does["retry_after_ms"]
                headers = b"retry-after-ms: %d\r\nretry-after: %d\r\n" % (wait, -(-wait // 1000))
                self._send(429, b'{"error":{"message":"slower","code":"429"}}', headers)
        finally:
            service.open -= 1

    def _send(self, status: int, body: bytes, headers: bytes = b"") -> None:
        self.transport.write(HEAD % (status, headers, len(body)) + body)


def completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def serve(port: int) -> None:
    service = Service()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(service), "127.0.0.1", port, backlog=1024)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
