"""Webhooks over HTTP, and the deliveries that follow the end of a job."""

from __future__ import annotations

import logging
from collections.abc import Generator
from datetime import timedelta
from typing import Any, Literal

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.activities import Context, activity, call, given
from functions.http import Call, Client, Model, route
from functions.services import services
from shared.errors import NotFound
from shared.identity import Role
from shared.jobs import Kind, Ticket
from shared.outgoing import URL_MAX_CHARACTERS
from shared.webhooks import Webhook

log = logging.getLogger("groundwork.webhooks")
blueprint = df.Blueprint()

# Between the tries of one message: about a day in all, as the Standard Webhooks specification suggests.
WAITS = (5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600)


Ending = Literal["succeeded", "partial", "failed", "cancelled"]


class WebhookBody(Model):
    """Where messages go, and of which jobs and endings; of all where nothing is named."""

    url: str = Field(min_length=1, max_length=URL_MAX_CHARACTERS)
    kinds: tuple[Kind, ...] = Field((), max_length=len(Kind))
    states: tuple[Ending, ...] = Field((), max_length=4)


@route(
    blueprint, "POST", "/api/webhooks", role=Role.ADMINISTRATOR, body=WebhookBody, statuses=(201, 400, 409)
)
async def post_webhook(call: Call) -> Response:
    """Make a webhook for the ends of the tenant's jobs; its secret can be read this once."""
    body = await call.json(WebhookBody)
    await call.audit("webhook", action="create_webhook")
    webhook, secret = await services().webhooks.create(
        call.principal.tenant,
        body.url,
        kinds=tuple(kind.value for kind in body.kinds),
        states=body.states,
        by=call.principal.user,
    )
    return JSONResponse({"secret": secret, **webhook.to_document()}, status_code=201)


@route(blueprint, "GET", "/api/webhooks", role=Role.ADMINISTRATOR)
async def list_webhooks(call: Call) -> Response:
    """The tenant's webhooks, without their secrets."""
    found = services().webhooks.of(call.principal.tenant)
    return JSONResponse({"items": [webhook.to_document() async for webhook in found]})


@route(blueprint, "GET", "/api/webhooks/{webhook}", role=Role.ADMINISTRATOR)
async def get_webhook(call: Call) -> Response:
    """One webhook: whether it is enabled, and when a message was last taken."""
    found = await services().webhooks.get(call.principal.tenant, call.path("webhook"))
    return JSONResponse(found.to_document())


@route(blueprint, "DELETE", "/api/webhooks/{webhook}", role=Role.ADMINISTRATOR, statuses=(204,))
async def delete_webhook(call: Call) -> Response:
    """Forget a webhook; what has not been delivered never is."""
    await services().webhooks.delete(call.principal.tenant, call.path("webhook"))
    return Response(status_code=204)


@route(blueprint, "POST", "/api/webhooks/{webhook}/rotate", role=Role.ADMINISTRATOR, statuses=(200, 409))
async def rotate_webhook(call: Call) -> Response:
    """Give a webhook a new secret; the former one signs beside it for a day."""
    webhook, secret = await services().webhooks.rotate(call.principal.tenant, call.path("webhook"))
    return JSONResponse({"secret": secret, **webhook.to_document()})


@route(blueprint, "POST", "/api/webhooks/{webhook}/enable", role=Role.ADMINISTRATOR)
async def enable_webhook(call: Call) -> Response:
    """Use a webhook again that was disabled after failures."""
    webhook = await services().webhooks.enable(call.principal.tenant, call.path("webhook"))
    return JSONResponse(webhook.to_document())


# --- deliveries ---


@blueprint.timer_trigger(arg_name="timer", schedule="*/5 * * * * *", run_on_startup=True)
@blueprint.durable_client_input(client_name="client")
async def tell_of_ended_jobs(timer: func.TimerRequest, client: Client) -> None:
    """Start a delivery to each webhook that wants to know of a job's end."""
    webhooks = services().webhooks
    async for ticket in webhooks.expected_ends():
        job = await services().jobs.find(ticket.tenant, ticket.job)
        if job is not None and job.attempt == ticket.attempt:
            if not job.state.final:
                continue  # announced a moment ago, or its process died and another will end it
            wanted = [webhook async for webhook in webhooks.of(ticket.tenant) if webhook.wants(job)]
            for webhook in wanted:
                await _start(client, webhook, ticket)
        await webhooks.forget_end(ticket)


async def _start(client: Client, webhook: Webhook, ticket: Ticket) -> None:
    instance = f"{webhook.id}-{ticket.instance}"
    status = await client.get_status(instance)
    if not (status and status.instance_id):
        await client.start_new(
            "notify", instance, {"tenant": ticket.tenant, "webhook": webhook.id, "ticket": ticket.to_dict()}
        )


@blueprint.orchestration_trigger(context_name="context")
def notify(context: Context) -> Generator[Any, Any, Any]:
    """One message to one webhook: try until it is taken, with ever longer waits; then give up."""
    message = given(context)
    for wait in (*WAITS, None):
        if (yield from call(context, "deliver_message", message)):
            return
        if wait is not None:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=wait))
    yield from call(context, "give_up_message", message)


@activity(blueprint)
async def deliver_message(payload: dict[str, Any]) -> bool:
    """Send a message once; True where it was taken, or nobody wants it any more."""
    webhook = await _webhook(payload)
    job = await services().jobs.find(payload["tenant"], payload["ticket"]["job"])
    if webhook is None or webhook.disabled or job is None or job.attempt != payload["ticket"]["attempt"]:
        return True
    taken = await services().webhooks.deliver(webhook, job)
    log.info("webhook_tried", extra={"webhook": webhook.id, "job": job.id, "taken": taken})
    return taken


@activity(blueprint)
async def give_up_message(payload: dict[str, Any]) -> None:
    """Count a message that was never taken."""
    if (webhook := await _webhook(payload)) is not None:
        await services().webhooks.give_up(webhook)


async def _webhook(payload: dict[str, Any]) -> Webhook | None:
    try:
        return await services().webhooks.get(payload["tenant"], payload["webhook"])
    except NotFound:
        return None
