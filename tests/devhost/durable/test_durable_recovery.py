"""What survives: killed processes, shifted clocks, faults of the engine itself, a second host."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from durable_host import APP, Host, listening, output, running, sdk_input
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from devhost.durable import DatabaseInUse, Engine
from devhost.functions import load_functions

PROJECT = Path(__file__).parents[3]
HOST_PROCESS = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from durable_host import Host

async def main():
    host = Host(Path(sys.argv[3]))
    await host.engine.start()
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def spawn(database: Path) -> subprocess.Popen[str]:
    """A host in a process of its own, once it has started."""
    arguments = [sys.executable, "-W", "ignore", "-c", HOST_PROCESS]
    paths = [str(PROJECT), str(Path(__file__).parent), str(database)]
    process = subprocess.Popen(
        [*arguments, *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != "started\n":
        raise AssertionError(process.communicate()[1])
    return process


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


async def test_a_killed_host_resumes_and_runs_each_activity_at_least_once(tmp_path: Path) -> None:
    """Kill at random times until the work is done: nothing is lost, little is repeated."""
    database, file = tmp_path / "hub.db", tmp_path / "runs"
    file.touch()
    count, kills = 60, 3
    async with running(database) as host:
        given = {"count": count, "seconds": 0.02, "file": str(file)}
        await host.engine.start_instance("marks", "marks", sdk_input(given))
    generator = random.Random(7)
    for _ in range(kills):
        process = await asyncio.to_thread(spawn, database)
        await asyncio.sleep(generator.uniform(0.0, 0.15))
        kill(process)
    async with running(database) as host:
        assert output(await host.finished("marks")) == count
        assert (await host.engine.stats())["pending"] == dict.fromkeys(
            ("activities", "timers", "events", "operations", "instances"), 0
        )
    runs = Counter(line.split()[0] for line in file.read_text().splitlines())
    assert set(runs) == {str(n) for n in range(count)}
    # Ten run at once, and a group of completions may be cut off before it is committed.
    assert sum(runs.values()) <= count + (kills + 1) * 30


async def test_an_orderly_stop_keeps_what_has_not_run(tmp_path: Path) -> None:
    database = tmp_path / "hub.db"
    async with running(database) as host:
        await host.start("fan_out", 2000, "one")
        await host.until(lambda: _begun(host))
    async with running(database) as host:
        assert output(await host.finished("one")) == sum(range(2000)) * 2


async def _begun(host: Host) -> bool:
    return (await host.engine.stats())["activities"] > 20


async def test_events_retries_and_sub_orchestrations_go_on_after_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "hub.db"
    items = [{"key": f"k{n}", "succeeds_at": 1 + n % 2} for n in range(6)]
    async with running(database) as host:
        await host.start("event_or_timeout", 60, "event")
        await host.start("three_events", None, "early")
        await host.until(lambda: _all_running(host, "event", "early"))
        await host.engine.raise_event("early", "item", "1")
        await host.start("retries", items, "retries")
        await host.until(lambda: _begun_retries(host))
    async with running(database) as host:
        for n in (2, 3):
            await host.engine.raise_event("early", "item", str(n))
        host.app.gates.setdefault("early-gate", asyncio.Event()).set()
        await host.engine.raise_event("event", "go", "5")
        assert output(await host.finished("event")) == {"event": 5}
        assert output(await host.finished("early")) == [1, 2, 3]
        assert [r.split()[0] for r in output(await host.finished("retries"))] == [i["key"] for i in items]


async def _all_running(host: Host, *instances: str) -> bool:
    return all([await host.status(instance) == "Running" for instance in instances])


async def _begun_retries(host: Host) -> bool:
    return host.app.calls.get("k1", 0) > 0


async def test_a_polled_http_call_goes_on_after_a_restart(tmp_path: Path) -> None:
    calls: list[str] = []

    async def answer(request: Request) -> Response:
        calls.append(request.url.path)
        if request.url.path == "/start":
            return Response(status_code=202, headers={"Location": "/poll", "Retry-After": "0.3"})
        return JSONResponse({"done": True})

    routes = [Route("/start", answer), Route("/poll", answer)]
    async with listening(Starlette(routes=routes)) as url:
        async with running(tmp_path / "hub.db") as host:
            await host.start("calls_http", {"url": f"{url}/start"}, "one")
            await host.until(lambda: _seen(calls, 1))
        async with running(tmp_path / "hub.db") as host:
            assert output(await host.finished("one"))["statusCode"] == 200
    assert calls == ["/start", "/poll"]


async def _seen(calls: list[str], count: int) -> bool:
    return len(calls) >= count


# -- a second host -------------------------------------------------------------------------------


async def test_a_second_process_on_the_database_is_refused(tmp_path: Path) -> None:
    database = tmp_path / "hub.db"
    process = await asyncio.to_thread(spawn, database)
    try:
        with pytest.raises(DatabaseInUse, match="in use by another host process"):
            Engine(load_functions(APP), database)
    finally:
        kill(process)
    async with running(database) as host:
        assert output(await host.run("fan_out", 2)) == 2


async def test_a_second_engine_in_the_same_process_is_refused(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DatabaseInUse):
        Engine(load_functions(APP), tmp_path / "hub.db")


# -- clocks --------------------------------------------------------------------------------------


class Clock:
    """The real clock, shifted; `faults` is how often it fails from now on."""

    def __init__(self) -> None:
        self.shift_seconds = 0.0
        self.faults = 0

    def __call__(self) -> float:
        if self.faults > 0:
            self.faults -= 1
            raise OSError("the clock cannot be read")
        return time.time() + self.shift_seconds


@pytest.mark.parametrize("days", [2, 5, 40])
async def test_a_timer_of_any_length_fires_when_its_time_has_come(tmp_path: Path, days: int) -> None:
    """Three and six days are limits of other storage; here one timer is one timer."""
    clock = Clock()
    seconds = days * 86_400
    async with running(tmp_path / "hub.db", clock=clock) as host:
        await host.start("timer", seconds, "long")
        await host.until(lambda: _timers(host, 1))
        clock.shift_seconds = seconds - 60
        await asyncio.sleep(1.2)
        assert await host.status("long") == "Running"
    async with running(tmp_path / "hub.db", clock=clock) as host:
        clock.shift_seconds = seconds + 1
        assert seconds <= output(await host.finished("long")) < seconds + 60


async def test_a_clock_that_goes_back_an_hour_loses_nothing(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path / "hub.db", clock=clock) as host:
        await host.start("sequence", ["a", "b", "c"], "one")
        clock.shift_seconds = -3600
        assert output(await host.finished("one")) == ["a", "b", "c"]
        assert output(await host.run("timer", 0.1)) >= 0.1


async def _timers(host: Host, count: int) -> bool:
    return (await host.engine.stats())["pending"]["timers"] == count


# -- faults of the engine itself -----------------------------------------------------------------


async def test_a_step_that_fails_inside_the_engine_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    async with running(tmp_path / "hub.db", clock=clock) as host:
        await host.start("event_or_timeout", 60, "one")
        await host.until(lambda: _timers(host, 1))
        await host.engine.raise_event("one", "go", "1")
        clock.faults = 3  # the step that the event leads to begins after this line
        assert output(await host.finished("one")) == {"event": 1}
    assert "durable.step_failed" in [record.message for record in caplog.records]


async def test_an_instance_that_the_engine_cannot_handle_fails_with_the_reason(tmp_path: Path) -> None:
    """Its neighbours are not affected."""
    database = tmp_path / "hub.db"
    async with running(database) as host:
        await host.start("two_names", None, "damaged")
        await host.until(lambda: _all_running(host, "damaged"))
    with sqlite3.connect(database) as damaged:
        damaged.execute("update history set asked='[[77]]' where instance='damaged'")
        damaged.execute(
            "insert into inbox(instance, events) values('damaged', ?)",
            ('{"EventType":15,"EventId":-1,"Timestamp":"20260101T000000Z","Name":"a","Input":"1"}',),
        )
    damaged.close()
    async with running(database) as host:
        assert output(await host.run("fan_out", 3)) == 6
        instance = await host.finished("damaged")
        assert instance.status == "Failed"
        assert "The engine failed 5 times on this instance" in instance.output


# -- determinism ---------------------------------------------------------------------------------


async def test_a_changed_orchestrator_fails_by_name_instead_of_going_wrong(tmp_path: Path) -> None:
    """The app is changed while an instance waits: the same history must not be read as another story."""
    changed = tmp_path / "changed"
    changed.mkdir()
    source = (APP / "function_app.py").read_text()
    asked = 'context.call_activity("gated", f"{context.instance_id}-gate")'
    assert source.count(asked) == 1
    (changed / "function_app.py").write_text(source.replace(asked, 'context.call_activity("note", "other")'))
    database = tmp_path / "hub.db"
    async with running(database) as host:
        await host.start("three_events", None, "one")
        await host.until(lambda: _gated(host, "one-gate"))
        host.app.gates["one-gate"].set()
        await host.until(lambda: _begun_waiting(host))
    async with running(database, functions=load_functions(changed)) as host:
        await host.engine.raise_event("one", "item", "1")
        instance = await host.finished("one")
    assert instance.status == "Failed"
    assert "Non-deterministic orchestrator 'three_events'" in instance.output
    assert (
        "history event 0 scheduled activity 'gated', the replay asked for activity 'note'" in instance.output
    )


async def _gated(host: Host, key: str) -> bool:
    return host.app.calls.get(key, 0) > 0


async def _begun_waiting(host: Host) -> bool:
    return (await host.engine.stats())["replays"] == 2


async def test_a_history_replayed_by_another_process_continues_the_same_story(tmp_path: Path) -> None:
    """Ids, times and results that the orchestrator saw before a restart are those it sees after it."""
    database = tmp_path / "hub.db"
    async with running(database) as host:
        await host.start("shows_status", None, "one")
        await host.until(lambda: _all_running(host, "one"))
        before = await host.engine.history("one", show_output=True)
    async with running(database) as host:
        await host.engine.raise_event("one", "go", "null")
        assert output(await host.finished("one")) == "one"
        after = await host.engine.history("one", show_output=True)
    assert after[: len(before)] == before
