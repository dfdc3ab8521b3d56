"""The durable engine of one task hub: starts, runs, queries and controls orchestration instances."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import status, wire
from .activities import Activities
from .entities import Entities
from .errors import InstanceFinished, InstanceNotFound, InvalidOperation, UnknownFunction
from .functions import AppFunction, Functions
from .http_calls import HttpCaller
from .invocation import InvokeActivity, converter_invocation
from .options import DurableOptions
from .orchestrations import CACHED_INSTANCES, Orchestrations
from .rewind import rewind
from .store import Effects, Instance, Query, Store
from .wire import EventType, Status

log = logging.getLogger("devhost.durable")

# Threads for activities that are plain functions; the Python worker's own default is min(32, CPUs + 4).
ACTIVITY_THREADS = 32
# The clock is looked at this often at the least, so that a shift of the clock is noticed.
CLOCK_CHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the start, and what is queued now."""

    replays: int
    steps: int
    sdk_seconds: float
    activities: int
    activities_running: int
    entity_batches: int
    pending: dict[str, int]


class Engine:
    """Runs the orchestrators, activities and entities among `functions`; keeps all state in `database`.

    Payloads are JSON texts. `invoke_activity` calls one activity with its encoded input and returns the
    encoded result; by default the SDK's own converters are used and plain functions run on
    `activity_threads` threads. `cached_instances` are kept in memory between steps. `clock` gives seconds
    since the epoch. Raises DatabaseInUse when another process holds the database.
    """

    def __init__(
        self,
        functions: Iterable[AppFunction],
        database: Path,
        options: DurableOptions | None = None,
        *,
        invoke_activity: InvokeActivity | None = None,
        activity_threads: int = ACTIVITY_THREADS,
        cached_instances: int = CACHED_INSTANCES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.options = options or DurableOptions()
        # The SDK's client sends no key: a path that nobody can guess takes its place.
        self.rpc_token = secrets.token_urlsafe(24)
        self.system_key = secrets.token_urlsafe(24)
        self._functions = Functions(functions)
        self._clock = clock
        self._store = Store(database)
        self._database_thread = ThreadPoolExecutor(1, thread_name_prefix="durable-database")
        self._activity_pool = ThreadPoolExecutor(activity_threads, thread_name_prefix="activity")
        self._http = HttpCaller(self.options.http_poll_milliseconds, clock)
        self._orchestrations = Orchestrations(
            self._functions, self._call, self._store, self._apply,
            self.options, cached_instances, clock,
        )  # fmt: skip
        self._activities = Activities(
            self._functions, self._call, self._store, self._orchestrations.receive,
            invoke_activity or converter_invocation(self._activity_pool), self._http,
            self.options.max_concurrent_activities, clock,
        )  # fmt: skip
        self._entities = Entities(
            self._functions, self._call, self._store, self._apply, self.options.max_entity_batch, clock
        )
        self._activities.on_postponed = self._timer_set
        self._next_due: float | None = None
        self._timers_changed = asyncio.Event()
        self._clock_task: asyncio.Task[None] | None = None
        self._waiters: dict[str, set[asyncio.Event]] = {}

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up all work that the database holds."""
        self._orchestrations.start()
        self._activities.start(await self._call(self._store.instances_with_activities))
        self._entities.start(await self._call(self._store.entities_with_operations))
        for instance_id in await self._call(self._store.unfinished):
            self._orchestrations.wake(instance_id)
        self._next_due = await self._call(self._store.next_due)
        self._clock_task = asyncio.create_task(self._watch_clock())

    async def stop(self) -> None:
        """Stop working; everything unfinished goes on at the next start."""
        if self._clock_task:
            self._clock_task.cancel()
            await asyncio.gather(self._clock_task, return_exceptions=True)
        await self._activities.stop()
        await self._entities.stop()
        await self._orchestrations.stop()
        await self._http.close()
        self._activity_pool.shutdown(wait=False, cancel_futures=True)
        await self._call(self._store.close)
        self._database_thread.shutdown(wait=True)

    async def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run one transaction on the database thread."""
        return await asyncio.get_running_loop().run_in_executor(self._database_thread, function, *arguments)

    def _apply(self, effects: Effects) -> None:
        """Attend to what a transaction left to do."""
        for instance_id in effects.stopped:
            self._activities.forget(instance_id)
            self._orchestrations.forget(instance_id)
        for instance_id in effects.started:
            self._orchestrations.wake(instance_id)
        for received in effects.received:
            self._orchestrations.receive(received)
        for entity in effects.entities:
            self._entities.wake(entity)
        for instance_id in effects.with_activities:
            self._activities.added(instance_id)
        if effects.next_due is not None:
            self._timer_set(effects.next_due)
        for instance_id in effects.finished:
            for waiter in self._waiters.get(instance_id, ()):
                waiter.set()

    # -- time -------------------------------------------------------------------------------------

    def _timer_set(self, due: float) -> None:
        if self._next_due is None or due < self._next_due:
            self._next_due = due
            self._timers_changed.set()

    async def _watch_clock(self) -> None:
        """Fire timers when they are due, however far the clock has moved."""
        while True:
            self._timers_changed.clear()
            try:
                wait = await self._fire_due()
            except Exception as error:
                log.error("durable.timers_failed", exc_info=error)
                wait = CLOCK_CHECK_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._timers_changed.wait()

    async def _fire_due(self) -> float:
        """Fire what is due; return after how many seconds to look again."""
        now = self._clock()
        if self._next_due is not None and self._next_due <= now:
            await self._fire(now)
        if self._next_due is None:
            return CLOCK_CHECK_SECONDS
        return max(0.0, min(self._next_due - now, CLOCK_CHECK_SECONDS))

    async def _fire(self, now: float) -> None:
        for received in await self._call(self._store.fire_timers, now):
            self._orchestrations.receive(received)
        for instance_id in await self._call(self._store.release_postponed, now):
            self._activities.added(instance_id)
        self._next_due = await self._call(self._store.next_due)

    # -- instances --------------------------------------------------------------------------------

    async def start_instance(
        self,
        name: str,
        instance_id: str | None = None,
        payload: str | None = None,
        version: str | None = None,
    ) -> str:
        """Start an orchestration and return its id.

        `payload` is the input as the extension keeps it: the JSON of the text that the SDK decodes. Raises
        UnknownFunction, InstanceRunning; a finished instance of that id is replaced.
        """
        function = self._functions.orchestrator(name)
        if function is None:
            raise UnknownFunction(self._functions.missing(name, "orchestrator"))
        if instance_id and instance_id.startswith("@"):
            raise InvalidOperation("Orchestration instance ids must not start with @.")
        now = self._clock()
        instance = Instance(
            instance_id or uuid.uuid4().hex, uuid.uuid4().hex, name, version or self.options.default_version,
            payload, Status.PENDING, None, None, now, now, None, None, None,
        )  # fmt: skip
        self._apply(await self._call(self._store.create, instance))
        return instance.id

    async def instance(self, instance_id: str) -> Instance:
        """Raises InstanceNotFound."""
        found = await self._call(self._store.instance, instance_id)
        if found is None:
            raise InstanceNotFound(instance_id)
        return found

    async def query(self, query: Query) -> list[Instance]:
        return await self._call(self._store.query, query)

    async def history(self, instance_id: str, *, show_output: bool = False) -> list[dict[str, Any]]:
        """The events of an instance as the management API shows them. Raises InstanceNotFound."""
        loaded = await self._call(self._store.load, instance_id)
        if loaded is None:
            raise InstanceNotFound(instance_id)
        return status.history_events(loaded.history, loaded.instance, show_output=show_output)

    async def history_size(self, instance_id: str) -> tuple[int, int]:
        """(bytes stored, events) of an instance's history. Raises InstanceNotFound."""
        events = await self.history(instance_id)
        return await self._call(self._store.history_size, instance_id), len(events)

    async def wait(self, instance_id: str, timeout_seconds: float | None = None) -> Instance:
        """The instance once it has finished, or as it is when the time is up. Raises InstanceNotFound."""
        waiter = asyncio.Event()
        waiting = self._waiters.setdefault(instance_id, set())
        waiting.add(waiter)
        try:
            if not (await self.instance(instance_id)).finished:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout_seconds):
                        await waiter.wait()
            return await self.instance(instance_id)
        finally:
            waiting.discard(waiter)
            if not waiting:
                self._waiters.pop(instance_id, None)

    async def raise_event(self, instance_id: str, name: str, payload: str) -> None:
        """Raises InstanceNotFound, InstanceFinished."""
        event = wire.event_raised(name, payload, self._clock())
        self._apply(await self._call(self._store.raise_event, instance_id, event))

    async def terminate(self, instance_id: str, reason: str) -> None:
        """End an instance and its sub-orchestrations now. Raises InstanceNotFound, InstanceFinished."""
        self._apply(await self._call(self._store.terminate, instance_id, reason, self._clock()))

    async def suspend(self, instance_id: str, reason: str) -> None:
        """Take no further step until resumed; events are kept. Raises InstanceNotFound, InstanceFinished."""
        await self._call(self._store.suspend, instance_id, reason, self._clock())
        self._orchestrations.set_suspended(instance_id, True)

    async def resume(self, instance_id: str, reason: str) -> None:
        """Raises InstanceNotFound, InstanceFinished."""
        await self._call(self._store.resume, instance_id, reason, self._clock())
        self._orchestrations.set_suspended(instance_id, False)

    async def rewind(self, instance_id: str, reason: str) -> None:
        """Run again what failed, in this instance and its failed sub-orchestrations.

        Raises InstanceNotFound; InstanceFinished when it did not fail; InvalidOperation when it runs.
        """
        instance = await self.instance(instance_id)
        if instance.finished and instance.status != Status.FAILED:
            raise InstanceFinished(instance_id, instance.status)
        if instance.status != Status.FAILED:
            raise InvalidOperation(
                "The rewind operation is only supported on failed orchestration instances."
            )
        await self._rewind(instance, reason)

    async def _rewind(self, instance: Instance, reason: str) -> None:
        loaded = await self._call(self._store.load, instance.id)
        rewound = rewind(loaded.history)
        children = await self._call(self._store.children, instance.id, instance.execution)
        failed = {c.parent_task: c for c in children if c.status == Status.FAILED}
        again = [task for task in rewound.again if task not in failed]
        event = wire.event(EventType.GENERIC, self._clock(), Name="Rewind", Reason=reason, Data=again)
        effects = await self._call(self._store.rewrite, instance.id, rewound.history, event, self._clock())
        self._apply(effects)
        for task in rewound.again:
            if task in failed:
                await self._rewind(failed[task], reason)

    async def restart(self, instance_id: str, *, new_id: bool = True) -> str:
        """Start an instance's function again with its input. Raises InstanceNotFound, InstanceRunning."""
        earlier = await self.instance(instance_id)
        return await self.start_instance(
            earlier.name, None if new_id else instance_id, earlier.input, earlier.version
        )

    async def purge(self, instances: Query | str) -> int:
        """Delete finished instances, by id or filter; return how many. Those that run are left alone."""
        purged = await self._call(self._store.purge, instances)
        for instance_id in purged:
            self._activities.forget(instance_id)
            self._orchestrations.forget(instance_id)
        return len(purged)

    # -- entities ---------------------------------------------------------------------------------

    async def signal_entity(self, name: str, key: str, operation: str, payload: str) -> None:
        """`payload` is the JSON of the text that the SDK decodes. Raises UnknownFunction."""
        if self._functions.entity(name) is None:
            raise UnknownFunction(self._functions.missing(name, "entity"))
        entity = (name.lower(), key)
        await self._call(self._store.signal, *entity, str(uuid.uuid4()), operation, payload)
        self._entities.wake(entity)

    async def entity_state(self, name: str, key: str) -> str | None:
        """The JSON of an entity's state, None when there is no such entity."""
        return await self._call(self._store.entity, name.lower(), key)

    async def entities(
        self, name: str | None, after: tuple[str, str], limit: int
    ) -> list[tuple[str, str, str, float]]:
        """(name, key, state, last operation) in the order of name and key."""
        return await self._call(self._store.entities, name.lower() if name else None, after, limit)

    # -- observation ------------------------------------------------------------------------------

    async def stats(self) -> dict[str, Any]:
        """See Stats."""
        return asdict(
            Stats(
                replays=self._orchestrations.replays,
                steps=self._orchestrations.steps,
                sdk_seconds=self._orchestrations.sdk_seconds,
                activities=self._activities.completed,
                activities_running=self._activities.running,
                entity_batches=self._entities.batches,
                pending=await self._call(self._store.pending),
            )
        )

    def client_binding(self, base_url: str) -> str:
        """The JSON that a `durableClient` binding hands to the SDK, for a host reached at `base_url`."""
        from .routes import client_binding

        return client_binding(self, base_url)
