"""The OpenAI-compatible surface: models, chat completions, embeddings, responses.

A model of the catalogue is passed through: what the service sends goes to the client as it is. The model id
``rag:{collection}`` answers from a collection's documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions import openai_answers as answers
from functions.http import Call, Handler, Model, route, sse, validated
from functions.openai_wire import (
    DONE,
    REQUEST_ID_HEADER,
    ChatCompletionBody,
    EmbeddingsBody,
    ResponsesBody,
    data_event,
    encode,
    event_response,
    openai_error,
    read_object,
)
from functions.services import services
from shared.errors import InvalidParameter, NotFound
from shared.inferencing import CallContext
from shared.inferencing.embeddings_api import check_inputs, embeddings_document
from shared.inferencing.responses import ResponseWriter, chat_body, whole_response

blueprint = df.Blueprint()

V1 = "/v1"
AZURE_V1 = "/openai/v1"
# Azure's older form, with api-version in the query: the model is a deployment in the path, or in the body.
AZURE = "/openai"
AZURE_DEPLOYMENT = "/openai/deployments/{deployment}"

Handle = Callable[[Call], Awaitable[Response]]


def serve(
    method: str,
    path: str,
    azure: str,
    body: type[Model] | None = None,
    *,
    on: df.Blueprint = blueprint,
    durable: bool = False,
) -> Callable[[Handle], list[Handler]]:
    """Serve ``path`` under OpenAI's root and both of Azure's; ``azure`` is the older one's."""

    def decorate(handle: Handle) -> list[Handler]:
        async def identified(call: Call) -> Response:
            response = await handle(call)
            response.headers[REQUEST_ID_HEADER] = call.correlation_id
            return response

        identified.__doc__ = handle.__doc__
        roots = {"openai": V1, "azure_v1": AZURE_V1, "azure": azure}
        return [
            route(
                on,
                method,
                root + path,
                body=body,
                durable=durable,
                name=f"{form}_{handle.__name__}",
                errors=openai_error,
            )(identified)
            for form, root in roots.items()
        ]

    return decorate


@serve("GET", "/models", AZURE)
async def models(call: Call) -> Response:
    """The models: those of the catalogue, and rag:NAME for each of the tenant's collections."""
    entries = [answers.model_entry(name, _catalogue_time()) for name in services().catalogue.models]
    found = services().collections.list(call.principal.tenant)
    entries += [
        answers.model_object(each.name, each.created)
        async for each in found
        if call.principal.reaches(each.name)
    ]
    return JSONResponse({"object": "list", "data": entries})


@serve("GET", "/models/{model}", AZURE)
async def model(call: Call) -> Response:
    """One model."""
    name = call.path("model")
    if name.startswith(answers.PREFIX):
        collection = await answers.collection_of(call, name)
        return JSONResponse(answers.model_object(collection.name, collection.created))
    if name not in services().catalogue.models:
        raise NotFound("model", name)
    return JSONResponse(answers.model_entry(name, _catalogue_time()))


def _catalogue_time() -> float:
    """When the catalogue was written."""
    return services().settings.models_file.stat().st_mtime


@serve("POST", "/chat/completions", AZURE_DEPLOYMENT, ChatCompletionBody)
async def chat_completions(call: Call) -> Response:
    """A chat completion: JSON, or server-sent events with stream."""
    body = await read_object(call)
    asked = validated(ChatCompletionBody, body)
    name = _model_name(call, asked.model)
    if name.startswith(answers.PREFIX):
        if asked.stream:
            return await event_response(call, _answer_events(call, name, body))
        return JSONResponse(await call.while_connected(answers.completion(call, name, body)))
    _refuse_data_sources(body)
    context = _context(call, "chat", asked.prompt_cache_key)
    if asked.stream:
        return await event_response(call, _passed_on(name, body, context))
    work = services().gateway.exchange_chat(name, body, call=context)
    return _json((await call.while_connected(work)).answer.data)


def _refuse_data_sources(body: Mapping[str, Any]) -> None:
    """Azure's "on your data": the service would read with its own identity what the caller may not."""
    for name in ("data_sources", "dataSources"):
        if name in body:
            raise InvalidParameter(
                f"{name!r} is not allowed; ask a model 'rag:NAME' instead.", parameter=name
            )


