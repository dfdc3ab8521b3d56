"""The HTTP face of the engine: the management API, and the same API as the SDK's client calls it.

`/runtime/webhooks/durabletask/…` is the management API and asks for the system key (`code`). The SDK's client
sends no key; its base URL holds a token that is made anew at each start instead. The two differ in how they
encode payloads: the SDK sends JSON inside a JSON string, and the engine keeps payloads in that form.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import status, wire
from .errors import DurableError, InstanceNotFound, InvalidOperation, UnknownFunction
from .store import Instance, Query
from .wire import Status

if TYPE_CHECKING:
    from .engine import Engine

WEBHOOK_PATH = "/runtime/webhooks/durabletask"
RPC_PATH = "/runtime/durabletask/rpc"
# What the extension asks a client to wait before it asks again: after a start, and while an instance runs.
START_RETRY_SECONDS = 10
STATUS_RETRY_SECONDS = 5
# OrchestrationStatusQueryCondition.PageSize
PAGE_INSTANCES = 100
CONTINUATION_HEADER = "x-ms-continuation-token"
METHODS = ["GET", "POST", "DELETE"]

Handler = Callable[["Engine", Request, str, bool], Awaitable[Response]]


def durable_routes(engine: Engine, base_url_provider: Callable[[], str], key: str) -> list[Route]:
    """Routes for the management API, guarded by `key`, and for the SDK's client.

    `base_url_provider` gives the URL under which clients reach the host, without a path. From here on the
    engine's client binding hands out `key` as well.
    """
    engine.system_key = key
    routes = []
    for path, handler in PATHS.items():
        webhook = partial(_guarded, engine, base_url_provider, handler, key)
        rpc = partial(_internal, engine, base_url_provider, handler)
        routes.append(Route(WEBHOOK_PATH + path, _endpoint(webhook), methods=METHODS))
        routes.append(Route(RPC_PATH + "/{token}" + path, _endpoint(rpc), methods=METHODS))
    return routes


def client_binding(engine: Engine, base_url: str) -> str:
    """The JSON of a `durableClient` binding."""
    webhook = base_url.rstrip("/") + WEBHOOK_PATH
    code = f"code={quote(engine.system_key)}"
    create = f"{webhook}/orchestrators/{{functionName}}[/{{instanceId}}]"
    return json.dumps(
        {
            "taskHubName": engine.options.hub_name,
            "creationUrls": {
                "createNewInstancePostUri": f"{create}?{code}",
                "createAndWaitOnNewInstancePostUri": (
                    f"{create}?timeout={{timeoutInSeconds}}&pollingInterval={{intervalInSeconds}}&{code}"
                ),
            },
            "managementUrls": _management_urls(engine, base_url, "INSTANCEID"),
            "baseUrl": webhook,
            "requiredQueryStringParameters": code,
            "rpcBaseUrl": f"{base_url.rstrip('/')}{RPC_PATH}/{engine.rpc_token}/",
        }
    )


def _management_urls(engine: Engine, base_url: str, instance_id: str) -> dict[str, str]:
    instance = f"{base_url.rstrip('/')}{WEBHOOK_PATH}/instances/{quote(instance_id, safe='')}"
    query = f"taskHub={quote(engine.options.hub_name)}&connection=Storage&code={quote(engine.system_key)}"
    return {
        "id": instance_id,
        "statusQueryGetUri": f"{instance}?{query}",
        "sendEventPostUri": f"{instance}/raiseEvent/{{eventName}}?{query}",
        "terminatePostUri": f"{instance}/terminate?reason={{text}}&{query}",
        "rewindPostUri": f"{instance}/rewind?reason={{text}}&{query}",
        "purgeHistoryDeleteUri": f"{instance}?{query}",
        "restartPostUri": f"{instance}/restart?{query}",
        "suspendPostUri": f"{instance}/suspend?reason={{text}}&{query}",
        "resumePostUri": f"{instance}/resume?reason={{text}}&{query}",
    }


# -- who may call --------------------------------------------------------------------------------


def _endpoint(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return await handle(request)
        except DurableError as error:
            message = str(error)
            return JSONResponse({"Message": message, "ExceptionMessage": message}, error.status)

    return endpoint


async def _guarded(
    engine: Engine, base_url: Callable[[], str], handler: Handler, key: str, request: Request
) -> Response:
    given = request.query_params.get("code") or request.headers.get("x-functions-key") or ""
    if not hmac.compare_digest(given.encode(), key.encode()):
        return Response(status_code=401)
    return await handler(engine, request, base_url(), False)


async def _internal(
    engine: Engine, base_url: Callable[[], str], handler: Handler, request: Request
) -> Response:
    if not hmac.compare_digest(request.path_params["token"].encode(), engine.rpc_token.encode()):
        return Response(status_code=404)
    return await handler(engine, request, base_url(), True)


# -- payloads ------------------------------------------------------------------------------------


async def _json_body(request: Request) -> str | None:
    """The body as JSON text, None when empty. Raises InvalidOperation when it is not JSON."""
    body = await request.body()
    if not body:
        return None
    try:
        json.loads(body)
        return body.decode()
    except ValueError as error:
        raise InvalidOperation("Invalid JSON content") from error


def _sdk_payload(text: str | None, from_sdk: bool) -> str | None:
    """A payload in the SDK's form, a JSON string that holds JSON; objects the SDK also takes as they are."""
    if text is None or from_sdk or text.lstrip().startswith("{"):
        return text
    return json.dumps(text)


