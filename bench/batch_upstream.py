"""A model service with a rate of its own that fails at random: its own process, for batches.

    python -m bench.batch_upstream PORT

It answers a chat with the text of its last message; `Connection` says how it is controlled.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

from bench.upstream import Connection, completion, response

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


class Asked(Connection):
    def __init__(self, service: Service) -> None:
        super().__init__()
        self._service = service

    def control(self, wanted: dict[str, Any] | None) -> dict[str, Any]:
        if wanted is not None:
            self._service.set(wanted)
        return self._service.document()

    async def answer(self, body: bytes) -> None:
        service = self._service
        service.open += 1
        service.most_open = max(service.most_open, service.open)
        try:
            if service.does["latency_ms"]:
                await asyncio.sleep(service.does["latency_ms"] / 1000)
            self.transport.write(self._judged(str(json.loads(body)["messages"][-1]["content"])))
        finally:
            service.open -= 1

    def _judged(self, text: str) -> bytes:
        service = self._service
        ends = service.judge()
        service.counts[ends] += 1
        if text == "fail" and not service.does["heals"]:
            return response(400, b'{"error":{"message":"refused","code":"refused"}}')
        if ends == "answered":
            service.answered.add(text)
            return response(200, completion(text))
        if ends == "failed":
            return response(500, b'{"error":{"message":"injected","code":"500"}}')
        wait = service.does["retry_after_ms"]
        headers = b"retry-after-ms: %d\r\nretry-after: %d\r\n" % (wait, -(-wait // 1000))
        return response(429, b'{"error":{"message":"slower","code":"429"}}', headers)


async def serve(port: int) -> None:
    service = Service()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Asked(service), "127.0.0.1", port, backlog=1024)
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
