"""What the management API shows of an instance: its status document and its history."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from . import wire
from .orchestrations import HTTP_ACTIVITY, replay_row
from .plan import Plan, Work
from .store import Instance
from .wire import Action, EventType

# Names of the events that the history of the management API shows (DurableTask's EventType).
SHOWN = {
    EventType.EXECUTION_STARTED: "ExecutionStarted",
    EventType.EXECUTION_COMPLETED: "ExecutionCompleted",
    EventType.EXECUTION_TERMINATED: "ExecutionTerminated",
    EventType.TASK_COMPLETED: "TaskCompleted",
    EventType.TASK_FAILED: "TaskFailed",
    EventType.SUB_ORCHESTRATION_COMPLETED: "SubOrchestrationInstanceCompleted",
    EventType.SUB_ORCHESTRATION_FAILED: "SubOrchestrationInstanceFailed",
    EventType.TIMER_FIRED: "TimerFired",
    EventType.EVENT_SENT: "EventSent",
    EventType.EVENT_RAISED: "EventRaised",
    EventType.GENERIC: "GenericEvent",
    EventType.EXECUTION_SUSPENDED: "ExecutionSuspended",
    EventType.EXECUTION_RESUMED: "ExecutionResumed",
}
SCHEDULED = {
    Action.CREATE_TIMER: "TimerCreated",
    Action.CALL_SUB_ORCHESTRATOR: "SubOrchestrationInstanceCreated",
    Action.CALL_SUB_ORCHESTRATOR_WITH_RETRY: "SubOrchestrationInstanceCreated",
}
COPIED = ("Reason", "Details", "FireAt", "InstanceId", "Name", "OrchestrationStatus")


def document(instance: Instance, *, show_input: bool = True) -> dict[str, Any]:
    """The status payload of one instance, times to the second as the extension writes them."""
    return {
        "name": instance.name,
        "instanceId": instance.id,
        "runtimeStatus": instance.status,
        "input": json.loads(instance.input) if show_input and instance.input else None,
        "customStatus": json.loads(instance.custom_status) if instance.custom_status else None,
        "output": json.loads(instance.output) if instance.output else None,
        "createdTime": _seconds(instance.created),
        "lastUpdatedTime": _seconds(instance.updated),
    }


def history_events(
    rows: list[tuple[str, str | None]], instance: Instance, *, show_output: bool
) -> list[dict[str, Any]]:
    """The history as the management API shows it: what completed with its schedule, what is open.

    History stores what was asked for, not what was scheduled; that follows from replaying the plan.
    """
    shown: list[dict[str, Any]] = []
    scheduled: dict[Any, tuple[str, str, dict[str, Any]]] = {}
    plan = Plan()
    for events, asked in rows:
        parsed = json.loads(f"[{events}]")
        at = _moment(parsed[-1]["Timestamp"]) if parsed else ""
        shown.extend(
            _shown(event, scheduled, instance, show_output) for event in parsed if event["EventType"] in SHOWN
        )
        for work in replay_row(plan, events, asked):
            entry = _scheduled(work, at)
            if entry is not None:
                scheduled[work.id] = (entry.get("FunctionName", ""), at, entry)
                shown.append(entry)
    return [entry for entry in shown if not entry.pop("_done", False)]


def _scheduled(work: Work, at: str) -> dict[str, Any] | None:
    kind = Action(work.task.kind)
    if work.delay_seconds is not None:
        return {"EventType": "TimerCreated", "Timestamp": at}
    if kind in (Action.CALL_ENTITY, Action.SIGNAL_ENTITY):
        return None
    name = HTTP_ACTIVITY if kind == Action.CALL_HTTP else work.task.name
    entry = {"EventType": SCHEDULED.get(kind, "TaskScheduled"), "Timestamp": at}
    return {**entry, "FunctionName": name} if name else entry


def _shown(
    event: dict[str, Any], scheduled: dict[Any, Any], instance: Instance, show_output: bool
) -> dict[str, Any]:
    kind = EventType(event["EventType"])
    entry: dict[str, Any] = {"EventType": SHOWN[kind], "Timestamp": _moment(event["Timestamp"])}
    if kind == EventType.EXECUTION_STARTED:
        entry["FunctionName"] = instance.name
    name, at, begun = scheduled.pop(event.get(wire.TASK_KEY.get(kind, "")), ("", "", None))
    if begun is not None:
        begun["_done"] = True
        entry["ScheduledTime"] = at
        if name:
            entry["FunctionName"] = name
    entry.update({field: event[field] for field in COPIED if event.get(field) not in (None, "")})
    if show_output and event.get("Result") is not None:
        entry["Result"] = json.loads(event["Result"])
    if show_output and kind == EventType.EVENT_RAISED:
        entry["Input"] = json.loads(event["Input"])
    return entry


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
