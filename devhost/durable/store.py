"""The durable state of a task hub in one SQLite file; every public method is one transaction.

The store is used from one thread at a time (the engine's database thread). The file is opened in WAL mode, so
that what was committed survives a killed process, and is locked for as long as it is open, so that a second
host on the same file is refused.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import wire
from .errors import DatabaseInUse, InstanceFinished, InstanceNotFound, InstanceRunning
from .wire import FINISHED, EventType, Status

SCHEMA_VERSION = 1
SCHEMA = """
create table if not exists instances(
    id text primary key, execution text not null, name text not null, version text not null, input text,
    status text not null, output text, custom_status text, created real not null, updated real not null,
    parent text, parent_execution text, parent_task integer);
create index if not exists instances_by_parent on instances(parent) where parent is not null;
create index if not exists instances_by_creation on instances(created, id);
create table if not exists history(
    instance text not null, step integer not null, events text not null, asked text,
    primary key(instance, step)) without rowid;
create table if not exists inbox(
    seq integer primary key autoincrement, instance text not null, execution text, due real, task integer,
    events text not null);
create index if not exists inbox_by_instance on inbox(instance);
create index if not exists inbox_by_due on inbox(due) where due is not null;
create table if not exists activities(
    seq integer primary key autoincrement, instance text not null, execution text not null,
    task integer not null, name text not null, input text, due real);
create index if not exists activities_by_instance on activities(instance);
create index if not exists activities_by_due on activities(due) where due is not null;
create table if not exists entities(
    name text not null, key text not null, state text not null, updated real not null,
    primary key(name, key)) without rowid;
create table if not exists operations(
    seq integer primary key autoincrement, name text not null, key text not null, request text not null,
    operation text not null, input text not null, caller text, caller_execution text);