def _number(request: Request, name: str) -> float | None:
    try:
        return float(request.query_params[name])
    except (KeyError, ValueError):
        return None


def _flag(request: Request, name: str, default: bool = False) -> bool:
    text = request.query_params.get(name, "").lower()
    return text == "true" if text in ("true", "false") else default


def _moment(request: Request, name: str) -> float | None:
    try:
        return wire.parse_timestamp(request.query_params[name])
    except (KeyError, ValueError):
        return None


def _token(values: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()


def _read_token(request: Request) -> list[Any] | None:
    text = request.headers.get(CONTINUATION_HEADER)
    if not text:
        return None
    try:
        values = json.loads(base64.urlsafe_b64decode(text))
    except ValueError as error:
        raise InvalidOperation("The continuation token is not valid.") from error
    if not isinstance(values, list) or len(values) != 2:
        raise InvalidOperation("The continuation token is not valid.")
    return values


# -- orchestrators and instances -----------------------------------------------------------------


async def _orchestrators(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    if request.method != "POST":
        return Response(status_code=404)
    instance_id = await engine.start_instance(
        request.path_params["function"],
        request.path_params.get("instance"),
        _sdk_payload(await _json_body(request), from_sdk),
        request.query_params.get("version"),
    )
    return await _started(engine, request, base_url, instance_id)


async def _started(engine: Engine, request: Request, base_url: str, instance_id: str) -> Response:
    """202 with the management URLs; with `timeout`, the outcome where it comes in time."""
    timeout = _number(request, "timeout")
    if timeout is not None and _number(request, "pollingInterval") is not None:
        instance = await engine.wait(instance_id, timeout)
        if instance.status == Status.COMPLETED:
            return _json(instance.output or "null")
        if instance.finished:
            return _status(request, instance, status.document(instance))
    urls = _management_urls(engine, base_url, instance_id)
    headers = {"Location": urls["statusQueryGetUri"], "Retry-After": str(START_RETRY_SECONDS)}
    return JSONResponse(urls, 202, headers)


def _json(text: str, status_code: int = 200) -> Response:
    return Response(text, status_code, media_type="application/json")


async def _instances(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    if request.method == "GET":
        return await _list_instances(engine, request)
    if request.method == "DELETE":
        return await _purge_instances(engine, request)
    return Response(status_code=404)


def _query(request: Request) -> Query:
    statuses = [s for value in request.query_params.getlist("runtimeStatus") for s in value.split(",")]
    return Query(
        created_from=_moment(request, "createdTimeFrom"),
        created_to=_moment(request, "createdTimeTo"),
        statuses=tuple(s for s in statuses if s),
        prefix=request.query_params.get("instanceIdPrefix"),
    )


async def _list_instances(engine: Engine, request: Request) -> Response:
    limit = max(1, int(_number(request, "top") or PAGE_INSTANCES))
    after = _read_token(request)
    query = _query(request)
    page = Query(
        query.created_from,
        query.created_to,
        query.statuses,
        query.prefix,
        (float(after[0]), str(after[1])) if after else None,
        limit + 1,
    )
    found = await engine.query(page)
    shown = found[:limit]
    show_input = _flag(request, "showInput", True)
    headers = {}
    if len(found) > limit:
        headers[CONTINUATION_HEADER] = _token([shown[-1].created, shown[-1].id])
    return JSONResponse([status.document(i, show_input=show_input) for i in shown], 200, headers)


async def _purge_instances(engine: Engine, request: Request) -> Response:
    query = _query(request)
    if query.created_from is None:
        raise InvalidOperation("Please provide value for 'createdTimeFrom' parameter.")
    purged = await engine.purge(query)
    return JSONResponse({"instancesDeleted": purged}, 200 if purged else 404)


async def _instance(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    instance_id = request.path_params["instance"]
    try:
        instance = await engine.instance(instance_id)
    except InstanceNotFound:
        return Response(status_code=404)
    if request.method == "DELETE":
        return JSONResponse({"instancesDeleted": await engine.purge(instance_id)})
    if request.method != "GET":
        return Response(status_code=404)
    document = status.document(instance, show_input=_flag(request, "showInput", True))
    if _flag(request, "showHistory"):
        document["historyEvents"] = await engine.history(
            instance_id, show_output=_flag(request, "showHistoryOutput")
        )
    return _status(request, instance, document)


def _status(request: Request, instance: Instance, document: dict[str, Any]) -> Response:
    """202 while it runs; 200 when it has finished; a failure is 500 for those who ask for that."""
    if not instance.finished:
        headers = {"Location": str(request.url), "Retry-After": str(STATUS_RETRY_SECONDS)}
        return JSONResponse(document, 202, headers)
    failed = instance.status == Status.FAILED and _flag(request, "returnInternalServerErrorOnFailure")
    return JSONResponse(document, 500 if failed else 200)


async def _control(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    """Terminate, suspend, resume, rewind or restart one instance."""
    instance_id = request.path_params["instance"]
    operation = request.path_params["operation"].lower()
    reason = request.query_params.get("reason", "")
    controls = {
        "terminate": engine.terminate,
        "suspend": engine.suspend,
        "resume": engine.resume,
        "rewind": engine.rewind,
    }
    if request.method != "POST":
        return Response(status_code=404)
    if operation == "restart":
        new_id = await engine.restart(instance_id, new_id=_flag(request, "restartWithNewInstanceId", True))
        return await _started(engine, request, base_url, new_id)
    if operation not in controls:
        return Response(status_code=404)
    await controls[operation](instance_id, reason)
    return Response(status_code=202)


async def _raise_event(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    if request.method != "POST" or request.path_params["operation"].lower() != "raiseevent":
        return Response(status_code=404)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise InvalidOperation("Only application/json request content is supported")
    payload = await _json_body(request)
    await engine.raise_event(request.path_params["instance"], request.path_params["event"], payload or "null")
    return Response(status_code=202)


# -- entities ------------------------------------------------------------------------------------


async def _entities(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    """List entities, of one name or all; `fetchState` shows their states."""
    if request.method != "GET":
        return Response(status_code=404)
    limit = max(1, int(_number(request, "top") or PAGE_INSTANCES))
    after = _read_token(request) or ["", ""]
    found = await engine.entities(request.path_params.get("name"), (str(after[0]), str(after[1])), limit + 1)
    shown = [
        {
            "entityId": {"name": name, "key": key},
            "lastOperationTime": wire.timestamp(updated),
            "state": json.loads(state) if _flag(request, "fetchState") else None,
        }
        for name, key, state, updated in found[:limit]
    ]
    headers = {CONTINUATION_HEADER: _token(list(found[limit - 1][:2]))} if len(found) > limit else {}
    return JSONResponse(shown, 200, headers)


async def _entity(engine: Engine, request: Request, base_url: str, from_sdk: bool) -> Response:
    name, key = request.path_params["name"], request.path_params["key"]
    if request.method == "GET":
        state = await engine.entity_state(name, key)
        return _json(state) if state is not None else Response(status_code=404)
    operation = "delete" if request.method == "DELETE" else request.query_params.get("op", "")
    body = await _json_body(request)
    payload = body if from_sdk else json.dumps(body) if body is not None else None
    try:
        await engine.signal_entity(name, key, operation, payload or "null")
    except UnknownFunction as error:
        raise InvalidOperation(str(error)) from error
    return Response(status_code=202)


PATHS: dict[str, Handler] = {
    "/orchestrators/{function}": _orchestrators,
    "/orchestrators/{function}/{instance}": _orchestrators,
    "/instances": _instances,
    "/instances/": _instances,
    "/instances/{instance}": _instance,
    "/instances/{instance}/{operation}": _control,
    "/instances/{instance}/{operation}/{event}": _raise_event,
    "/entities": _entities,
    "/entities/": _entities,
    "/entities/{name}": _entities,
    "/entities/{name}/{key}": _entity,
}
