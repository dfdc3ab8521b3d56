"""Maintenance: reconciliation as a job, and the timers that retire, remove and purge what is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import Response

from functions.activities import Context, StepFailed, activity, call, given, page_by_page
from functions.http import Call, Client, accepted, route
from functions.jobs import checked_against_orchestration, job_id_for, start_job
from functions.services import services
from shared.errors import Forbidden
from shared.identity import Principal, Role
from shared.jobs import Ticket, derived_id

log = logging.getLogger("groundwork.maintenance")
blueprint = df.Blueprint()

DAY_SECONDS = 86_400
# Jobs removed in one run of the timer: a minute or two of deletions.
REMOVED_JOBS_MAX = 2000
_FINISHED = (
    df.OrchestrationRuntimeStatus.Completed,
    df.OrchestrationRuntimeStatus.Failed,
    df.OrchestrationRuntimeStatus.Terminated,
    df.OrchestrationRuntimeStatus.Canceled,
)


def refuse_limited(principal: Principal) -> None:
    """Raise `Forbidden` where a key for some collections asks for something that goes through all of them."""
    if principal.collections is not None:
        raise Forbidden("This needs a key for all collections.")


@route(
    blueprint,
    "POST",
    "/api/reconciliations",
    role=Role.OPERATOR,
    durable=True,
    statuses=(202,),
    keyed=True,
)
async def post_reconciliation(call: Call) -> Response:
    """Compare the tenant's records, index and blobs; mend what is safe to mend and report the rest."""
    refuse_limited(call.principal)
    job = await services().reconciliation.accept(
        call.principal.tenant, job_id=await job_id_for(call), owner=call.principal.user
    )
    await start_job(call.client, job)
    return accepted(call, job)


@blueprint.orchestration_trigger(context_name="context")
def reconcile(context: Context) -> Generator[Any, Any, Any]:
    """A reconciliation: page by page through the tenant's collections, then sum up."""
    ticket = {name: given(context)[name] for name in ("tenant", "job", "attempt")}
    try:
        if (state := (yield from page_by_page(context, "reconcile_page"))) is not None:
            yield from call(context, "finish_reconciliation", state)
    except StepFailed as failed:
        yield from call(context, "fail_job", {"ticket": ticket, "error": failed.error})


@activity(blueprint)
async def reconcile_page(payload: dict[str, Any]) -> dict[str, str] | None:
    """Compare one page; where to go on."""
    ticket = Ticket.from_dict(payload)
    where = (payload["page"], payload["collection"], payload["after"])
    return await services().reconciliation.step(ticket, *where, time.time())


@activity(blueprint)
async def finish_reconciliation(payload: dict[str, Any]) -> None:
    """Sum up the reports of all pages."""
    await services().reconciliation.finish(Ticket.from_dict(payload), payload["page"])


# --- timers ---


@blueprint.timer_trigger(arg_name="timer", schedule="0 17 3 * * *")
@blueprint.durable_client_input(client_name="client")
async def reconcile_daily(timer: func.TimerRequest, client: Client) -> None:
    """Start a reconciliation for each tenant, once a day."""
    today = datetime.now(UTC).date().isoformat()
    tenants = {collection.tenant async for collection in services().collections.every()}
    for tenant in sorted(tenants):
        job = await services().reconciliation.accept(
            tenant, job_id=derived_id("reconciliation", tenant, today), owner="timer"
        )
        await start_job(client, job)


@blueprint.timer_trigger(arg_name="timer", schedule="0 */5 * * * *")
async def tend_layouts(timer: func.TimerRequest) -> None:
    """Retire layouts whose time is over; remove the chunks of retired ones."""
    if removed := await services().layout_upkeep.tend(time.time()):
        log.info("layouts_removed", extra={"count": removed})


@blueprint.timer_trigger(arg_name="timer", schedule="0 4-59/10 * * * *")
@blueprint.durable_client_input(client_name="client")
async def end_lost_jobs(timer: func.TimerRequest, client: Client) -> None:
    """Let jobs fail that lost their orchestration, whether anybody looks at them or not."""
    async for job in services().jobs.unfinished():
        await checked_against_orchestration(client, job)


@blueprint.timer_trigger(arg_name="timer", schedule="0 43 * * * *")
@blueprint.durable_client_input(client_name="client")
async def purge_what_is_over(timer: func.TimerRequest, client: Client) -> None:
    """Remove old jobs, and the histories of old orchestrations."""
    settings, jobs, now = services().settings, services().jobs, time.time()
    removed = 0
    async for job in jobs.ended_before(now - settings.job_retention_days * DAY_SECONDS):
        await jobs.remove(job)
        removed += 1
        if removed == REMOVED_JOBS_MAX:
            break
    await jobs.forget_keys(now - settings.job_retention_days * DAY_SECONDS, REMOVED_JOBS_MAX)
    until = datetime.now(UTC) - timedelta(days=settings.history_retention_days)
    purged = await client.purge_instance_history_by(datetime(2020, 1, 1, tzinfo=UTC), until, list(_FINISHED))
    log.info("purged", extra={"jobs": removed, "orchestrations": purged.instances_deleted})
