"""HTTP as the app speaks it: one decorator for every route, bodies in, problem details out.

`route` registers a handler with the Functions host, resolves the principal before the handler runs, and
turns every error into RFC 9457 problem details. `ROUTES` lists what was registered: the contract at
`/openapi.json` and the tests that sweep over all routes are made from it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from functions.services import services
from shared.audit import Entry
from shared.authentication import Presented
from shared.errors import (
    Cancelled,
    Forbidden,
    GroundworkError,
    Hidden,
    InvalidParameter,
    InvalidRequest,
    MalformedJson,
    PayloadTooLarge,
    PromptRefused,
    QuotaExceeded,
    Unauthenticated,
    typed,
)
from shared.identity import Principal, Role
from shared.inferencing.caching import CacheMode
from shared.jobs import POLL_SECONDS, Job, status_document

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("groundwork.http")

Client = df.DurableOrchestrationClient
Handler = Callable[..., Awaitable[Response]]
ErrorRenderer = Callable[[GroundworkError, str], Response]
Body = TypeVar("Body", bound="Model")
Result = TypeVar("Result")

# JSON bodies hold requests, not files; a batch of inline documents is the largest. Azure takes 210 MB.
MAX_JSON_BYTES = 32 * 1024 * 1024
CORRELATION_HEADER = "x-correlation-id"
# The caller of a route that is open to everyone.
NOBODY = Principal("", "", roles=())


class Model(BaseModel):
    """A request body: unknown members are refused, so that a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(slots=True)
class Received:
    """What has come in with a call: the digest of its body so far, and the job whose key it claimed."""

    digest: Any = field(default_factory=hashlib.sha256)
    claimed: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler needs of its request: the raw request, who calls, and Durable where asked for.

    ``keyed`` says that its route takes an Idempotency-Key.
    """

    request: Request
    principal: Principal
    correlation_id: str
    client: Client | None = None
    action: str = ""
    keyed: bool = False
    received: Received = field(default_factory=Received)

    def path(self, name: str) -> str:
        """A parameter of the path; empty where its catch-all matches nothing."""
        return self.request.path_params.get(name) or ""

    def query(self, name: str, default: str = "") -> str:
        return self.request.query_params.get(name, default)

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number of the query string from 1 to ``most``."""
        value = self.query(name, str(default))
        digits = value.isascii() and value.isdigit() and len(value) <= len(str(most))
        if not (digits and 1 <= int(value) <= most):
            raise InvalidParameter(f"{name!r} must be a whole number from 1 to {most}.", parameter=name)
        return int(value)

    async def body(self, limit: int) -> bytes:
        """The raw body; raises `PayloadTooLarge` before more than ``limit`` bytes are held."""
        declared = self.request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise PayloadTooLarge(f"The body has {declared} bytes; the limit is {limit}.", limit=limit)
        parts: list[bytes] = []
        size = 0
        async for part in self.request.stream():
            size += len(part)
            if size > limit:
                raise PayloadTooLarge(f"The body has more than {limit} bytes.", limit=limit)
            parts.append(part)
            if self.idempotency_key is not None:
                self.received.digest.update(part)
        return b"".join(parts)

    async def json_value(self) -> Any:
        """The body as parsed JSON; raises `MalformedJson`."""
        raw = await self.body(MAX_JSON_BYTES)
        try:
            # Decoded here: `json.loads` would guess at other encodings and let surrogates pass.
            text = raw.decode("utf-8-sig")
            value = json.loads(text or "{}", parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise MalformedJson("The body is not valid JSON in UTF-8.") from None
        if _has_surrogate(text, value):
            raise MalformedJson("The body holds a lone surrogate, which is no Unicode text.")
        return value

    async def json(self, model: type[Body]) -> Body:
        """The body as ``model``; raises `MalformedJson` or `InvalidRequest` that names each fault."""
        return validated(model, await self.json_value())

    async def audit(self, object: str, *, action: str = "", reason: str = "") -> None:
        """Put the call into the audit trail, as denied where there is a ``reason``, before it goes on."""
        action = action or self.action
        await services().audit.write(Entry.of(self.principal, action, object, self.correlation_id, reason))

    def note_use(self, role: Role) -> None:
        """Put into the audit trail that a role opened what an access list would not have."""
        entry = Entry.of(self.principal, f"{self.action} as {role.value}", self.object, self.correlation_id)
        services().audit.note(entry)

    @property
    def object(self) -> str:
        """What the call is about, for the audit trail: its path, which holds names and no content."""
        return self.request.url.path

    @property
    def idempotency_key(self) -> str | None:
        return self.request.headers.get("idempotency-key")

    async def claim(self, job_id: str, about: str = "") -> None:
        """Tie a job's id to this request, by default as it has been read; raises `IdempotencyKeyReused`."""
        url, headers = self.request.url, self.request.headers
        read = f"{headers.get('content-type', '')}\0{self.received.digest.hexdigest()}"
        fingerprint = hashlib.sha256(f"{url.query}\0{about or read}".encode()).hexdigest()
        if await services().jobs.claim_key(self.principal.tenant, job_id, fingerprint):
            self.received.claimed = job_id

    async def release(self) -> None:
        """Give back the key that a refused request had claimed: mended, it may come again."""
        if self.received.claimed:
            with suppress(GroundworkError):
                await services().jobs.release_key(self.principal.tenant, self.received.claimed)

    async def while_connected(self, work: Awaitable[Result]) -> Result:
        """``work``'s result; when the client leaves first, ``work`` is cancelled and `Cancelled` raised.

        The body must have been read before.
        """
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_disconnected(self.request))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Cancelled("The client went away.")
            return working.result()
        finally:
            leaving.cancel()
            if not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

    def cache_mode(self, wanted: CacheMode = CacheMode.EXACT) -> CacheMode:
        """``wanted``, under the request's Cache-Control: ``no-store`` leaves caches out, ``no-cache`` has
        everything made anew and kept (RFC 9111, 5.2.1)."""
        header = self.request.headers.get("cache-control", "").lower()
        directives = {directive.strip() for directive in header.split(",")}
        if "no-store" in directives:
            return CacheMode.OFF
        if "no-cache" in directives and wanted is not CacheMode.OFF:
            return CacheMode.REFRESH
        return wanted

    @property
    def base_url(self) -> str:
        """What links begin with: the configured address, or nothing, which makes them relative."""
        return services().settings.public_url or ""


