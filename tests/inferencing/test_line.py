"""Calls that wait for a busy deployment."""

from __future__ import annotations

import asyncio

import pytest

from shared.inferencing.line import MOST_WAITING, Line, Wants

from .scripted import BODY, CALL, Bench, Script, catalogue_text
from .virtual_time import run

CHAT = Wants(False, frozenset(), frozenset())
BATCH = Wants(True, frozenset(), frozenset())


def line() -> Line:
    return Line(lambda wants: True, asyncio.get_running_loop().time)


async def waiting(line: Line, wants: Wants, order: list[str], name: str, number: int | None = None) -> bool:
    number = line.draw_number() if number is None else number
    called = await line.wait(number, wants, asyncio.get_running_loop().time() + 10)
    order.append(name)
    return called


def test_a_flood_of_background_calls_delays_no_other_call() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 8"), a=Script(seconds=1.0))
        background = [asyncio.create_task(bench.complete(background=True)) for _ in range(60)]
        await asyncio.sleep(0.5)
        assert bench.wire.open["a"] == 6
        for _ in range(10):
            started = bench.loop.time()
            await asyncio.gather(bench.complete(), bench.complete())
            assert bench.loop.time() - started == pytest.approx(1.0, abs=0.01)
        assert await asyncio.gather(*background) == ["a"] * 60

    run(scenario())


def test_a_call_that_waits_for_one_deployment_holds_up_none_that_wait_for_another() -> None:
    async def scenario() -> None:
        text = catalogue_text("a", "b", a="max_in_flight = 1", b="max_in_flight = 1\ncapabilities = []")
        bench = Bench(text, a=Script(seconds=5.0), b=Script(seconds=1.0))
        tools = {**BODY, "tools": [{"type": "function", "function": {"name": "f"}}]}
        busy = [asyncio.create_task(bench.complete()) for _ in range(2)]
        await asyncio.sleep(0)
        needing = asyncio.create_task(bench.gateway.complete("m", tools, call=CALL))
        await asyncio.sleep(0)
        started = bench.loop.time()
        assert [await bench.complete(), await bench.complete()] == ["b", "b"]
        assert bench.loop.time() - started == pytest.approx(3.0, abs=0.05)
        assert (await needing).deployment == "a"
        await asyncio.gather(*busy)

    run(scenario())


def test_who_is_called_in_vain_keeps_its_place() -> None:
    async def scenario() -> None:
        queue, order = line(), []
        number = queue.draw_number()
        calls = [asyncio.create_task(waiting(queue, CHAT, order, name)) for name in ("second", "third")]
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(waiting(queue, CHAT, order, "first", number)))
        await asyncio.sleep(0)
        for _ in calls:
            queue.advance()
            await asyncio.sleep(0)
        assert order == ["first", "second", "third"]
        assert await asyncio.gather(*calls) == [True] * 3

    run(scenario())


def test_who_leaves_the_line_after_being_called_passes_the_turn_on() -> None:
    async def scenario() -> None:
        queue, order = line(), []
        leaving = asyncio.create_task(waiting(queue, CHAT, order, "leaving"))
        staying = asyncio.create_task(waiting(queue, BATCH, order, "staying"))
        await asyncio.sleep(0)
        queue.advance()
        leaving.cancel()
        assert await staying
        assert order == ["staying"]
        assert queue.ahead_of(background=True) == 0

    run(scenario())


@pytest.mark.parametrize("full", [CHAT, BATCH], ids=["chats", "batches"])
def test_a_full_line_refuses_only_calls_of_its_kind(full: Wants) -> None:
    async def scenario() -> None:
        queue, order = line(), []
        calls = [asyncio.create_task(waiting(queue, full, order, "")) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        assert not await waiting(queue, full, order, "refused")
        other = asyncio.create_task(waiting(queue, BATCH if full is CHAT else CHAT, order, ""))
        await asyncio.sleep(0)
        assert not other.done()
        for call in (*calls, other):
            call.cancel()
        await asyncio.gather(*calls, other, return_exceptions=True)
        assert queue.ahead_of(background=True) == 0

    run(scenario())
