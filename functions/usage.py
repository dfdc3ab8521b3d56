"""Usage and limits of model calls over HTTP."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field, create_model

from functions.http import Call, Model, route
from functions.services import services
from shared.errors import Forbidden, InvalidParameter
from shared.identity import Role, check_name
from shared.jobs import iso
from shared.limits import NAMES, Source

blueprint = df.Blueprint()

DAY_SECONDS = 86_400
HOUR_SECONDS = 3600
# What is shown unless the caller asks for another time.
DEFAULT_DAYS = 30
# A year and a month beside it, to compare with.
MOST_DAYS = 400

LimitsBody = create_model(
    "LimitsBody",
    __base__=Model,
    __doc__="The limits to set; null is none of one's own. Those left out are taken back.",
    **{name: (float | None, Field(None, gt=0, allow_inf_nan=False)) for name in NAMES},  # type: ignore[arg-type]
)


@route(blueprint, "GET", "/api/usage")
async def get_usage(call: Call) -> Response:
    """Usage of models summed up by time, user, purpose and model; as JSON or CSV."""
    from shared.inferencing.usage_report import check_by, summed, to_csv, total

    first, last = _hours(call)
    by = check_by([name for name in call.query("by", "day,model").split(",") if name])
    lines = services().usage.lines(call.principal.tenant, first, last)
    rows = await summed(lines, by, _whose(call))
    if _wants_csv(call):
        headers = {"Content-Disposition": 'attachment; filename="usage.csv"', "Cache-Control": "no-store"}
        return Response(to_csv(rows, by), media_type="text/csv; charset=utf-8", headers=headers)
    return JSONResponse(
        {
            "from": iso(first * HOUR_SECONDS),
            "to": iso((last + 1) * HOUR_SECONDS),
            "by": list(by),
            "items": rows,
            "total": total(rows),
        }
    )


@route(blueprint, "GET", "/api/limits")
async def get_limits(call: Call) -> Response:
    """The limits of model calls in force for the caller's tenant, and who has set them."""
    return await _limits(_tenant(call))


@route(blueprint, "PUT", "/api/limits", role=Role.ADMINISTRATOR, body=LimitsBody)
async def put_limits(call: Call) -> Response:
    """Set a tenant's own limits; the platform's administrator with tenant=NAME, what it is granted."""
    tenant = _tenant(call)
    granting = bool(call.query("tenant"))
    values = (await call.json(LimitsBody)).model_dump(exclude_unset=True)
    await services().limits.put(tenant, Source.PLATFORM if granting else Source.TENANT, values)
    return await _limits(tenant)


async def _limits(tenant: str) -> Response:
    limits = services().limits
    values = await limits.set_for(tenant)
    return JSONResponse(
        {
            "tenant": tenant,
            "in_force": limits.in_force(values).to_dict(),
            "granted": values[Source.PLATFORM],
            "own": values[Source.TENANT],
        }
    )


def _tenant(call: Call) -> str:
    """The caller's tenant, or the one that the platform's administrator names."""
    named = call.query("tenant")
    if not named:
        return call.principal.tenant
    if not call.principal.may(Role.PLATFORM):
        raise Forbidden("Only the platform's administrator names a tenant.")
    return check_name("tenant", named)


def _whose(call: Call) -> str | None:
    """The user whose usage is asked for; None for all. Who does not administer sees only its own."""
    asked = call.query("user")
    if call.principal.may(Role.OPERATOR):
        return asked or None
    if asked not in ("", call.principal.user):
        raise Forbidden(f"Usage of others needs the role {Role.OPERATOR.value!r}.")
    return call.principal.user


def _hours(call: Call) -> tuple[int, int]:
    """The first and the last hour that are asked for, counted from 1970; the last is the one before 'to'."""
    now = time.time()
    today = now - now % DAY_SECONDS
    begin = _moment(call, "from", today - (DEFAULT_DAYS - 1) * DAY_SECONDS)
    end = _moment(call, "to", now)
    if not 0 <= begin < end or end - begin > MOST_DAYS * DAY_SECONDS:
        raise InvalidParameter(
            f"'from' must lie before 'to', by {MOST_DAYS} days at most.", parameter="from", limit=MOST_DAYS
        )
    return int(begin // HOUR_SECONDS), int(-(-end // HOUR_SECONDS)) - 1


def _moment(call: Call, name: str, default: float) -> float:
    """A date or a time in ISO 8601, in UTC unless it says otherwise."""
    text = call.query(name)
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise InvalidParameter(f"{name!r} must be a date or a time in ISO 8601.", parameter=name) from None


def _wants_csv(call: Call) -> bool:
    form = call.query("format")
    if form not in ("", "json", "csv"):
        raise InvalidParameter("'format' must be 'json' or 'csv'.", parameter="format")
    return form == "csv" or (not form and "text/csv" in call.request.headers.get("accept", ""))
