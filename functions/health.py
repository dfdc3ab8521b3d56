"""Probes: whether the process lives, and whether it can do its work."""

from __future__ import annotations

import asyncio

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions.http import Call, route
from functions.services import services
from shared.errors import RETRY_AFTER_SECONDS, GroundworkError

blueprint = df.Blueprint()


@route(blueprint, "GET", "/health/live", role=None)
async def live(call: Call) -> Response:
    """The process answers."""
    return JSONResponse({"status": "live"})


@route(blueprint, "GET", "/health/ready", role=None, statuses=(200, 503))
async def ready(call: Call) -> Response:
    """Storage answers, and every model has a deployment that can serve."""
    storage, models = await asyncio.gather(_storage_serves(), services().gateway.health())
    parts = {"storage": storage, **{name: model.serves for name, model in models.items()}}
    good = all(parts.values())
    document = {"status": "ready" if good else "unavailable", "parts": parts}
    headers = {} if good else {"Retry-After": str(int(RETRY_AFTER_SECONDS))}
    return JSONResponse(document, status_code=200 if good else 503, headers=headers)


async def _storage_serves() -> bool:
    try:
        await services().storage.get_row("collections", "_probe", "_probe")
    except GroundworkError:
        return False
    return True
