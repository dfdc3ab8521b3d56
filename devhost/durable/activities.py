"""Runs queued activities: a bounded number at once, instances in turn, completions committed in groups."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import failpoints
from . import wire
from .functions import Functions
from .http_calls import HttpCaller, Poll
from .invocation import InvokeActivity
from .orchestrations import HTTP_ACTIVITY
from .store import Activity, Received, Store

log = logging.getLogger("devhost.durable")

# Activities of one instance held in memory; the rest of its queue stays in the database.
FETCH_ACTIVITIES = 128
REFILL_ACTIVITIES = 32
# How long `stop` lets running activities finish; those cut off run again after the next start.
STOP_GRACE_SECONDS = 5.0
# The pause before the database is tried again when it cannot be read or written.
STORAGE_RETRY_SECONDS = 0.5


class Activities:
    """The activity workers. `receive` is given what completed activities posted to their instances."""

    def __init__(
        self,
        functions: Functions,
        call: Callable[..., Any],
        store: Store,
        receive: Callable[[Received], None],
        invoke: InvokeActivity,
        http: HttpCaller,
        workers: int,
        clock: Callable[[], float],
    ) -> None:
        self._functions = functions
        self._call = call
        self._store = store
        self._receive = receive
        self._invoke = invoke
        self._http = http
        self._workers = workers
        self._clock = clock
        self._turn: OrderedDict[str, deque[Activity]] = OrderedDict()
        self._more: dict[str, int] = {}
        self._news: set[str] = set()
        self._held: set[int] = set()
        self._done: list[tuple[Activity, str, bool]] = []
        self._feed = asyncio.Event()
        self._ready = asyncio.Event()
        self._flush = asyncio.Event()
        self._quiet = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.running = 0
        self.completed = 0
        self.on_postponed: Callable[[float], None] = lambda due: None

    def start(self, instances: list[str]) -> None:
        for instance_id in instances:
            self.added(instance_id)
        loops = [self._feeder(), self._flusher(), *(self._worker() for _ in range(self._workers))]
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Start nothing more, let what runs finish for a while, commit what finished."""
        self._stopping = True
        if self.running:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_SECONDS):
                    await self._quiet.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._done:
            await self._call(self._store.finish_activities, self._done)

    def added(self, instance_id: str) -> None:
        """The instance has queued activities."""
        self._more.setdefault(instance_id, 0)
        self._news.add(instance_id)
        self._feed.set()

    def forget(self, instance_id: str) -> None:
        """The instance's queue was emptied."""
        self._more.pop(instance_id, None)
        for activity in self._turn.pop(instance_id, ()):
            self._held.discard(activity.seq)

    # -- feeding ----------------------------------------------------------------------------------

    async def _feeder(self) -> None:
        while True:
            await self._feed.wait()
            self._feed.clear()
            try:
                for instance_id in list(self._more):
                    if len(self._turn.get(instance_id, ())) <= REFILL_ACTIVITIES:
                        await self._fetch(instance_id)
            except Exception as error:
                log.error("durable.activities_not_read", exc_info=error)
                asyncio.get_running_loop().call_later(STORAGE_RETRY_SECONDS, self._feed.set)

    async def _fetch(self, instance_id: str) -> None:
        after = self._more[instance_id]
        self._news.discard(instance_id)
        rows = await self._call(self._store.activities, instance_id, after, FETCH_ACTIVITIES)
        if instance_id not in self._more:
            return
        fresh = [row for row in rows if row.seq not in self._held]
        self._held.update(row.seq for row in fresh)
        if fresh:
            self._turn.setdefault(instance_id, deque()).extend(fresh)
            self._ready.set()
        if rows:
            self._more[instance_id] = rows[-1].seq
        if len(rows) == FETCH_ACTIVITIES:
            if len(self._turn.get(instance_id, ())) <= REFILL_ACTIVITIES:
                self._feed.set()
        elif instance_id not in self._news:  # nothing was queued while we looked
            del self._more[instance_id]

    async def _next(self) -> Activity:
        """The next activity, taking instances in turn so that a long queue does not hold up a short one."""
        while not self._turn or self._stopping:
            self._ready.clear()
            await self._ready.wait()
        instance_id, queue = self._turn.popitem(last=False)
        activity = queue.popleft()
        if queue:
            self._turn[instance_id] = queue
        if len(queue) <= REFILL_ACTIVITIES and instance_id in self._more:
            self._feed.set()
        return activity

    # -- running ----------------------------------------------------------------------------------

    async def _worker(self) -> None:
        while True:
            activity = await self._next()
            self.running += 1
            try:
                await self._run(activity)
            except Exception as error:  # it could not be put back for later: read it from the queue again
                log.error("durable.activity_not_postponed", exc_info=error)
                self._held.discard(activity.seq)
                self._more[activity.instance] = 0
                asyncio.get_running_loop().call_later(STORAGE_RETRY_SECONDS, self._feed.set)
            finally:
                self.running -= 1
                if self._stopping and not self.running:
                    self._quiet.set()
            await asyncio.sleep(0)  # an activity that never waits must not keep the loop from others

    async def _run(self, activity: Activity) -> None:
        try:
            if activity.name == HTTP_ACTIVITY:
                result = await self._http.call(activity.input or "{}")
            else:
                result = await self._call_function(activity)
        except asyncio.CancelledError:
            if self._stopping:
                raise  # it stays queued and runs again after the next start
            self._finish(activity, self._failure(activity, RuntimeError("the activity was cancelled")), False)
        except Exception as error:
            self._finish(activity, self._failure(activity, error), False)
        else:
            if isinstance(result, Poll):
                await self._postpone(activity, result)
            else:
                self._finish(activity, wire.completed(activity.task, result, self._clock()), True)

    async def _call_function(self, activity: Activity) -> str | None:
        function = self._functions.activity(activity.name)
        if function is None:
            raise LookupError(self._functions.missing(activity.name, "activity"))
        context = {
            "instanceId": activity.instance,
            "executionId": activity.execution,
            "taskId": activity.task,
        }
        return await self._invoke(function, activity.input, context)

    def _failure(self, activity: Activity, error: Exception) -> str:
        log.info(
            "durable.activity_failed",
            extra={"activity": activity.name, "instance": activity.instance, "error": type(error).__name__},
        )
        reason = f"Activity function '{activity.name}' failed: {type(error).__name__}: {error}"
        return wire.failed(activity.task, reason, "", self._clock())

    def _finish(self, activity: Activity, event: str, success: bool) -> None:
        failpoints.passed("activity.done")
        self.completed += 1
        self._done.append((activity, event, success))
        self._flush.set()

    async def _postpone(self, activity: Activity, poll: Poll) -> None:
        due = self._clock() + poll.delay_seconds
        await self._call(self._store.postpone, activity, poll.request, due)
        self._held.discard(activity.seq)
        self.on_postponed(due)

    async def _flusher(self) -> None:
        """Commit completions: while one group is being written the next one gathers."""
        while True:
            await self._flush.wait()
            self._flush.clear()
            done, self._done = self._done, []
            try:
                received = await self._call(self._store.finish_activities, done)
            except asyncio.CancelledError:
                self._done = done + self._done
                raise
            except Exception as error:
                log.error("durable.completions_not_stored", exc_info=error, extra={"count": len(done)})
                self._done = done + self._done
                await asyncio.sleep(STORAGE_RETRY_SECONDS)
                self._flush.set()
                continue
            self._held.difference_update(activity.seq for activity, _, _ in done)
            for each in received:
                self._receive(each)
