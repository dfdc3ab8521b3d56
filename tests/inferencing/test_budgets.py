"""The cost ceiling of a job: within one process, over several, and through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BudgetExceeded, RateLimited
from shared.inferencing import CallContext, Gateway, JobAccount, parse_catalogue
from shared.inferencing.admission import Admission
from shared.inferencing.budgets import SYNC_SECONDS, UNITS_OF_MONEY, JobBudgets
from shared.inferencing.rates import CallerRates
from shared.limits import Limits

from .scripted import Script, ScriptedWire
from .test_chat_limits import CATALOGUE, body
from .virtual_time import run


def call(job: str = "j1", attempt: int = 1, ceiling: float | None = None) -> CallContext:
    return CallContext(tenant="contoso", user="ada", job=JobAccount(job, attempt, ceiling))


class ProgressTable:
    """The two methods of `Storage` that budgets use."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    async def put_row(self, table: str, row: dict[str, Any]) -> None:
        self.rows[row["PartitionKey"], row["RowKey"]] = row

    async def query_rows(
        self, table: str, partition: str, *, first: str = "", last: str = "~"
    ) -> AsyncIterator[dict[str, Any]]:
        for (instance, key), row in sorted(self.rows.items()):
            if instance == partition and first <= key < last:
                yield row


def budgets(table: ProgressTable | None = None, clock: Any = lambda: 0.0) -> JobBudgets:
    return JobBudgets(table or ProgressTable(), clock)  # type: ignore[arg-type]


async def spend(job: JobBudgets, who: CallContext, ceiling: float | None, cost: float) -> None:
    reservation = await job.reserve(who, ceiling, cost)
    assert reservation is not None
    reservation.settle(cost)


async def test_a_call_that_could_pass_the_ceiling_is_not_made_and_one_that_reaches_it_is() -> None:
    job = budgets()
    await spend(job, call(), 1.0, 0.75)
    with pytest.raises(BudgetExceeded) as refused:
        await job.reserve(call(), 1.0, 0.26)
    assert refused.value.extra == {"spent": 0.75, "ceiling": 1.0}
    assert not refused.value.retryable
    await spend(job, call(), 1.0, 0.25)


@pytest.mark.parametrize(("tenants", "own"), [(1.0, 5.0), (5.0, 1.0), (None, 1.0), (1.0, None)])
async def test_the_lower_of_the_tenants_and_the_jobs_own_ceiling_counts(
    tenants: float | None, own: float | None
) -> None:
    with pytest.raises(BudgetExceeded):
        await budgets().reserve(call(ceiling=own), tenants, 1.5)


async def test_attempts_and_jobs_and_tenants_have_budgets_of_their_own() -> None:
    job = budgets()
    await spend(job, call(), 1.0, 1.0)
    await spend(job, call(attempt=2), 1.0, 1.0)
    await spend(job, call("j2"), 1.0, 1.0)
    assert await job.reserve(CallContext(tenant="contoso"), 1.0, 9.0) is None


def test_calls_in_flight_are_waited_for_where_they_alone_stand_in_the_way() -> None:
    async def scenario() -> None:
        job = budgets(clock=asyncio.get_running_loop().time)
        first = await job.reserve(call(), 1.0, 0.9)
        second = asyncio.create_task(job.reserve(call(), 1.0, 0.9))
        await asyncio.sleep(1)
        assert not second.done()
        assert first is not None
        first.settle(0.05)
        assert await second is not None

    run(scenario())


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.tuples(st.floats(0.01, 0.5), st.floats(0, 1), st.floats(0, 3)), min_size=1, max_size=30)
)
def test_one_process_never_passes_a_ceiling_however_calls_overlap(
    calls: list[tuple[float, float, float]],
) -> None:
    async def scenario() -> float:
        job = budgets(clock=asyncio.get_running_loop().time)
        spent = 0.0

        async def one(at_most: float, share: float, seconds: float) -> None:
            nonlocal spent
            try:
                reservation = await job.reserve(call(), 1.0, at_most)
            except BudgetExceeded:
                return
            assert reservation is not None
            await asyncio.sleep(seconds)
            spent += at_most * share
            reservation.settle(at_most * share)

        await asyncio.gather(*(one(*each) for each in calls))
        return spent

    assert run(scenario()) <= 1.0 + 1e-9


def test_processes_learn_what_the_others_have_spent_within_seconds() -> None:
    async def scenario() -> None:
        table, clock = ProgressTable(), asyncio.get_running_loop().time
        here, there = budgets(table, clock), budgets(table, clock)
        await spend(here, call(), 1.0, 0.6)
        await spend(there, call(), 1.0, 0.3)
        await asyncio.sleep(2 * SYNC_SECONDS)
        with pytest.raises(BudgetExceeded) as refused:
            await there.reserve(call(), 1.0, 0.2)
        assert refused.value.extra["spent"] == pytest.approx(0.9)
        # A process that takes over after a crash knows what was spent before.
        with pytest.raises(BudgetExceeded):
            await budgets(table, clock).reserve(call(), 1.0, 0.2)
        assert sum(row["spent"] for row in table.rows.values()) == round(0.9 * UNITS_OF_MONEY)

    run(scenario())


def gateway(limits: Limits) -> tuple[Gateway, ScriptedWire]:
    wire = ScriptedWire(a=Script(), b=Script())

    async def limits_of(tenant: str) -> Limits:
        return limits

    async def no_headers(deployment: Any) -> dict[str, str]:
        return {}

    admission = Admission(limits_of, CallerRates(lambda: 0.0), budgets())
    priced = parse_catalogue(CATALOGUE, {})
    return Gateway(priced, credentials=no_headers, wire=wire, admission=admission), wire


async def test_the_gateway_stops_a_job_before_it_sends_what_the_job_cannot_pay() -> None:
    # 20 tokens of a prompt at 3 and 100 of an answer at 2 a million: 0.00023 + ... at most.
    model, wire = gateway(Limits(job_cost=0.0003))
    await model.complete("chat", body(20, max_tokens=100), call=call())
    with pytest.raises(BudgetExceeded):
        await model.complete("chat", body(20, max_tokens=400), call=call())
    with pytest.raises(BudgetExceeded):
        async for _chunk in model.stream("chat", body(20, max_tokens=400), call=call()):
            pass
    assert len(wire.sent) == 1
    # A call that no job pays for has no ceiling.
    await model.complete("chat", body(20, max_tokens=400), call=CallContext(tenant="contoso"))


async def test_a_call_that_its_rate_refused_costs_its_job_nothing() -> None:
    model, _ = gateway(Limits(job_cost=0.0004, user_requests_per_minute=6))
    await model.complete("chat", body(20, max_tokens=100), call=call())
    for _ in range(20):
        with pytest.raises(RateLimited):
            await model.complete("chat", body(20, max_tokens=100), call=call())
