"""One try against one deployment: encode the request, open the answer, judge whether it is one."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from shared.errors import InvalidRequest

from .calls import Usage
from .catalogue import Api, Deployment, Timeouts
from .events import EventDecoder
from .faults import DeploymentFault, FaultKind, Rejected, classify_error_event, classify_status
from .wire import Wire, WireResponse

# `json.dumps` with arguments makes one of these each time.
_ENCODER = json.JSONEncoder(allow_nan=False)
# How long a finished stream may take to close its body, for the connection to be used again.
DRAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """A request before it is addressed to a deployment.

    ``read`` turns a parsed answer into what the caller wants; what it raises says that this is no answer.
    """

    operation: str
    body: Mapping[str, Any]
    stream: bool
    read: Callable[[dict[str, Any]], Any]

    def encode(self, deployment: Deployment) -> bytes:
        """The body for ``deployment``. Raises ``InvalidRequest`` for what JSON cannot say."""
        body: dict[str, Any] = {**self.body, "model": deployment.deployment}
        if deployment.api is Api.AZURE_DEPLOYMENTS:
            del body["model"]
        if self.stream:
            body["stream"] = True
            # Always asked for, because usage is recorded for every call.
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        else:
            body.pop("stream", None)
            body.pop("stream_options", None)
        try:
            return _ENCODER.encode(body).encode()
        except (TypeError, ValueError):
            raise InvalidRequest("The body holds a value that JSON cannot express.") from None


class Chunk(NamedTuple):
    """One event of a stream: as it was sent, and parsed."""

    data: bytes
    json: dict[str, Any]


class JsonAnswer:
    """A whole answer: as it was sent, and as ``Request.read`` understood it."""

    def __init__(self, data: bytes, parsed: dict[str, Any], value: Any) -> None:
        self.data = data
        self.value = value
        self.usage = Usage.reported(parsed.get("usage"))

    def close(self) -> None:
        """There is nothing left to let go."""


class StreamAnswer:
    """A stream that has begun: its first chunk with content has arrived.

    ``next`` gives the chunks, then None at a proper end. It raises ``DeploymentFault`` when the stream
    breaks, stalls, or ends without having said that it is finished.
    """

    def __init__(self, response: WireResponse, gap_seconds: float) -> None:
        self._response = response
        self._gap_seconds: float | None = None  # until it has begun, the limit of the try bounds the wait
        self._gap_seconds_once_begun = gap_seconds
        self._decoder = EventDecoder()
        self._ready: deque[Chunk | DeploymentFault | Rejected] = deque()
        self._finished = False
        self._done = False
        self.usage: Usage | None = None

    async def begin(self) -> None:
        """Wait for the first content; what comes before it is kept."""
        held: list[Chunk] = []
        while (chunk := await self.next()) is not None:
            held.append(chunk)
            if _has_content(chunk.json):
                break
        if not held:
            raise DeploymentFault(FaultKind.FAILED, "empty_stream")
        self._ready.extendleft(reversed(held))
        self._gap_seconds = self._gap_seconds_once_begun

    async def next(self, longest_wait: float | None = None) -> Chunk | None:
        while not self._ready:
            if self._done:
                await self._drain()
                return None
            await self._read(longest_wait)
        chunk = self._ready.popleft()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self) -> None:
        self._response.close()

    async def _read(self, longest_wait: float | None) -> None:
        limits = [limit for limit in (self._gap_seconds, longest_wait) if limit is not None]
        try:
            async with asyncio.timeout(min(limits, default=None)):
                block = await self._response.read_some()
        except TimeoutError:
            raise DeploymentFault(FaultKind.HUNG, "stalled") from None
        if not block:
            if not self._finished:
                raise DeploymentFault(FaultKind.FAILED, "truncated")
            self._done = True
        try:
            events = self._decoder.feed(block)
        except ValueError:
            raise DeploymentFault(FaultKind.FAILED, "garbage") from None
        for data in events:
            if data == b"[DONE]":
                self._done = True
                return
            try:
                self._ready.append(self._parse(data))
            except (DeploymentFault, Rejected) as error:
                self._ready.append(error)  # once the chunks before it are read
                return

    def _parse(self, data: bytes) -> Chunk:
        try:
            chunk = json.loads(data)
        except ValueError:
            chunk = None
        if not isinstance(chunk, dict):
            raise DeploymentFault(FaultKind.FAILED, "garbage")
        if chunk.get("error"):
            raise classify_error_event(chunk["error"])
        self.usage = Usage.reported(chunk.get("usage")) or self.usage
        self._finished = self._finished or any(c.get("finish_reason") for c in choices_of(chunk))
        return Chunk(data, chunk)

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self._response.read_some():
                    pass
        except (TimeoutError, DeploymentFault):
            self._response.close()


Answer = JsonAnswer | StreamAnswer


async def open_answer(
    wire: Wire, deployment: Deployment, headers: Mapping[str, str], request: Request, timeouts: Timeouts
) -> Answer:
    """Send ``request`` to ``deployment`` and wait for the answer, or for the first content of its stream.

    Raises ``DeploymentFault`` or ``Rejected``. Whoever gets an answer must close it.
    """
    longest = timeouts.first_token_seconds if request.stream else timeouts.answer_seconds
    try:
        async with asyncio.timeout(longest):
            body = request.encode(deployment)
            url = deployment.url(request.operation)
            response = await wire.post(url, headers, body, timeouts.connect_seconds)
            try:
                return await _read_answer(response, request, timeouts)
            except BaseException:
                response.close()
                raise
    except TimeoutError:
        raise DeploymentFault(FaultKind.HUNG, "no_answer") from None


async def _read_answer(response: WireResponse, request: Request, timeouts: Timeouts) -> Answer:
    if response.status != 200:
        raise classify_status(response.status, response.headers, await _error_body(response))
    if request.stream:
        answer = StreamAnswer(response, timeouts.gap_seconds)
        await answer.begin()
        return answer
    data = await response.read()
    try:
        parsed = json.loads(data)
        return JsonAnswer(data, parsed, request.read(parsed))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DeploymentFault(FaultKind.FAILED, "garbage") from None


async def _error_body(response: WireResponse) -> bytes:
    try:
        return await response.read()
    except DeploymentFault:
        return b""  # the status and the headers say enough


def choices_of(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of a chunk; none where it has none or they are malformed."""
    choices = chunk.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def _has_content(chunk: Mapping[str, Any]) -> bool:
    """Whether the chunk holds anything of the answer: any part of a delta but the role, or its end."""
    for choice in choices_of(chunk):
        delta = choice.get("delta")
        if choice.get("finish_reason"):
            return True
        if isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role"):
            return True
    return False
