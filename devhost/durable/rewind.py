"""Takes a failed instance back to before its failure: what failed is forgotten, what succeeded is kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from . import wire
from .plan import Plan, Task
from .wire import FAILURES, RETRIED, EventType

Row = tuple[str, str | None]


@dataclass(slots=True)
class Rewound:
    """The amended history, the tasks to run again, and the sub-orchestrations among them."""

    history: list[Row]
    again: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed attempt of a task, and for a retried task the id that its back-off timer took."""

    task: Task
    id: int
    timer: int | None


def rewind(history: list[Row]) -> Rewound:
    """Amend the history of a failed instance.

    The failures that count are those of the last step that the orchestrator awaited: an earlier failure was
    handled by the orchestrator, and what it did next depends on it. Where a retried task failed for good, ids
    from its first back-off on are given anew, so everything that bears them is dropped.
    """
    plan, failures = _replay(history)
    last = len(plan.steps) - 1
    failed = [f for f in failures if f.task.step == last and f.task.failed]
    timers = [f.timer for f in failed if f.timer is not None]
    cut = min(timers, default=plan.next_id)
    again = {f.id for f in failed if f.timer is None}
    again |= {f.id for f in failures if f.timer is not None and f.timer >= cut and f.id < cut}
    rows: list[Row] = []
    for events, asked in history:
        kept = [e for e in json.loads(f"[{events}]") if _is_kept(e, again, cut)]
        rows.append((",".join(wire.dumps(e) for e in kept), asked))
    return Rewound(rows, sorted(again))


def _replay(history: list[Row]) -> tuple[Plan, list[_Failure]]:
    plan, failures = Plan(), []
    for events, asked in history:
        sent: list[tuple[int, str]] = []
        for event in json.loads(f"[{events}]"):
            if event["EventType"] == EventType.EVENT_SENT:
                sent.append((event["EventId"], json.loads(event["Input"])["id"]))
            elif key := wire.TASK_KEY.get(event["EventType"]):
                task = plan.open.get(event[key])
                plan.settle(event["EventType"], event[key])
                if task is not None and event["EventType"] in FAILURES:
                    failures.append(_Failure(task, event[key], task.id if task.kind in RETRIED else None))
        if asked is not None:
            plan.recall(json.loads(asked))
        for task_id, request in sent:
            plan.sent(task_id, request)
    return plan, failures


def _is_kept(event: dict[str, Any], again: set[int], cut: int) -> bool:
    kind = event["EventType"]
    if kind == EventType.EXECUTION_COMPLETED:
        return False
    key = event.get(wire.TASK_KEY.get(kind, ""))
    if not isinstance(key, int):
        return True
    return key < cut and not (kind in FAILURES and key in again)
