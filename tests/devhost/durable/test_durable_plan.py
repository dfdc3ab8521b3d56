"""The plan of an orchestration: ids, waking, and what does not fit history."""

from typing import Any

import pytest

from devhost.durable.errors import NonDeterministic
from devhost.durable.plan import Plan, Wake
from devhost.durable.wire import EventType

DONE, FAILED, FIRED = EventType.TASK_COMPLETED, EventType.TASK_FAILED, EventType.TIMER_FIRED
RAISED = EventType.EVENT_RAISED


def activity(name: str) -> dict[str, Any]:
    return {"actionType": 0, "functionName": name, "input": "1"}


def retried(name: str, attempts: int, **options: Any) -> dict[str, Any]:
    wire = {"firstRetryIntervalInMilliseconds": 1000, "maxNumberOfAttempts": attempts, **options}
    action = {"actionType": 1, "functionName": name, "input": "1", "retryOptions": wire}
    return {"actionType": 12, "compoundActions": [action]}


def timer() -> dict[str, Any]:
    return {"actionType": 5, "fireAt": "2026-01-01T00:00:00.000000Z", "isCanceled": False}


def event(name: str) -> dict[str, Any]:
    return {"actionType": 6, "externalEventName": name}


def every(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"actionType": 12, "compoundActions": list(actions)}


def either(*actions: dict[str, Any]) -> dict[str, Any]:
    return {"actionType": 11, "compoundActions": list(actions)}


def planned(*actions: dict[str, Any]) -> Plan:
    plan = Plan()
    plan.adopt(list(actions))
    return plan


def started(plan: Plan) -> list[tuple[int, str]]:
    return [(work.id, work.task.name) for work in plan.take_work()]


def test_a_task_all_wakes_with_its_last_task_only() -> None:
    plan = planned(every(activity("a"), activity("b"), activity("c")))
    assert started(plan) == [(0, "a"), (1, "b"), (2, "c")]
    plan.settle(DONE, 0)
    plan.settle(DONE, 2)
    assert plan.wake == Wake.NO
    plan.settle(DONE, 1)
    assert plan.wake == Wake.NOW
    assert plan.settled


def test_a_task_all_wakes_with_its_first_failure_and_is_settled_with_its_last_task() -> None:
    plan = planned(every(activity("a"), activity("b")))
    plan.settle(FAILED, 0)
    assert plan.wake == Wake.NOW
    assert not plan.settled
    plan.settle(DONE, 1)
    assert plan.settled


def test_a_task_any_wakes_with_its_first_task_and_perhaps_with_the_others() -> None:
    plan = planned(either(activity("a"), activity("b")))
    plan.settle(DONE, 1)
    assert plan.wake == Wake.NOW
    plan.wake = Wake.NO
    plan.settle(DONE, 0)
    assert plan.wake == Wake.PERHAPS


def test_a_step_starts_when_the_step_before_it_is_done() -> None:
    plan = planned(every(activity("a"), activity("b")), activity("cleanup"))
    assert started(plan) == [(0, "a"), (1, "b")]
    plan.settle(FAILED, 0)
    assert started(plan) == []
    plan.settle(DONE, 1)
    assert started(plan) == [(2, "cleanup")]


def test_retries_take_ids_for_back_off_and_attempt() -> None:
    plan = planned(retried("a", 2))
    started(plan)
    plan.settle(FAILED, 0)
    (back_off,) = plan.take_work()
    assert (back_off.id, back_off.delay_seconds) == (1, 1.0)
    plan.settle(FIRED, 1)
    assert started(plan) == [(2, "a")]
    plan.settle(FAILED, 2)
    (last,) = plan.take_work()
    assert (last.id, last.delay_seconds) == (3, 0.0)
    assert plan.wake == Wake.NO
    plan.settle(FIRED, 3)
    assert plan.wake == Wake.NOW
    assert plan.next_id == 4


def test_back_off_grows_by_its_coefficient_up_to_its_longest() -> None:
    plan = planned(retried("a", 5, backoffCoefficient=3, maxRetryIntervalInMilliseconds=5000))
    delays = []
    task = 0
    for _ in range(4):
        plan.settle(FAILED, task)
        work = plan.take_work()[-1]
        delays.append(work.delay_seconds)
        plan.settle(FIRED, work.id)
        task = plan.take_work()[-1].id
    assert delays == [1.0, 3.0, 5.0, 5.0]


def test_a_failure_that_takes_an_id_is_announced() -> None:
    plan = planned(every(retried("a", 2), activity("b")))
    assert plan.takes_id(FAILED, 0)
    assert not plan.takes_id(DONE, 0)
    assert not plan.takes_id(FAILED, 1)


def test_an_event_goes_to_the_latest_waiter() -> None:
    plan = planned(either(event("e"), activity("a")), event("e"))
    plan.settle(DONE, 0)
    plan.settle(RAISED, "e")
    assert plan.settled
    assert "e" in plan.waiting


def test_a_cancelled_timer_is_done_and_to_be_removed() -> None:
    plan = planned(either(timer(), event("e")))
    plan.settle(RAISED, "e")
    plan.adopt([either({**timer(), "isCanceled": True}, event("e"))])
    assert plan.cancelled == [0]
    assert not plan.open


def test_a_plan_from_history_is_the_plan_that_was() -> None:
    actions = [every(*[activity("a")] * 3, retried("b", 4)), either(timer(), event("e"))]
    plan = Plan()
    shape = plan.adopt(actions)
    again = Plan()
    again.recall(shape)
    assert started(again) == started(plan)
    assert again.next_id == plan.next_id
    assert again.needs_inputs
    assert again.adopt(actions) == []
    assert not again.needs_inputs


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            [activity("a")],
            [activity("b")],
            "history event 0 scheduled activity 'a', the replay asked for activity 'b'",
        ),
        (
            [activity("x"), activity("a")],
            [activity("x")],
            "history event 1 scheduled activity 'a', the replay did not",
        ),
        ([activity("a")], [timer()], "history event 0 scheduled activity 'a', the replay asked for timer"),
        (
            [event("e")],
            [event("f")],
            "history waits for external event 'e', the replay asked for external event 'f'",
        ),
        (
            [every(activity("a"), activity("b"))],
            [every(activity("b"), activity("a"))],
            "history event 0 scheduled activity 'a', the replay asked for activity 'b'",
        ),
        ([every(activity("a"), activity("b"))], [every(activity("a"))], "as one of 2 tasks"),
        ([every(activity("a"))], [activity("a")], "history event 0 scheduled activity 'a'"),
    ],
)
def test_a_replay_that_differs_is_named(before: list[Any], after: list[Any], message: str) -> None:
    plan = planned(*before)
    with pytest.raises(NonDeterministic, match=message):
        plan.adopt(after)


def test_a_replay_may_ask_for_more() -> None:
    plan = planned(activity("a"))
    assert plan.adopt([activity("a"), activity("b")]) == [[0, "b", 1, 1]]
