"""Answers for later: what a client does not wait for on the line becomes a job with the same result body.

``Prefer: respond-async`` (RFC 7240) asks for it; ``Prefer: respond-async, wait=N`` for the answer itself
where it is there within N seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response

from functions.activities import Context, StepFailed, activity, call, given
from functions.http import Call, accepted
from functions.jobs import job_id_for, start_job
from functions.services import services
from shared.errors import Cancelled, NotFound
from shared.identity import Principal
from shared.inferencing import JobAccount
from shared.jobs import Job, Kind, State, Ticket

blueprint = df.Blueprint()

# Azure's load balancer ends a request without an answer after 230 s; nobody is kept longer than this.
LONGEST_WAIT_SECONDS = 220.0
WAIT_LOOK_SECONDS = 0.25
# How soon a job that writes an answer learns that it is not wanted any more.
CANCEL_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job answers: a body as the route got it, who asks, and on which account its calls go."""

    principal: Principal
    body: Mapping[str, Any]
    account: JobAccount
    created: float

    @property
    def job(self) -> str:
        return self.account.job


Writer = Callable[[Asked], Awaitable[dict[str, Any]]]
WRITERS: dict[str, Writer] = {}


def writes(operation: str) -> Callable[[Writer], Writer]:
    """Register what answers the jobs of ``operation``; its value is the result body."""

    def decorate(write: Writer) -> Writer:
        WRITERS[operation] = write
        return write

    return decorate


def preferred_wait(request: Request) -> float | None:
    """The seconds that the client waits before it takes a job instead; None where it takes none."""
    preferences: dict[str, str] = {}
    for header in request.headers.getlist("prefer"):
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" not in preferences:
        return None
    wait = preferences.get("wait", "")
    return min(float(wait), LONGEST_WAIT_SECONDS) if wait.isascii() and wait.isdigit() else 0.0


async def respond(
    call: Call, operation: str, body: Mapping[str, Any], *, title: str, collection: str, wait: float
) -> Response:
    """The answer where it is there within ``wait`` seconds, else 202 and the job that writes it.

    Who does not wait gets the job in any case, also when it has ended: the same request has the same answer.
    """
    job = await announce(call, operation, body, title=title, collection=collection)
    if wait:
        job = await call.while_connected(_ended(job, time.monotonic() + wait))
        if job.state is State.SUCCEEDED:
            return JSONResponse(await services().jobs.fetch(job.ticket, "answer"))
    response = accepted(call, job)
    response.headers["Preference-Applied"] = "respond-async"
    return response


async def announce(
    call: Call, operation: str, body: Mapping[str, Any], *, title: str, collection: str
) -> Job:
    """The job that answers ``body``, started; the same one for the same Idempotency-Key."""
    who, jobs = call.principal, services().jobs
    ticket = Ticket(who.tenant, await job_id_for(call))
    job = await jobs.find(ticket.tenant, ticket.job)
    if job is None:
        plan = {"operation": operation, "body": body, "principal": who.to_dict()}
        await jobs.put(ticket, "plan", plan)
        job = await jobs.create(
            ticket.tenant,
            Kind.ANSWER,
            job_id=ticket.job,
            title=title,
            collection=collection,
            owner=who.user,
            total=1,
        )
    await start_job(call.client, job)
    return job


async def _ended(job: Job, give_up_at: float) -> Job:
    while not job.state.final and time.monotonic() < give_up_at:
        await asyncio.sleep(WAIT_LOOK_SECONDS)
        job = await services().jobs.get(job.tenant, job.id)
    return job


async def asked_of(job: Job) -> Mapping[str, Any] | None:
    """The operation, body and principal that a job was made of."""
    return await services().jobs.fetch(Ticket(job.tenant, job.id), "plan")


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
    job = await jobs.begin(ticket)
    if await jobs.fetch(ticket, "answer") is None:  # else only its end was not noted
        # Every attempt answers the same question, which the first one keeps.
        plan = await asked_of(job)
        if plan is None:
            raise NotFound("question of the job", ticket.job)
        principal = Principal.from_dict(plan["principal"])
        asked = Asked(principal, plan["body"], JobAccount(ticket.job, ticket.attempt), job.created)
        answer = await _while_wanted(ticket, WRITERS[plan["operation"]](asked))
        await jobs.put(ticket, "answer", answer)
    await jobs.report(ticket, "answer", published=1)
    await jobs.finish(ticket, State.SUCCEEDED, counts={"answered": 1})


async def _while_wanted(ticket: Ticket, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """``work``'s result; `Cancelled`, and the end of ``work``, as soon as the job is to stop."""
    working = asyncio.ensure_future(work)
    try:
        while not working.done():
            if await services().jobs.cancel_requested(ticket):
                raise Cancelled
            await asyncio.wait((working,), timeout=CANCEL_LOOK_SECONDS)
        return working.result()
    finally:
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
