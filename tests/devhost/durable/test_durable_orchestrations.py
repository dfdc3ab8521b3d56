"""Orchestrators of the unmodified SDK, end to end through the engine."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from durable_host import Host, output, running


async def test_a_fan_out_returns_the_results_in_the_order_of_the_tasks(host: Host) -> None:
    assert output(await host.run("fan_out", 20)) == sum(range(20)) * 2


@pytest.mark.parametrize("width", [1, 40, 400])
async def test_a_fan_out_costs_two_replays_whatever_its_width(host: Host, width: int) -> None:
    assert output(await host.run("fan_out", width)) == sum(range(width)) * 2
    assert (await host.engine.stats())["replays"] == 2


async def test_a_sequence_runs_in_order_with_one_replay_a_step(host: Host) -> None:
    assert output(await host.run("sequence", ["a", "b", "c"])) == ["a", "b", "c"]
    assert host.app.order == ["a", "b", "c"]
    assert (await host.engine.stats())["replays"] == 4


async def test_an_orchestrator_that_awaits_nothing_completes(host: Host) -> None:
    assert output(await host.run("no_yield")) == "done"


async def test_an_empty_task_all_is_done_at_once(host: Host) -> None:
    """The SDK gives it no result."""
    assert output(await host.run("empty_all")) == [None, 8]


async def test_nested_task_all_and_task_any_resolve(host: Host) -> None:
    assert output(await host.run("nested")) == [[2, 4], "n", 6]


async def test_a_sliding_window_of_task_any_completes(host: Host) -> None:
    assert output(await host.run("window")) == [n * 2 for n in range(8)]


async def test_awaiting_earlier_tasks_again_does_not_replay_for_each_of_them(host: Host) -> None:
    """After task_any nothing tells the engine which of the 600 tasks are awaited; it looks now and then."""
    assert output(await host.run("any_then_all", 600)) == sum(range(600)) * 2
    assert (await host.engine.stats())["replays"] < 60


async def test_functions_are_found_by_their_given_name_in_any_case(host: Host) -> None:
    assert output(await host.run("Renamed_Call")) == "renamed x"


async def test_ids_and_time_are_the_same_in_every_replay(host: Host) -> None:
    first = output(await host.run("ids"))
    assert first[0][0] != first[1]


async def test_the_input_and_the_version_reach_the_orchestrator(host: Host) -> None:
    started = await host.engine.start_instance("echo", "v", json.dumps(json.dumps({"a": [1]})), "2.0")
    assert output(await host.finished(started)) == {"input": {"a": [1]}, "version": "2.0", "parent": None}


# -- retries -------------------------------------------------------------------------------------


async def test_a_failed_activity_is_retried_until_it_succeeds(host: Host) -> None:
    items = [{"key": "a", "succeeds_at": 3}, {"key": "b", "succeeds_at": 1}, {"key": "c", "succeeds_at": 2}]
    assert output(await host.run("retries", items)) == ["a after 3", "b after 1", "c after 2"]


async def test_many_retries_need_no_replay_of_their_own(host: Host) -> None:
    items = [{"key": f"k{n}", "succeeds_at": 1 + n % 3} for n in range(90)]
    assert len(output(await host.run("retries", items))) == 90
    assert (await host.engine.stats())["replays"] == 2


async def test_the_last_allowed_attempt_may_succeed_and_one_more_is_not_made(host: Host) -> None:
    assert output(await host.run("retries", [{"key": "third", "succeeds_at": 3}])) == ["third after 3"]
    failed = await host.run("retries", [{"key": "fourth", "succeeds_at": 4}])
    assert failed.status == "Failed"
    assert host.app.calls["fourth"] == 3


async def test_an_exhausted_retry_can_be_handled(host: Host) -> None:
    handled, error = output(await host.run("retry_then_handle", {"key": "never", "succeeds_at": 99}))
    assert handled == "handled"
    assert "ValueError: call 2 of never" in error


async def test_what_follows_a_failed_task_all_is_not_confused_with_a_siblings_retry(host: Host) -> None:
    """As in Azure the cleanup starts when the sibling is done too; its id is the one the SDK gave it."""
    assert output(await host.run("mixed_failure", {"key": "sibling", "succeeds_at": 3})) == "cleanup"
    assert host.app.calls["sibling"] == 3


# -- failures ------------------------------------------------------------------------------------


async def test_a_failed_activity_fails_the_orchestrator_with_its_reason(host: Host) -> None:
    instance = await host.run("failing")
    assert instance.status == "Failed"
    assert "Orchestrator function 'failing' failed" in instance.output
    assert "Activity function 'boom' failed: RuntimeError: boom hard" in instance.output


async def test_an_exception_of_the_orchestrator_itself_is_its_reason(host: Host) -> None:
    instance = await host.run("raises")
    assert instance.status == "Failed"
    assert "raised" in json.loads(instance.output)


@pytest.mark.parametrize(
    ("orchestrator", "reason"),
    [
        ("unknown_activity", "The function 'nowhere' doesn't exist, is disabled, or is not an activity"),
        ("result_not_json", "must be json serializable"),
        ("yields_nothing", "it waits for something that is no durable task"),
    ],
)
async def test_a_mistake_of_the_app_fails_the_instance_and_is_named(
    host: Host, orchestrator: str, reason: str
) -> None:
    instance = await host.run(orchestrator)
    assert instance.status == "Failed"
    assert reason in instance.output


# -- sub-orchestrations --------------------------------------------------------------------------


async def test_sub_orchestrations_run_under_a_given_or_a_derived_id(host: Host) -> None:
    named, derived, version = output(await host.run("parent", None, "top"))
    assert named == {"input": {"n": 1}, "version": "", "parent": "top"}
    assert derived == 6
    assert version == "7.0"
    assert await host.status("top-child") == "Completed"


async def test_a_failed_sub_orchestration_reaches_its_parent_as_an_exception(host: Host) -> None:
    assert "boom hard" in output(await host.run("parent_of_failing"))


async def test_a_sub_orchestration_is_retried(host: Host) -> None:
    assert output(await host.run("parent_with_retry", {"key": "child", "succeeds_at": 3})) == "child after 3"


async def test_a_sub_orchestration_whose_id_is_running_fails_in_its_parent(host: Host) -> None:
    await host.start("waits_for_gate", "other", "gated-child")
    instance = await host.run("parent_of_gated", "mine")
    assert instance.status == "Failed"
    assert "already exists" in instance.output
    assert await host.status("gated-child") == "Running"


# -- events --------------------------------------------------------------------------------------


async def test_an_event_beats_its_timeout_and_the_timer_is_cancelled(host: Host) -> None:
    started = await host.start("event_or_timeout", 60)
    await host.until(lambda: _running(host, started))
    await host.engine.raise_event(started, "go", '{"x":1}')
    assert output(await host.finished(started)) == {"event": {"x": 1}}
    assert (await host.engine.stats())["pending"]["timers"] == 0


async def test_a_timeout_beats_an_event_that_does_not_come(host: Host) -> None:
    assert output(await host.run("event_or_timeout", 0.1)) == "timeout"


async def test_events_that_come_early_are_kept_in_their_order(host: Host) -> None:
    started = await host.start("three_events")
    await host.until(lambda: _running(host, started))
    for n in (1, 2, 3):
        await host.engine.raise_event(started, "item", str(n))
    host.app.gates[f"{started}-gate"].set()
    assert output(await host.finished(started)) == [1, 2, 3]


async def test_events_that_come_before_the_first_step_are_kept(host: Host) -> None:
    started = await host.start("two_names")
    await host.engine.raise_event(started, "b", "2")
    await host.engine.raise_event(started, "a", "1")
    assert output(await host.finished(started)) == [1, 2]


# -- continue-as-new -----------------------------------------------------------------------------


async def test_continue_as_new_starts_over_with_a_new_input_and_an_empty_history(host: Host) -> None:
    instance = await host.run("counts_up", 1)
    assert output(instance) == {"final": 4}
    events = [event["EventType"] for event in await host.engine.history(instance.id)]
    assert events == ["ExecutionStarted", "TaskCompleted", "ExecutionCompleted"]


async def test_continue_as_new_carries_unprocessed_events_over(host: Host) -> None:
    started = await host.start("collects")
    for n in (1, 2, 3):
        await host.engine.raise_event(started, "item", str(n))
    assert output(await host.finished(started)) == [1, 2, 3]


async def test_a_late_completion_of_an_earlier_execution_does_not_count(host: Host) -> None:
    """Both executions wait for their task 0; the first one's activity completes during the second."""
    started = await host.start("abandons_and_continues", "first")
    await host.until(lambda: _called(host, "first"))
    await host.engine.raise_event(started, "go", "null")
    await host.until(lambda: _called(host, "second"))
    host.app.gates["first"].set()
    await host.until(lambda: _completed(host, 1))
    assert await host.status(started) == "Running"
    host.app.gates["second"].set()
    assert output(await host.finished(started)) == "through second"


