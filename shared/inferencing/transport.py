"""The gateway below an OpenAI SDK: ``AsyncOpenAI(http_client=httpx2.AsyncClient(transport=...))``.

The SDK's requests never leave as they are: they become calls of the gateway, which chooses the deployment.
Import this module only where an SDK is used: it imports `httpx2`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx2

from shared.errors import GroundworkError, InvalidParameter, MalformedJson, NotFound

from .calls import CallContext
from .exchange import Chunk
from .faults import Rejected
from .gateway import CHAT, EMBEDDINGS, Exchange, Gateway

OPERATION = re.compile(rf"(?:/deployments/(?P<deployment>[^/]+))?/(?P<operation>{CHAT}|{EMBEDDINGS})/?$")


class GatewayTransport(httpx2.AsyncBaseTransport):
    """Chat completions and embeddings of an SDK, answered by ``gateway``.

    ``call`` gives the context of a request. The SDK's read time-out becomes the deadline where the context
    has none. Errors come back in OpenAI's shape, marked as not to be retried by the SDK: the gateway has
    tried already.
    """

    def __init__(
        self,
        gateway: Gateway,
        call: Callable[[httpx2.Request], CallContext],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._call = call
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await self._answer(request)
        except GroundworkError as error:
            return _error_response(error)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        operation, model, body = await _read_request(request)
        call = self._with_deadline(self._call(request), request)
        if operation == EMBEDDINGS:
            return _json_response(await self._gateway.exchange_embeddings(model, body, call=call))
        if not body.get("stream"):
            return _json_response(await self._gateway.exchange_chat(model, body, call=call))
        chunks = self._gateway.stream_chunks(model, body, call=call)
        first = await anext(chunks)
        return httpx2.Response(
            200, headers={"content-type": "text/event-stream"}, stream=_EventStream(first, chunks)
        )

    def _with_deadline(self, call: CallContext, request: httpx2.Request) -> CallContext:
        seconds = (request.extensions.get("timeout") or {}).get("read")
        if call.deadline is not None or seconds is None:
            return call
        return replace(call, deadline=self._clock() + seconds)


class _EventStream(httpx2.AsyncByteStream):
    """Chunks as server-sent events; a failure after the first content becomes an error event."""

    def __init__(self, first: Chunk, rest: AsyncGenerator[Chunk, None]) -> None:
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield _event(self._first.data)
        try:
            async for chunk in self._rest:
                yield _event(chunk.data)
            yield _event(b"[DONE]")
        except GroundworkError as error:
            yield _event(error_body(error))

    async def aclose(self) -> None:
        await self._rest.aclose()


async def _read_request(request: httpx2.Request) -> tuple[str, str, dict[str, Any]]:
    """Operation, model and body: the model is in the body, or in the path of Azure's older form."""
    match = OPERATION.search(request.url.path)
    if match is None or request.method != "POST":
        raise NotFound("operation", f"{request.method} {request.url.path}")
    try:
        body = json.loads(await request.aread())
    except ValueError:
        raise MalformedJson() from None
    if not isinstance(body, dict):
        raise MalformedJson("The body must be a JSON object.")
    model = match["deployment"] or body.get("model")
    if not isinstance(model, str):
        raise InvalidParameter("'model' must be a text.", parameter="model")
    return match["operation"], model, body


def error_body(error: GroundworkError) -> bytes:
    """The error in OpenAI's shape; the service's own words where it refused the request."""
    if isinstance(error.__cause__, Rejected) and error.__cause__.error:
        return error.__cause__.body
    kind = "invalid_request_error" if error.status < 500 and not error.retryable else "server_error"
    fields = {
        "message": error.detail,
        "type": kind,
        "code": error.code,
        "param": error.extra.get("parameter"),
    }
    return json.dumps({"error": fields}).encode()


def _error_response(error: GroundworkError) -> httpx2.Response:
    headers = {"content-type": "application/json", "x-should-retry": "false"}
    if error.retry_after is not None:
        headers["retry-after"] = str(-int(-error.retry_after // 1))
        headers["retry-after-ms"] = str(round(error.retry_after * 1000))
    status = error.__cause__.status if isinstance(error.__cause__, Rejected) else error.status
    return httpx2.Response(status, headers=headers, content=error_body(error))


def _json_response(exchange: Exchange) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "application/json"}, content=exchange.answer.data)


def _event(data: bytes) -> bytes:
    return b"data: " + b"\ndata: ".join(data.split(b"\n")) + b"\n\n"
