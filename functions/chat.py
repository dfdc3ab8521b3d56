"""Grounded answers over HTTP: whole, streamed, or as a job; one request for all three."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.activities import Context, StepFailed, activity, call, given
from functions.http import Call, Model, accepted, event_stream, problem_document, route, sse
from functions.jobs import job_id_for, start_job
from functions.search import passage_document
from functions.services import services
from shared.errors import Cancelled, GroundworkError, Hidden, InternalError, NotFound
from shared.identity import Principal
from shared.inferencing import JobAccount
from shared.jobs import Kind, State, Ticket

log = logging.getLogger("groundwork.chat")
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


@route(blueprint, "POST", "/api/chat", durable=True, body=ChatBody, statuses=(200, 202))
async def chat(call: Call) -> Response:
    """Answer a question from documents: JSON, a stream of events, or a job with Prefer: respond-async."""
    body = await call.json(ChatBody)
    request = _request(body)
    for collection in body.collections:
        if not call.principal.reaches(collection):
            raise Hidden("collection", collection)
        await services().collections.get(call.principal.tenant, collection)
    if "respond-async" in call.request.headers.get("prefer", "").lower():
        return await _as_job(call, body)
    if body.stream:
        return event_stream(_events(call, request))
    answer = await call.while_connected(services().answers.answer(call.principal, request))
    return JSONResponse(answer.to_dict())


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
    )


async def _events(call: Call, request: Any) -> AsyncIterator[bytes]:
    from shared.intelligence.answers import Delta, Final, Sources

    try:
        # A client that leaves closes this generator, which ends the calls behind it at once.
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
    except GroundworkError as error:
        yield sse("error", problem_document(error, call.correlation_id))
    except Exception:
        log.exception("stream_failed", extra={"correlation_id": call.correlation_id})
        yield sse("error", problem_document(InternalError(), call.correlation_id))


async def _as_job(call: Call, body: ChatBody) -> Response:
    principal = call.principal
    jobs = services().jobs
    asked = {"body": body.model_dump(), "principal": principal.to_dict()}
    ticket = Ticket(principal.tenant, job_id_for(call))
    job = await jobs.find(ticket.tenant, ticket.job)
    if job is None:
        await jobs.put(ticket, "plan", asked)
        job = await jobs.create(
            ticket.tenant,
            Kind.ANSWER,
            job_id=ticket.job,
            title="Answer a question",
            collection=", ".join(body.collections),
            owner=principal.user,
            total=1,
        )
    await start_job(call.client, job)
    return accepted(call, job)


@blueprint.orchestration_trigger(context_name="context")
def answer_later(context: Context) -> Generator[Any, Any, Any]:
    """An answer that nobody waits for on the line."""
    ticket = given(context)
    try:
        yield from call(context, "write_answer", ticket)
    except StepFailed as failed:
        yield from call(context, "fail_job", {"ticket": ticket, "error": failed.error})


@activity(blueprint)
async def write_answer(payload: dict[str, Any]) -> None:
    """Answer the question that the job holds."""
    ticket = Ticket.from_dict(payload)
    jobs = services().jobs
    await jobs.begin(ticket)
    if await jobs.cancel_requested(ticket):
        raise Cancelled
    # Every attempt answers the same question, which the first one keeps.
    asked = await jobs.fetch(Ticket(ticket.tenant, ticket.job), "plan")
    if asked is None:
        raise NotFound("question of the job", ticket.job)
    principal = Principal.from_dict(asked["principal"])
    request = _request(ChatBody.model_validate(asked["body"]))
    paid = replace(request, job=JobAccount(ticket.job, ticket.attempt))
    answer = await services().answers.answer(principal, paid)
    await jobs.put(ticket, "answer", answer.to_dict())
    await jobs.report(ticket, "answer", published=1)
    await jobs.finish(ticket, State.SUCCEEDED, counts={"answered": 1})