# -- status and entities -------------------------------------------------------------------------


async def test_the_custom_status_is_shown_while_the_orchestrator_waits(host: Host) -> None:
    started = await host.start("shows_status")
    await host.until(lambda: _custom(host, started, {"stage": "waiting"}))
    await host.engine.raise_event(started, "go", "null")
    await host.finished(started)
    assert await host.custom_status(started) == {"stage": "done"}


async def test_entities_are_signalled_called_and_report_their_errors(host: Host) -> None:
    assert output(await host.run("uses_entity", "k")) == [7, "no such operation"]
    assert await host.engine.entity_state("Counter", "k") == "7"


async def test_a_signal_sent_last_is_delivered(host: Host) -> None:
    assert output(await host.run("signals_and_returns", "last")) == "signalled"
    await host.until(lambda: _entity(host, "last", "1"))


async def test_operations_of_one_entity_are_taken_in_order_and_in_batches(host: Host) -> None:
    for n in range(120):
        await host.engine.signal_entity("counter", "many", "add", json.dumps(json.dumps(n)))
    await host.until(lambda: _entity(host, "many", str(sum(range(120)))))
    assert (await host.engine.stats())["entity_batches"] < 120


async def test_a_deleted_entity_is_gone(host: Host) -> None:
    assert output(await host.run("deletes_entity", "d")) == "deleted"
    assert await host.engine.entity_state("counter", "d") is None


