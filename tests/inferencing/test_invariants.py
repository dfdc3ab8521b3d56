"""What holds for a pool whatever its deployments do and its callers ask, found by random histories."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import GroundworkError
from shared.inferencing.pool import Lease

from .scripted import BODY, CALL, Bench, Script, catalogue_text
from .virtual_time import run

EU, US = ("a", "b", "c"), ("d",)
CATALOGUE = catalogue_text(
    *EU,
    *US,
    a="max_in_flight = 2",
    b='max_in_flight = 2\ncapabilities = ["images"]',
    c="priority = 1\nrequests_per_minute = 60",
    d='data_zone = "us"\nversion = "2"',
)
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}

scripts = st.builds(
    Script,
    seconds=st.sampled_from([0.0, 0.05, 2.0, 3600.0]),
    status=st.sampled_from([200, 200, 200, 404, 429, 503]),
    headers=st.sampled_from([{}, {"retry-after": "2"}]),
    lost=st.booleans(),
    garbage=st.booleans(),
    tokens=st.sampled_from([None, None, 0, 3]),
    stalls=st.booleans(),
)


@dataclass(frozen=True)
class Step:
    """A call, what it needs, and for how long the caller stays; or another script for a deployment."""

    pause: float
    script: tuple[str, Script] | None = None
    stream: bool = False
    background: bool = False
    tools: bool = False
    zone: str | None = None
    leaves_after: float | None = None


pauses = st.sampled_from([0.0, 0.01, 0.6, 2.5])
changes = st.builds(Step, pauses, script=st.tuples(st.sampled_from([*EU, *US]), scripts))
calls = st.builds(
    Step,
    pauses,
    stream=st.booleans(),
    background=st.booleans(),
    tools=st.booleans(),
    zone=st.sampled_from([None, None, "eu", "us"]),
    leaves_after=st.sampled_from([None, None, 0.0, 0.5]),
)
histories = st.lists(st.one_of(changes, calls, calls, calls), max_size=30)


@dataclass
class Probes:
    """Watches the leases of all pools: which of them are probes that are still out."""

    leases: list[Lease] = field(default_factory=list)
    most: int = 0

    def note(self, lease: Lease) -> None:
        self.leases.append(lease)
        member = lease._member
        live = [each for each in self.leases if each._member is member and not each._settled]
        out = [each for each in live if each._ticket.probe and each._ticket.era == member.breaker._era]
        self.most = max(self.most, len(out))


def noting(probes: Probes) -> Any:
    """What takes the place of a lease's beginning, to be noted."""
    begin = Lease.__init__

    def noted(lease: Lease, *arguments: Any) -> None:
        begin(lease, *arguments)
        probes.note(lease)

    return noted


async def ask(bench: Bench, step: Step) -> str:
    context = {"background": step.background, "data_zone": step.zone, "deadline": bench.loop.time() + 25.0}
    body = BODY | (TOOLS if step.tools else {})
    made = replace(CALL, **context)
    if not step.stream:
        return (await bench.gateway.complete("m", body, call=made)).deployment
    async for _ in bench.gateway.stream("m", body, call=made):
        pass
    return "streamed"


async def play(bench: Bench, history: list[Step]) -> list[Any]:
    tasks: list[asyncio.Task[str]] = []
    for step in history:
        if step.script is not None:
            name, script = step.script
            bench.wire.scripts[name] = script
        else:
            task = asyncio.create_task(ask(bench, step))
            tasks.append(task)
            if step.leaves_after is not None:
                bench.loop.call_later(step.leaves_after, task.cancel)
        await asyncio.sleep(step.pause)
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 3600.0)


@settings(max_examples=60, deadline=None)
@given(histories, st.integers(0, 99))
def test_no_call_is_lost_no_counter_stays_and_no_two_probes_are_out(history: list[Step], seed: int) -> None:
    async def scenario(probes: Probes) -> None:
        bench = Bench(CATALOGUE, seed, **{name: Script() for name in (*EU, *US)})
        results = await play(bench, history)
        for result in results:
            assert isinstance(result, str | GroundworkError | asyncio.CancelledError), result
        assert len(bench.records) == len(results)
        await asyncio.sleep(400.0)  # longer than any try of a probe
        for dispatcher in bench.gateway._dispatchers.values():
            assert [member.in_flight for member in dispatcher.pool.members if member.in_flight] == []
            assert [m.background_in_flight for m in dispatcher.pool.members if m.background_in_flight] == []
            assert dispatcher._line.ahead_of(background=True) == 0
        assert not any(bench.wire.open.values())
        assert probes.most <= 1
        for name in (*EU, *US):
            bench.script(name)
        await asyncio.sleep(60.0)
        for zone in ("eu", "us"):  # no breaker is stuck: whoever is asked serves again
            assert (
                await bench.gateway.complete("m", BODY | TOOLS, call=replace(CALL, data_zone=zone))
            ).deployment
        await asyncio.sleep(60.0)

    with pytest.MonkeyPatch.context() as patch:
        probes = Probes()
        patch.setattr(Lease, "__init__", noting(probes))
        run(scenario(probes))


@settings(max_examples=40, deadline=None)
@given(histories, st.integers(0, 99), st.sampled_from(["eu", "us"]), st.booleans())
def test_no_request_goes_to_another_zone_or_to_who_cannot_do_it(
    history: list[Step], seed: int, zone: str, tools: bool
) -> None:
    async def scenario() -> None:
        bench = Bench(CATALOGUE, seed, **{name: Script() for name in (*EU, *US)})
        same = [replace(step, zone=zone, tools=tools) for step in history]
        await play(bench, same)
        await asyncio.sleep(400.0)
        allowed = set(US) if zone == "us" else {"a", "c"} if tools else set(EU)
        assert {name for name, _ in bench.wire.sent} <= allowed
        assert {record.model_version for record in bench.records} <= {"2" if zone == "us" else "1"}

    run(scenario())
