"""The app that the engine's tests run: one orchestrator for each behaviour."""

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

import azure.durable_functions as df
import azure.functions as func

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
calls: dict[str, int] = {}
gates: dict[str, asyncio.Event] = {}
order: list[str] = []


def counted(key: str) -> int:
    calls[key] = calls.get(key, 0) + 1
    return calls[key]


# -- activities ---------------------------------------------------------------------------------------------


@app.activity_trigger(input_name="x")
def double(x: int) -> int:
    return x * 2


@app.activity_trigger(input_name="x")
async def note(x: str) -> str:
    order.append(x)
    return x


@app.activity_trigger(input_name="x")
async def gated(x: str) -> str:
    """Waits until the test opens the gate of this name."""
    counted(x)
    await gates.setdefault(x, asyncio.Event()).wait()
    return f"through {x}"


@app.activity_trigger(input_name="x")
def flaky(x: dict) -> str:
    """Fails until its n-th call."""
    call = counted(x["key"])
    if call < x["succeeds_at"]:
        raise ValueError(f"call {call} of {x['key']}")
    return f"{x['key']} after {call}"


@app.activity_trigger(input_name="x")
def boom(x: str) -> str:
    raise RuntimeError(f"boom {x}")


@app.activity_trigger(input_name="x")
def unserialisable(x: str):
    return object()


@app.activity_trigger(input_name="x")
def slow_mark(x: dict) -> str:
    """Leaves a line in a file for each run: tests count runs over processes."""
    time.sleep(x["seconds"])
    with Path(x["file"]).open("a") as file:
        file.write(f"{x['index']} {os.getpid()}\n")
    return x["index"]


@app.activity_trigger(input_name="x", activity="renamed")
def activity_under_another_name(x: str) -> str:
    return f"renamed {x}"


# -- orchestrators ------------------------------------------------------------------------------------------


@app.orchestration_trigger(context_name="context")
def fan_out(context: df.DurableOrchestrationContext):
    results = yield context.task_all([context.call_activity("double", i) for i in range(context.get_input())])
    return sum(results)


@app.orchestration_trigger(context_name="context")
def sequence(context: df.DurableOrchestrationContext):
    results = {}
    for name in context.get_input():
        results[name] = yield context.call_activity("note", name)
    return list(results.values())


@app.orchestration_trigger(context_name="context")
def echo(context: df.DurableOrchestrationContext):
    return {"input": context.get_input(), "version": context.version, "parent": context.parent_instance_id}


@app.orchestration_trigger(context_name="context")
def no_yield(context: df.DurableOrchestrationContext):
    yield from ()
    return "done"


@app.orchestration_trigger(context_name="context")
def retries(context: df.DurableOrchestrationContext):
    options = df.RetryOptions(20, 3)
    tasks = [context.call_activity_with_retry("flaky", options, item) for item in context.get_input()]
    return (yield context.task_all(tasks))


@app.orchestration_trigger(context_name="context")
def retry_then_handle(context: df.DurableOrchestrationContext):
    try:
        yield context.call_activity_with_retry("flaky", df.RetryOptions(20, 2), context.get_input())
    except Exception as error:
        handled = yield context.call_activity("note", "handled")
        return [handled, str(error)]


@app.orchestration_trigger(context_name="context")
def mixed_failure(context: df.DurableOrchestrationContext):
    """A task_all fails while a sibling is retried: the cleanup's id must not be mistaken for the retry's."""
    item = context.get_input()
    try:
        yield context.task_all(
            [
                context.call_activity("boom", "first"),
                context.call_activity_with_retry("flaky", df.RetryOptions(20, 3), item),
            ]
        )
    except Exception:
        cleanup = yield context.call_activity("note", "cleanup")
        return cleanup


@app.orchestration_trigger(context_name="context")
def parent(context: df.DurableOrchestrationContext):
    named = yield context.call_sub_orchestrator("echo", {"n": 1}, f"{context.instance_id}-child")
    derived = yield context.call_sub_orchestrator("fan_out", 3)
    versioned = yield context.call_sub_orchestrator("echo", None, version="7.0")
    return [named, derived, versioned["version"]]


@app.orchestration_trigger(context_name="context")
def parent_of_failing(context: df.DurableOrchestrationContext):
    try:
        yield context.call_sub_orchestrator("failing", None)
    except Exception as error:
        return str(error)


@app.orchestration_trigger(context_name="context")
def parent_with_retry(context: df.DurableOrchestrationContext):
    return (
        yield context.call_sub_orchestrator_with_retry(
            "flaky_child", df.RetryOptions(20, 3), context.get_input()
        )
    )


