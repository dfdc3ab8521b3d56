"""The caller, API keys and the audit trail over HTTP."""

from __future__ import annotations

from typing import Annotated

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response
from pydantic import Field

from functions.http import Call, Model, route
from functions.services import services
from shared.errors import Forbidden, Hidden
from shared.identity import Principal, Role, check_name, check_readers
from shared.keys import Key, key_id, new_key

blueprint = df.Blueprint()

# A key that does not expire is a key that nobody rotates; 90 days unless the caller asks for less or more.
DEFAULT_EXPIRY_SECONDS = 90 * 24 * 3600
LONGEST_EXPIRY_SECONDS = 366 * 24 * 3600
# Time to bring a rotated key to all that use it.
DEFAULT_OVERLAP_SECONDS = 24 * 3600
LONGEST_OVERLAP_SECONDS = 30 * 24 * 3600

# A hundred of them lie in one property of a table row, which holds 32,768 characters (Azure Tables).
Group = Annotated[str, Field(min_length=1, max_length=100)]
CollectionName = Annotated[str, Field(min_length=1, max_length=63)]


class KeyBody(Model):
    """Whom a new key stands for. Only the platform's administrator may name another tenant.

    ``collections`` limits the key to some; without it the key is good for all that its user may see.
    """

    user: str = Field(min_length=1, max_length=200)
    tenant: str | None = Field(None, max_length=63)
    groups: tuple[Group, ...] = Field((), max_length=100)
    roles: tuple[Role, ...] = Field((Role.READER,), min_length=1, max_length=len(Role))
    collections: tuple[CollectionName, ...] | None = Field(None, min_length=1, max_length=100)
    label: str = Field("", max_length=200)
    expires_seconds: float = Field(DEFAULT_EXPIRY_SECONDS, gt=0, le=LONGEST_EXPIRY_SECONDS)


class RotationBody(Model):
    """How long the new key lives, and how long the old one beside it."""

    expires_seconds: float = Field(DEFAULT_EXPIRY_SECONDS, gt=0, le=LONGEST_EXPIRY_SECONDS)
    overlap_seconds: float = Field(DEFAULT_OVERLAP_SECONDS, ge=0, le=LONGEST_OVERLAP_SECONDS)


@route(blueprint, "GET", "/api/me")
async def me(call: Call) -> Response:
    """Who the caller is."""
    who = call.principal.to_dict()
    del who["credential"]
    return JSONResponse(who)


# --- keys ---


@route(blueprint, "POST", "/api/keys", role=Role.ADMINISTRATOR, body=KeyBody, statuses=(201,))
async def post_key(call: Call) -> Response:
    """Make an API key; it can be read this once."""
    body = await call.json(KeyBody)
    tenant = _tenant(call, body.tenant)
    if Role.PLATFORM in body.roles:
        raise Forbidden("The platform's role cannot be given away.")
    check_readers([f"user:{body.user}", *(f"group:{group}" for group in body.groups)])
    for collection in body.collections or ():
        check_name("collection", collection)
    who = Principal(tenant, body.user, body.groups, body.roles, body.collections)
    key = new_key()
    await call.audit(f"key:{key_id(key)}", action="issue_key")
    key, record = await services().keys.issue(
        who, key=key, expires_seconds=body.expires_seconds, label=body.label, issued_by=call.principal.user
    )
    return JSONResponse({"key": key, **record.to_document()}, status_code=201)


@route(blueprint, "GET", "/api/keys", role=Role.ADMINISTRATOR)
async def list_keys(call: Call) -> Response:
    """The tenant's API keys without their secrets, those that have ended too."""
    found = services().keys.list(_tenant(call, call.query("tenant")))
    return JSONResponse({"items": [key.to_document() async for key in found]})


@route(blueprint, "GET", "/api/keys/{key}", role=Role.ADMINISTRATOR)
async def get_key(call: Call) -> Response:
    """Whose a key is, by the id in its middle; the platform's administrator may ask for any tenant's."""
    return JSONResponse((await _key(call)).to_document())


@route(
    blueprint,
    "POST",
    "/api/keys/{key}/rotate",
    role=Role.ADMINISTRATOR,
    body=RotationBody,
    statuses=(201, 409),
)
async def rotate_key(call: Call) -> Response:
    """Make a key's successor; the old one goes on for the overlap."""
    body = await call.json(RotationBody)
    old = await _key(call)
    key = new_key()
    await call.audit(f"key:{key_id(key)}", action="issue_key")
    key, record = await services().keys.rotate(
        old,
        key=key,
        expires_seconds=body.expires_seconds,
        overlap_seconds=body.overlap_seconds,
        issued_by=call.principal.user,
    )
    return JSONResponse({"key": key, **record.to_document()}, status_code=201)


@route(blueprint, "DELETE", "/api/keys/{key}", role=Role.ADMINISTRATOR)
async def revoke_key(call: Call) -> Response:
    """End a key at once; its record stays."""
    return JSONResponse((await services().keys.revoke(await _key(call))).to_document())


async def _key(call: Call) -> Key:
    """The key that the path names; `Hidden` where it is another tenant's."""
    key = await services().keys.find(call.path("key"))
    if key.principal.tenant != call.principal.tenant and not call.principal.may(Role.PLATFORM):
        raise Hidden("key", key.id)
    return key


def _tenant(call: Call, named: str | None) -> str:
    """The tenant that the call is about: the caller's own, or any for the platform's administrator."""
    own = call.principal.tenant
    if not named or named == own:
        return own
    if not call.principal.may(Role.PLATFORM):
        raise Forbidden("Only the platform's administrator acts for other tenants.")
    return check_name("tenant", named)


# --- audit ---


@route(blueprint, "GET", "/api/audit", role=Role.ADMINISTRATOR)
async def get_audit(call: Call) -> Response:
    """The tenant's audit trail, newest first; a page may hold fewer entries than asked for."""
    wanted = {
        name: call.query(name)
        for name in ("user", "credential", "action", "decision", "correlation_id")
        if call.query(name)
    }
    items, following = await services().audit.page(
        _tenant(call, call.query("tenant")),
        after=call.query("after"),
        limit=call.number("limit", 100, 1000),
        **wanted,
    )
    return JSONResponse({"items": items, "next": following})
