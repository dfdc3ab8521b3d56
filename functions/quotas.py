"""What a tenant holds and runs against its quotas; and the timer that counts anew."""

from __future__ import annotations

from dataclasses import asdict

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions.http import Call, route
from functions.services import services
from shared.quotas import Usage

blueprint = df.Blueprint()


@route(blueprint, "GET", "/api/quotas")
async def get_quotas(call: Call) -> Response:
    """The tenant's quotas: of each the limit, null for none, and the present count."""
    tenant = call.principal.tenant
    limits, usage = await services().limits.of(tenant), await services().quotas.usage(tenant)
    granted = limits.to_dict()
    present = {name: {"limit": granted[name], "present": count} for name, count in asdict(usage).items()}
    return JSONResponse(present)


@blueprint.timer_trigger(arg_name="timer", schedule="0 17 * * * *")
async def recount_quotas(timer: func.TimerRequest) -> None:
    """Put right what killed processes have left counted."""
    async for tenant in services().quotas.tenants():
        await services().quotas.recount(tenant, _count)


async def _count(tenant: str) -> Usage:
    """What the tenant has, from the records themselves."""
    usage = await services().jobs.usage(tenant)
    async for collection in services().collections.all_of(tenant):
        async for record in services().documents.every(tenant, collection.name):
            usage += record.usage
    return usage
