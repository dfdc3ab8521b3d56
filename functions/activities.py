"""Activities and how orchestrators call them: typed outcomes, and one retry loop on durable timers.

An activity's failure crosses back as data: code, message, whether a retry may help and when. The
orchestrator waits on a durable timer for as long as the service behind asked for, with back-off otherwise,
so that a long wait survives a restart and costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import azure.durable_functions as df

from shared.errors import Cancelled, GroundworkError, typed

log = logging.getLogger("groundwork.activities")

Context = df.DurableOrchestrationContext
Payload = dict[str, Any]
Outcome = dict[str, Any]

# Transient faults of Azure's services pass within minutes: 2 + 4 + 8 + 16 + 32 + 60 s of waiting.
TRIES = 7
# Pages that one history may hold before the orchestration goes on as a new one.
PAGES_PER_HISTORY = 50
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
# Where a service asks for a longer wait than this, the job fails as retryable instead of sleeping.
LONGEST_RETRY_AFTER_SECONDS = 900.0


class StepFailed(Exception):
    """A step has failed for good; ``error`` is its code, message and whether a retry may help."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error["code"])
        self.error = dict(error)


def activity(blueprint: df.Blueprint) -> Callable[[Callable[[Payload], Awaitable[Any]]], Any]:
    """Register an asynchronous function as an activity that never raises."""

    def decorate(work: Callable[[Payload], Awaitable[Any]]) -> Any:
        async def run(payload: dict) -> dict:
            try:
                return {"value": await work(payload)}
            except GroundworkError as error:
                return {"error": failure(error)}
            except Exception as error:
                log.exception("activity_failed", extra={"activity": work.__name__})
                return {"error": failure(typed(error))}

        run.__name__ = work.__name__
        run.__annotations__ = {"payload": dict, "return": dict}
        return blueprint.activity_trigger(input_name="payload")(run)

    return decorate


def failure(error: GroundworkError) -> dict[str, Any]:
    """An error as data."""
    return {
        "code": error.code,
        "message": error.detail,
        "retryable": error.retryable,
        "retry_after": error.retry_after,
    }


def given(context: Context) -> Payload:
    """The input that an orchestration was started with."""
    payload = context.get_input()
    assert isinstance(payload, dict), "every orchestration of this app is started with a dictionary"
    return payload


def call(context: Context, name: str, payload: Payload) -> Generator[Any, Any, Any]:
    """Run one activity, again where it may help; its value, or `StepFailed`."""
    outcome = (yield from call_all(context, name, [payload]))[0]
    if "error" in outcome:
        raise StepFailed(outcome["error"])
    return outcome["value"]


def page_by_page(context: Context, step: str) -> Generator[Any, Any, Payload | None]:
    """Run the activity ``step`` for page after page, until it tells of no other.

    The state at the end; None where there are more pages than one history may hold, and the orchestration
    goes on as a new one.
    """
    state: Payload = {"page": 0, "collection": "", "after": "", **given(context)}
    for _ in range(PAGES_PER_HISTORY):
        following = yield from call(context, step, state)
        state["page"] += 1
        if following is None:
            return state
        state |= following
    context.continue_as_new(state)
    return None


def call_all(context: Context, name: str, payloads: Sequence[Payload]) -> Generator[Any, Any, list[Outcome]]:
    """Run an activity for each payload at once, again those that may still succeed.

    Each outcome is ``{"value": …}`` or ``{"error": …}``, in the order of the payloads.
    """
    outcomes: list[Outcome] = [{} for _ in payloads]
    pending = list(range(len(payloads)))
    for attempt in range(1, TRIES + 1):
        results = yield context.task_all([context.call_activity(name, payloads[i]) for i in pending])
        for i, result in zip(pending, results, strict=True):
            outcomes[i] = result
        pending = [i for i in pending if _worth_another_try(outcomes[i])]
        if not pending or attempt == TRIES:
            break
        yield after(context, max(_wait_seconds(outcomes[i], attempt) for i in pending))
    return outcomes


def after(context: Context, seconds: float) -> Any:
    """A durable timer to wait for."""
    return context.create_timer(context.current_utc_datetime + timedelta(seconds=seconds))


def back_off_seconds(attempt: int) -> float:
    """How long to wait after the attempt of this number, from 1 on, where nobody knows better."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))


def _worth_another_try(outcome: Outcome) -> bool:
    error = outcome.get("error")
    if error is None or not error["retryable"] or error["code"] == Cancelled.code:
        return False
    return (error["retry_after"] or 0) <= LONGEST_RETRY_AFTER_SECONDS


def _wait_seconds(outcome: Outcome, attempt: int) -> float:
    return max(back_off_seconds(attempt), outcome["error"]["retry_after"] or 0)
