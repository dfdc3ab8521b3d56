"""The OpenAI-compatible surface: models, chat completions, embeddings.

A model of the catalogue is passed through: what the service sends goes to the client as it is. The model id
``rag:{collection}`` answers from a collection's documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions import openai_answers as answers
from functions.http import Call, Handler, Model, route, validated
from functions.later import Asked, preferred_wait, respond, writes
from functions.openai_media import check_media
from functions.openai_wire import (
    DONE,
    REQUEST_ID_HEADER,
    ChatCompletionBody,
    EmbeddingsBody,
    data_event,
    encode,
    event_response,
    openai_error,
    read_object,
)
from functions.services import services
from shared.errors import InvalidParameter, NotFound, OutlastsRequest
from shared.identity import Principal
from shared.inferencing import CallContext
from shared.inferencing.assembly import Assembly
from shared.inferencing.embeddings_api import check_inputs, embeddings_document

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
    statuses: tuple[int, ...] = (200,),
    keyed: bool = False,
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
                statuses=statuses,
                name=f"{form}_{handle.__name__}",
                errors=openai_error,
                keyed=keyed,
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
        collection = await answers.collection_of(call.principal, name)
        return JSONResponse(answers.model_object(collection.name, collection.created))
    if name not in services().catalogue.models:
        raise NotFound("model", name)
    return JSONResponse(answers.model_entry(name, _catalogue_time()))


def _catalogue_time() -> float:
    """When the catalogue was written."""
    return services().settings.models_file.stat().st_mtime


@serve(
    "POST",
    "/chat/completions",
    AZURE_DEPLOYMENT,
    ChatCompletionBody,
    durable=True,
    statuses=(200, 202),
    keyed=True,
)
async def chat_completions(call: Call) -> Response:
    """A chat completion: JSON, server-sent events with stream, or a job with Prefer: respond-async."""
    body = await read_object(call)
    asked = validated(ChatCompletionBody, body)
    name = model_name(call, asked.model)
    body = answers.with_cache_mode(call, name, body, body)
    context = call_context(call.principal, call.correlation_id, "chat", asked.prompt_cache_key)
    if job := await for_later(call, "chat_completions", {**body, "model": name}, body, context):
        return job
    if name.startswith(answers.PREFIX):
        if asked.stream:
            return await event_response(call, _answer_events(call, name, body))
        work = answers.completion(call.principal, name, body, call.correlation_id)
        return JSONResponse(await call.while_connected(work))
    refuse_data_sources(body)
    if asked.stream:
        return await event_response(call, _passed_on(name, body, context))
    work = services().gateway.exchange_chat(name, body, call=context)
    return _json((await call.while_connected(work)).answer.data)


async def for_later(
    call: Call, operation: str, asked: Mapping[str, Any], chat: Mapping[str, Any], context: CallContext
) -> Response | None:
    """The job that takes over where the client has said that it takes one; None to answer on the line.

    ``chat`` is the chat completion that ``asked`` comes down to; it is checked before it is accepted.
    Raises `OutlastsRequest` where the client has not, and its answer would come too late.
    """
    name, wait = asked["model"], preferred_wait(call.request)
    check_media(chat.get("messages"))
    documents = name.startswith(answers.PREFIX)
    expected: float | None = None
    if documents:
        await answers.check(call.principal, name, chat)
    else:
        refuse_data_sources(chat)
        expected = await services().gateway.foresee(name, chat, call=context)
    if wait is None:
        if expected is not None and not asked.get("stream"):
            _refuse_what_outlasts(name, expected)
        return None
    if expected is not None and expected <= wait:
        return None
    title, collection = f"Answer of {name}", name.removeprefix(answers.PREFIX) if documents else ""
    return await respond(call, operation, asked, title=title, collection=collection, wait=wait)


def _refuse_what_outlasts(name: str, expected: float) -> None:
    limit = services().catalogue.models[name].timeouts.total_seconds
    if expected > limit:
        detail = (
            f"The answer is expected after {expected:.0f} s; a request that waits ends after {limit:.0f} s. "
            "Ask with 'stream', or with the header 'Prefer: respond-async'."
        )
        raise OutlastsRequest(detail, expected_seconds=round(expected), limit=limit)


@writes("chat_completions")
async def _later_completion(asked: Asked) -> dict[str, Any]:
    return await completion_later(asked, "chat", asked.body)


async def completion_later(asked: Asked, purpose: str, chat: Mapping[str, Any]) -> dict[str, Any]:
    """A completion that nobody waits for: read as a stream, because no limit holds for a whole answer."""
    name = asked.body["model"]
    if name.startswith(answers.PREFIX):
        return await answers.completion(asked.principal, name, chat, asked.job, asked.account)
    context = call_context(asked.principal, asked.job, purpose, chat.get("prompt_cache_key"))
    context = replace(context, background=True, job=asked.account)
    body = {**chat, "stream_options": {"include_usage": True}}
    assembly = Assembly()
    async with aclosing(services().gateway.stream_chunks(name, body, call=context)) as chunks:
        async for chunk in chunks:
            assembly.add(chunk.json)
    return assembly.completion


def refuse_data_sources(body: Mapping[str, Any]) -> None:
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
    stream = answers.chunks(call.principal, name, body, call.correlation_id)
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            if usage_wanted or chunk["choices"]:
                yield data_event(encode(chunk))
    yield DONE


@serve("POST", "/embeddings", AZURE_DEPLOYMENT, EmbeddingsBody)
async def embeddings(call: Call) -> Response:
    """Embeddings of texts or token ids, as numbers or base64."""
    body = await read_object(call)
    asked = validated(EmbeddingsBody, body)
    name = model_name(call, asked.model)
    context = call_context(call.principal, call.correlation_id, "embeddings")
    entry = services().catalogue.models.get(name)
    texts = await check_inputs(entry, asked.input, asked.dimensions) if entry else []
    if entry and len(texts) > entry.batch_max_inputs and asked.dimensions in (None, entry.dimensions):
        # More than the deployments take at once: they get batches, and the client one answer.
        embedded = await call.while_connected(services().gateway.embed(name, texts, call=context))
        document = embeddings_document(name, embedded, asked.encoding_format == "base64")
        return _json(await asyncio.to_thread(encode, document))
    work = services().gateway.exchange_embeddings(name, body, call=context)
    return _json((await call.while_connected(work)).answer.data)


def model_name(call: Call, asked: str | None) -> str:
    """The model: the deployment of the path, or the one that the body names."""
    name = call.request.path_params.get("deployment") or asked
    if not name:
        raise InvalidParameter("'model' must name a model.", parameter="model")
    return name


def call_context(
    principal: Principal, correlation_id: str, purpose: str, session: str | None = None
) -> CallContext:
    return CallContext(
        tenant=principal.tenant,
        user=principal.user,
        purpose=purpose,
        session=session,
        correlation_id=correlation_id,
    )


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json")