async def _passed_on(name: str, body: Mapping[str, Any], context: CallContext) -> AsyncGenerator[bytes, None]:
    """A model's stream, chunk by chunk as it was sent."""
    async with aclosing(services().gateway.stream_chunks(name, body, call=context)) as chunks:
        async for chunk in chunks:
            yield data_event(chunk.data)
    yield DONE


async def _answer_events(call: Call, name: str, body: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    usage_wanted = bool((body.get("stream_options") or {}).get("include_usage"))
    async with aclosing(answers.chunks(call, name, body)) as chunks:
        async for chunk in chunks:
            if usage_wanted or chunk["choices"]:
                yield data_event(encode(chunk))
    yield DONE


@serve("POST", "/embeddings", AZURE_DEPLOYMENT, EmbeddingsBody)
async def embeddings(call: Call) -> Response:
    """Embeddings of texts or token ids, as numbers or base64."""
    body = await read_object(call)
    asked = validated(EmbeddingsBody, body)
    name = _model_name(call, asked.model)
    context = _context(call, "embeddings")
    entry = services().catalogue.models.get(name)
    texts = await check_inputs(entry, asked.input, asked.dimensions) if entry else []
    if entry and len(texts) > entry.batch_max_inputs and asked.dimensions in (None, entry.dimensions):
        # More than the deployments take at once: they get batches, and the client one answer.
        embedded = await call.while_connected(services().gateway.embed(name, texts, call=context))
        document = embeddings_document(name, embedded, asked.encoding_format == "base64")
        return _json(await asyncio.to_thread(encode, document))
    work = services().gateway.exchange_embeddings(name, body, call=context)
    return _json((await call.while_connected(work)).answer.data)


@serve("POST", "/responses", AZURE, ResponsesBody)
async def responses(call: Call) -> Response:
    """A response, which is not stored: JSON, or server-sent events with stream."""
    body = await read_object(call)
    asked = validated(ResponsesBody, body)
    name = _model_name(call, asked.model)
    chat = chat_body(body)
    if asked.stream:
        writer = ResponseWriter(body, name)
        return await event_response(
            call,
            _response_events(writer, _chunks(call, name, chat)),
            lambda error: _event(writer.failed(error)),
        )
    if name.startswith(answers.PREFIX):
        completion = await call.while_connected(answers.completion(call, name, chat))
    else:
        work = services().gateway.complete(
            name, chat, call=_context(call, "responses", asked.prompt_cache_key)
        )
        completion = (await call.while_connected(work)).json
    return JSONResponse(whole_response(body, name, completion))


async def _chunks(call: Call, name: str, chat: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a chat completion by a model or from documents, the last with usage."""
    if name.startswith(answers.PREFIX):
        async with aclosing(answers.chunks(call, name, chat)) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    body = {**chat, "stream_options": {"include_usage": True}}
    context = _context(call, "responses", chat.get("prompt_cache_key"))
    async with aclosing(services().gateway.stream_chunks(name, body, call=context)) as sent:
        async for chunk in sent:
            yield chunk.json


async def _response_events(
    writer: ResponseWriter, chunks: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        begun = False
        async for chunk in chunks:
            events = writer.add(chunk) if begun else [*writer.begin(), *writer.add(chunk)]
            begun = True
            if events:
                yield b"".join(map(_event, events))
    yield b"".join(map(_event, writer.end()))


def _event(event: Mapping[str, Any]) -> bytes:
    return sse(event["type"], event)


def _model_name(call: Call, asked: str | None) -> str:
    """The model: the deployment of the path, or the one that the body names."""
    name = call.request.path_params.get("deployment") or asked
    if not name:
        raise InvalidParameter("'model' must name a model.", parameter="model")
    return name


def _context(call: Call, purpose: str, session: str | None = None) -> CallContext:
    return CallContext(
        tenant=call.principal.tenant,
        user=call.principal.user,
        purpose=purpose,
        session=session,
        correlation_id=call.correlation_id,
    )


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
