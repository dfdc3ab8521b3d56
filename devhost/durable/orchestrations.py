"""Runs orchestrations: one step at a time for each instance, many instances at once.

A step takes the events that have happened, lets the orchestrator go on where it can (a replay through the
unmodified SDK), and commits the history, the new work and the outcome in one transaction.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from azure.functions.durable_functions import OrchestrationTriggerConverter
from azure.functions.meta import Datum

from .. import failpoints
from . import wire
from .errors import NonDeterministic
from .functions import Functions
from .options import DurableOptions
from .plan import Plan, Task, Wake, Work, action_leaves, due_time
from .store import Child, Effects, Instance, Loaded, Received, Step, Store
from .versions import Mismatch, accepts
from .wire import Action, EventType, OrchestratorState, Status

log = logging.getLogger("devhost.durable")

# The name under which the extension runs durable HTTP calls as activities (HttpOptions).
HTTP_ACTIVITY = "BuiltIn::HttpActivity"
# Encoded history kept in memory over all instances; what is evicted is read again from the database.
CACHE_BYTES = 32 * 1024 * 1024
CACHED_INSTANCES = 1000
# How often a step that fails inside the engine is tried before the instance fails, and the first pause.
STEP_TRIES = 5
STEP_RETRY_SECONDS = 0.1
# The longest pause between tries while the database cannot be written (disk full): that is no fault of the
# instance, so it is tried for as long as it takes.
STORAGE_RETRY_SECONDS = 10.0
# A replay on suspicion (Wake.PERHAPS) waits this many times the last replay's duration: it then costs at most
# a fifth of the time, however many tasks complete one by one.
SUSPICION_PAUSE_FACTOR = 4.0


class Live:
    """An instance in memory: its encoded history, its plan, and what has happened since."""

    def __init__(self, instance_id: str) -> None:
        self.id = instance_id
        self.instance: Instance | None = None
        self.history: list[str] = []
        self.bytes = 0
        self.plan = Plan()
        self.backlog: deque[Received] = deque()
        self.early: dict[str, deque[Received]] = {}
        self.taken: list[Received] = []
        self.again: list[int] = []
        self.known: set[int] = set()
        self.begun = False
        self.suspended = False
        self.replay_seconds = 0.0
        self.suspicious_from = 0.0

    def open(self, loaded: Loaded) -> None:
        """Rebuild the plan from the stored history; then queue what the inbox holds."""
        self.instance = loaded.instance
        self.suspended = loaded.instance.status == Status.SUSPENDED
        for events, asked in loaded.history:
            self.begun = self.begun or asked is not None
            if self.begun:  # what was noted before the first step, such as a suspension, is not for the SDK
                self.remember(events)
                replay_row(self.plan, events, asked)
        if self.plan.needs_inputs:
            self.plan.wake = Wake.NOW
        for received in loaded.inbox:
            self.receive(received)

    def remember(self, events: str) -> None:
        if events:
            self.history.append(events)
            self.bytes += len(events)

    def receive(self, received: Received) -> None:
        if received.seq not in self.known:
            self.known.add(received.seq)
            self.backlog.append(received)

    def take(self) -> None:
        """Give the plan what has happened, in order, as far as its numbering allows without a replay."""
        assert self.instance is not None
        while self.backlog:
            received = self.backlog[0]
            if received.execution not in (None, self.instance.execution):
                self.taken.append(received)  # for an execution that is over: deleted with the next step
            elif received.external and received.keys[0][1] not in self.plan.waiting:
                self.early.setdefault(received.keys[0][1], deque()).append(received)
            elif self.plan.wake and any(self.plan.takes_id(*key) for key in received.keys):
                return
            else:
                self._settle(received)
            self.backlog.popleft()

    def take_early(self) -> None:
        """Hand over events that came before the orchestrator waited for them: the oldest first."""
        for name in [name for name in self.early if name in self.plan.waiting]:
            queue = self.early[name]
            while queue and name in self.plan.waiting:
                self._settle(queue.popleft())
            if not queue:
                del self.early[name]

    def _settle(self, received: Received) -> None:
        self.taken.append(received)
        for kind, key in received.keys:
            if kind == EventType.GENERIC:
                self.again, self.plan.wake = list(key), Wake.NOW
            else:
                self.plan.settle(kind, key)

    @property
    def events(self) -> list[str]:
        assert self.instance is not None
        return [
            received.events
            for received in self.taken
            if received.execution in (None, self.instance.execution)
        ]


def replay_row(plan: Plan, events: str, asked: str | None) -> list[Work]:
    """Feed one row of history to a plan; return the work it had started."""
    sent = []
    for event in json.loads(f"[{events}]"):
        if event["EventType"] == EventType.EVENT_SENT:
            sent.append((event["EventId"], json.loads(event["Input"])["id"]))
        elif field := wire.TASK_KEY.get(event["EventType"]):
            plan.settle(event["EventType"], event[field])
    if asked is not None:
        plan.recall(json.loads(asked))
    work = plan.take_work()
    for task_id, request in sent:
        plan.sent(task_id, request)
    return work


@dataclass(slots=True)
class Replay:
    """What came of running the orchestrator: its state and the shape of what it newly asked for."""

    state: OrchestratorState
    asked: list[Any]
    cpu_seconds: float = 0.0


class Orchestrations:
    """The step workers. `apply` receives what a committed step left to do elsewhere."""

    def __init__(
        self,
        functions: Functions,
        call: Callable[..., Any],
        store: Store,
        apply: Callable[[Effects], None],
        options: DurableOptions,
        cached_instances: int,
        clock: Callable[[], float],
    ) -> None:
        self._functions = functions
        self._call = call
        self._store = store
        self._apply = apply
        self._workers = options.max_concurrent_orchestrators
        self._options = options
        self._cached_instances = cached_instances
        self._clock = clock
        self._cache: OrderedDict[str, Live] = OrderedDict()
        self._bytes = 0
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._busy: set[str] = set()
        self._missed: set[str] = set()
        self._tries: dict[str, int] = {}
        self._beyond: dict[str, str] = {}
        self._rejected: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: ThreadPoolExecutor | None = None
        self.replays = 0
        self.steps = 0
        self.sdk_seconds = 0.0

    def start(self) -> None:
        threads = min(self._workers, os.cpu_count() or 1)  # a replay is pure computing
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="orchestrator")
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pool:
            self._pool.shutdown(wait=True)

    def wake(self, instance_id: str) -> None:
        """Look at the instance soon."""
        if instance_id not in self._queued:
            self._queued.add(instance_id)
            self._queue.put_nowait(instance_id)

    def receive(self, received: Received) -> None:
        live = self._cache.get(received.instance)
        if live is not None:
            live.receive(received)
        self.wake(received.instance)

    def forget(self, instance_id: str) -> None:
        """The stored instance has changed under us: read it again when it is next looked at."""
        live = self._cache.pop(instance_id, None)
        if live is not None:
            self._bytes -= live.bytes

    def set_suspended(self, instance_id: str, suspended: bool) -> None:
        live = self._cache.get(instance_id)
        if live is not None:
            live.suspended = suspended
        if not suspended:
            self.wake(instance_id)

    # -- workers ----------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            instance_id = await self._queue.get()
            self._queued.discard(instance_id)
            if instance_id in self._busy:
                self._missed.add(instance_id)
                continue
            self._busy.add(instance_id)
            try:
                await self._attend(instance_id)
                self._tries.pop(instance_id, None)
            except Exception as error:
                self._step_failed(instance_id, error)
            finally:
                self._busy.discard(instance_id)
                if instance_id in self._missed:
                    self._missed.discard(instance_id)
                    self.wake(instance_id)
                self._evict()

    async def _attend(self, instance_id: str) -> None:
        """Take steps until the instance has nothing more to do for now."""
        if instance_id in self._beyond:
            await self._give_up(instance_id)
        while (live := await self._live(instance_id)) is not None and not live.suspended:
            if not await self._takes_version(live):
                return
            live.take()
            replay = live.plan.wake == Wake.NOW
            if live.plan.wake == Wake.PERHAPS:
                pause = live.suspicious_from - time.monotonic()
                if pause > 0:
                    asyncio.get_running_loop().call_later(pause, self.wake, instance_id)
                replay = pause <= 0
            if not replay and not live.plan.work:
                return
            await self._step(live, replay=replay)

    async def _takes_version(self, live: Live) -> bool:
        """Whether this host goes on with the instance; one of a version that it does not take is left, or
        failed, as host.json says."""
        instance, options = live.instance, self._options
        assert instance is not None
        if accepts(options.version_match, options.default_version, instance.version):
            return True
        reason = (
            f"The orchestration has version {instance.version!r}; this host runs "
            f"{options.default_version!r} ({options.version_match})."
        )
        if options.version_mismatch is Mismatch.FAIL:
            self._beyond[instance.id] = reason
            await self._give_up(instance.id)
        elif instance.id not in self._rejected:
            self._rejected.add(instance.id)
            log.warning("durable.version_rejected", extra={"instance": instance.id, "reason": reason})
        self.forget(instance.id)
        return False

    async def _live(self, instance_id: str) -> Live | None:
        live = self._cache.get(instance_id)
        if live is None:
            live = self._cache[instance_id] = Live(instance_id)
        self._cache.move_to_end(instance_id)
        if live.instance is None:
            loaded = await self._call(self._store.load, instance_id)
            if loaded is None or loaded.instance.finished:
                self.forget(instance_id)
                return None
            if self._cache.get(instance_id) is not live:
                return await self._live(instance_id)
            arrived = list(live.backlog)
            live.backlog.clear()
            live.known.clear()
            live.open(loaded)
            for received in arrived:
                live.receive(received)
            self._bytes += live.bytes
        return live

    def _evict(self) -> None:
        while self._bytes > CACHE_BYTES or len(self._cache) > self._cached_instances:
            oldest = next((i for i in self._cache if i not in self._busy), None)
            if oldest is None or len(self._cache) == 1:
                return
            self.forget(oldest)

    def _step_failed(self, instance_id: str, error: Exception) -> None:
        """The engine's own step failed and nothing of it was committed: try again, in the end say why not."""
        self.forget(instance_id)
        tries = self._tries[instance_id] = self._tries.get(instance_id, 0) + 1
        log.error("durable.step_failed", exc_info=error, extra={"instance": instance_id, "try": tries})
        if tries >= STEP_TRIES and not isinstance(error, sqlite3.OperationalError):
            self._beyond[instance_id] = (
                f"The engine failed {tries} times on this instance: {type(error).__name__}: {error}"
            )
        pause = min(STEP_RETRY_SECONDS * 2 ** (tries - 1), STORAGE_RETRY_SECONDS)
        asyncio.get_running_loop().call_later(pause, self.wake, instance_id)

    async def _give_up(self, instance_id: str) -> None:
        """Fail an instance that the engine cannot handle, with the reason."""
        instance = await self._call(self._store.instance, instance_id)
        if instance is not None and not instance.finished:
            step = Step(instance_id, instance.execution, self._clock(), [])
            step.finished = _failure(self._beyond[instance_id])
            step.events = _execution_completed(step.at, *step.finished)
            self._apply(await self._call(self._store.commit, step))
        del self._beyond[instance_id]

    # -- one step ---------------------------------------------------------------------------------

    async def _step(self, live: Live, *, replay: bool) -> None:
        instance = live.instance
        assert instance is not None
        step = Step(instance.id, instance.execution, self._clock(), [r.seq for r in live.taken])
        events = live.events
        if replay:
            if not live.begun:
                events.insert(0, _execution_started(instance, step.at))
            events.insert(0, wire.event(EventType.ORCHESTRATOR_STARTED, step.at))
            await self._replay_into(step, live, events)
        if step.asked is not None or not replay:
            self._start_work(step, live, events)
        if step.finished:
            events.append(_execution_completed(step.at, *step.finished))
        step.events = ",".join(events)
        failpoints.passed("step.replayed")
        effects = await self._call(self._store.commit, step)
        failpoints.passed("step.committed")
        self.steps += 1
        if not effects.committed or step.finished or step.next_execution:
            self.forget(instance.id)
        else:
            self._committed(live, step)
        self._apply(effects)
        if not effects.committed:
            self.wake(instance.id)

    def _committed(self, live: Live, step: Step) -> None:
        for received in live.taken:
            live.known.discard(received.seq)
        live.taken.clear()
        live.begun = live.begun or step.asked is not None
        if self._cache.get(live.id) is live:
            self._bytes += len(step.events)
        live.remember(step.events)
        live.take_early()

    async def _replay_into(self, step: Step, live: Live, events: list[str]) -> None:
        """Run the orchestrator over its history and `events`, and decide what became of the instance."""
        assert live.instance is not None
        name = live.instance.name
        started = time.monotonic()
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self._pool, self._replay, live, events)
        except NonDeterministic as error:
            step.finished = _failure(f"Non-deterministic orchestrator '{name}': {error}.")
            return
        live.replay_seconds = time.monotonic() - started
        live.suspicious_from = time.monotonic() + live.replay_seconds * SUSPICION_PAUSE_FACTOR
        self.replays += 1
        self.sdk_seconds += outcome.cpu_seconds
        state, plan = outcome.state, live.plan
        step.asked = wire.dumps(outcome.asked)
        step.cancelled_timers, plan.cancelled = plan.cancelled, []
        if state.custom_status is not None:
            step.custom_status = wire.dumps(state.custom_status)
        if state.error is not None and (state.broken or plan.settled):
            step.finished = _failure(f"Orchestrator function '{name}' failed: {state.error}")
        elif plan.settled and state.is_done and plan.continue_as_new is not None:
            action = plan.continue_as_new.action or {}
            step.next_execution = (uuid.uuid4().hex, wire.dumps(action.get("input")))
        elif plan.settled and state.is_done:
            step.finished = (Status.COMPLETED, wire.dumps(state.output))
        elif plan.settled and plan.idle and not live.again:
            step.finished = _failure(
                f"Orchestrator function '{name}' failed: it waits for something that is no durable task."
            )

    def _replay(self, live: Live, events: list[str]) -> Replay:
        """On an orchestrator thread: one call of the user's function, and the plan brought up to date."""
        instance = live.instance
        assert instance is not None
        function = self._functions.orchestrator(instance.name)
        if function is None:
            missing = self._functions.missing(instance.name, "orchestrator")
            return Replay(OrchestratorState([], is_done=False, error=missing, broken=True), [])
        started = time.thread_time()
        context = wire.orchestration_context(
            instance.id, instance.parent, instance.input, [*live.history, *events]
        )
        argument = OrchestrationTriggerConverter.decode(Datum(context, "json"), trigger_metadata={})
        try:
            state = wire.orchestrator_state(function.user_function(argument))
        except MemoryError:
            raise
        except Exception as error:
            state = wire.orchestrator_failure(error)
        cpu_seconds = time.thread_time() - started
        asked = [] if state.broken else live.plan.adopt(state.actions)
        self._schedule_again(live, state.actions)
        return Replay(state, asked, cpu_seconds)

    def _schedule_again(self, live: Live, actions: list[dict[str, Any]]) -> None:
        """After a rewind: put the tasks whose failure was taken back to work, with their inputs."""
        if not live.again:
            return
        for task, action in zip(live.plan.leaves(), action_leaves(actions), strict=False):
            if task.id in live.again:
                task.action = action
                live.plan.work.append(Work(task.id, task))
        live.again = []

    # -- new work ---------------------------------------------------------------------------------

    def _start_work(self, step: Step, live: Live, events: list[str]) -> None:
        assert live.instance is not None
        name = live.instance.name
        for work in live.plan.take_work():
            if work.delay_seconds is not None:
                step.timers.append((work.id, step.at + work.delay_seconds))
                continue
            task = work.task
            missing = self._missing(task)
            if missing:
                step.finished = _failure(f"Orchestrator function '{name}' failed: {missing}")
                step.activities, step.children, step.operations, step.timers = [], [], [], []
                return
            self._start(step, live, work.id, task, events)
            if task.kind not in wire.RETRIED:
                task.action = None  # its input is stored with the work from here on

    def _missing(self, task: Task) -> str | None:
        """Why the task cannot start at all: calling an unknown function fails the caller, as in Azure."""
        if task.kind in wire.ACTIVITIES and self._functions.activity(task.name) is None:
            return self._functions.missing(task.name, "activity")
        if task.kind in wire.SUB_ORCHESTRATIONS and self._functions.orchestrator(task.name) is None:
            return self._functions.missing(task.name, "orchestrator")
        if task.kind in (Action.CALL_ENTITY, Action.SIGNAL_ENTITY):
            name = entity_name(task.name)
            return None if self._functions.entity(name) else self._functions.missing(name, "entity")
        return None

    def _start(self, step: Step, live: Live, task_id: int, task: Task, events: list[str]) -> None:
        action = task.action
        assert action is not None
        if task.kind in wire.ACTIVITIES:
            step.activities.append((task_id, task.name, action["input"]))
        elif task.kind == Action.CALL_HTTP:
            step.activities.append((task_id, HTTP_ACTIVITY, wire.dumps(action["httpRequest"])))
        elif task.kind == Action.CREATE_TIMER:
            step.timers.append((task_id, due_time(task)))
        elif task.kind in wire.SUB_ORCHESTRATIONS:
            step.children.append(self._child(step, task_id, task.name, action))
        else:
            self._send(step, live, task_id, task, events)

    def _child(self, step: Step, task_id: int, name: str, action: dict[str, Any]) -> Child:
        return Child(
            id=action.get("instanceId") or f"{step.execution}:{task_id}",
            execution=uuid.uuid4().hex,
            name=name,
            version=action.get("version") or self._options.default_version,
            input=wire.dumps(action["input"]),
            task=task_id,
        )

    def _send(self, step: Step, live: Live, task_id: int, task: Task, events: list[str]) -> None:
        """Queue an entity operation; a call leaves an EventSent, which tells the SDK the request's id."""
        action = task.action
        assert action is not None
        request = str(uuid.uuid4())
        _, name, key = action["instanceId"].split("@", 2)
        signal = task.kind == Action.SIGNAL_ENTITY
        step.operations.append((name, key, request, action["operation"], wire.dumps(action["input"]), signal))
        if not signal:
            live.plan.sent(task_id, request)
            events.append(
                wire.event(
                    EventType.EVENT_SENT,
                    step.at,
                    task_id,
                    InstanceId=action["instanceId"],
                    Name="op",
                    Input=wire.dumps({"id": request}),
                )
            )


def entity_name(label: str) -> str:
    """The name in an entity's scheduler id, `@name@key`."""
    return label.split("@", 2)[1]


def _failure(reason: str) -> tuple[Status, str]:
    return Status.FAILED, wire.dumps(reason)


def _execution_started(instance: Instance, at: float) -> str:
    return wire.event(
        EventType.EXECUTION_STARTED, at, Name=instance.name, Version=instance.version, Input=None
    )


def _execution_completed(at: float, status: Status, output: str | None) -> str:
    return wire.event(EventType.EXECUTION_COMPLETED, at, OrchestrationStatus=str(status), Result=output)
