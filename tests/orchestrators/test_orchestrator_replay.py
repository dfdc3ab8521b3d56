"""Replay is deterministic: histories of real runs lead each orchestrator to ask for the same things again.

A change that fails here would break jobs that run while it is deployed: see `tests/orchestrators/record.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import azure.durable_functions as df
import pytest

from devhost.durable.errors import NonDeterministic
from devhost.durable.versions import Match, accepts
from devhost.functions import load_functions
from functions.activities import call, given
from shared.config import APP_ROOT

from .histories import FOLDER, History, every_history, load, replay
from .record import MANY_SHARDS_DOCUMENTS, SHARD_DOCUMENTS

HISTORIES = {history.file.stem: history for history in every_history()}
# A message of the Durable Task Scheduler holds at most 1 MiB; a history grows with what it holds.
HISTORY_BYTES_PER_DOCUMENT = 1024


@cache
def orchestrators() -> dict[str, Callable[[Any], str]]:
    functions = load_functions(APP_ROOT)
    return {each.name: each.user_function for each in functions if each.kind == "orchestrationTrigger"}


def host_version() -> tuple[str, Match]:
    durable = json.loads((APP_ROOT / "host.json").read_text())["extensions"]["durableTask"]
    return durable["defaultVersion"], Match(durable["versionMatchStrategy"])


def changed(orchestrator: Callable[[Any], Generator[Any, Any, Any]]) -> Callable[[Any], str]:
    """A function that the SDK runs as an orchestrator."""
    return df.Orchestrator.create(orchestrator)


def test_each_orchestrator_has_a_history_of_the_present_version():
    version, _ = host_version()
    recorded = {history.orchestrator for history in HISTORIES.values() if history.version == version}
    assert recorded >= orchestrators().keys(), "record them: python dev.py record"


def test_the_host_takes_the_versions_of_all_stored_histories():
    own, match = host_version()
    assert [h.version for h in HISTORIES.values() if not accepts(match, own, h.version)] == []


@pytest.mark.parametrize("name", sorted(HISTORIES))
def test_a_stored_history_is_replayed_to_the_same_end(name: str):
    history = HISTORIES[name]
    assert replay(history, orchestrators()[history.orchestrator]) == history.output


def of(orchestrator: str, scenario: str) -> History:
    version, _ = host_version()
    return HISTORIES[f"{orchestrator}.{version}.{scenario}"]


def test_a_step_that_comes_before_another_one_fails_loudly():
    def committed_first(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
        shard = given(context)
        yield from call(context, "commit_shard", {**shard, "failed": {}})
        yield from call(context, "prepare_shard", shard)

    with pytest.raises(NonDeterministic, match=r"prepare_shard.*the replay for.*commit_shard"):
        replay(of("ingest_shard", "many_shards"), changed(committed_first))


def test_a_step_that_is_left_out_fails_loudly():
    def never_committed(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
        shard = given(context)
        batches = yield from call(context, "prepare_shard", shard)
        for batch in range(batches):
            yield from call(context, "embed_batch", {**shard, "batch": batch})

    with pytest.raises(NonDeterministic, match=r"asked for .*commit_shard.*the replay for "):
        replay(of("ingest_shard", "many_shards"), changed(never_committed))


def test_another_number_of_tasks_at_a_time_fails_loudly():
    def one_by_one(context: df.DurableOrchestrationContext) -> Generator[Any, Any, Any]:
        ticket = given(context)
        plan = yield from call(context, "plan_ingestion", ticket)
        for number in range(plan["shards"]):
            yield context.task_all(
                [context.call_sub_orchestrator("ingest_shard", {"ticket": ticket, "shard": number})]
            )

    with pytest.raises(NonDeterministic, match=r"ingest_shard', 1, 4.*the replay for.*ingest_shard', 1, 1"):
        replay(of("ingest", "many_shards"), changed(one_by_one))


def test_a_history_holds_references_and_stays_small():
    ingest, shard = of("ingest", "many_shards"), of("ingest_shard", "many_shards")
    shards = math.ceil(MANY_SHARDS_DOCUMENTS / SHARD_DOCUMENTS)
    stored = ingest.size_bytes + shards * shard.size_bytes
    assert stored / MANY_SHARDS_DOCUMENTS < HISTORY_BYTES_PER_DOCUMENT
    for history in HISTORIES.values():
        assert "harbour master" not in history.file.read_text(), "a history holds a document's text"


def test_a_stored_history_is_read_as_it_was_written(tmp_path: Path):
    history = next(iter(HISTORIES.values()))
    copy = tmp_path / "copy.json"
    copy.write_text(history.file.read_text())
    assert load(copy) == history
    assert FOLDER in history.file.parents
