"""The format that azure-functions-durable 1.x speaks with its host: events in, actions out.

Everything that is particular to that SDK generation stands here, so that another generation is another
module. Events are JSON objects in PascalCase; payloads (inputs, results) are JSON texts inside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

# Replay schema V3 of the SDK (ReplaySchema), the highest it knows; asked for by upperSchemaVersionNew.
REPLAY_SCHEMA = 2
# A failing orchestrator raises an exception whose text ends with this label and its state as JSON.
FAILURE_LABEL = "\n\n$OutOfProcData$:"


class EventType(IntEnum):
    EXECUTION_STARTED = 0
    EXECUTION_COMPLETED = 1
    EXECUTION_TERMINATED = 3
    TASK_SCHEDULED = 4
    TASK_COMPLETED = 5
    TASK_FAILED = 6
    SUB_ORCHESTRATION_CREATED = 7
    SUB_ORCHESTRATION_COMPLETED = 8
    SUB_ORCHESTRATION_FAILED = 9
    TIMER_CREATED = 10
    TIMER_FIRED = 11
    ORCHESTRATOR_STARTED = 12
    EVENT_SENT = 14
    EVENT_RAISED = 15
    GENERIC = 17
    EXECUTION_SUSPENDED = 19
    EXECUTION_RESUMED = 20


class Action(IntEnum):
    CALL_ACTIVITY = 0
    CALL_ACTIVITY_WITH_RETRY = 1
    CALL_SUB_ORCHESTRATOR = 2
    CALL_SUB_ORCHESTRATOR_WITH_RETRY = 3
    CONTINUE_AS_NEW = 4
    CREATE_TIMER = 5
    WAIT_FOR_EXTERNAL_EVENT = 6
    CALL_ENTITY = 7
    CALL_HTTP = 8
    SIGNAL_ENTITY = 9
    WHEN_ANY = 11
    WHEN_ALL = 12


COMPOUND = (Action.WHEN_ANY, Action.WHEN_ALL)
RETRIED = (Action.CALL_ACTIVITY_WITH_RETRY, Action.CALL_SUB_ORCHESTRATOR_WITH_RETRY)
ACTIVITIES = (Action.CALL_ACTIVITY, Action.CALL_ACTIVITY_WITH_RETRY)
SUB_ORCHESTRATIONS = (Action.CALL_SUB_ORCHESTRATOR, Action.CALL_SUB_ORCHESTRATOR_WITH_RETRY)

# Which field of a completion event names the task it completes.
TASK_KEY = {
    EventType.TASK_COMPLETED: "TaskScheduledId",
    EventType.TASK_FAILED: "TaskScheduledId",
    EventType.SUB_ORCHESTRATION_COMPLETED: "TaskScheduledId",
    EventType.SUB_ORCHESTRATION_FAILED: "TaskScheduledId",
    EventType.TIMER_FIRED: "TimerId",
    EventType.EVENT_RAISED: "Name",
}
FAILURES = (EventType.TASK_FAILED, EventType.SUB_ORCHESTRATION_FAILED)


class Status(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"
    TERMINATED = "Terminated"


FINISHED = (Status.COMPLETED, Status.FAILED, Status.TERMINATED)


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def timestamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def brief_timestamp(at: float) -> str:
    """UTC to the second in ISO 8601's basic form.

    The SDK parses the date of every event and reads it of OrchestratorStarted alone. Its parser takes 38 µs
    over this form and 93 µs over the long one, and dates are the largest part of a replay.
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")


def parse_timestamp(text: str) -> float:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def event(kind: EventType, at: float, event_id: int = -1, **fields: Any) -> str:
    """One history event as the SDK reads it.

    IsPlayed stays false for good: the SDK takes every event before the last OrchestratorStarted as played,
    and so an event's text never has to be written again.
    """
    moment = timestamp(at) if kind == EventType.ORCHESTRATOR_STARTED else brief_timestamp(at)
    return dumps(
        {"EventType": int(kind), "EventId": event_id, "IsPlayed": False, "Timestamp": moment, **fields}
    )


def completed(task: int, result: str | None, at: float) -> str:
    return event(EventType.TASK_COMPLETED, at, TaskScheduledId=task, Result=result)


def failed(task: int, reason: str, details: str, at: float) -> str:
    return event(EventType.TASK_FAILED, at, TaskScheduledId=task, Reason=reason, Details=details)


