"""One request of OpenAI's API that nobody waits for: a line of a batch, answered as the surface answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from functions import openai_answers as answers
from functions.http import validated
from functions.openai_surface import refuse_data_sources
from functions.openai_wire import ChatCompletionBody, EmbeddingsBody, ResponsesBody, encode, error_object
from functions.services import services
from shared.errors import GroundworkError, InvalidParameter, NotFound
from shared.identity import Principal
from shared.inferencing import CallContext
from shared.inferencing.batches import call_of
from shared.inferencing.embeddings_api import check_inputs, embeddings_document
from shared.inferencing.responses import chat_body, whole_response
from shared.jobs import Ticket


class LineAnswers:
    """Answers the lines of batches with the access of who handed them in."""

    async def __call__(
        self, principal: Principal, endpoint: str, body: Mapping[str, Any], *, ticket: Ticket, request: str
    ) -> tuple[int, bytes]:
        """Status and JSON body; raises errors that may pass."""
        context = call_of(principal, ticket, request)
        try:
            match endpoint:
                case "/v1/chat/completions":
                    return 200, await _chat(principal, dict(body), context)
                case "/v1/embeddings":
                    return 200, await _embeddings(dict(body), context)
                case _:
                    return 200, await _response(principal, dict(body), context)
        except GroundworkError as error:
            if error.retryable:
                raise
            return self.refusal(error, request)

    async def asked(
        self, principal: Principal, endpoint: str, body: Mapping[str, Any], *, ticket: Ticket, request: str
    ) -> dict[str, Any]:
        """The body of a chat or of an embedding as a service would be asked with it."""
        if endpoint == "/v1/embeddings":
            return await _asked_embeddings(dict(body))
        name = validated(ChatCompletionBody, dict(body)).model or ""
        refuse_data_sources(body)
        context = call_of(principal, ticket, request)
        whole = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
        return await services().gateway.check_chat(name, whole, call=context)

    def refusal(self, error: GroundworkError, request: str) -> tuple[int, bytes]:
        """Status and JSON body for an error, in OpenAI's shape."""
        return error.status, encode({"error": error_object(error, request)})


async def _chat(principal: Principal, body: dict[str, Any], context: CallContext) -> bytes:
    name = validated(ChatCompletionBody, body).model or ""
    if name.startswith(answers.PREFIX):
        return encode(await answers.completion(principal, name, body, context.correlation_id, context.job))
    refuse_data_sources(body)
    return (await services().gateway.exchange_chat(name, body, call=context)).answer.data


async def _embeddings(body: dict[str, Any], context: CallContext) -> bytes:
    asked = validated(EmbeddingsBody, body)
    name = asked.model or ""
    entry = services().catalogue.models.get(name)
    texts = await check_inputs(entry, asked.input, asked.dimensions) if entry else []
    if entry and len(texts) > entry.batch_max_inputs and asked.dimensions in (None, entry.dimensions):
        embedded = await services().gateway.embed(name, texts, call=context)
        return await asyncio.to_thread(
            lambda: encode(embeddings_document(name, embedded, asked.encoding_format == "base64"))
        )
    return (await services().gateway.exchange_embeddings(name, body, call=context)).answer.data


async def _asked_embeddings(body: dict[str, Any]) -> dict[str, Any]:
    asked = validated(EmbeddingsBody, body)
    entry = services().catalogue.models.get(asked.model or "")
    if entry is None:
        raise NotFound("model", asked.model or "")
    texts = await check_inputs(entry, asked.input, asked.dimensions)
    if len(texts) > entry.batch_max_inputs:
        detail = f"'input' has {len(texts)} texts; a batch's request may have {entry.batch_max_inputs}."
        raise InvalidParameter(detail, parameter="input")
    return body


async def _response(principal: Principal, body: dict[str, Any], context: CallContext) -> bytes:
    name = validated(ResponsesBody, body).model or ""
    chat = chat_body(body)
    if name.startswith(answers.PREFIX):
        completion = await answers.completion(principal, name, chat, context.correlation_id, context.job)
    else:
        completion = (await services().gateway.complete(name, chat, call=context)).json
    return encode(whole_response(body, name, completion))