@app.orchestration_trigger(context_name="context")
def flaky_child(context: df.DurableOrchestrationContext):
    return (yield context.call_activity("flaky", context.get_input()))


@app.orchestration_trigger(context_name="context")
def parent_of_gated(context: df.DurableOrchestrationContext):
    return (yield context.call_sub_orchestrator("waits_for_gate", context.get_input(), "gated-child"))


@app.orchestration_trigger(context_name="context")
def waits_for_gate(context: df.DurableOrchestrationContext):
    return (yield context.call_activity("gated", context.get_input()))


@app.orchestration_trigger(context_name="context")
def failing(context: df.DurableOrchestrationContext):
    yield context.call_activity("boom", "hard")


@app.orchestration_trigger(context_name="context")
def fan_out_failing(context: df.DurableOrchestrationContext):
    """Each item is the input of `flaky`; the orchestrator fails when one of them does."""
    items = context.get_input()
    yield context.call_activity("note", "before")
    return (yield context.task_all([context.call_activity("flaky", item) for item in items]))


@app.orchestration_trigger(context_name="context")
def retry_failing(context: df.DurableOrchestrationContext):
    items = context.get_input()
    options = df.RetryOptions(10, 2)
    return (
        yield context.task_all([context.call_activity_with_retry("flaky", options, item) for item in items])
    )


@app.orchestration_trigger(context_name="context")
def parent_failing(context: df.DurableOrchestrationContext):
    return (yield context.call_sub_orchestrator("flaky_child", context.get_input()))


@app.orchestration_trigger(context_name="context")
def raises(context: df.DurableOrchestrationContext):
    raise ValueError("raised \n\n$OutOfProcData$: and {not json}")
    yield


@app.orchestration_trigger(context_name="context")
def timer(context: df.DurableOrchestrationContext):
    started = context.current_utc_datetime
    yield context.create_timer(started + timedelta(seconds=context.get_input()))
    return (context.current_utc_datetime - started).total_seconds()


@app.orchestration_trigger(context_name="context")
def event_or_timeout(context: df.DurableOrchestrationContext):
    deadline = context.create_timer(context.current_utc_datetime + timedelta(seconds=context.get_input()))
    event = context.wait_for_external_event("go")
    winner = yield context.task_any([event, deadline])
    if winner == deadline:
        return "timeout"
    deadline.cancel()
    yield context.call_activity("note", "after cancel")
    return {"event": event.result}


@app.orchestration_trigger(context_name="context")
def three_events(context: df.DurableOrchestrationContext):
    yield context.call_activity("gated", f"{context.instance_id}-gate")
    first = yield context.wait_for_external_event("item")
    second = yield context.wait_for_external_event("item")
    third = yield context.wait_for_external_event("item")
    return [first, second, third]


@app.orchestration_trigger(context_name="context")
def two_names(context: df.DurableOrchestrationContext):
    return (yield context.task_all([context.wait_for_external_event(n) for n in ("a", "b")]))


@app.orchestration_trigger(context_name="context")
def nested(context: df.DurableOrchestrationContext):
    """any(all(double 1, double 2), event) and then all(any(note, event2), double 3)."""
    both = context.task_all([context.call_activity("double", 1), context.call_activity("double", 2)])
    first = yield context.task_any([both, context.wait_for_external_event("never")])
    either = context.task_any([context.call_activity("note", "n"), context.wait_for_external_event("never2")])
    second = yield context.task_all([either, context.call_activity("double", 3)])
    return [first.result, second[0].result, second[1]]


@app.orchestration_trigger(context_name="context")
def window(context: df.DurableOrchestrationContext):
    """A sliding window with task_any, three at a time."""
    todo, pending, done = list(range(8)), [], []
    while todo or pending:
        while todo and len(pending) < 3:
            pending.append(context.call_activity("double", todo.pop(0)))
        winner = yield context.task_any(pending)
        pending.remove(winner)
        done.append(winner.result)
    return sorted(done)


@app.orchestration_trigger(context_name="context")
def any_then_all(context: df.DurableOrchestrationContext):
    tasks = [context.call_activity("double", i) for i in range(context.get_input())]
    yield context.task_any(tasks)
    return sum((yield context.task_all(tasks)))


@app.orchestration_trigger(context_name="context")
def empty_all(context: df.DurableOrchestrationContext):
    nothing = yield context.task_all([])
    after = yield context.call_activity("double", 4)
    return [nothing, after]


@app.orchestration_trigger(context_name="context")
def counts_up(context: df.DurableOrchestrationContext):
    n = context.get_input()
    yield context.call_activity("double", n)
    if n >= 4:
        return {"final": n}
    context.continue_as_new(n + 1)


