"""OpenAI's wire format at the edge: errors in its shape, server-sent events, bodies read loosely.

A body is checked in what the app acts upon; the rest goes to the model as it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Literal

from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import ConfigDict, Field

from functions.http import Call, Model, ended_by_error, event_stream
from shared.errors import GroundworkError, MalformedJson, Unauthenticated, UnsupportedMediaType
from shared.inferencing.faults import Rejected

REQUEST_ID_HEADER = "x-request-id"
DONE = b"data: [DONE]\n\n"


class OpenAIBody(Model):
    """A body of OpenAI's API: members that are not named here are passed on unchanged."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str | None = Field(None, max_length=128, description="None where the path names it")


class ChatCompletionBody(OpenAIBody):
    """OpenAI's chat completion request."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    prompt_cache_key: str | None = None


class EmbeddingsBody(OpenAIBody):
    """OpenAI's embeddings request: texts, or lists of token ids."""

    input: str | list[Any]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)


class ResponsesBody(OpenAIBody):
    """OpenAI's Responses request, as far as it needs no stored state."""

    input: str | list[Any]
    background: bool | None = None
    instructions: str | None = None
    include: list[str] | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any] | None = None
    stream: bool | None = None
    text: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


async def read_object(call: Call) -> dict[str, Any]:
    """The body as a JSON object; raises `UnsupportedMediaType` and what `Call.json` raises."""
    media_type = call.request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if media_type.lower() != "application/json":
        raise UnsupportedMediaType("The body must be JSON, with the content type application/json.")
    value = await call.json_value()
    if not isinstance(value, dict):
        raise MalformedJson("The body must be a JSON object.")
    return value


def error_object(error: GroundworkError, correlation_id: str) -> dict[str, Any]:
    """The ``error`` member: OpenAI's four, and what clients of ours rely on.

    Where a model service refused the request its own message is given: it is for the caller alone.
    """
    said = error.__cause__.error if isinstance(error.__cause__, Rejected) else {}
    document: dict[str, Any] = {
        **{name: value for name, value in error.extra.items() if name not in ("resource", "parameter")},
        "message": str(said.get("message") or error.detail),
        "type": _type(error.status),
        "param": said.get("param") or _parameter(error),
        "code": _code(error),
        "retryable": error.retryable,
        "correlation_id": correlation_id,
    }
    if (wait := error.wait_seconds) is not None:
        document["retry_after"] = round(wait, 3)
    return document


def openai_error(error: GroundworkError, correlation_id: str) -> Response:
    """The response to a request that ended with ``error``, in OpenAI's shape."""
    # OpenAI's clients repeat 409, 429 and every 5xx unless told otherwise.
    headers = {REQUEST_ID_HEADER: correlation_id, "x-should-retry": str(error.retryable).lower()}
    if (wait := error.wait_seconds) is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="groundwork"'
    document = {"error": error_object(error, correlation_id)}
    return JSONResponse(document, status_code=error.status, headers=headers)


def _type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"


def _code(error: GroundworkError) -> str:
    return "model_not_found" if error.extra.get("resource") == "model" else error.code


def _parameter(error: GroundworkError) -> str | None:
    if error.extra.get("resource") == "model":
        return "model"
    faults = error.extra.get("faults") or [{"path": ""}]
    return error.extra.get("parameter") or faults[0]["path"].partition("/")[0] or None


def data_event(data: bytes) -> bytes:
    """One server-sent event without a name."""
    return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def event_response(
    call: Call,
    events: AsyncGenerator[bytes, None],
    failed: Callable[[dict[str, Any]], bytes] | None = None,
) -> Response:
    """A stream of ``events``, answered when the first has come: an error before it is an HTTP status.

    A stream that breaks off later ends with the event that ``failed`` makes of the error object. When the
    client leaves, ``events`` is closed, which stops what it waits for.
    """
    first = await call.while_connected(anext(events, b""))
    render = failed or failed_event
    return event_stream(
        ended_by_error(
            call,
            _from_first(first, events),
            lambda error: render(error_object(error, call.correlation_id)),
        )
    )


async def _from_first(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


def failed_event(error: dict[str, Any]) -> bytes:
    """The last event of a stream that broke off; no ``[DONE]`` follows."""
    return data_event(encode({"error": error}))
