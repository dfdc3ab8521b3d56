from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import RateLimited
from shared.inferencing import CallContext
from shared.inferencing.capacity import BURST_SECONDS, RateBudget
from shared.inferencing.rates import (
    BACKGROUND_PATIENCE_SECONDS,
    BACKGROUND_WAIT_SECONDS,
    MOST_CALLERS,
    CallerRates,
)
from shared.limits import Limits

from .virtual_time import run

ADA = CallContext(tenant="contoso", user="ada")
BOB = CallContext(tenant="contoso", user="bob")
OTHER = CallContext(tenant="fabrikam", user="ada")
INGESTION = CallContext(tenant="contoso", background=True)


class Clock:
    """Time as the test sets it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rates() -> tuple[CallerRates, Clock]:
    clock = Clock()
    return CallerRates(clock), clock


def in_virtual_time(scenario: Any) -> Any:
    """Run ``scenario(rates, loop)`` where waiting costs nothing."""

    async def start() -> Any:
        loop = asyncio.get_running_loop()
        return await scenario(CallerRates(loop.time), loop)

    return run(start())


async def admitted(admission: Coroutine[Any, Any, Any]) -> bool:
    try:
        await admission
    except RateLimited:
        return False
    return True


async def test_a_user_has_ten_seconds_worth_at_once_and_then_its_rate() -> None:
    caller, clock = rates()
    limits = Limits(user_requests_per_minute=60)
    assert [await admitted(caller.admit(ADA, limits, 1)) for _ in range(11)] == [True] * 10 + [False]
    clock.now += 0.99
    assert not await admitted(caller.admit(ADA, limits, 1))
    clock.now += 0.02
    assert await admitted(caller.admit(ADA, limits, 1))


async def test_a_refusal_says_when_which_limit_and_what_of() -> None:
    caller, clock = rates()
    limits = Limits(user_tokens_per_minute=600)
    await caller.admit(ADA, limits, 1100)
    with pytest.raises(RateLimited) as refused:
        await caller.admit(ADA, limits, 1)
    assert refused.value.retry_after == pytest.approx(100.1)
    assert refused.value.extra == {"scope": "user", "unit": "tokens", "limit": 600}
    clock.now += (refused.value.retry_after or 0) + 1e-6
    assert await admitted(caller.admit(ADA, limits, 1))


async def test_users_and_tenants_do_not_use_up_each_others_rates() -> None:
    caller, _ = rates()
    limits = Limits(user_requests_per_minute=6, tenant_requests_per_minute=12)
    assert await admitted(caller.admit(ADA, limits, 1))
    assert not await admitted(caller.admit(ADA, limits, 1))
    assert await admitted(caller.admit(BOB, limits, 1))
    # The tenant has had its two; the other tenant's user of the same name has not.
    assert not await admitted(caller.admit(CallContext(tenant="contoso", user="eve"), limits, 1))
    assert await admitted(caller.admit(OTHER, limits, 1))


async def test_a_refused_call_is_charged_nothing() -> None:
    caller, _ = rates()
    limits = Limits(user_requests_per_minute=6, tenant_requests_per_minute=12)
    await caller.admit(ADA, limits, 1)
    for _ in range(5):
        assert not await admitted(caller.admit(ADA, limits, 1))
    assert await admitted(caller.admit(BOB, limits, 1))


async def test_what_a_call_did_not_use_is_given_back_and_what_it_used_beyond_is_taken() -> None:
    caller, _ = rates()
    limits = Limits(user_tokens_per_minute=6000)
    charge = await caller.admit(ADA, limits, 1000)
    assert not await admitted(caller.admit(ADA, limits, 1))
    charge.settle(100)
    charge.settle(0)  # only the first settlement counts
    second = await caller.admit(ADA, limits, 900)
    assert not await admitted(caller.admit(ADA, limits, 1))
    second.settle(1100)
    with pytest.raises(RateLimited) as refused:
        await caller.admit(ADA, limits, 1)
    assert refused.value.retry_after == pytest.approx(2.01)


async def test_a_changed_limit_applies_at_once_and_gives_no_new_burst() -> None:
    caller, clock = rates()
    for _ in range(10):
        await caller.admit(ADA, Limits(user_requests_per_minute=60), 1)
    assert not await admitted(caller.admit(ADA, Limits(user_requests_per_minute=600), 1))
    clock.now += 0.11
    assert await admitted(caller.admit(ADA, Limits(user_requests_per_minute=600), 1))
    assert await admitted(caller.admit(ADA, Limits(), 1))


async def test_callers_are_forgotten_only_where_that_gives_them_nothing() -> None:
    caller, clock = rates()
    limits = Limits(user_requests_per_minute=6)
    await caller.admit(ADA, limits, 1)
    for number in range(MOST_CALLERS):
        await caller.admit(CallContext(tenant="contoso", user=f"idle-{number}"), Limits(), 1)
    assert not await admitted(caller.admit(ADA, limits, 1))
    clock.now += 10
    assert await admitted(caller.admit(ADA, limits, 1))


@settings(max_examples=200)
@given(
    per_minute=st.floats(6, 6000),
    steps=st.lists(st.tuples(st.floats(0, 20), st.integers(0, 300), st.integers(0, 300)), max_size=60),
)
def test_no_span_of_time_admits_more_than_its_rate_and_one_burst(
    per_minute: float, steps: list[tuple[float, int, int]]
) -> None:
    """Whatever is charged and settled: over any span, at most rate x span + burst + the last call."""
    budget, now = RateBudget(per_minute), 0.0
    used: list[tuple[float, float]] = []
    for seconds, estimated, actual in steps:
        now += seconds
        if budget.seconds_until_free(now) == 0:
            budget.take(now, estimated)
            budget.take(now, actual - estimated)
            used.append((now, actual))
    burst = max(1.0, per_minute / 60 * BURST_SECONDS)
    for first in range(len(used)):
        total = 0.0
        for moment, units in used[first:]:
            # Before this call there was something left of what the span allows.
            assert total <= burst + per_minute / 60 * (moment - used[first][0]) + 1e-6
            total += units


@settings(max_examples=100)
@given(per_minute=st.floats(6, 600), calls=st.lists(st.floats(0, 5), min_size=1, max_size=80))
def test_requests_never_exceed_their_rate_over_any_span(per_minute: float, calls: list[float]) -> None:
    async def scenario() -> list[float]:
        caller, clock = rates()
        times: list[float] = []
        for seconds in calls:
            clock.now += seconds
            if await admitted(caller.admit(ADA, Limits(user_requests_per_minute=per_minute), 1)):
                times.append(clock.now)
        return times

    times = asyncio.run(scenario())
    burst = max(1.0, per_minute / 60 * BURST_SECONDS)
    for first, start in enumerate(times):
        for last, end in enumerate(times[first:], first):
            assert last - first + 1 <= burst + per_minute / 60 * (end - start) + 1e-6


def test_background_calls_leave_a_quarter_of_a_burst_to_people() -> None:
    async def scenario(caller: CallerRates, loop: asyncio.AbstractEventLoop) -> None:
        limits = Limits(tenant_requests_per_minute=60)
        started = loop.time()
        for _ in range(7):  # up to the one that leaves no quarter
            await caller.admit(INGESTION, limits, 1)
        assert loop.time() == started
        waiting = asyncio.create_task(caller.admit(INGESTION, limits, 1))
        await asyncio.sleep(0)
        for _ in range(3):
            assert await admitted(caller.admit(ADA, limits, 1))
        await waiting
        assert 3 < loop.time() - started <= BACKGROUND_PATIENCE_SECONDS

    in_virtual_time(scenario)


def test_background_calls_are_served_in_the_order_in_which_they_came() -> None:
    async def scenario(caller: CallerRates, loop: asyncio.AbstractEventLoop) -> None:
        order: list[int] = []

        async def one(number: int) -> None:
            await caller.admit(INGESTION, Limits(tenant_requests_per_minute=60), 1)
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(12)))
        assert order == sorted(order)

    in_virtual_time(scenario)


def test_a_background_call_is_not_starved_by_people_who_ask_all_the_time() -> None:
    async def scenario(caller: CallerRates, loop: asyncio.AbstractEventLoop) -> None:
        limits = Limits(tenant_requests_per_minute=60)

        async def people() -> None:
            while True:
                await admitted(caller.admit(ADA, limits, 1))
                await asyncio.sleep(0.05)

        asking = asyncio.create_task(people())
        await asyncio.sleep(30)
        started = loop.time()
        await caller.admit(INGESTION, limits, 1)
        assert loop.time() - started <= BACKGROUND_PATIENCE_SECONDS + 2
        asking.cancel()

    in_virtual_time(scenario)


@pytest.mark.parametrize(("deadline", "waited"), [(None, BACKGROUND_WAIT_SECONDS), (5.0, 5.0)])
def test_a_background_call_without_hope_is_refused_with_the_time_to_wait(
    deadline: float | None, waited: float
) -> None:
    async def scenario(caller: CallerRates, loop: asyncio.AbstractEventLoop) -> None:
        limits = Limits(tenant_tokens_per_minute=600)
        await caller.admit(ADA, limits, 10_000)
        started = loop.time()
        by = None if deadline is None else started + deadline
        call = CallContext(tenant="contoso", background=True, deadline=by)
        with pytest.raises(RateLimited) as refused:
            await caller.admit(call, limits, 1)
        assert loop.time() - started == pytest.approx(waited)
        assert refused.value.retry_after == pytest.approx(990.1 - waited, abs=0.1)
        # Whoever was refused stands in nobody's way.
        await asyncio.sleep(refused.value.retry_after or 0)
        assert await admitted(caller.admit(INGESTION, limits, 1))

    in_virtual_time(scenario)


async def test_a_process_gives_its_share_of_a_rate_alone() -> None:
    clock = Clock()
    caller = CallerRates(clock, share=lambda who: 0.25)
    limits = Limits(user_requests_per_minute=240)
    assert [await admitted(caller.admit(ADA, limits, 1)) for _ in range(11)] == [True] * 10 + [False]
