"""Terminate, suspend, resume, rewind, restart and purge."""

import asyncio
import json
from typing import Any

import pytest
from durable_host import Host, output, sdk_input

from devhost.durable import InstanceFinished, InstanceNotFound, InstanceRunning, InvalidOperation, Query


async def _called(host: Host, key: str, times: int = 1) -> bool:
    return host.app.calls.get(key, 0) >= times


async def _is(host: Host, instance_id: str, status: str) -> bool:
    return await host.status(instance_id) == status


# -- starting ------------------------------------------------------------------------------------


async def test_starting_an_id_that_runs_is_an_error_and_leaves_the_instance_alone(host: Host) -> None:
    await host.start("waits_for_gate", "g", "one")
    await host.until(lambda: _called(host, "g"))
    with pytest.raises(InstanceRunning, match="'one'"):
        await host.start("fan_out", 1, "one")
    host.app.gates["g"].set()
    assert output(await host.finished("one")) == "through g"


async def test_a_finished_id_may_be_started_again(host: Host) -> None:
    await host.run("fan_out", 2, "one")
    assert output(await host.run("echo", "anew", "one"))["input"] == "anew"


async def test_many_starts_of_one_id_at_once_start_one(host: Host) -> None:
    starts = [host.start("waits_for_gate", "g", "same") for _ in range(20)]
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert sum(result == "same" for result in results) == 1
    assert sum(isinstance(result, InstanceRunning) for result in results) == 19


# -- terminate -----------------------------------------------------------------------------------


async def test_terminate_ends_the_instance_with_its_reason_and_drops_queued_activities(host: Host) -> None:
    started = await host.start("fan_out", 3000)
    await host.until(lambda: _is(host, started, "Running"))
    await host.engine.terminate(started, "enough")
    instance = await host.finished(started)
    assert (instance.status, json.loads(instance.output)) == ("Terminated", "enough")
    assert (await host.engine.stats())["pending"]["activities"] == 0


async def test_terminate_reaches_running_sub_orchestrations(host: Host) -> None:
    await host.start("parent_of_gated", "g", "top")
    await host.until(lambda: _called(host, "g"))
    await host.engine.terminate("top", "enough")
    assert await host.status("gated-child") == "Terminated"


async def test_a_terminated_child_fails_in_its_parent(host: Host) -> None:
    await host.start("parent_of_gated", "g", "top")
    await host.until(lambda: _called(host, "g"))
    await host.engine.terminate("gated-child", "enough")
    instance = await host.finished("top")
    assert instance.status == "Failed"
    assert "enough" in instance.output


async def test_a_completion_that_comes_after_terminate_changes_nothing(host: Host) -> None:
    await host.start("waits_for_gate", "g", "one")
    await host.until(lambda: _called(host, "g"))
    await host.engine.terminate("one", "enough")
    host.app.gates["g"].set()
    await host.until(lambda: _idle(host))
    assert await host.status("one") == "Terminated"


async def _idle(host: Host) -> bool:
    stats = await host.engine.stats()
    return stats["activities_running"] == 0 and stats["activities"] >= 1


async def test_control_of_a_finished_or_unknown_instance_is_refused(host: Host) -> None:
    await host.run("fan_out", 1, "done")
    for operation in (host.engine.terminate, host.engine.suspend, host.engine.resume, host.engine.rewind):
        with pytest.raises(InstanceFinished):
            await operation("done", "why")
        with pytest.raises(InstanceNotFound):
            await operation("nobody", "why")
    with pytest.raises(InstanceFinished):
        await host.engine.raise_event("done", "go", "1")


# -- suspend and resume --------------------------------------------------------------------------


async def test_a_suspended_instance_keeps_its_events_and_goes_on_when_resumed(host: Host) -> None:
    started = await host.start("two_names")
    await host.until(lambda: _is(host, started, "Running"))
    await host.engine.suspend(started, "hold")
    await host.engine.raise_event(started, "a", "1")
    await host.engine.raise_event(started, "b", "2")
    replays = (await host.engine.stats())["replays"]
    await asyncio.sleep(0.1)
    assert await host.status(started) == "Suspended"
    assert (await host.engine.stats())["replays"] == replays
    await host.engine.resume(started, "go on")
    assert output(await host.finished(started)) == [1, 2]
    events = [event["EventType"] for event in await host.engine.history(started)]
    assert "ExecutionSuspended" in events
    assert "ExecutionResumed" in events


async def test_activities_that_run_during_a_suspension_count_after_it(host: Host) -> None:
    started = await host.start("waits_for_gate", "g")
    await host.until(lambda: _called(host, "g"))
    await host.engine.suspend(started, "hold")
    host.app.gates["g"].set()
    await host.until(lambda: _idle(host))
    assert await host.status(started) == "Suspended"
    await host.engine.resume(started, "go on")
    assert output(await host.finished(started)) == "through g"


async def test_an_instance_suspended_before_its_first_step_begins_when_resumed(host: Host) -> None:
    started = await host.start("fan_out", 2)
    await host.engine.suspend(started, "hold")
    await host.engine.resume(started, "go on")
    assert output(await host.finished(started)) == 2


async def test_a_suspended_instance_can_be_terminated(host: Host) -> None:
    started = await host.start("two_names")
    await host.until(lambda: _is(host, started, "Running"))
    await host.engine.suspend(started, "hold")
    await host.engine.terminate(started, "enough")
    assert await host.status(started) == "Terminated"


