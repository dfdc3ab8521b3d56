"""The plan of one orchestration: which actions it has asked for, which ids they bear, what it waits for.

The SDK sends all actions since the start, without ids, after every replay. Ids follow from order: each
action takes the next number when the orchestrator first asks for it, and a failed attempt of a retried task
takes one for its back-off timer and one for the next attempt. `Plan` repeats that numbering from the same
events, and so knows without running the orchestrator when it can go on: a `task_all` of 10,000 needs one
replay, not 10,000.

Two rules of the Functions extension are kept, so that an app behaves here as it does in Azure:
- it awaits each yielded step in turn: a step starts when the step before it is done (`_release`);
- a `task_all` with a failed child is done for the orchestrator at once, for the extension when all are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import repeat
from typing import Any

from .errors import NonDeterministic
from .wire import COMPOUND, FAILURES, RETRIED, TASK_KEY, Action, EventType, describe, label, parse_timestamp


class Wake(IntEnum):
    """Whether the orchestrator can go on: not, perhaps (a task of an earlier step is done), surely."""

    NO = 0
    PERHAPS = 1
    NOW = 2


class Task:
    """A node of the plan: one action, or a `task_all` / `task_any` over several."""

    __slots__ = (
        "action", "attempt", "attempts", "backing_off", "children", "done", "failed", "first_id", "id",
        "kind", "left", "name", "parent", "released", "step",
    )  # fmt: skip

    def __init__(self, kind: int, name: str, parent: Task | None, step: int) -> None:
        self.kind = kind
        self.name = name
        self.parent = parent
        self.step = step
        self.children: list[Task] = []
        self.left = 0
        self.action: dict[str, Any] | None = None
        self.id = self.first_id = -1
        self.attempt = 1
        self.attempts = 1
        self.backing_off = False
        self.released = self.done = self.failed = False


@dataclass(frozen=True, slots=True)
class Work:
    """Something to start: an action under its id, or (`delay` given) the back-off timer of a retried task."""

    id: int
    task: Task
    delay_seconds: float | None = None


class Plan:
    def __init__(self) -> None:
        self.steps: list[Task] = []
        self.next_id = 0
        self.open: dict[int | str, Task] = {}
        self.waiting: dict[str, list[Task]] = {}
        self.work: list[Work] = []
        self.cancelled: list[int] = []
        self.wake = Wake.NOW
        self.continue_as_new: Task | None = None
        self._released = 0
        self._inputs_known = True

    # -- what the orchestrator asked for ----------------------------------------------------------

    def adopt(self, actions: list[dict[str, Any]]) -> list[Any]:
        """Take the actions of a replay; return the shape of those that are new (see `_shape`).

        Raises NonDeterministic when the actions known so far are not repeated exactly.
        """
        for step, action in zip(self.steps, actions, strict=False):
            self._confirm(step, action)
        if len(actions) < len(self.steps):
            missing = next(_leaves(self.steps[len(actions)]), self.steps[len(actions)])
            raise NonDeterministic(f"{_history(missing)}, the replay did not ask for it")
        fresh = actions[len(self.steps) :]
        for action in fresh:
            self.steps.append(self._number(_from_action(action), None, len(self.steps)))
        self._inputs_known = True
        self._release()
        self.wake = Wake.NO
        return _shape(fresh)

    def recall(self, shape: list[Any]) -> None:
        """Take the shape of actions from history, without their inputs."""
        for asked in _from_shape(shape):
            self.steps.append(self._number(asked, None, len(self.steps)))
        self._inputs_known = False
        self._release()
        self.wake = Wake.NO

    def _number(self, asked: Asked, parent: Task | None, step: int) -> Task:
        task = Task(asked.kind, asked.name, parent, step)
        task.action, task.attempts = asked.action, max(1, asked.attempts)
        if asked.kind in COMPOUND:
            task.children = [self._number(child, task, step) for child in asked.children]
            task.left = len(task.children)
        elif asked.kind == Action.WAIT_FOR_EXTERNAL_EVENT:
            self.waiting.setdefault(task.name, []).append(task)
        else:
            task.id = task.first_id = self._take_id()
        return task

    def _take_id(self) -> int:
        self.next_id += 1
        return self.next_id - 1

    def _confirm(self, task: Task, action: dict[str, Any]) -> None:
        kind = action["actionType"]
        if kind != task.kind or (not task.children and kind not in COMPOUND and label(action) != task.name):
            leaf = next(_leaves(task), task)
            raise NonDeterministic(f"{_history(leaf)}, the replay asked for {describe(*_first_leaf(action))}")
        if kind in COMPOUND:
            children = action["compoundActions"]
            for child, child_action in zip(task.children, children, strict=False):
                self._confirm(child, child_action)
            if len(children) != len(task.children):
                raise NonDeterministic(
                    f"{_history(next(_leaves(task), task))} as one of {len(task.children)} tasks that are "
                    f"awaited together, the replay asked for {len(children)}"
                )
            return
        if not task.done and (not task.released or kind in RETRIED):
            task.action = action
        if kind == Action.CREATE_TIMER and action["isCanceled"] and not task.done:
            self.open.pop(task.id, None)
            self.cancelled.append(task.id)
            self._finish(task, failed=False)

    # -- starting ---------------------------------------------------------------------------------

    def _release(self) -> None:
        """Start each step whose predecessor is done."""
        while self._released < len(self.steps) and (
            self._released == 0 or self.steps[self._released - 1].done
        ):
            step = self.steps[self._released]
            self._released += 1
            self._start(step)

    def _start(self, task: Task) -> None:
        task.released = True
        if task.kind in COMPOUND:
            for child in task.children:
                self._start(child)
            if not task.children:
                self._finish(task, failed=False)
        elif task.kind == Action.CONTINUE_AS_NEW:
            self.continue_as_new = task
            task.done = True
        elif task.kind == Action.SIGNAL_ENTITY:
            self.work.append(Work(task.id, task))
            task.done = True
        elif task.kind == Action.CREATE_TIMER and task.action and task.action.get("isCanceled"):
            self._finish(task, failed=False)
        elif task.kind != Action.WAIT_FOR_EXTERNAL_EVENT:
            self.open[task.id] = task
            self.work.append(Work(task.id, task))

    def take_work(self) -> list[Work]:
        work, self.work = self.work, []
        return work

    def leaves(self) -> Iterator[Task]:
        """The single tasks of all steps, in the order in which they took their ids."""
        for step in self.steps:
            yield from _leaves(step)

    def sent(self, task_id: int, request_id: str) -> None:
        """The entity call `task_id` went out under `request_id`, by which its answer will come."""
        self.open[request_id] = self.open.pop(task_id)

    # -- what has happened ------------------------------------------------------------------------

    def takes_id(self, kind: int, key: int | str) -> bool:
        """Whether this event makes the SDK take an id: then what it asked for before must be known first."""
        task = self.open.get(key)
        if task is None or task.kind not in RETRIED:
            return False
        return kind in FAILURES or (task.backing_off and task.attempt < task.attempts)

    @property
    def needs_inputs(self) -> bool:
        """The plan came from history and a retried task is open: a replay has to tell its options."""
        return not self._inputs_known and any(task.kind in RETRIED for task in self.open.values())

    def settle(self, kind: int, key: int | str) -> None:
        """Record one completion event; sets `wake` and may add `work` (retries)."""
        task = self._claim(kind, key)
        if task is None:
            return
        if task.kind not in RETRIED:
            self._finish(task, failed=kind in FAILURES)
        elif task.backing_off:
            self._after_back_off(task)
        elif kind in FAILURES:
            self._back_off(task)
        else:
            self._finish(task, failed=False)

    def _claim(self, kind: int, key: int | str) -> Task | None:
        if key in self.open:
            return self.open.pop(key)
        if kind != EventType.EVENT_RAISED:
            return None
        waiters = self.waiting.get(str(key))
        if not waiters:
            return None
        task = waiters.pop()  # the SDK and the extension keep waiters on a stack: the latest gets the event
        if not waiters:
            del self.waiting[str(key)]
        return task

    def _back_off(self, task: Task) -> None:
        task.backing_off = True
        task.id = self._take_id()
        self.open[task.id] = task
        self.work.append(Work(task.id, task, _back_off_seconds(task)))

    def _after_back_off(self, task: Task) -> None:
        task.backing_off = False
        if task.attempt >= task.attempts:
            self._finish(task, failed=True)
            return
        task.attempt += 1
        task.id = self._take_id()
        self.open[task.id] = task
        self.work.append(Work(task.id, task))

    def _finish(self, task: Task, *, failed: bool) -> None:
        """Finish a task, and see whether the orchestrator can go on.

        It awaits the last step it asked for. Once that is done, or a `task_all` in it has failed, it may
        await any earlier task again: the actions do not tell.
        """
        step = self.steps[task.step]
        awaited = task.step == len(self.steps) - 1 and not step.done and not step.failed
        task.action = None
        if self._propagate(task, failed):
            step.failed = True
            self.wake = Wake.NOW
        elif awaited and step.done:
            self.wake = Wake.NOW
        elif not awaited:
            self.wake = max(self.wake, Wake.PERHAPS)
        if step.done and self._released < len(self.steps):
            self.wake = Wake.NOW
            self._release()

    def _propagate(self, task: Task, failed: bool) -> bool:
        """Mark `task` done and its parents as far as they follow; True when a `task_all` failed just now."""
        task.done, task.failed = True, failed
        goes_on = False
        node, parent = task, task.parent
        while parent is not None and not parent.done:
            parent.left -= 1
            if node.failed and parent.kind == Action.WHEN_ALL and not parent.failed:
                parent.failed = goes_on = True
            if parent.kind == Action.WHEN_ANY or parent.left == 0:
                parent.done = True
                node, parent = parent, parent.parent
            else:
                break
        return goes_on

    @property
    def settled(self) -> bool:
        """Every step has been started and is done."""
        return self._released == len(self.steps) and (not self.steps or self.steps[-1].done)

    @property
    def idle(self) -> bool:
        """Nothing is under way that could ever wake the orchestrator."""
        return not self.open and not self.waiting


def _back_off_seconds(task: Task) -> float:
    """The delay before the next attempt; none after the last, for which the SDK still expects a timer."""
    if task.attempt >= task.attempts or not task.action:
        return 0.0
    options = task.action["retryOptions"]
    delay = options["firstRetryIntervalInMilliseconds"] * options.get("backoffCoefficient", 1) ** (
        task.attempt - 1
    )
    longest = options.get("maxRetryIntervalInMilliseconds")
    return (min(delay, longest) if longest else delay) / 1000


def due_time(task: Task) -> float:
    assert task.action is not None
    return parse_timestamp(task.action["fireAt"])


def event_key(event: dict[str, Any]) -> tuple[int, int | str] | None:
    """(kind, task id or event name) of a completion event, None of any other."""
    field = TASK_KEY.get(event["EventType"])
    return (event["EventType"], event[field]) if field else None


# -- shapes: actions as history keeps them, [kind, name, attempts, repetitions] or [kind, [children]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One action, read from the SDK (with `action`, which holds its input) or from history (without)."""

    kind: int
    name: str = ""
    attempts: int = 1
    children: tuple[Asked, ...] = ()
    action: dict[str, Any] | None = None


