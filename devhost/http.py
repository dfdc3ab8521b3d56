"""Serves the app's HTTP functions, and the paths `/admin` and `/runtime` that belong to the host."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from azure.functions.meta import Datum
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from devhost.bindings import Bindings
from devhost.invocation import Invoker
from devhost.keys import HostKeys
from devhost.plans import Plan, converter, uses_fastapi
from devhost.routes import RouteTable, decode_path

log = logging.getLogger(__name__)

EVENT_STREAM = b"text/event-stream"
HOMEPAGE = "Your function app is up and running."


class HttpFront:
    """The ASGI application: host paths first, then the functions' routes by ASP.NET's precedence."""

    def __init__(
        self,
        plans: Iterable[Plan],
        *,
        route_prefix: str,
        max_outstanding: int | None = None,
        keys: HostKeys,
        invoker: Invoker,
        bindings: Bindings,
        host_routes: Iterable[Route],
        homepage: bool,
    ) -> None:
        self.draining = False
        self._keys = keys
        self._invoker = invoker
        self._bindings = bindings
        self._fastapi = uses_fastapi()
        self._host = Router([*host_routes])
        self._homepage = homepage
        self._max_outstanding = max_outstanding
        self._outstanding = 0
        self._event_streams: set[asyncio.Task[Any]] = set()
        self._routes: RouteTable[Plan] = RouteTable()
        for plan in plans:
            trigger = plan.function.trigger
            methods = frozenset(_text(m).upper() for m in trigger.methods) if trigger.methods else None
            # An empty route means the function's name; the root needs a parameter that may be left out.
            template = (trigger.route or plan.name).strip("/")
            self._routes.add(f"{route_prefix}/{template}", methods, plan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse_websocket(scope, receive, send)
            return
        path = decode_path(scope["raw_path"])
        if path is None:
            await Response(status_code=400)(scope, receive, send)
        elif _belongs_to_host(path):
            await self._host(scope, receive, send)
        else:
            found = self._routes.match(scope["method"], path)
            if found is None:
                await self._no_function(path)(scope, receive, send)
            elif self.draining:
                await Response(status_code=503, headers={"retry-after": "1"})(scope, receive, send)
            else:
                await self._admit(*found, scope, receive, send)

    def close_event_streams(self) -> None:
        """End every open event stream: its generator is cancelled and its connection closed."""
        for task in self._event_streams:
            task.cancel("the host stops")

    def _no_function(self, path: str) -> Response:
        if path != "/":
            return Response(status_code=404)
        return PlainTextResponse(HOMEPAGE) if self._homepage else Response(status_code=204)

    async def _admit(
        self, plan: Plan, values: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request, unless as many are being served as host.json allows."""
        if self._max_outstanding is not None and self._outstanding >= self._max_outstanding:
            await Response(status_code=429, headers={"retry-after": "1"})(scope, receive, send)
            return
        self._outstanding += 1
        try:
            await self._serve(plan, values, scope, receive, send)
        finally:
            self._outstanding -= 1

    async def _serve(
        self, plan: Plan, values: dict[str, str], scope: Scope, receive: Receive, send: Send
    ) -> None:
        level = _text(plan.function.trigger.auth_level).lower()
        if level != "anonymous" and not self._keys.opens(level, sent_key(scope)):
            await Response(status_code=401)(scope, receive, send)
            return
        _append_caller(scope)
        invocation = self._invoker.begin(plan, scope["headers"])
        started = _Started(send, self._event_streams, asyncio.current_task())
        error: BaseException | None = None
        try:
            await self._invoker.limited(self._answer(plan, values, invocation, scope, receive, started))
        except ClientDisconnect:
            pass
        except Exception as raised:
            error = raised
        except asyncio.CancelledError as raised:
            error = raised
            if not self.draining:
                raise
        finally:
            self._event_streams.discard(started.task)
            self._invoker.end(invocation, error)
        if error is not None and not started.started:
            await _failure(error)(scope, receive, send)

    async def _answer(
        self, plan: Plan, values: dict[str, str], invocation: Any, scope: Scope, receive: Receive, send: Send
    ) -> None:
        scope["path_params"] = values
        request = Request(scope, receive, send)
        trigger_value = request if self._fastapi else await _sdk_request(plan, request, values)
        arguments = await self._bindings.arguments(plan, values)
        arguments[plan.trigger.name] = trigger_value
        result = await self._invoker.call(plan, arguments, invocation)
        await self._bindings.deliver(plan, arguments, None, values)
        response = _fastapi_response(result) if self._fastapi else _sdk_response(plan, result)
        try:
            await response(scope, receive, send)
        finally:
            # Cancelling a response that waits for a slow client does not reach its generator: close it here.
            close = getattr(getattr(response, "body_iterator", None), "aclose", None)
            if close is not None:
                await close()