def validated(model: type[Body], value: Any) -> Body:
    """``value`` as ``model``; raises `InvalidRequest` that names each fault."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [
            {"path": "/".join(str(part) for part in fault["loc"]), "fault": fault["msg"]}
            for fault in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        first = faults[0]
        raise InvalidRequest(f"{first['path'] or 'body'}: {first['fault']}", faults=faults[:20]) from None


async def _disconnected(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """One registered route, for the contract and for tests that sweep over all of them.

    ``errors`` makes the response to a request that failed: problem details, or another protocol's shape.
    """

    method: str
    path: str
    role: Role | None
    summary: str
    body: type[Model] | None
    statuses: tuple[int, ...]
    errors: ErrorRenderer
    keyed: bool


ROUTES: list[RouteEntry] = []


def route(
    blueprint: df.Blueprint,
    method: str,
    path: str,
    *,
    role: Role | None = Role.READER,
    durable: bool = False,
    body: type[Model] | None = None,
    statuses: tuple[int, ...] = (200,),
    name: str = "",
    errors: ErrorRenderer | None = None,
    keyed: bool = False,
) -> Callable[[Callable[[Call], Awaitable[Response]]], Handler]:
    """Serve ``method path`` with a handler that takes a `Call`.

    The caller must hold ``role``; None leaves the route open to everyone. ``durable`` gives the handler
    a Durable client. The handler's first docstring line becomes the summary in the contract, and its name
    that of the function unless ``name`` is given. ``errors`` takes the place of `problem`. A route that
    makes something which an Idempotency-Key can name is ``keyed``.
    """
    render = errors or problem

    def decorate(handle: Callable[[Call], Awaitable[Response]]) -> Handler:
        function_name = name or handle.__name__
        summary = (handle.__doc__ or function_name).strip().splitlines()[0].rstrip(".")
        ROUTES.append(RouteEntry(method, path, role, summary, body, statuses, render, keyed))

        async def answer(req: Request, client: Client | None = None) -> Response:
            correlation_id = _correlation_id(req)
            call = Call(req, NOBODY, correlation_id, client, function_name, keyed)
            try:
                if role is not None:
                    who = await services().authentication.principal(presented(req), correlation_id)
                    call = replace(call, principal=who)
                    await _admit(call, role, method)
                response = await handle(call)
            except GroundworkError as error:
                if not error.retryable:
                    await call.release()
                response = render(await _audited(error, call), correlation_id)
            except Exception as error:
                log.exception("request_failed", extra={"route": path, "correlation_id": correlation_id})
                response = render(typed(error), correlation_id)
            response.headers[CORRELATION_HEADER] = correlation_id
            return response

        async def with_client(req: Request, client: Client) -> Response:
            return await answer(req, client)

        async def without_client(req: Request) -> Response:
            return await answer(req)

        function: Any = with_client if durable else without_client
        function.__name__ = function_name
        # The host reads the annotations themselves, so they must not be strings here.
        function.__annotations__ = {"req": Request, "return": Response}
        if durable:
            function.__annotations__["client"] = str
            function = blueprint.durable_client_input(client_name="client")(function)
        registered = blueprint.route(
            route=path.lstrip("/"), methods=[method], auth_level=func.AuthLevel.ANONYMOUS
        )(function)
        return blueprint.function_name(function_name)(registered)

    return decorate


async def _admit(call: Call, role: Role, method: str) -> None:
    """Raise `Forbidden` or `Hidden` where the call may not be; put the use of a higher role on record."""
    call.principal.require(role)
    if role is Role.ADMINISTRATOR and call.principal.collections is not None:
        # It could otherwise make itself a key for all, or hear of what lies outside.
        raise Forbidden("A credential that is limited to collections does not administer.")
    collection = call.request.path_params.get("collection")
    if collection is not None and not call.principal.reaches(collection):
        raise Hidden("collection", collection)
    if method != "GET" and (method == "DELETE" or role not in (Role.READER, Role.CONTRIBUTOR)):
        await call.audit(call.object)
    elif role not in (Role.READER, Role.CONTRIBUTOR):
        services().audit.note(Entry.of(call.principal, call.action, call.object, call.correlation_id))


async def _audited(error: GroundworkError, call: Call) -> GroundworkError:
    """``error``, once the trail tells of what was denied; the fault where that could not be written."""
    denied = isinstance(error, Forbidden | Hidden | PromptRefused) and not isinstance(error, QuotaExceeded)
    if not denied:
        return error
    try:
        await call.audit(call.object, reason=error.code)
    except GroundworkError as fault:
        return fault
    return error


def presented(request: Request) -> Presented:
    """What a request brings to prove who calls."""
    headers = request.headers
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" and token else None
    # The front end of Azure and the embedded host append the address that they were called from.
    hops = ",".join(headers.getlist("x-forwarded-for"))
    source = hops.rpartition(",")[2].strip() or (request.client.host if request.client else "")
    return Presented(
        credential=bearer or headers.get("api-key"),
        ingress=tuple(headers.getlist("x-ms-client-principal")),
        source=_without_port(source),
    )


def _without_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    has_port = port.isdigit() and (":" not in host or host.endswith("]"))
    return host if has_port else address


def _correlation_id(request: Request) -> str:
    """The caller's own id for the request where it looks like one, else a new one."""
    given = request.headers.get(CORRELATION_HEADER, "")
    plain = given.replace("-", "")
    return given if 8 <= len(given) <= 64 and plain.isascii() and plain.isalnum() else uuid.uuid4().hex