def _from_action(action: dict[str, Any]) -> Asked:
    kind = action["actionType"]
    if kind in COMPOUND:
        return Asked(kind, children=tuple(_from_action(child) for child in action["compoundActions"]))
    return Asked(kind, label(action), _attempts(action), action=action)


def _from_shape(shape: list[Any]) -> Iterator[Asked]:
    for item in shape:
        if item[0] in COMPOUND:
            yield Asked(item[0], children=tuple(_from_shape(item[1])))
        else:
            asked = Asked(*item[:3])
            yield from repeat(asked, item[3])


def _shape(actions: list[dict[str, Any]]) -> list[Any]:
    shape: list[Any] = []
    for action in actions:
        kind = action["actionType"]
        if kind in COMPOUND:
            shape.append([kind, _shape(action["compoundActions"])])
            continue
        leaf = [kind, label(action), _attempts(action)]
        if shape and shape[-1][:3] == leaf:
            shape[-1][3] += 1
        else:
            shape.append([*leaf, 1])
    return shape


def _attempts(action: dict[str, Any]) -> int:
    return action["retryOptions"]["maxNumberOfAttempts"] if action["actionType"] in RETRIED else 1


def action_leaves(actions: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The single actions in the order in which they take their ids."""
    for action in actions:
        if action["actionType"] in COMPOUND:
            yield from action_leaves(action["compoundActions"])
        else:
            yield action


def _leaves(task: Task) -> Iterator[Task]:
    if task.kind not in COMPOUND:
        yield task
    for child in task.children:
        yield from _leaves(child)


def _first_leaf(action: dict[str, Any]) -> tuple[int, str]:
    while action["actionType"] in COMPOUND and action["compoundActions"]:
        action = action["compoundActions"][0]
    return action["actionType"], label(action) if action["actionType"] not in COMPOUND else ""


def _history(task: Task) -> str:
    if task.kind == Action.WAIT_FOR_EXTERNAL_EVENT:
        return f"history waits for external event '{task.name}'"
    return f"history event {task.first_id} scheduled {describe(task.kind, task.name)}"