def timer_fired(task: int, at: float) -> str:
    return event(EventType.TIMER_FIRED, at, TimerId=task, FireAt=timestamp(at))


def event_raised(name: str, payload: str, at: float) -> str:
    return event(EventType.EVENT_RAISED, at, Name=name, Input=payload)


def entity_response(request_id: str, result: str | None, is_error: bool, at: float) -> str:
    """The answer of an entity: for the SDK an external event that bears the request's id."""
    message: dict[str, Any] = {"result": result if result is not None else "null"}
    if is_error:
        message["exceptionType"] = "EntityOperationFailed"
    return event_raised(request_id, dumps(message), at)


def orchestration_context(
    instance_id: str, parent_id: str | None, input_token: str | None, history: Iterable[str]
) -> str:
    """The JSON an orchestrator is invoked with.

    The limits of short timers are left out, as hosts on the Durable Task Scheduler leave them out: the SDK
    then creates timers of any length as one timer.
    """
    head = {
        "instanceId": instance_id,
        "isReplaying": False,
        "parentInstanceId": parent_id,
        "upperSchemaVersion": 1,
        "upperSchemaVersionNew": REPLAY_SCHEMA,
    }
    return f'{dumps(head)[:-1]},"input":{input_token or "null"},"history":[{",".join(history)}]}}'


@dataclass(frozen=True, slots=True)
class OrchestratorState:
    """What one replay of an orchestrator came to."""

    actions: list[dict[str, Any]]
    is_done: bool
    output: Any = None
    error: str | None = None
    custom_status: Any = None
    # The orchestrator raised outside the SDK's replay: its actions are unknown and it cannot go on.
    broken: bool = False


def orchestrator_state(text: str) -> OrchestratorState:
    state = json.loads(text)
    return OrchestratorState(
        actions=state["actions"][0] if state.get("actions") else [],
        is_done=bool(state.get("isDone")),
        output=state.get("output"),
        error=state.get("error"),
        custom_status=state.get("customStatus"),
    )


def orchestrator_failure(error: BaseException) -> OrchestratorState:
    """The state inside an orchestrator's exception.

    The user's own message may contain the label too: each one is tried until JSON follows.
    """
    text = str(error)
    position = text.find(FAILURE_LABEL)
    while position >= 0:
        try:
            return orchestrator_state(text[position + len(FAILURE_LABEL) :])
        except (ValueError, KeyError, TypeError, AttributeError):
            position = text.find(FAILURE_LABEL, position + 1)
    return OrchestratorState(actions=[], is_done=False, error=text or type(error).__name__, broken=True)


def label(action: dict[str, Any]) -> str:
    """What names an action in history: two replays must agree on it."""
    kind = action["actionType"]
    if kind in ACTIVITIES or kind in SUB_ORCHESTRATIONS:
        return action["functionName"]
    if kind == Action.WAIT_FOR_EXTERNAL_EVENT:
        return action["externalEventName"]
    if kind in (Action.CALL_ENTITY, Action.SIGNAL_ENTITY):
        return f"{action['instanceId']}/{action['operation']}"
    if kind == Action.CALL_HTTP:
        return f"{action['httpRequest']['method']} {action['httpRequest']['uri']}"
    return ""


NOUNS = {
    Action.CALL_ACTIVITY: "activity",
    Action.CALL_ACTIVITY_WITH_RETRY: "activity with retry",
    Action.CALL_SUB_ORCHESTRATOR: "sub-orchestrator",
    Action.CALL_SUB_ORCHESTRATOR_WITH_RETRY: "sub-orchestrator with retry",
    Action.CONTINUE_AS_NEW: "continue-as-new",
    Action.CREATE_TIMER: "timer",
    Action.WAIT_FOR_EXTERNAL_EVENT: "external event",
    Action.CALL_ENTITY: "entity call",
    Action.CALL_HTTP: "HTTP call",
    Action.SIGNAL_ENTITY: "entity signal",
    Action.WHEN_ANY: "task_any",
    Action.WHEN_ALL: "task_all",
}


def describe(kind: int, name: str) -> str:
    noun = NOUNS.get(Action(kind), "action")
    return f"{noun} '{name}'" if name else noun


def entity_context(name: str, key: str, state: str | None, operations: list[dict[str, Any]]) -> str:
    return dumps(
        {"self": {"name": name, "key": key}, "exists": state is not None, "state": state, "batch": operations}
    )
