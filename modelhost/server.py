"""The HTTP edge: routes, API key, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from modelhost import openai_wire as wire
from modelhost.chat import ChatBusy, ChatModel, Generation
from modelhost.embeddings import DIMENSIONS, Embedder, InputTooLong, InvalidTokenId
from modelhost.openai_wire import ApiError
from modelhost.reranking import Reranker
from modelhost.slices import QueueFull

logger = logging.getLogger("modelhost")

# The largest sensible body: 2,048 inputs of 1,300 characters, each escaped to six bytes.
BODY_MAX_BYTES = 16 * 1024 * 1024
EMBEDDING_MODEL = "minilm"
RERANKING_MODEL = "minilm-rerank"

Handler = Callable[[Request], Awaitable[Any]]
Result = TypeVar("Result")


class ModelServer:
    """Serves an embedder, a re-ranker and a chat model; each may be absent. ``app`` is the application."""

    def __init__(
        self,
        embedder: Embedder | None,
        reranker: Reranker | None,
        chat: ChatModel | None,
        api_key: str | None,
    ) -> None:
        self._embedder, self._reranker, self._chat = embedder, reranker, chat
        self._key_digest = _digest(api_key) if api_key else None
        self._started = int(time.time())
        self._loading: asyncio.Task[None] | None = None
        self.app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            exception_handlers={
                ApiError: _on_api_error,
                HTTPException: _on_http_error,
                ClientDisconnect: _on_client_gone,
                Exception: _on_defect,
            },
        )

    def cut_answers_short(self) -> None:
        """End the answers in the making; their streams say so with an error event."""
        if self._chat:
            self._chat.cancel_all()

    def _routes(self) -> list[Route]:
        models, embeddings, rerank, completions = map(
            self._keyed, (self._models, self._embeddings, self._rerank, self._completions)
        )
        routes = [
            Route("/health/live", _live, methods=["GET"]),
            Route("/health/ready", self._ready, methods=["GET"]),
            Route("/openai/models", models, methods=["GET"]),
        ]
        for prefix in ("/v1", "/openai/v1", "/openai/deployments/{deployment}"):
            routes += [
                Route(f"{prefix}/models", models, methods=["GET"]),
                Route(f"{prefix}/embeddings", embeddings, methods=["POST"]),
                Route(f"{prefix}/rerank", rerank, methods=["POST"]),
                Route(f"{prefix}/chat/completions", completions, methods=["POST"]),
            ]
        return routes

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        if self._chat:
            # Embeddings are loaded by now and serve while the chat model loads.
            self._loading = asyncio.create_task(_load_chat(self._chat))
        yield
        if self._loading:
            await asyncio.wait([self._loading])
        if self._chat:
            await asyncio.to_thread(self._chat.close)
        for model in (self._embedder, self._reranker):
            if model:
                await asyncio.to_thread(model.close)

    def _keyed(self, handler: Handler) -> Handler:
        """``handler``, behind the API key where one is set."""

        async def guarded(request: Request) -> Any:
            if self._key_digest and not hmac.compare_digest(
                _digest(_presented_key(request)), self._key_digest
            ):
                raise ApiError(401, "invalid_api_key", "No valid API key was given.")
            return await handler(request)

        return guarded

    async def _ready(self, _request: Request) -> Response:
        """200 once every model can serve; each model's state either way."""
        models: dict[str, dict[str, Any]] = {}
        if self._embedder:
            models[EMBEDDING_MODEL] = {"state": "ready"}
        if self._reranker:
            models[RERANKING_MODEL] = {"state": "ready"}
        if self._chat:
            models[self._chat.name] = {"state": self._chat.state, "in_flight": self._chat.in_flight}
        ready = all(model["state"] == "ready" for model in models.values())
        body = {"status": "ready" if ready else "not_ready", "models": models}
        return JSONResponse(body, 200 if ready else 503)

    async def _models(self, _request: Request) -> Response:
        names = [EMBEDDING_MODEL] if self._embedder else []
        names += [RERANKING_MODEL] if self._reranker else []
        names += [self._chat.name] if self._chat else []
        return JSONResponse(wire.model_list(names, self._started))

    async def _embeddings(self, request: Request) -> Response:
        asked = wire.read_embeddings(wire.read_json(await _read_body(request)), _deployment(request))
        if not self._embedder or asked.model != EMBEDDING_MODEL:
            raise _unknown_model(asked.model, "embeddings")
        if asked.dimensions not in (None, DIMENSIONS):
            wire.invalid("dimensions", f"This model has {DIMENSIONS} dimensions and cannot be shortened.")
        rows = await _tokenize(self._embedder, asked)
        vectors = await _inferred(request, self._embedder, rows)
        return JSONResponse(
            wire.embeddings_response(asked.model, vectors, sum(map(len, rows)), asked.as_base64)
        )

    async def _rerank(self, request: Request) -> Response:
        asked = wire.read_rerank(wire.read_json(await _read_body(request)), _deployment(request))
        if not self._reranker or asked.model != RERANKING_MODEL:
            raise _unknown_model(asked.model, "re-ranking")
        pairs = [(asked.query, text) for text in asked.documents]
        rows = await asyncio.to_thread(self._reranker.encode, pairs)
        scores = await _inferred(request, self._reranker, rows)
        return JSONResponse(wire.rerank_response(asked, scores.tolist(), sum(map(len, rows))))

    async def _completions(self, request: Request) -> Any:
        asked = wire.read_chat(wire.read_json(await _read_body(request)), _deployment(request))
        if not self._chat or asked.model != self._chat.name:
            raise _unknown_model(asked.model, "chat completions")
        if self._chat.state == "loading":
            raise ApiError(503, "model_loading", "The chat model is still loading.", retry_after=1)
        if self._chat.state == "failed":
            raise ApiError(503, "model_unavailable", "The chat model could not be loaded.")
        try:
            generation = self._chat.start(asked.messages, asked.sampling, background=_is_background(request))
        except ChatBusy as busy:
            raise ApiError(
                429, "rate_limit_exceeded", str(busy), retry_after=busy.retry_after_seconds
            ) from None
        reply = wire.ChatReply(asked.model, asked.include_usage)
        if asked.stream:
            return await _begin_stream(request, generation, reply, asked.include_usage)
        return JSONResponse(await _whole_answer(request, generation, reply))


