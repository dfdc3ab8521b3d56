"""Erasures over HTTP and as an orchestration: all that is held of a user or from a source, with a receipt."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.activities import Context, StepFailed, activity, call, given, page_by_page
from functions.http import Call, Model, accepted, route
from functions.jobs import job_id_for, start_job
from functions.maintenance import refuse_limited
from functions.services import services
from shared.errors import InvalidRequest
from shared.identity import Role
from shared.jobs import Ticket

blueprint = df.Blueprint()

NONCE_HEADER = "x-receipt-nonce"


class ErasureBody(Model):
    """Whose data is to go, or that of which source; exactly one of the two."""

    user: str | None = Field(None, min_length=1, max_length=200)
    source: str | None = Field(None, min_length=1, max_length=500)


@route(
    blueprint,
    "POST",
    "/api/erasures",
    role=Role.ADMINISTRATOR,
    durable=True,
    body=ErasureBody,
    statuses=(202,),
    keyed=True,
)
async def post_erasure(call: Call) -> Response:
    """Remove all that is held of a user or from a source, for good; the receipt's nonce is in a header."""
    from shared.knowledge.erasure import Subject

    refuse_limited(call.principal)
    body = await call.json(ErasureBody)
    if (body.user is None) == (body.source is None):
        raise InvalidRequest("Give either 'user' or 'source'.")
    job, nonce = await services().erasure.accept(
        call.principal.tenant,
        Subject(body.user or "", body.source or ""),
        job_id=await job_id_for(call),
        owner=call.principal.user,
    )
    await start_job(call.client, job)
    response = accepted(call, job)
    response.headers[NONCE_HEADER] = nonce
    return response


@route(blueprint, "GET", "/api/erasures/{erasure}", role=Role.ADMINISTRATOR)
async def get_receipt(call: Call) -> Response:
    """The receipt of an erasure that is done."""
    return JSONResponse(await services().erasure.receipt(call.principal.tenant, call.path("erasure")))


@blueprint.orchestration_trigger(context_name="context")
def erase(context: Context) -> Generator[Any, Any, Any]:
    """An erasure: the documents page by page, then other traces, then a second look and the receipt."""
    ticket = {name: given(context)[name] for name in ("tenant", "job", "attempt")}
    try:
        if (yield from page_by_page(context, "erase_documents")) is not None:
            yield from call(context, "erase_traces", ticket)
            yield from call(context, "finish_erasure", ticket)
    except StepFailed as failed:
        yield from call(context, "fail_job", {"ticket": ticket, "error": failed.error})


@activity(blueprint)
async def erase_documents(payload: dict[str, Any]) -> dict[str, str] | None:
    """Erase documents of one page; where to go on."""
    ticket = Ticket.from_dict(payload)
    return await services().erasure.erase_documents(
        ticket, payload["page"], payload["collection"], payload["after"]
    )


@activity(blueprint)
async def erase_traces(payload: dict[str, Any]) -> None:
    """Erase what else is held of a user."""
    await services().erasure.erase_traces(Ticket.from_dict(payload))


@activity(blueprint)
async def finish_erasure(payload: dict[str, Any]) -> None:
    """Look again and write the receipt."""
    await services().erasure.finish(Ticket.from_dict(payload))