# -- rewind --------------------------------------------------------------------------------------


async def test_rewind_runs_again_only_what_failed(host: Host) -> None:
    items = [{"key": f"k{n}", "succeeds_at": 2 if n == 3 else 1} for n in range(6)]
    assert (await host.run("fan_out_failing", items, "one")).status == "Failed"
    await host.engine.rewind("one", "fixed")
    assert output(await host.finished("one")) == [f"k{n} after {2 if n == 3 else 1}" for n in range(6)]
    assert host.app.calls == {f"k{n}": 2 if n == 3 else 1 for n in range(6)}
    assert host.app.order == ["before"]


async def test_rewind_gives_a_retried_task_its_last_attempt_again(host: Host) -> None:
    items = [
        {"key": "ok", "succeeds_at": 1},
        {"key": "bad", "succeeds_at": 3},
        {"key": "late", "succeeds_at": 2},
    ]
    assert (await host.run("retry_failing", items, "one")).status == "Failed"
    await host.engine.rewind("one", "fixed")
    results = output(await host.finished("one"))
    assert [result.split()[0] for result in results] == ["ok", "bad", "late"]
    assert host.app.calls["ok"] == 1


async def test_rewind_reaches_the_failed_sub_orchestration(host: Host) -> None:
    assert (await host.run("parent_failing", {"key": "deep", "succeeds_at": 2}, "one")).status == "Failed"
    await host.engine.rewind("one", "fixed")
    assert output(await host.finished("one")) == "deep after 2"


async def test_rewind_of_a_failure_that_persists_fails_again(host: Host) -> None:
    assert (await host.run("failing", None, "one")).status == "Failed"
    await host.engine.rewind("one", "hope")
    assert (await host.finished("one")).status == "Failed"


async def test_rewind_of_a_running_instance_is_refused(host: Host) -> None:
    started = await host.start("two_names")
    await host.until(lambda: _is(host, started, "Running"))
    with pytest.raises(InvalidOperation, match="only supported on failed"):
        await host.engine.rewind(started, "why")


# -- restart and purge ---------------------------------------------------------------------------


async def test_restart_runs_the_same_input_under_a_new_or_the_same_id(host: Host) -> None:
    await host.run("fan_out", 3, "one")
    other = await host.engine.restart("one")
    assert other != "one"
    assert output(await host.finished(other)) == 6
    assert await host.engine.restart("one", new_id=False) == "one"
    assert output(await host.finished("one")) == 6


async def test_restart_of_a_running_instance_under_its_own_id_is_refused(host: Host) -> None:
    started = await host.start("two_names")
    with pytest.raises(InstanceRunning):
        await host.engine.restart(started, new_id=False)


async def test_purge_deletes_a_finished_instance_and_leaves_a_running_one(host: Host) -> None:
    await host.run("fan_out", 1, "done")
    await host.start("two_names", None, "running")
    assert await host.engine.purge("done") == 1
    assert await host.engine.purge("running") == 0
    with pytest.raises(InstanceNotFound):
        await host.engine.instance("done")
    assert await host.status("running") in ("Pending", "Running")


async def test_purge_by_filter_deletes_what_matches(host: Host) -> None:
    await host.run("fan_out", 1, "a")
    await host.run("failing", None, "b")
    assert await host.engine.purge(Query(created_from=0, statuses=("Failed",))) == 1
    assert [i.id for i in await host.engine.query(Query())] == ["a"]


# -- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(), ["x-1", "x-2", "y-1"]),
        (Query(prefix="x-"), ["x-1", "x-2"]),
        (Query(prefix="x_"), []),
        (Query(statuses=("Failed",)), ["y-1"]),
        (Query(statuses=("Failed", "Completed"), limit=1), ["x-1"]),
        (Query(created_to=1.0), []),
    ],
)
async def test_a_query_filters_and_orders_by_creation(host: Host, query: Query, found: list[str]) -> None:
    await host.run("fan_out", 1, "x-1")
    await host.run("fan_out", 1, "x-2")
    await host.run("failing", None, "y-1")
    assert [instance.id for instance in await host.engine.query(query)] == found


async def test_the_history_names_what_was_scheduled_and_what_completed(host: Host) -> None:
    started = await host.start("waits_for_gate", "g")
    await host.until(lambda: _called(host, "g"))
    events = await host.engine.history(started)
    assert [(e["EventType"], e.get("FunctionName")) for e in events] == [
        ("ExecutionStarted", "waits_for_gate"),
        ("TaskScheduled", "gated"),
    ]
    host.app.gates["g"].set()
    await host.finished(started)
    shown: list[dict[str, Any]] = await host.engine.history(started, show_output=True)
    assert [e["EventType"] for e in shown] == ["ExecutionStarted", "TaskCompleted", "ExecutionCompleted"]
    assert shown[1]["FunctionName"] == "gated"
    assert shown[1]["Result"] == "through g"
    assert shown[1]["ScheduledTime"] <= shown[1]["Timestamp"]


async def test_the_size_of_a_history_stays_below_a_kilobyte_an_activity(host: Host) -> None:
    started = await host.engine.start_instance("fan_out", "sized", sdk_input(200))
    await host.finished(started)
    stored, events = await host.engine.history_size("sized")
    assert events == 202
    assert stored / 200 < 1024
