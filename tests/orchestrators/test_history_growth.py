"""No history grows without bound: a job of any size goes on in a new one, where the old one stopped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from devhost.functions import load_functions
from shared.config import APP_ROOT

TICKET = {"tenant": "t", "job": "j", "attempt": 1}
# Tasks of one execution: each leaves two events of a few hundred bytes.
TASKS_MAX = 600
EXECUTIONS_MAX = 10_000

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

Answer = Callable[[str, Any], Any]


class Execution:
    """What an orchestrator is given; it keeps what was asked for."""

    def __init__(self, payload: Any) -> None:
        self.current_utc_datetime = BEGINNING
        self.payload = payload
        self.next: Any = None

    def get_input(self) -> Any:
        return self.payload

    def call_activity(self, name: str, payload: Any) -> list[tuple[str, Any]]:
        return [(name, json.loads(json.dumps(payload)))]

    call_sub_orchestrator = call_activity

    def create_timer(self, moment: datetime) -> list[tuple[str, Any]]:
        return [("timer", moment)]

    def task_all(self, tasks: list[list[tuple[str, Any]]]) -> list[tuple[str, Any]]:
        return [call for task in tasks for call in task]

    def continue_as_new(self, payload: Any) -> None:
        self.next = json.loads(json.dumps(payload))


@cache
def orchestrator(name: str) -> Any:
    functions = {each.name: each.user_function for each in load_functions(APP_ROOT)}
    return functions[name].orchestrator_function


def run(name: str, payload: Any, answer: Answer) -> tuple[Any, list[tuple[str, Any]], list[int]]:
    """The output of an orchestration, all that it asked for, and the tasks of each of its executions."""
    asked: list[tuple[str, Any]] = []
    sizes: list[int] = []
    while True:
        execution, before, value, output = Execution(payload), len(asked), None, None
        steps = orchestrator(name)(execution)
        try:
            calls = next(steps)
            while True:
                asked += calls
                value = [answer(*call) for call in calls]
                calls = steps.send(value)
        except StopIteration as end:
            output = end.value
        sizes.append(len(asked) - before)
        assert len(sizes) < EXECUTIONS_MAX
        if execution.next is None:
            return output, asked, sizes
        payload = execution.next


def values(**given: Any) -> Answer:
    """Each activity gives its value, sub-orchestrations None."""

    def answer(name: str, _: Any) -> Any:
        return None if name in ("ingest_shard", "timer", "batch_lane") else {"value": given.get(name)}

    return answer


def test_an_ingestion_of_very_many_shards_works_on_each_once_and_sums_up_once():
    shards = 12_345
    plan = {"shards": shards, "in_flight": 4}
    output, asked, sizes = run("ingest", TICKET, values(plan_ingestion=plan, finish_ingestion="done"))
    assert output == "done"
    assert max(sizes) <= TASKS_MAX
    assert len(sizes) > 10
    assert [payload["shard"] for name, payload in asked if name == "ingest_shard"] == list(range(shards))
    assert {repr(payload["ticket"]) for name, payload in asked if name == "ingest_shard"} == {repr(TICKET)}
    counts = Counter(name for name, _ in asked)
    assert (counts["plan_ingestion"], counts["finish_ingestion"]) == (1, 1)


def test_an_ingestion_that_was_done_with_its_plan_asks_for_nothing_more():
    plan = {"shards": 1, "in_flight": 4, "ended": {"state": "succeeded", "counts": {"indexed": 1}}}
    output, asked, _ = run("ingest", TICKET, values(plan_ingestion=plan))
    assert output == plan["ended"]
    assert [name for name, _ in asked] == ["plan_ingestion"]


def test_a_shard_of_very_many_batches_embeds_each_once_and_tells_which_failed():
    batches, failing = 5_000, {7, 4_321}

    def answer(name: str, payload: Any) -> Any:
        if name == "embed_batch" and payload["batch"] in failing:
            return {"error": {"code": "x", "message": "", "retryable": False, "retry_after": None}}
        return {"value": batches if name == "prepare_shard" else True}

    output, asked, sizes = run("ingest_shard", {"ticket": TICKET, "shard": 3}, answer)
    assert output is None
    assert max(sizes) <= TASKS_MAX
    assert [payload["batch"] for name, payload in asked if name == "embed_batch"] == list(range(batches))
    (committed,) = [payload for name, payload in asked if name == "commit_shard"]
    assert committed["failed"].keys() == {"7", "4321"}
    assert (committed["ticket"], committed["shard"]) == (TICKET, 3)
    assert [name for name, _ in asked].count("prepare_shard") == 1


@pytest.mark.parametrize("batches", [1, 450])
def test_a_shard_whose_collection_is_reindexed_meanwhile_is_prepared_anew_so_often(batches: int):
    output, asked, sizes = run(
        "ingest_shard", {"ticket": TICKET, "shard": 0}, values(prepare_shard=batches, commit_shard=False)
    )
    counts = Counter(name for name, _ in asked)
    assert (counts["prepare_shard"], counts["commit_shard"], counts["embed_batch"]) == (12, 12, 12 * batches)
    assert max(sizes) <= TASKS_MAX
    assert output["code"] == "conflict"
    waits = [moment for name, moment in asked if name == "timer"]
    assert [round((moment - BEGINNING).total_seconds()) for moment in waits] == [
        2,
        4,
        8,
        16,
        32,
        60,
        60,
        60,
        60,
    ]


@pytest.mark.parametrize("layouts", [1, 2, 3, 4, 11])
def test_a_shard_is_settled_once_no_other_layout_comes(layouts: int):
    commits = iter([False] * layouts + [True])

    def answer(name: str, _: Any) -> Any:
        return None if name == "timer" else {"value": next(commits) if name == "commit_shard" else 1}

    output, asked, _ = run("ingest_shard", {"ticket": TICKET, "shard": 0}, answer)
    assert output is None
    counts = Counter(name for name, _ in asked)
    assert (counts["prepare_shard"], counts["timer"]) == (layouts + 1, max(0, layouts - 2))


def test_a_batch_of_a_service_is_looked_at_for_as_long_as_it_takes():
    looks = 3_000

    def answer(name: str, payload: Any) -> Any:
        if name == "poll_offload":
            return {"value": {"ended": payload["looks"] == looks, "wait_seconds": 60}}
        given = {
            "plan_batch": {"refused": False, "offloaded": True},
            "submit_offload": {"batch": "batch-1"},
            "collect_offload": {"refused": False},
        }
        return None if name == "timer" else {"value": given.get(name)}

    _, asked, sizes = run("run_batch", TICKET, answer)
    counts = Counter(name for name, _ in asked)
    assert max(sizes) <= TASKS_MAX
    assert counts["poll_offload"] == looks + 1
    once = ("plan_batch", "prepare_offload", "submit_offload", "collect_offload", "finish_batch")
    assert [counts[name] for name in once] == [1] * len(once)
    (collected,) = [payload for name, payload in asked if name == "collect_offload"]
    assert collected == {"ticket": TICKET, "batch": "batch-1"}


def test_a_lane_whose_limits_make_it_wait_goes_on_with_the_shard_that_it_is_at():
    waits = Counter({0: 10, 1: 900, 2: 1})

    def answer(name: str, payload: Any) -> Any:
        if name == "timer":
            return None
        waits[payload["shard"]] -= 1
        return {"value": {"left": max(0, waits[payload["shard"]]), "wait_seconds": 30}}

    output, asked, sizes = run("batch_lane", {"ticket": TICKET, "shards": [0, 1, 2]}, answer)
    assert output is None
    assert max(sizes) <= TASKS_MAX
    assert [payload["shard"] for name, payload in asked if name == "run_lines"] == [0] * 10 + [1] * 900 + [2]


@pytest.mark.parametrize(
    ("name", "step", "state"),
    [
        ("reconcile", "reconcile_page", {"collection": "c", "after": "k"}),
        ("erase", "erase_documents", {"collection": "c", "after": "k"}),
    ],
)
def test_pages_without_end_go_on_in_new_histories(name: str, step: str, state: dict[str, str]):
    pages = 5_000

    def answer(called: str, payload: Any) -> Any:
        return {"value": state if called == step and payload["page"] + 1 < pages else None}

    _, asked, sizes = run(name, TICKET, answer)
    assert max(sizes) <= TASKS_MAX
    assert [payload["page"] for called, payload in asked if called == step] == list(range(pages))


def test_a_message_that_is_never_taken_is_given_up_within_one_history():
    _, asked, sizes = run("notify", {"tenant": "t", "webhook": "w", "ticket": TICKET}, values())
    assert len(sizes) == 1
    assert sizes[0] <= TASKS_MAX
    assert asked[-1][0] == "give_up_message"