@app.orchestration_trigger(context_name="context")
def collects(context: df.DurableOrchestrationContext):
    """Takes one event an execution; those that came meanwhile must be carried over."""
    got = context.get_input() or []
    got.append((yield context.wait_for_external_event("item")))
    if len(got) == 3:
        return got
    context.continue_as_new(got)


@app.orchestration_trigger(context_name="context")
def abandons_and_continues(context: df.DurableOrchestrationContext):
    """The first execution leaves an activity behind, whose late completion must not count in the second."""
    if context.get_input() == "second":
        late = yield context.call_activity("gated", "second")
        return late
    left = context.call_activity("gated", "first")
    yield context.task_any([left, context.wait_for_external_event("go")])
    context.continue_as_new("second")


@app.orchestration_trigger(context_name="context")
def uses_entity(context: df.DurableOrchestrationContext):
    counter = df.EntityId("counter", context.get_input())
    context.signal_entity(counter, "add", 3)
    total = yield context.call_entity(counter, "add", 4)
    try:
        yield context.call_entity(counter, "explode")
    except Exception as error:
        return [total, str(error)]


@app.orchestration_trigger(context_name="context")
def signals_and_returns(context: df.DurableOrchestrationContext):
    context.signal_entity(df.EntityId("counter", context.get_input()), "add", 1)
    yield from ()
    return "signalled"


@app.orchestration_trigger(context_name="context")
def deletes_entity(context: df.DurableOrchestrationContext):
    counter = df.EntityId("counter", context.get_input())
    yield context.call_entity(counter, "add", 1)
    yield context.call_entity(counter, "delete")
    return "deleted"


@app.orchestration_trigger(context_name="context")
def calls_http(context: df.DurableOrchestrationContext):
    request = context.get_input()
    return (
        yield context.call_http(
            request.get("method", "GET"),
            request["url"],
            request.get("content"),
            headers=request.get("headers"),
        )
    )


@app.orchestration_trigger(context_name="context")
def shows_status(context: df.DurableOrchestrationContext):
    context.set_custom_status({"stage": "waiting"})
    yield context.wait_for_external_event("go")
    context.set_custom_status({"stage": "done"})
    return context.instance_id


@app.orchestration_trigger(context_name="context")
def unknown_activity(context: df.DurableOrchestrationContext):
    yield context.call_activity("nowhere", 1)


@app.orchestration_trigger(context_name="context")
def result_not_json(context: df.DurableOrchestrationContext):
    yield context.call_activity("unserialisable", "x")


@app.orchestration_trigger(context_name="context")
def yields_nothing(context: df.DurableOrchestrationContext):
    yield None


@app.orchestration_trigger(context_name="context")
def renamed_call(context: df.DurableOrchestrationContext):
    return (yield context.call_activity("Renamed", "x"))


@app.orchestration_trigger(context_name="context")
def ids(context: df.DurableOrchestrationContext):
    first = [str(context.new_uuid()), context.current_utc_datetime.isoformat()]
    yield context.call_activity("double", 1)
    return [first, str(context.new_uuid())]


@app.orchestration_trigger(context_name="context")
def marks(context: df.DurableOrchestrationContext):
    given = context.get_input()
    items = [{**given, "index": i} for i in range(given["count"])]
    results = yield context.task_all([context.call_activity("slow_mark", item) for item in items])
    yield context.create_timer(context.current_utc_datetime + timedelta(seconds=0.2))
    return len(results)


@app.entity_trigger(context_name="context")
def counter(context: df.DurableEntityContext):
    total = context.get_state(lambda: 0)
    if context.operation_name == "delete":
        context.destruct_on_exit()
        return
    if context.operation_name == "explode":
        raise ValueError("no such operation")
    if context.operation_name == "add":
        total += context.get_input()
    context.set_state(total)
    context.set_result(total)


# -- the SDK's client ---------------------------------------------------------------------------------------


@app.route(route="client/{operation}", methods=["POST"])
@app.durable_client_input(client_name="client")
async def client(req: func.HttpRequest, client) -> func.HttpResponse:
    raise RuntimeError("the tests call the SDK's client themselves")


@app.orchestration_trigger(context_name="context")
def calls_broken_entity(context: df.DurableOrchestrationContext):
    try:
        yield context.call_entity(df.EntityId("broken", "k"), "anything")
    except Exception as error:
        return str(error)


@app.orchestration_trigger(context_name="context")
def calls_unknown_entity(context: df.DurableOrchestrationContext):
    yield context.call_entity(df.EntityId("nothing", "k"), "anything")


@app.entity_trigger(context_name="context")
def broken(context: df.DurableEntityContext):
    context.set_state({1, 2})  # a set has no JSON: the SDK fails on the whole batch
