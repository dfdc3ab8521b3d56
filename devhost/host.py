"""The whole host of one app: its functions, their listeners, its Durable engine and its HTTP front."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from azure.functions.meta import Datum
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devhost.bindings import Bindings
from devhost.connections import Connections
from devhost.errors import SettingsError
from devhost.functions import AppFunction, load_functions
from devhost.http import HttpFront, sent_key
from devhost.invocation import Invocation, Invoker
from devhost.keys import HostKeys
from devhost.plans import Plan, plan_call
from devhost.settings import HostOptions
from devhost.state import ListenerState

log = logging.getLogger(__name__)

DISABLE_HOMEPAGE_SETTING = "AzureWebJobsDisableHomepage"
# A function's last words: how long running ones may go on after the host was told to stop, and how long
# of that an event stream may, whose client will connect again.
DRAIN_SECONDS = 10.0
EVENT_STREAM_DRAIN_SECONDS = 1.0


class Listener(Protocol):
    """A source of events for one function."""

    running: set[asyncio.Task[None]]

    async def listen(self) -> None: ...


class Host:
    """One app, served. `http` is its ASGI application; use between `start` and `stop`."""

    def __init__(
        self,
        app_dir: Path,
        data_dir: Path,
        options: HostOptions,
        settings: Mapping[str, str],
        keys: HostKeys,
        base_url: str,
        succeeded: Callable[[Invocation], None] = lambda invocation: None,
    ) -> None:
        """Loads and checks the app. Raises DevHostError for an app or a setting that cannot be served.

        `succeeded` is told of each invocation that went well.
        """
        self._base_url = base_url
        self._started = time.monotonic()
        functions = load_functions(app_dir)
        self._plans = {function.name: plan_call(function) for function in functions}
        self._options = options
        self._connections = Connections(settings)
        self._bindings = Bindings(
            self._connections,
            settings,
            base64_messages=options.queues.base64_messages,
            durable_client=self._durable_client,
        )
        for plan in self._plans.values():
            self._bindings.check(plan)
        self._invoker = Invoker(settings, app_dir, options.function_timeout_seconds, succeeded)
        self._state = ListenerState(data_dir / "listeners.db")
        self._engine = self._make_engine(functions, data_dir / "durable.db", settings)
        self._client_text: str | None = None
        self._listeners = list(self._make_listeners())
        self._listening: list[asyncio.Task[None]] = []
        self.http = HttpFront(
            (plan for plan in self._plans.values() if plan.function.kind == "httpTrigger"),
            route_prefix=options.route_prefix,
            max_outstanding=options.max_outstanding_requests,
            keys=keys,
            invoker=self._invoker,
            bindings=self._bindings,
            host_routes=self._host_routes(keys),
            homepage=settings.get(DISABLE_HOMEPAGE_SETTING, "").lower() != "true",
        )

    @property
    def functions(self) -> list[AppFunction]:
        return [plan.function for plan in self._plans.values()]

    def function(self, name: str) -> AppFunction:
        """The function of that name; KeyError when the app has none."""
        return self._plans[name].function

    async def start(self) -> None:
        """Start the Durable engine and every listener."""
        if self._engine is not None:
            await self._engine.start()
        self._listening = [
            asyncio.create_task(self._keep_listening(listener)) for listener in self._listeners
        ]
        for plan in self._plans.values():
            if plan.function.kind == "warmupTrigger":
                self._listening.append(asyncio.create_task(self._warm_up(plan)))

    async def stop(self, drain_seconds: float = DRAIN_SECONDS) -> bool:
        """Take nothing new, let what runs end within `drain_seconds`; False when something was cut off."""
        self.http.draining = True
        for task in self._listening:
            task.cancel()
        asyncio.get_running_loop().call_later(EVENT_STREAM_DRAIN_SECONDS, self.http.close_event_streams)
        drained = await self._drain(drain_seconds)
        if self._engine is not None:
            await self._engine.stop()
        await asyncio.gather(*self._listening, return_exceptions=True)
        await self._connections.close()
        self._invoker.close()
        self._state.close()
        if not drained:
            log.error("functions_cut_off", extra={"fields": {"running": self._invoker.running}})
        return drained

    async def _drain(self, seconds: float) -> bool:
        """Waits for running functions, then for listeners to settle what those functions were given."""
        drained = await self._invoker.drain(seconds)
        settling = {task for listener in self._listeners for task in listener.running}
        if settling:
            _, late = await asyncio.wait(settling, timeout=1 if drained else 0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return drained

    async def _keep_listening(self, listener: Listener) -> None:
        """A listener handles its own failures; one that ends by a defect must not end in silence."""
        while True:
            try:
                await listener.listen()
            except Exception as error:
                log.error("listener_failed", exc_info=error)
                await asyncio.sleep(1)

    async def _warm_up(self, plan: Plan) -> None:
        value = plan.trigger.decode(Datum("", "string"), {})
        with suppress(Exception):  # the invoker has logged it; whoever comes waits for what was not loaded
            await self._invoker.run(plan, value, {}, self._bindings)

    def _make_listeners(self) -> Iterable[Listener]:
        for plan in self._plans.values():
            if plan.function.kind == "queueTrigger":
                from devhost.queues import QueueListener

                yield QueueListener(
                    plan, self._options.queues, self._connections, self._bindings, self._invoker
                )
            elif plan.function.kind == "blobTrigger":
                from devhost.blobs import BlobListener

                yield BlobListener(
                    plan,
                    self._options.blobs,
                    self._connections,
                    self._bindings,
                    self._invoker,
                    self._state,
                    base64_messages=self._options.queues.base64_messages,
                )
            elif plan.function.kind == "timerTrigger":
                from devhost.timers import TimerListener

                yield TimerListener(plan, self._bindings, self._invoker, self._state)

    def _make_engine(
        self, functions: list[AppFunction], database: Path, settings: Mapping[str, str]
    ) -> Any | None:
        if not any(plan.needs_durable for plan in self._plans.values()):
            return None
        from devhost.durable import DurableOptions, Engine

        try:
            options = DurableOptions.from_host_json(dict(self._options.host_json), settings)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        return Engine(functions, database, options, invoke_activity=self.invoke_activity)

    def _durable_client(self) -> str:
        if self._client_text is None:
            assert self._engine is not None
            self._client_text = str(self._engine.client_binding(self._base_url))
        return self._client_text

    async def invoke_activity(
        self, function: Any, payload: str | None, context: dict[str, Any]
    ) -> str | None:
        """Runs an activity for the engine: JSON text in, JSON text out, by the SDK's own converter."""
        from azure.functions.durable_functions import ActivityTriggerConverter

        plan = self._plans[function.name]
        value = ActivityTriggerConverter.decode(Datum(payload or "null", "json"), trigger_metadata=context)
        result = await self._invoker.run(plan, value, context, self._bindings)
        return ActivityTriggerConverter.encode(result, expected_type=None).value

    def _host_routes(self, keys: HostKeys) -> list[Route]:
        routes = [
            Route("/admin/host/ping", _ping, methods=["GET", "POST"]),
            Route("/admin/host/status", partial(self._status, keys)),
        ]
        if self._engine is not None:
            from devhost.durable import durable_routes

            routes += durable_routes(self._engine, lambda: self._base_url, keys.system)
        return routes

    async def _status(self, keys: HostKeys, request: Request) -> Response:
        """The host's state in the shape of the Functions host's own status, for a master key."""
        if not keys.opens("admin", sent_key(request.scope)):
            return Response(status_code=401)
        return JSONResponse(
            {
                "id": "devhost",
                "state": "Stopping" if self.http.draining else "Running",
                "processUptime": round((time.monotonic() - self._started) * 1000),
                "functions": {plan.name: plan.function.kind for plan in self._plans.values()},
                "runningInvocations": self._invoker.running,
            }
        )


async def _ping(request: Request) -> Response:
    return Response(status_code=200)
