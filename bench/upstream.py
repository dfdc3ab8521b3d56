"""What the model services of the benchmarks share: HTTP/1.1 as cheap as it gets, and ``/control``."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from typing import Any

import httptools

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def completion(text: str) -> bytes:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def response(status: int, body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (status, headers, len(body)) + body


class Connection(asyncio.Protocol, ABC):
    """One connection: whole requests come in. A client that leaves ends the work on its request.

    ``POST /control`` with a JSON object sets what the service does and its counters to zero; ``GET /control``
    reads the counters.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._work: asyncio.Task[None] | None = None

    @abstractmethod
    def control(self, wanted: dict[str, Any] | None) -> dict[str, Any]:
        """Do as ``wanted`` from now on, if anything is; the counters."""

    @abstractmethod
    async def answer(self, body: bytes) -> None:
        """Answer a request, by writing to the transport."""

    def answer_at_once(self, body: bytes) -> bytes | None:
        """The answer to a request that needs no work; None for any other."""
        return None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._work is not None:
            self._work.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        posted = self._parser.get_method() == b"POST"
        if self._url == b"/control":
            wanted = json.loads(self._body) if posted else None
            self.transport.write(response(200, json.dumps(self.control(wanted)).encode()))
        elif not posted:
            self.transport.write(response(200, b'{"object":"list","data":[]}'))
        elif (ready := self.answer_at_once(self._body)) is not None:
            self.transport.write(ready)
        else:
            self._work = asyncio.ensure_future(self.answer(self._body))
