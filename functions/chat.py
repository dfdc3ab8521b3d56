"""Grounded answers over HTTP: whole, streamed, or as a job; one request for all three."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.http import CACHE_STATUS, Call, Model, ended_by_error, event_stream, route, sse
from functions.later import Asked, preferred_wait, respond, writes
from functions.search import passage_document
from functions.services import services
from shared.errors import Hidden
from shared.inferencing.caching import CacheMode

blueprint = df.Blueprint()

MAX_MESSAGE_CHARACTERS = 32_000


class Message(Model):
    role: Literal["user", "assistant"]
    content: str = Field(max_length=MAX_MESSAGE_CHARACTERS)


class ChatBody(Model):
    """A question over collections, with the conversation before it. The last message asks."""

    collections: tuple[str, ...] = Field(min_length=1, max_length=16)
    messages: tuple[Message, ...] = Field(min_length=1, max_length=100)
    top: int = Field(8, ge=1, le=50)
    filter: dict[str, Any] | None = None
    model: str = Field("chat", max_length=64)
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    stream: bool = False
    cache: CacheMode = CacheMode.EXACT


@route(blueprint, "POST", "/api/chat", durable=True, body=ChatBody, statuses=(200, 202), keyed=True)
async def chat(call: Call) -> Response:
    """Answer a question from documents: JSON, a stream of events, or a job with Prefer: respond-async."""
    body = await call.json(ChatBody)
    body = body.model_copy(update={"cache": call.cache_mode(body.cache)})
    request = _request(body)
    for collection in body.collections:
        if not call.principal.reaches(collection):
            raise Hidden("collection", collection)
        await services().collections.get(call.principal.tenant, collection)
    wait = preferred_wait(call.request)
    if body.stream or wait is not None:
        services().answers.check(call.principal, request)
    if wait is not None:
        names = ", ".join(body.collections)
        return await respond(
            call, "chat", body.model_dump(), title="Answer a question", collection=names, wait=wait
        )
    if body.stream:
        return event_stream(ended_by_error(call, _events(call, request)))
    answer = await call.while_connected(services().answers.answer(call.principal, request))
    return JSONResponse(answer.to_dict(), headers={"Cache-Status": CACHE_STATUS[answer.cache]})


def _request(body: ChatBody) -> Any:
    from shared.intelligence.answers import AnswerRequest
    from shared.knowledge.index import parse_filter

    return AnswerRequest(
        collections=body.collections,
        messages=[message.model_dump() for message in body.messages],
        top=body.top,
        filter=None if body.filter is None else parse_filter(body.filter),
        model=body.model,
        max_tokens=body.max_tokens,
        cache=body.cache.policy,
    )


async def _events(call: Call, request: Any) -> AsyncGenerator[bytes, None]:
    from shared.intelligence.answers import Delta, Final, Sources

    async with aclosing(services().answers.stream(call.principal, request)) as events:
        async for event in events:
            match event:
                case Sources(passages):
                    shown = [
                        passage_document(passage.chunk, passage.score, number=number)
                        for number, passage in enumerate(passages, start=1)
                    ]
                    yield sse("sources", {"passages": shown})
                case Delta(text):
                    yield sse("delta", {"text": text})
                case Final(answer):
                    yield sse("done", answer.to_dict())


@writes("chat")
async def _answer(asked: Asked) -> dict[str, Any]:
    paid = replace(_request(ChatBody.model_validate(asked.body)), job=asked.account)
    return (await services().answers.answer(asked.principal, paid)).to_dict()
