"""OpenAI's Responses: whole, streamed, or in the background, to be retrieved and cancelled by id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions import openai_answers as answers
from functions.http import Call, sse, validated
from functions.jobs import may_see
from functions.later import Asked, announce, asked_of, writes
from functions.openai_surface import AZURE, call_context, completion_later, for_later, model_name, serve
from functions.openai_wire import ResponsesBody, event_response, read_object
from functions.services import services
from shared.errors import Conflict, Hidden, InvalidParameter, NotFound
from shared.inferencing.responses import ResponseWriter, chat_body, whole_response
from shared.jobs import Job, State

blueprint = df.Blueprint()

OPERATION = "responses"
# A response of the background is a job; its id is the job's behind OpenAI's prefix.
PREFIX = "resp_"
STATUSES = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}


@serve(
    "POST", "/responses", AZURE, ResponsesBody, on=blueprint, durable=True, statuses=(200, 202), keyed=True
)
async def responses(call: Call) -> Response:
    """A response: JSON, server-sent events with stream, or by id later with background."""
    body = await read_object(call)
    asked = validated(ResponsesBody, body)
    name = model_name(call, asked.model)
    body = {**body, "model": name}
    chat = answers.with_cache_mode(call, name, chat_body(body), body)
    if asked.background:
        return await _in_background(call, body, chat)
    context = call_context(call.principal, call.correlation_id, OPERATION, asked.prompt_cache_key)
    if job := await for_later(call, OPERATION, body, chat, context):
        return job
    if asked.stream:
        writer = ResponseWriter(body, name)
        return await event_response(
            call,
            _response_events(writer, _chunks(call, name, chat)),
            lambda error: _event(writer.failed(error)),
        )
    if name.startswith(answers.PREFIX):
        work = answers.completion(call.principal, name, chat, call.correlation_id)
        completion = await call.while_connected(work)
    else:
        completion = (await call.while_connected(services().gateway.complete(name, chat, call=context))).json
    return JSONResponse(whole_response(body, name, completion))


async def _in_background(call: Call, body: Mapping[str, Any], chat: Mapping[str, Any]) -> Response:
    name = body["model"]
    if body.get("stream"):
        raise InvalidParameter("'stream' does not go with 'background'.", parameter="stream")
    if name.startswith(answers.PREFIX):
        await answers.check(call.principal, name, chat)
    else:
        context = call_context(call.principal, call.correlation_id, OPERATION)
        await services().gateway.foresee(name, chat, call=context)
    collection = name.removeprefix(answers.PREFIX) if name.startswith(answers.PREFIX) else ""
    job = await announce(call, OPERATION, body, title=f"Answer of {name}", collection=collection)
    return JSONResponse(await _response_of(job, body))


@writes(OPERATION)
async def _later_response(asked: Asked) -> dict[str, Any]:
    completion = await completion_later(asked, OPERATION, chat_body(asked.body))
    response = whole_response(asked.body, asked.body["model"], completion)
    return {**response, **_stored(asked.body, asked.job, asked.created)}


@serve("GET", "/responses/{response}", AZURE, on=blueprint)
async def response(call: Call) -> Response:
    """A response that was asked for in the background."""
    job, body = await _found(call)
    return JSONResponse(await _response_of(job, body))


@serve("POST", "/responses/{response}/cancel", AZURE, on=blueprint)
async def cancel_response(call: Call) -> Response:
    """Stop a response in the background; one that has ended stays as it is."""
    job, body = await _found(call)
    try:
        job = await services().jobs.request_cancel(job.tenant, job.id)
    except Conflict:
        job = await services().jobs.get(job.tenant, job.id)
    return JSONResponse(await _response_of(job, body))


async def _found(call: Call) -> tuple[Job, Mapping[str, Any]]:
    """The job behind the response that the path names, and what was asked; both are its owner's alone."""
    name = call.path("response")
    missing = NotFound("response", name[:64])
    if not name.startswith(PREFIX):
        raise missing
    try:
        job = await services().jobs.get(call.principal.tenant, name.removeprefix(PREFIX))
    except NotFound:
        raise missing from None
    if job.owner != call.principal.user or not may_see(call.principal, job):
        raise Hidden("response", name[:64])
    plan = await asked_of(job)
    if plan is None or plan.get("operation") != OPERATION:
        raise missing
    return job, plan["body"]


async def _response_of(job: Job, body: Mapping[str, Any]) -> dict[str, Any]:
    if job.state is State.SUCCEEDED:
        return await services().jobs.fetch(job.ticket, "answer")
    document = ResponseWriter(body, body["model"]).response | _stored(body, job.id, job.created)
    document["status"] = STATUSES[job.state]
    if job.state is State.FAILED:
        told = job.errors[0] if job.errors else {"code": "internal_error", "message": "The job failed."}
        document["error"] = {"code": told["code"], "message": told["message"]}
    return document


def _stored(body: Mapping[str, Any], job: str, created: float) -> dict[str, Any]:
    background = bool(body.get("background"))
    return {"id": f"{PREFIX}{job}", "created_at": int(created), "background": background, "store": background}


async def _chunks(call: Call, name: str, chat: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of a chat completion by a model or from documents, the last with usage."""
    if name.startswith(answers.PREFIX):
        stream = answers.chunks(call.principal, name, chat, call.correlation_id)
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk
        return
    body = {**chat, "stream_options": {"include_usage": True}}
    session = chat.get("prompt_cache_key")
    context = call_context(call.principal, call.correlation_id, OPERATION, session)
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