class _ChatStream:
    """The ASGI response of a streamed answer; a client that leaves ends the generation."""

    def __init__(self, chunks: AsyncIterator[bytes], generation: Generation) -> None:
        self._chunks, self._generation = chunks, generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._generation.cancel()
            sending.cancel()
            leaving.cancel()

    async def _send(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _begin_stream(
    request: Request, generation: Generation, reply: wire.ChatReply, include_usage: bool
) -> _ChatStream:
    """A stream whose prompt was accepted: what the engine refuses has to be an HTTP status."""
    events = aiter(generation)
    try:
        first = await _unless_disconnected(request, anext(events, {}))
        _raise_engine_error(first)
    except BaseException:
        generation.cancel()
        raise
    return _ChatStream(_stream_chunks(events, reply, include_usage), generation)


async def _stream_chunks(
    events: AsyncIterator[dict[str, Any]], reply: wire.ChatReply, include_usage: bool
) -> AsyncIterator[bytes]:
    yield reply.role_chunk()
    usage: dict[str, int] = {}
    finished = False
    async for event in events:
        if "error" in event:
            break
        usage = _usage(event) or usage
        content, finish_reason = _choice(event)
        if content:
            yield reply.content_chunk(content)
        if finish_reason:
            finished = True
            yield reply.finish_chunk(finish_reason)
    if not finished:
        # Never end a broken answer as if it were whole.
        yield wire.event(_incomplete().body())
        return
    if include_usage:
        yield reply.usage_chunk(usage)
    yield wire.DONE


async def _whole_answer(request: Request, generation: Generation, reply: wire.ChatReply) -> dict[str, Any]:
    async def gather() -> dict[str, Any]:
        pieces: list[str] = []
        usage: dict[str, int] = {}
        finish_reason: str | None = None
        async for event in generation:
            _raise_engine_error(event)
            usage = _usage(event) or usage
            content, reason = _choice(event)
            pieces.append(content)
            finish_reason = reason or finish_reason
        if finish_reason is None:
            raise _incomplete()
        return reply.whole("".join(pieces), finish_reason, usage)

    try:
        return await _unless_disconnected(request, gather())
    finally:
        generation.cancel()


def _choice(event: dict[str, Any]) -> tuple[str, str | None]:
    """The text and the finish reason that an engine's event brings; progress brings neither."""
    for choice in event.get("choices", ()):
        return choice["delta"].get("content") or "", choice["finish_reason"]
    return "", None


def _usage(event: dict[str, Any]) -> dict[str, int]:
    counted = event.get("usage") or {}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: counted[name] for name in names} if counted else {}