class _Started:
    """Passes a response on and notes that it began, and whether it is an event stream."""

    __slots__ = ("_event_streams", "_send", "started", "task")

    def __init__(self, send: Send, event_streams: set[Any], task: Any) -> None:
        self.started = False
        self.task = task
        self._send = send
        self._event_streams = event_streams

    async def __call__(self, message: Message) -> None:
        if not self.started:
            self.started = True
            for name, value in message.get("headers", ()):
                if name == b"content-type" and value.startswith(EVENT_STREAM):
                    self._event_streams.add(self.task)
        await self._send(message)


def _text(value: Any) -> str:
    """The text of an SDK enum or of the plain string that took its place."""
    return str(getattr(value, "value", value))


def _belongs_to_host(path: str) -> bool:
    first = path[1:9].lower()
    return first.startswith(("admin", "runtime")) and first.partition("/")[0] in ("admin", "runtime")


def sent_key(scope: Scope) -> str | None:
    """The access key that a request carries, in its header or its address."""
    for name, value in scope["headers"]:
        if name == b"x-functions-key":
            return value.decode("latin-1")
    return dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("code")


async def _sdk_request(plan: Plan, request: Request, values: Mapping[str, str]) -> Any:
    """The func.HttpRequest that the SDK's converter makes of what the host would send."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if value:  # the host leaves empty ones out
            query[name] = f"{query[name]},{value}" if name in query else value
    data = {
        "method": Datum(request.method, "string"),
        "url": Datum(_url(request), "string"),
        "headers": _strings(headers),
        "query": _strings(query),
        "params": _strings(values),
        "body": Datum(await request.body(), "bytes"),
    }
    return plan.trigger.decode(Datum(data, "http"), {})


def _url(request: Request) -> str:
    """The address as it was asked for, escapes and all."""
    scope = request.scope
    path, query = (
        scope["raw_path"].split(b"?", 1)[0].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
    )
    return f"{scope['scheme']}://{request.headers.get('host', '')}{path}{'?' + query if query else ''}"


def _strings(values: Mapping[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


def _sdk_response(plan: Plan, result: Any) -> Response:
    if plan.returned is None:
        return Response(status_code=204)
    try:
        datum = converter("http").encode(result, expected_type=plan.returned.annotation)
    except NotImplementedError as error:
        raise TypeError(f"an HTTP function cannot return {type(result).__name__}") from error
    if datum.type != "http":
        return PlainTextResponse(datum.value)
    value = datum.value
    headers = {name: item.value for name, item in value["headers"].items()}
    response = Response(value["body"].value, int(value["status_code"].value), headers)
    for cookie in value["cookies"] or ():
        for morsel in cookie.values():
            response.headers.append("set-cookie", morsel.OutputString())
    return response


def _fastapi_response(result: Any) -> Response:
    """What the FastAPI route of the extension makes of a handler's return value."""
    if isinstance(result, Response):
        return result
    if result is None:
        raise TypeError("an HTTP function of the FastAPI extension must not return None")
    from fastapi.encoders import jsonable_encoder

    return JSONResponse(jsonable_encoder(result))


def _failure(error: BaseException) -> Response:
    """The answer for a function that raised: nothing of the error but what an HTTPException says itself."""
    if isinstance(error, HTTPException):
        return JSONResponse({"detail": error.detail}, error.status_code, dict(error.headers or {}))
    return PlainTextResponse("Internal Server Error", 500)


def _append_caller(scope: Scope) -> None:
    """As Azure's front end does: the last address of X-Forwarded-For is no client's word."""
    if scope["client"]:
        scope["headers"] = [*scope["headers"], (b"x-forwarded-for", scope["client"][0].encode())]


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