create index if not exists operations_by_entity on operations(name, key);
"""
ACTIVE = f"status not in ({','.join(repr(str(status)) for status in FINISHED)})"


@dataclass(frozen=True, slots=True)
class Instance:
    """The record of one orchestration instance; times are seconds since the epoch, payloads JSON texts."""

    id: str
    execution: str
    name: str
    version: str
    input: str | None
    status: str
    output: str | None
    custom_status: str | None
    created: float
    updated: float
    parent: str | None
    parent_execution: str | None
    parent_task: int | None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


@dataclass(frozen=True, slots=True)
class Received:
    """One row of an instance's inbox: events that have happened and are not in its history yet.

    `execution` is empty for an external event: it belongs to whichever execution waits for it.
    """

    seq: int
    instance: str
    execution: str | None
    events: str
    keys: tuple[tuple[int, Any], ...]

    @property
    def external(self) -> bool:
        return self.execution is None


@dataclass(frozen=True, slots=True)
class Activity:
    """A queued activity: at least once it runs, at most once its result counts."""

    seq: int
    instance: str
    execution: str
    task: int
    name: str
    input: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """A queued operation of an entity; `caller` waits for its answer unless it is a signal."""

    seq: int
    name: str
    key: str
    request: str
    operation: str
    input: str
    caller: str | None
    caller_execution: str | None


@dataclass(frozen=True, slots=True)
class Child:
    """A sub-orchestration to start."""

    id: str
    execution: str
    name: str
    version: str
    input: str | None
    task: int


@dataclass(slots=True)
class Step:
    """What one step of an orchestration changes: all of it is committed together, or none."""

    instance: str
    execution: str
    at: float
    consumed: list[int]
    events: str = ""
    asked: str | None = None
    activities: list[tuple[int, str, str | None]] = field(default_factory=list)
    timers: list[tuple[int, float]] = field(default_factory=list)
    cancelled_timers: list[int] = field(default_factory=list)
    children: list[Child] = field(default_factory=list)
    operations: list[tuple[str, str, str, str, str, bool]] = field(default_factory=list)
    custom_status: str | None = None
    finished: tuple[Status, str | None] | None = None
    next_execution: tuple[str, str | None] | None = None


@dataclass(slots=True)
class Effects:
    """What a transaction left for the engine to attend to."""

    committed: bool = True
    received: list[Received] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    with_activities: list[str] = field(default_factory=list)
    next_due: float | None = None
    entities: set[tuple[str, str]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Loaded:
    instance: Instance
    history: list[tuple[str, str | None]]
    inbox: list[Received]


@dataclass(frozen=True, slots=True)
class Query:
    """Filters of a listing; `after` is the (created, id) of the last instance of the page before."""

    created_from: float | None = None
    created_to: float | None = None
    statuses: tuple[str, ...] = ()
    prefix: str | None = None
    after: tuple[float, str] | None = None
    limit: int | None = None


class Store:
    def __init__(self, path: Path) -> None:
        """Open the database, or create it. Raises DatabaseInUse when another process holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        try:
            self._db.execute("pragma locking_mode=exclusive")
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            with self._transaction():
                self._prepare(path)
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error):
                raise DatabaseInUse(
                    f"The task hub database {path} is in use by another host process."
                ) from error
            raise

    def _prepare(self, path: Path) -> None:
        version = self._db.execute("pragma user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise DatabaseInUse(f"{path} has schema {version}; this engine reads schema {SCHEMA_VERSION}.")
        for statement in SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.execute(f"pragma user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what the block does; undo all of it if it raises."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    # -- instances --------------------------------------------------------------------------------

    def instance(self, instance_id: str) -> Instance | None:
        row = self._db.execute("select * from instances where id=?", (instance_id,)).fetchone()
        return Instance(*row) if row else None

    def create(self, instance: Instance) -> Effects:
        """Add a pending instance, in the place of a finished one. Raises InstanceRunning."""
        with self._transaction():
            earlier = self.instance(instance.id)
            if earlier and not earlier.finished:
                raise InstanceRunning(instance.id)
            self._insert(instance)
        return Effects(started=[instance.id])

    def _insert(self, instance: Instance) -> None:
        for table, column in (("instances", "id"), ("history", "instance"), ("inbox", "instance")):
            self._db.execute(f"delete from {table} where {column}=?", (instance.id,))
        self._db.execute(
            "insert into instances values(?,?,?,?,?,?,?,?,?,?,?,?,?)",
            tuple(getattr(instance, name) for name in Instance.__slots__),
        )

    def unfinished(self) -> list[str]:
        """Instances that have something to do: not begun, or with events that have happened."""
        rows = self._db.execute(
            f"select id from instances where status='Pending' or ({ACTIVE} and id in"
            " (select instance from inbox where due is null))"
        )
        return [row[0] for row in rows]

    def load(self, instance_id: str) -> Loaded | None:
        instance = self.instance(instance_id)
        if instance is None:
            return None
        history = self._db.execute(
            "select events, asked from history where instance=? order by step", (instance_id,)
        ).fetchall()
        inbox = self._db.execute(
            "select seq, instance, execution, events from inbox where instance=? and due is null"
            " order by seq",
            (instance_id,),
        )
        return Loaded(instance, history, [_received(*row) for row in inbox])

    def query(self, query: Query) -> list[Instance]:
        where, values = _conditions(query)
        limit = f" limit {int(query.limit)}" if query.limit is not None else ""
        rows = self._db.execute(f"select * from instances{where} order by created, id{limit}", values)
        return [Instance(*row) for row in rows]

    def purge(self, query: Query | str) -> list[str]:
        """Delete finished instances, by id or by filter; return the ids of those deleted."""
        with self._transaction():
            if isinstance(query, str):
                found = [self.instance(query)]
            else:
                found = self.query(query)
            ids = [instance.id for instance in found if instance is not None and instance.finished]
            for table, column in (
                ("instances", "id"),
                ("history", "instance"),
                ("inbox", "instance"),
                ("activities", "instance"),
            ):
                self._db.executemany(f"delete from {table} where {column}=?", [(i,) for i in ids])
        return ids

    def history_size(self, instance_id: str) -> int:
        """Bytes of history stored for an instance."""
        return self._db.execute(
            "select coalesce(sum(length(events) + length(coalesce(asked, ''))), 0) from history"
            " where instance=?",
            (instance_id,),
        ).fetchone()[0]

    # -- a step of an orchestration ---------------------------------------------------------------

    def commit(self, step: Step) -> Effects:
        """Apply one step, unless its execution has ended in the meantime (then `committed` is false)."""
        effects = Effects()
        with self._transaction():
            instance = self.instance(step.instance)
            if instance is None or instance.execution != step.execution or instance.finished:
                return Effects(committed=False)
            self._db.executemany("delete from inbox where seq=?", [(seq,) for seq in step.consumed])
            self._append(step.instance, step.events, step.asked)
            self._start_work(step, effects)
            self._update(instance, step)
            if step.finished:
                self._finish(instance, *step.finished, step.at, effects)
            elif step.next_execution:
                self._continue_as_new(step, effects)
        return effects

    def _append(self, instance_id: str, events: str, asked: str | None) -> None:
        self._db.execute(
            "insert into history select ?, coalesce(max(step) + 1, 0), ?, ? from history where instance=?",
            (instance_id, events, asked, instance_id),
        )

    def _start_work(self, step: Step, effects: Effects) -> None:
        owner = (step.instance, step.execution)
        if step.activities:
            effects.with_activities.append(step.instance)
        effects.next_due = min((due for _, due in step.timers), default=None)
        self._db.executemany(
            "insert into activities(instance,execution,task,name,input) values(?,?,?,?,?)",
            [(*owner, *activity) for activity in step.activities],
        )
        self._db.executemany(
            "insert into inbox(instance,execution,due,task,events) values(?,?,?,?,?)",
            [(*owner, due, task, wire.timer_fired(task, due)) for task, due in step.timers],
        )
        self._db.executemany(
            "delete from inbox where instance=? and task=?",
            [(step.instance, task) for task in step.cancelled_timers],
        )
        for child in step.children:
            self._start_child(step, child, effects)
        for name, key, request, operation, payload, signal in step.operations:
            self._db.execute(
                "insert into operations(name,key,request,operation,input,caller,caller_execution)"
                " values(?,?,?,?,?,?,?)",
                (name, key, request, operation, payload, *((None, None) if signal else owner)),
            )
            effects.entities.add((name, key))

    def _start_child(self, step: Step, child: Child, effects: Effects) -> None:
        earlier = self.instance(child.id)
        if earlier and not earlier.finished:
            reason = f"The sub-orchestration '{child.name}' was not started: {InstanceRunning(child.id)}"
            event = wire.event(
                EventType.SUB_ORCHESTRATION_FAILED,
                step.at,
                TaskScheduledId=child.task,
                Reason=reason,
                Details="",
            )
            effects.received.append(self._receive(step.instance, step.execution, event))
            return
        self._insert(
            Instance(
                child.id, child.execution, child.name, child.version, child.input, Status.PENDING, None, None,
                step.at, step.at, step.instance, step.execution, child.task,
            )
        )  # fmt: skip
        effects.started.append(child.id)

    def _update(self, instance: Instance, step: Step) -> None:
        status = Status.SUSPENDED if instance.status == Status.SUSPENDED else Status.RUNNING
        custom = step.custom_status if step.custom_status is not None else instance.custom_status
        self._db.execute(
            "update instances set status=?, custom_status=?, updated=? where id=?",
            (status, custom, step.at, instance.id),
        )

    def _finish(
        self, instance: Instance, status: Status, output: str | None, at: float, effects: Effects
    ) -> None:
        self._db.execute(
            "update instances set status=?, output=?, updated=? where id=?", (status, output, at, instance.id)
        )
        self._db.execute("delete from inbox where instance=?", (instance.id,))
        effects.finished.append(instance.id)
        parent = self.instance(instance.parent) if instance.parent else None
        if parent and not parent.finished and parent.execution == instance.parent_execution:
            task = instance.parent_task
            if status == Status.COMPLETED:
                event = wire.event(
                    EventType.SUB_ORCHESTRATION_COMPLETED, at, TaskScheduledId=task, Result=output
                )
            else:
                reason = json.loads(output) if output else status
                event = wire.event(
                    EventType.SUB_ORCHESTRATION_FAILED, at, TaskScheduledId=task, Reason=reason, Details=""
                )
            effects.received.append(self._receive(parent.id, parent.execution, event))

    def _continue_as_new(self, step: Step, effects: Effects) -> None:
        """Begin the next execution: external events stay in the inbox, all else of the old one goes."""
        assert step.next_execution is not None
        execution, token = step.next_execution
        self._db.execute("delete from history where instance=?", (step.instance,))
        self._db.execute("delete from inbox where instance=? and execution is not null", (step.instance,))
        self._db.execute(
            "update instances set execution=?, input=? where id=?", (execution, token, step.instance)
        )
        effects.started.append(step.instance)

    # -- events -----------------------------------------------------------------------------------

    def _receive(self, instance_id: str, execution: str | None, events: str) -> Received:
        cursor = self._db.execute(
            "insert into inbox(instance,execution,events) values(?,?,?)", (instance_id, execution, events)
        )
        assert cursor.lastrowid is not None
        return _received(cursor.lastrowid, instance_id, execution, events)

    def raise_event(self, instance_id: str, event: str) -> Effects:
        with self._transaction():
            self._active(instance_id)
            return Effects(received=[self._receive(instance_id, None, event)])

    def _active(self, instance_id: str) -> Instance:
        instance = self.instance(instance_id)
        if instance is None:
            raise InstanceNotFound(instance_id)
        if instance.finished:
            raise InstanceFinished(instance_id, instance.status)
        return instance

    def fire_timers(self, now: float) -> list[Received]:
        """Turn the timers that are due into events that have happened."""
        with self._transaction():
            rows = self._db.execute(
                "select seq, instance, execution, events from inbox where due<=? order by due, seq", (now,)
            ).fetchall()
            self._db.executemany("update inbox set due=null where seq=?", [(row[0],) for row in rows])
        return [_received(*row) for row in rows]

    def next_due(self) -> float | None:
        times = [
            self._db.execute(f"select min(due) from {table} where due is not null").fetchone()[0]
            for table in ("inbox", "activities")
        ]
        return min((time for time in times if time is not None), default=None)

    def children(self, instance_id: str, execution: str) -> list[Instance]:
        rows = self._db.execute(
            "select * from instances where parent=? and parent_execution=?", (instance_id, execution)
        )
        return [Instance(*row) for row in rows]

    # -- control ----------------------------------------------------------------------------------

    def terminate(self, instance_id: str, reason: str, at: float) -> Effects:
        """End an instance and, below it, its running sub-orchestrations; drop their queued activities."""
        effects = Effects()
        with self._transaction():
            pending = [self._active(instance_id)]
            while pending:
                instance = pending.pop()
                children = self.children(instance.id, instance.execution)
                self._append_control(instance.id, EventType.EXECUTION_TERMINATED, reason, at)
                self._db.execute("delete from activities where instance=?", (instance.id,))
                self._finish(instance, Status.TERMINATED, wire.dumps(reason), at, effects)
                effects.stopped.append(instance.id)
                pending.extend(child for child in children if not child.finished)
        return effects

    def suspend(self, instance_id: str, reason: str, at: float) -> None:
        with self._transaction():
            if self._active(instance_id).status != Status.SUSPENDED:
                self._append_control(instance_id, EventType.EXECUTION_SUSPENDED, reason, at)
                self._set_status(instance_id, Status.SUSPENDED, at)

    def resume(self, instance_id: str, reason: str, at: float) -> None:
        with self._transaction():
            if self._active(instance_id).status == Status.SUSPENDED:
                self._append_control(instance_id, EventType.EXECUTION_RESUMED, reason, at)
                begun = self._db.execute(
                    "select 1 from history where instance=? and asked is not null", (instance_id,)
                ).fetchone()
                self._set_status(instance_id, Status.RUNNING if begun else Status.PENDING, at)

    def _set_status(self, instance_id: str, status: Status, at: float) -> None:
        self._db.execute("update instances set status=?, updated=? where id=?", (status, at, instance_id))

    def _append_control(self, instance_id: str, kind: EventType, reason: str, at: float) -> None:
        self._append(instance_id, wire.event(kind, at, Reason=reason), None)

    def rewrite(
        self, instance_id: str, history: list[tuple[str, str | None]], event: str, at: float
    ) -> Effects:
        """Put a failed instance back to work with an amended history, and `event` in its inbox."""
        with self._transaction():
            instance = self.instance(instance_id)
            if instance is None:
                raise InstanceNotFound(instance_id)
            self._db.execute("delete from history where instance=?", (instance_id,))
            for events, asked in history:
                self._append(instance_id, events, asked)
            self._db.execute(
                "update instances set status='Running', output=null, updated=? where id=?", (at, instance_id)
            )
            return Effects(received=[self._receive(instance_id, instance.execution, event)])

    # -- activities -------------------------------------------------------------------------------

    def instances_with_activities(self) -> list[str]:
        rows = self._db.execute(
            "select distinct instance from activities where due is null order by instance"
        )
        return [row[0] for row in rows]

    def activities(self, instance_id: str, after: int, limit: int) -> list[Activity]:
        rows = self._db.execute(
            "select seq, instance, execution, task, name, input from activities"
            " where instance=? and seq>? and due is null order by seq limit ?",
            (instance_id, after, limit),
        )
        return [Activity(*row) for row in rows]

    def finish_activities(self, done: Iterable[tuple[Activity, str, bool]]) -> list[Received]:
        """Take activities off the queue and post their events, for executions that still run.

        Successes of one instance are kept together as one row; each failure has its own, because a plan may
        have to stop before it.
        """
        received: list[Received] = []
        with self._transaction():
            running: dict[str, str | None] = {}
            successes: dict[tuple[str, str], list[str]] = {}
            for activity, event, success in done:
                taken = self._db.execute("delete from activities where seq=?", (activity.seq,)).rowcount
                if not taken or self._running(activity.instance, running) != activity.execution:
                    continue
                if success:
                    successes.setdefault((activity.instance, activity.execution), []).append(event)
                else:
                    received.append(self._receive(activity.instance, activity.execution, event))
            for (instance_id, execution), events in successes.items():
                received.append(self._receive(instance_id, execution, ",".join(events)))
        return received

    def _running(self, instance_id: str, known: dict[str, str | None]) -> str | None:
        if instance_id not in known:
            instance = self.instance(instance_id)
            known[instance_id] = instance.execution if instance and not instance.finished else None
        return known[instance_id]

    def postpone(self, activity: Activity, payload: str, due: float) -> None:
        """Put an activity back with another input, to be run when `due`."""
        with self._transaction():
            if self._db.execute("delete from activities where seq=?", (activity.seq,)).rowcount:
                self._db.execute(
                    "insert into activities(instance,execution,task,name,input,due) values(?,?,?,?,?,?)",
                    (activity.instance, activity.execution, activity.task, activity.name, payload, due),
                )

    def release_postponed(self, now: float) -> list[str]:
        """Queue the postponed activities that are due; return their instances."""
        with self._transaction():
            rows = self._db.execute(
                "select seq, instance from activities where due<=? order by due", (now,)
            ).fetchall()
            for seq, _ in rows:
                self._db.execute(
                    "insert into activities(instance,execution,task,name,input)"
                    " select instance,execution,task,name,input from activities where seq=?",
                    (seq,),
                )
                self._db.execute("delete from activities where seq=?", (seq,))
        return [row[1] for row in rows]

    # -- entities ---------------------------------------------------------------------------------

    def entity(self, name: str, key: str) -> str | None:
        row = self._db.execute("select state from entities where name=? and key=?", (name, key)).fetchone()
        return row[0] if row else None

    def entities(
        self, name: str | None, after: tuple[str, str], limit: int
    ) -> list[tuple[str, str, str, float]]:
        where, values = ("name=? and ", [name]) if name else ("", [])
        return self._db.execute(
            f"select name, key, state, updated from entities where {where}(name, key) > (?, ?)"
            " order by name, key limit ?",
            [*values, *after, limit],
        ).fetchall()

    def entities_with_operations(self) -> list[tuple[str, str]]:
        return self._db.execute("select distinct name, key from operations").fetchall()

    def operations(self, name: str, key: str, limit: int) -> list[Operation]:
        rows = self._db.execute(
            "select * from operations where name=? and key=? order by seq limit ?", (name, key, limit)
        )
        return [Operation(*row) for row in rows]

    def signal(self, name: str, key: str, request: str, operation: str, payload: str) -> None:
        with self._transaction():
            self._signal(name, key, request, operation, payload)

    def _signal(self, name: str, key: str, request: str, operation: str, payload: str) -> None:
        self._db.execute(
            "insert into operations(name,key,request,operation,input) values(?,?,?,?,?)",
            (name, key, request, operation, payload),
        )

    def finish_operations(
        self,
        entity: tuple[str, str],
        state: str | None,
        answers: Iterable[tuple[Operation, str]],
        signals: Iterable[tuple[str, str, str, str, str]],
        at: float,
    ) -> Effects:
        """Store an entity's new state (none: the entity is deleted), answer its callers, send its signals."""
        effects = Effects()
        with self._transaction():
            self._db.execute("delete from entities where name=? and key=?", entity)
            if state is not None:
                self._db.execute("insert into entities values(?,?,?,?)", (*entity, state, at))
            running: dict[str, str | None] = {}
            for operation, event in answers:
                self._db.execute("delete from operations where seq=?", (operation.seq,))
                caller = operation.caller
                if caller and self._running(caller, running) == operation.caller_execution:
                    effects.received.append(self._receive(caller, operation.caller_execution, event))
            for signal in signals:
                self._signal(*signal)
                effects.entities.add((signal[0], signal[1]))
        return effects

    def pending(self) -> dict[str, int]:
        """How much work is queued, by kind."""
        counts = {
            "activities": "select count(*) from activities",
            "timers": "select count(*) from inbox where due is not null",
            "events": "select count(*) from inbox where due is null",
            "operations": "select count(*) from operations",
            "instances": f"select count(*) from instances where {ACTIVE}",
        }
        return {name: self._db.execute(sql).fetchone()[0] for name, sql in counts.items()}


def _received(seq: int, instance: str, execution: str | None, events: str) -> Received:
    keys = []
    for event in json.loads(f"[{events}]"):
        field_name = wire.TASK_KEY.get(event["EventType"])
        key = event[field_name] if field_name else tuple(event.get("Data") or ())
        keys.append((event["EventType"], key))
    return Received(seq, instance, execution, events, tuple(keys))


def _conditions(query: Query) -> tuple[str, list[Any]]:
    clauses: list[str] = []
    values: list[Any] = []
    if query.created_from is not None:
        clauses.append("created>=?")
        values.append(query.created_from)
    if query.created_to is not None:
        clauses.append("created<=?")
        values.append(query.created_to)
    if query.statuses:
        clauses.append(f"status in ({','.join('?' * len(query.statuses))})")
        values.extend(query.statuses)
    if query.prefix:
        clauses.append("substr(id, 1, ?)=?")
        values.extend((len(query.prefix), query.prefix))
    if query.after is not None:
        clauses.append("(created, id) > (?, ?)")
        values.extend(query.after)
    return (f" where {' and '.join(clauses)}" if clauses else "", values)
