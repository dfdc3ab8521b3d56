"""The caller and API keys over HTTP."""

from __future__ import annotations

from typing import Annotated

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.http import Call, Model, route
from functions.services import services
from shared.errors import Forbidden
from shared.identity import Principal, Role

blueprint = df.Blueprint()

# A key that does not expire is a key that nobody rotates; 90 days unless the caller asks for less or more.
DEFAULT_EXPIRY_SECONDS = 90 * 24 * 3600
LONGEST_EXPIRY_SECONDS = 366 * 24 * 3600


# A hundred of them lie in one property of a table row, which holds 32,768 characters (Azure Tables).
Group = Annotated[str, Field(min_length=1, max_length=100)]


class KeyBody(Model):
    """Whom a new key stands for. Only the platform's administrator may name another tenant."""

    user: str = Field(min_length=1, max_length=200)
    tenant: str | None = Field(None, max_length=63)
    groups: tuple[Group, ...] = Field((), max_length=100)
    roles: tuple[Role, ...] = Field((Role.READER,), min_length=1, max_length=len(Role))
    expires_seconds: float = Field(DEFAULT_EXPIRY_SECONDS, gt=0, le=LONGEST_EXPIRY_SECONDS)


@route(blueprint, "GET", "/api/me")
async def me(call: Call) -> Response:
    """Who the caller is."""
    who = call.principal
    return JSONResponse(
        {"tenant": who.tenant, "user": who.user, "groups": list(who.groups), "roles": list(who.roles)}
    )


@route(blueprint, "POST", "/api/keys", role=Role.ADMINISTRATOR, body=KeyBody, statuses=(201,))
async def post_key(call: Call) -> Response:
    """Make an API key; it can be read this once."""
    body = await call.json(KeyBody)
    tenant = body.tenant or call.principal.tenant
    if tenant != call.principal.tenant and not call.principal.may(Role.PLATFORM):
        raise Forbidden("Only the platform's administrator makes keys for other tenants.")
    if Role.PLATFORM in body.roles:
        raise Forbidden("The platform's role cannot be given away.")
    who = Principal(tenant, body.user, body.groups, body.roles)
    key = await services().keys.issue(who, expires_seconds=body.expires_seconds)
    return JSONResponse({"key": key, "tenant": tenant, "user": body.user}, status_code=201)