def _has_surrogate(text: str, value: Any) -> bool:
    if "\\ud" not in text and "\\uD" not in text:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def problem_document(error: GroundworkError, correlation_id: str) -> dict[str, Any]:
    """An error as RFC 9457 problem details."""
    document: dict[str, Any] = {
        "type": f"urn:groundwork:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "correlation_id": correlation_id,
    }
    if (wait := error.wait_seconds) is not None:
        document["retry_after"] = round(wait, 3)
    return {**error.extra, **document}


def problem(error: GroundworkError, correlation_id: str) -> Response:
    """The response to a request that ended with ``error``."""
    headers: dict[str, str] = {}
    if (wait := error.wait_seconds) is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="groundwork"'
    return JSONResponse(
        problem_document(error, correlation_id),
        status_code=error.status,
        headers=headers,
        media_type="application/problem+json",
    )


def accepted(call: Call, job: Job) -> Response:
    """``202``: the work goes on as ``job``; where to ask for it and when."""
    document = status_document(job, None, call.base_url)
    return JSONResponse(
        document,
        status_code=202,
        headers={"Location": document["links"]["self"], "Retry-After": str(POLL_SECONDS)},
    )


# RFC 9211: what a cache did with a request, by the words that an answer uses for it.
CACHE_STATUS = {
    "off": "groundwork; fwd=bypass",
    "miss": "groundwork; fwd=miss",
    "exact": "groundwork; hit",
    "semantic": 'groundwork; hit; detail="semantic"',
}


def sse(event: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event with a JSON body."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def ended_by_error(
    call: Call,
    events: AsyncGenerator[bytes, None],
    failed: Callable[[GroundworkError], bytes] | None = None,
) -> AsyncIterator[bytes]:
    """``events``; where they break off, one more that tells the error: no stream just ends.

    ``failed`` makes it, by default problem details. A client that leaves closes ``events`` at once, which
    ends the calls behind it.
    """
    async with aclosing(events):
        try:
            async for event in events:
                yield event
            return
        except GroundworkError as raised:
            error = raised
        except Exception as raised:
            log.exception("stream_failed", extra={"correlation_id": call.correlation_id})
            error = typed(raised)
    yield failed(error) if failed else sse("error", problem_document(error, call.correlation_id))


def event_stream(events: AsyncIterator[bytes]) -> Response:
    """A response of server-sent events that no proxy may hold back."""
    return StreamingResponse(
        events,
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
