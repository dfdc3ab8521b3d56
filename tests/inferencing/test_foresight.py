"""What the gateway foresees of a call: whether it is right, and how long it will take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.errors import InvalidParameter, NotFound
from shared.inferencing.capacity import LEAST_PACE_TOKENS, MIN_SAMPLES, Pace

from .scripted import BODY, CALL, Bench, Script, catalogue_text
from .virtual_time import run


def test_a_pace_is_unknown_until_enough_answers_have_come() -> None:
    pace = Pace()
    for _ in range(MIN_SAMPLES):
        assert pace.expected_seconds(7, 100) is None
        pace.add(7, 50, 1.0)
    assert pace.expected_seconds(7, 100) == pytest.approx(1.0)
    assert pace.expected_seconds(7, 10) == pytest.approx(0.2)
    assert pace.expected_seconds(7, None) == pytest.approx(1.0)
    assert pace.expected_seconds(8, 200) is None


def test_short_answers_tell_lengths_but_no_pace() -> None:
    pace = Pace()
    for _ in range(10):
        pace.add(7, 100, 1.0)
        pace.add(3, LEAST_PACE_TOKENS - 1, 60.0)
    assert pace.expected_seconds(3, None) == pytest.approx(0.01 * (LEAST_PACE_TOKENS - 1))


async def foreseen(bench: Bench, **body: Any) -> float | None:
    return await bench.gateway.foresee("m", {**BODY, **body}, call=CALL)


def test_an_answer_is_expected_after_the_time_of_others_and_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.inferencing.capacity.LEAST_PACE_TOKENS", 1)  # the scripted answers are short

    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 2"), a=Script(seconds=8.0))
        assert await foreseen(bench) is None
        await asyncio.gather(*(bench.complete() for _ in range(4)))
        assert await foreseen(bench) == pytest.approx(8.0, abs=0.1)
        assert await foreseen(bench, max_tokens=2000) is None  # nothing is known of so long answers
        waiting = [asyncio.create_task(bench.complete()) for _ in range(6)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await foreseen(bench) == pytest.approx(8.0 + 8.0 * 4 / 2, abs=0.2)
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(bench.wire.sent) == 8  # foreseeing sends nothing

    run(scenario())


def test_a_stream_teaches_the_pace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.inferencing.capacity.LEAST_PACE_TOKENS", 1)

    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(seconds=2.0))
        for _ in range(3):
            await bench.stream()
        assert await foreseen(bench) == pytest.approx(2.0, abs=0.1)

    run(scenario())


def test_what_would_be_refused_is_refused_in_foresight() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="capabilities = []"), a=Script())
        with pytest.raises(InvalidParameter):
            await foreseen(bench, max_tokens=0)
        with pytest.raises(InvalidParameter):
            await foreseen(bench, tools=[{"type": "function"}])
        with pytest.raises(NotFound):
            await bench.gateway.foresee("other", BODY, call=CALL)
        assert bench.wire.sent == []

    run(scenario())