async def test_a_long_queue_of_one_instance_does_not_hold_up_a_small_one(host: Host) -> None:
    big = await host.start("fan_out", 3000, "big")
    await host.until(lambda: _queued(host, 1000))
    small = await host.run("sequence", ["s1", "s2"])
    assert output(small) == ["s1", "s2"]
    assert await host.status(big) == "Running"
    assert output(await host.finished(big)) == sum(range(3000)) * 2


async def _running(host: Host, instance_id: str) -> bool:
    return await host.status(instance_id) == "Running"


async def _called(host: Host, key: str) -> bool:
    return host.app.calls.get(key, 0) > 0


async def _completed(host: Host, count: int) -> bool:
    return (await host.engine.stats())["activities"] >= count


async def _custom(host: Host, instance_id: str, expected: Any) -> bool:
    return await host.custom_status(instance_id) == expected


async def _entity(host: Host, key: str, expected: str) -> bool:
    await asyncio.sleep(0)
    return await host.engine.entity_state("counter", key) == expected


async def _queued(host: Host, count: int) -> bool:
    return (await host.engine.stats())["pending"]["activities"] >= count


async def test_an_entity_that_fails_as_a_whole_gives_its_callers_the_error(host: Host) -> None:
    assert "Entity 'broken' failed: TypeError" in output(await host.run("calls_broken_entity"))
    assert (await host.engine.stats())["pending"]["operations"] == 0


async def test_calling_an_unknown_entity_fails_the_caller(host: Host) -> None:
    instance = await host.run("calls_unknown_entity")
    assert instance.status == "Failed"
    assert "'nothing' doesn't exist" in instance.output


async def test_more_instances_than_are_kept_in_memory_all_complete(tmp_path: Path) -> None:
    """Instances that wait are evicted, and read again when something happens to them."""
    items = [{"key": f"k{n}", "succeeds_at": 2 + n % 2} for n in range(4)]
    async with running(tmp_path / "hub.db", cached_instances=3) as host:
        for n in range(20):
            await host.start("two_names", None, f"i{n}")
        await host.start("retries", items, "retries")
        await host.until(lambda: _replayed(host, 20))
        for n in range(20):
            await host.engine.raise_event(f"i{n}", "a", "1")
        for n in range(20):
            await host.engine.raise_event(f"i{n}", "b", "2")
            assert output(await host.finished(f"i{n}")) == [1, 2]
        assert len(output(await host.finished("retries"))) == 4


async def _replayed(host: Host, count: int) -> bool:
    return (await host.engine.stats())["replays"] >= count
