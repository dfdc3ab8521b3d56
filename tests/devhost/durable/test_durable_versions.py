"""Orchestrations that were started by another version of the app: taken, left or failed as host.json says."""

import asyncio
import json
from pathlib import Path

import pytest
from durable_host import output, running, sdk_input

from devhost.durable import DurableOptions
from devhost.durable.versions import Match, Mismatch, accepts


def options(own: str, match: Match, mismatch: Mismatch = Mismatch.REJECT) -> DurableOptions:
    return DurableOptions(default_version=own, version_match=match, version_mismatch=mismatch)


@pytest.mark.parametrize(
    ("match", "own", "other", "taken"),
    [
        (Match.NONE, "1.0", "9.0", True),
        (Match.STRICT, "1.0", "1.0", True),
        (Match.STRICT, "1.1", "1.0", False),
        (Match.STRICT, "1.0", "", False),
        (Match.CURRENT_OR_OLDER, "1.10", "1.9", True),
        (Match.CURRENT_OR_OLDER, "1.9", "1.10", False),
        (Match.CURRENT_OR_OLDER, "1.0", "", True),
        (Match.CURRENT_OR_OLDER, "b", "A", True),
        (Match.CURRENT_OR_OLDER, "a", "B", False),
    ],
)
def test_versions_are_taken_by_strategy(match: Match, own: str, other: str, taken: bool) -> None:
    assert accepts(match, own, other) is taken


async def test_an_instance_of_a_newer_version_waits_for_a_host_that_takes_it(tmp_path: Path) -> None:
    database = tmp_path / "hub.db"
    async with running(database, options=options("1.0", Match.CURRENT_OR_OLDER)) as host:
        await host.engine.start_instance("fan_out", "newer", sdk_input(3), version="2.0")
        assert output(await host.run("fan_out", 3)) == 6  # by then the newer one has been looked at
        await asyncio.sleep(0.1)
        assert await host.status("newer") == "Pending"
    async with running(database, options=options("2.0", Match.CURRENT_OR_OLDER)) as host:
        assert output(await host.finished("newer")) == 6


async def test_a_host_goes_on_with_what_an_older_version_began(tmp_path: Path) -> None:
    async with running(tmp_path / "hub.db", options=options("2.0", Match.CURRENT_OR_OLDER)) as host:
        await host.engine.start_instance("echo", "older", sdk_input(1), version="1.0")
        assert output(await host.finished("older"))["version"] == "1.0"


async def test_an_instance_that_is_not_taken_fails_where_host_json_says_so(tmp_path: Path) -> None:
    strict = options("1.0", Match.STRICT, Mismatch.FAIL)
    async with running(tmp_path / "hub.db", options=strict) as host:
        await host.engine.start_instance("echo", "other", sdk_input(1), version="0.9")
        instance = await host.finished("other")
        assert instance.status == "Failed"
        assert "version '0.9'; this host runs '1.0'" in json.loads(instance.output or "")


def test_strategies_are_read_whatever_their_case() -> None:
    strategies = {"versionMatchStrategy": "currentOrOlder", "versionFailureStrategy": "fail"}
    section = {"defaultVersion": "3", **strategies}
    read = DurableOptions.from_host_json({"extensions": {"durableTask": section}})
    assert (read.default_version, read.version_match, read.version_mismatch) == (
        "3",
        Match.CURRENT_OR_OLDER,
        Mismatch.FAIL,
    )


def test_a_strategy_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="versionMatchStrategy must be one of None, Strict, CurrentOrOlder"):
        DurableOptions.from_host_json({"extensions": {"durableTask": {"versionMatchStrategy": "Newest"}}})