def _raise_engine_error(event: dict[str, Any]) -> None:
    error = event.get("error")
    if not error:
        return
    if error.get("type") == "exceed_context_size_error":
        count, limit = error["n_prompt_tokens"], error["n_ctx"]
        message = f"The messages have {count} tokens; this model's context holds {limit}."
        raise ApiError(400, "context_length_exceeded", message, "messages")
    if error.get("code") == 400:
        raise ApiError(400, "invalid_request", "The model's engine refused the request.")
    logger.error("generation_failed type=%s", error.get("type"))
    raise ApiError(500, "generation_failed", "The model failed while answering.")


def _incomplete() -> ApiError:
    return ApiError(500, "generation_failed", "The answer ended before it was complete.")


def _is_background(request: Request) -> bool:
    return wire.is_background(request.headers.get("priority", ""))


async def _inferred(request: Request, model: Embedder | Reranker, rows: list[Any]) -> Any:
    """What ``model`` makes of ``rows``. Raises ApiError where too much waits, ClientDisconnect."""
    try:
        future = model.submit(rows, background=_is_background(request))
    except QueueFull as full:
        raise ApiError(429, "rate_limit_exceeded", str(full), retry_after=full.retry_after_seconds) from None
    return await _unless_disconnected(request, asyncio.wrap_future(future))


async def _tokenize(embedder: Embedder, asked: wire.EmbeddingsRequest) -> list[Any]:
    try:
        if asked.token_lists:
            return embedder.frame(asked.token_lists)
        return await asyncio.to_thread(embedder.encode, asked.texts)
    except InputTooLong as error:
        raise ApiError(400, "context_length_exceeded", str(error), f"input[{error.index}]") from None
    except InvalidTokenId as error:
        raise ApiError(400, "invalid_value", str(error), "input") from None


async def _load_chat(chat: ChatModel) -> None:
    began = time.monotonic()
    try:
        await asyncio.to_thread(chat.load)
        logger.info("model_loaded model=%s seconds=%.2f", chat.name, time.monotonic() - began)
    except Exception:
        logger.exception("model_failed_to_load model=%s", chat.name)


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has left; the body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """``work``'s result; when the client leaves first, ``work`` is cancelled. Raises ClientDisconnect."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            raise ApiError(413, "request_too_large", f"The body exceeds {BODY_MAX_BYTES} bytes.")
    return bytes(body)


def _deployment(request: Request) -> str | None:
    return request.path_params.get("deployment")


def _unknown_model(name: str, operation: str) -> ApiError:
    message = f"The model {name[:100]!r} does not exist here, or does not serve {operation}."
    return ApiError(404, "model_not_found", message, "model")


def _presented_key(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else request.headers.get("api-key", "")


def _digest(key: str) -> bytes:
    """Equal lengths for the comparison, so that its time says nothing about the key."""
    return hashlib.sha256(key.encode()).digest()


async def _live(_request: Request) -> Response:
    return JSONResponse({"status": "live"})


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse(error.body(), error.status, headers)


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    return JSONResponse(
        ApiError(error.status_code, code, error.detail).body(), error.status_code, error.headers
    )


async def _on_client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the number is nginx's for this case


async def _on_defect(request: Request, error: Exception) -> Response:
    logger.error("request_failed path=%s error=%s", request.scope["path"], type(error).__name__)
    return JSONResponse(ApiError(500, "internal_error", "The server failed.").body(), 500)
