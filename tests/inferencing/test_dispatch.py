"""The routing of whole calls, in virtual time over scripted deployments."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import (
    DeadlineExceeded,
    GroundworkError,
    InvalidParameter,
    InvalidRequest,
    ModelsUnavailable,
    StreamInterrupted,
)
from shared.inferencing.breaker import REFUSAL_SECONDS, State
from shared.inferencing.faults import DeploymentFault, FaultKind

from .scripted import BODY, CALL, Bench, Script, catalogue_text
from .upstream import TOKENS
from .virtual_time import run

TWO = catalogue_text("a", "b")
SPILL = catalogue_text("ptu", "std", ptu="priority = 1", std="priority = 2")


def two(seed: int = 1) -> Bench:
    return Bench(TWO, seed, a=Script(), b=Script())


async def fail_over_from_a(bench: Bench, calls: int = 40, gap_seconds: float = 0.05) -> list[str]:
    answers = []
    for _ in range(calls):
        answers.append(await bench.complete())
        await asyncio.sleep(gap_seconds)
    return answers


async def until_answered_by(bench: Bench, name: str, every_seconds: float) -> None:
    for _ in range(1000):
        if await bench.complete() == name:
            return
        await asyncio.sleep(every_seconds)
    pytest.fail(f"{name} never answered")


def test_calls_are_shared_by_weight_when_nothing_is_in_flight() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", "b", a="weight = 3", b="weight = 1"), a=Script(), b=Script())
        for _ in range(400):
            await bench.complete()
        assert 0.65 < bench.wire.hits("a") / 400 < 0.85

    run(scenario())


def test_the_less_loaded_of_two_wins() -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", seconds=10.0)
        await asyncio.gather(*(bench.complete() for _ in range(20)), return_exceptions=True)
        assert bench.wire.most_open == {"a": 10, "b": 10}

    run(scenario())


def test_the_lowest_priority_group_serves_alone_while_it_can() -> None:
    async def scenario() -> None:
        bench = Bench(SPILL, ptu=Script(), std=Script())
        assert {await bench.complete() for _ in range(20)} == {"ptu"}

    run(scenario())


def test_a_full_group_spills_over_to_the_next() -> None:
    async def scenario() -> None:
        text = catalogue_text("ptu", "std", ptu="priority = 1\nmax_in_flight = 2", std="priority = 2")
        bench = Bench(text, ptu=Script(seconds=1.0), std=Script(seconds=1.0))
        answers = await asyncio.gather(*(bench.complete() for _ in range(5)))
        assert sorted(answers) == ["ptu", "ptu", "std", "std", "std"]

    run(scenario())


def test_a_throttled_group_spills_over_and_serves_again_right_after_its_window() -> None:
    async def scenario() -> None:
        bench = Bench(SPILL, ptu=Script(status=429, headers={"retry-after": "10"}), std=Script())
        assert await bench.complete() == "std"
        throttled_at = bench.loop.time()
        bench.script("ptu")
        await until_answered_by(bench, "ptu", 0.1)
        assert bench.wire.hits("ptu") == 2
        assert 9.8 < bench.loop.time() - throttled_at < 10.2

    run(scenario())


def test_a_request_budget_is_spent_before_the_service_has_to_refuse() -> None:
    async def scenario() -> None:
        text = catalogue_text("ptu", "std", ptu="priority = 1\nrequests_per_minute = 60", std="priority = 2")
        bench = Bench(text, ptu=Script(seconds=0.0), std=Script(seconds=0.0))
        answers = [await bench.complete() for _ in range(30)]
        assert answers.count("ptu") == 10  # ten seconds' worth at once

    run(scenario())


def test_a_spent_budget_without_an_alternative_says_when_to_come_back() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="requests_per_minute = 6"), a=Script())
        await bench.complete()
        with pytest.raises(ModelsUnavailable) as raised:
            await bench.complete()
        assert 0 < (raised.value.retry_after or 0) <= 10

    run(scenario())


@pytest.mark.parametrize(
    "fault",
    [
        Script(status=500),
        Script(status=503),
        Script(lost=True),
        Script(garbage=True),
        Script(status=408),
        Script(status=429),
        Script(status=429, headers={"retry-after-ms": "10000"}),
        Script(status=401),
        Script(status=404),
    ],
    ids=lambda script: f"{script.status}{'-lost' * script.lost}{'-garbage' * script.garbage}",
)
def test_no_call_is_lost_to_a_fault_of_one_deployment_and_it_is_isolated(fault: Script) -> None:
    async def scenario() -> None:
        bench = two()
        await bench.warm()
        bench.wire.scripts["a"] = fault
        answers = await fail_over_from_a(bench)
        assert set(answers) == {"b"}
        assert bench.wire.hits("a") <= 5

    run(scenario())


def test_a_hanging_deployment_delays_two_calls_by_a_second_and_is_isolated() -> None:
    async def scenario() -> None:
        bench = two()
        await bench.warm()
        bench.script("a", seconds=3600.0)
        durations = []

        async def one() -> None:
            started = bench.loop.time()
            await bench.complete()
            durations.append(bench.loop.time() - started)

        calls = []
        for _ in range(140):
            calls.append(asyncio.create_task(one()))
            await asyncio.sleep(0.1)
        await asyncio.gather(*calls)
        durations.sort()
        assert bench.wire.hits("a") <= 7
        assert sum(seconds > 0.5 for seconds in durations) == 2
        assert durations[-1] < 1.1

    run(scenario())


def test_a_slow_answer_still_wins_against_the_second_request_and_is_no_fault() -> None:
    async def scenario() -> None:
        bench = two()
        await bench.warm()
        bench.script("a", seconds=2.0)
        bench.script("b", seconds=2.0)
        started = bench.loop.time()
        await bench.complete()
        assert bench.loop.time() - started == pytest.approx(2.0, abs=0.01)
        members = bench.gateway._dispatchers["m", "eu"].pool.members
        assert all(member.breaker.state(bench.loop.time()) is State.CLOSED for member in members)
        await asyncio.sleep(0.01)
        assert bench.wire.open == {"a": 0, "b": 0}

    run(scenario())


def test_a_pool_that_is_slow_as_a_whole_gets_few_second_requests() -> None:
    async def scenario() -> None:
        bench = two()
        await bench.warm()
        bench.script("a", seconds=1.5)
        bench.script("b", seconds=1.5)
        await asyncio.gather(*(bench.complete() for _ in range(100)))
        assert len(bench.wire.sent) <= 100 + 10 + 10  # the burst, and one in ten

    run(scenario())


def test_returns_within_five_seconds_of_recovery_without_a_caller_noticing_the_probes() -> None:
    async def scenario() -> None:
        bench = two()
        await bench.warm()
        bench.script("a", seconds=3600.0)
        await fail_over_from_a(bench, 200)
        bench.script("a")
        recovered_at = bench.loop.time()
        await until_answered_by(bench, "a", 0.05)
        assert bench.loop.time() - recovered_at < 5.0

    run(scenario())


def test_a_probe_is_a_copy_of_a_call_that_another_deployment_answers() -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", status=500)
        await fail_over_from_a(bench, 20, 0.0)
        await asyncio.sleep(5)
        bench.wire.sent.clear()
        assert await bench.complete() == "b"
        assert [name for name, _ in bench.wire.sent] == ["b", "a"]

    run(scenario())


def test_all_down_is_told_at_once_with_the_shortest_retry_after() -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", status=429, headers={"retry-after": "30"})
        bench.script("b", status=429, headers={"retry-after": "7"})
        for number in range(30):
            started = bench.loop.time()
            with pytest.raises(ModelsUnavailable) as raised:
                await bench.complete()
            assert bench.loop.time() - started < 0.05
            assert raised.value.retry_after == pytest.approx(7.0, abs=0.05) or number
        assert len(bench.wire.sent) == 2

    run(scenario())


def test_all_failing_costs_at_most_one_and_a_fifth_upstream_calls_a_request() -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", status=500)
        bench.script("b", status=500)
        for _ in range(100):
            with pytest.raises(ModelsUnavailable) as raised:
                await bench.complete()
            assert (raised.value.retry_after or 0) > 0
            await asyncio.sleep(0.05)
        assert len(bench.wire.sent) <= 120

    run(scenario())


def test_a_lost_connection_is_tried_once_more_where_nobody_else_can_answer() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(lost=True))
        with pytest.raises(ModelsUnavailable):
            await bench.complete()
        assert bench.wire.hits("a") == 2
        bench.script("a", status=500)
        bench.wire.sent.clear()
        with pytest.raises(ModelsUnavailable):
            await bench.complete()
        assert bench.wire.hits("a") == 1

    run(scenario())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_the_service_refuses_is_not_tried_elsewhere_and_no_fault(status: int) -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", status=status)
        bench.script("b", status=status)
        for _ in range(20):
            with pytest.raises(GroundworkError) as raised:
                await bench.complete()
            assert not raised.value.retryable
        assert len(bench.wire.sent) == 20
        bench.script("a")
        bench.script("b")
        assert await bench.complete() in "ab"

    run(scenario())


def test_failover_never_leaves_the_data_zone() -> None:
    async def scenario() -> None:
        text = catalogue_text("a", "b", "c", b='data_zone = "us"', c='data_zone = "us"\npriority = 1')
        bench = Bench(text, a=Script(status=500), b=Script(status=500), c=Script())
        with pytest.raises(ModelsUnavailable):
            await bench.complete()
        assert {name for name, _ in bench.wire.sent} == {"a"}
        assert await bench.complete(data_zone="us") == "c"
        with pytest.raises(InvalidParameter):
            await bench.complete(data_zone="moon")

    run(scenario())


def test_a_session_stays_on_its_deployment_and_sessions_spread() -> None:
    async def scenario() -> None:
        bench = two()
        first = {str(n): await bench.complete(session=str(n)) for n in range(40)}
        again = {str(n): await bench.complete(session=str(n)) for n in range(40)}
        assert first == again
        assert 5 < list(first.values()).count("a") < 35
        bench.script("a", status=500)
        assert {await bench.complete(session=str(n)) for n in range(40)} == {"b"}

    run(scenario())


def test_the_deadline_bounds_the_whole_call() -> None:
    async def scenario() -> None:
        bench = Bench(TWO, a=Script(seconds=3600.0), b=Script(seconds=3600.0))
        started = bench.loop.time()
        with pytest.raises(DeadlineExceeded):
            await bench.complete(deadline=started + 3.0)
        assert bench.loop.time() - started == pytest.approx(3.0)
        await asyncio.sleep(0.01)
        assert bench.wire.open == {"a": 0, "b": 0}
        with pytest.raises(DeadlineExceeded):
            await bench.complete(deadline=bench.loop.time())

    run(scenario())


def test_calls_beyond_the_limit_wait_their_turn() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 2"), a=Script(seconds=1.0))
        started = bench.loop.time()
        await asyncio.gather(*(bench.complete() for _ in range(6)))
        assert bench.loop.time() - started == pytest.approx(3.0, abs=0.01)
        assert bench.wire.most_open["a"] == 2

    run(scenario())


def test_a_call_that_waits_too_long_for_its_turn_is_refused() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 1"), a=Script(seconds=60.0))
        results = await asyncio.gather(*(bench.complete() for _ in range(3)), return_exceptions=True)
        assert results[0] == "a"
        assert all(isinstance(result, ModelsUnavailable) for result in results[1:])

    run(scenario())


def test_a_call_that_someone_waits_for_never_waits_for_one_in_the_background() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 4"), a=Script(seconds=5.0))
        background = [asyncio.ensure_future(bench.complete(background=True)) for _ in range(6)]
        await asyncio.sleep(0.1)
        assert bench.wire.open["a"] == 3  # three quarters of four
        began = bench.loop.time()
        await asyncio.gather(*(bench.complete() for _ in range(4)))
        assert bench.loop.time() - began < 5.1
        await asyncio.gather(*background)

    run(scenario())


def test_a_deployment_is_told_which_calls_may_give_way() -> None:
    """By the header of RFC 9218; other calls say nothing."""

    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script())
        await bench.complete(background=True)
        await bench.complete()
        assert [sent.get("Priority") for sent in bench.wire.sent_headers] == ["u=7", None]

    run(scenario())


def test_a_call_in_the_background_takes_its_turn_after_all_others() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 1"), a=Script(seconds=1.0))
        order: list[str] = []

        async def one(name: str, background: bool) -> None:
            await bench.complete(background=background)
            order.append(name)

        calls = [one("first", False), one("later", True), one("second", False), one("third", False)]
        await asyncio.gather(*calls)
        assert order == ["first", "second", "third", "later"]

    run(scenario())


def test_a_call_in_the_background_outlasts_the_others_wait_in_line() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 1"), a=Script(seconds=15.0))
        answers = await asyncio.gather(*(bench.complete(background=True) for _ in range(3)))
        assert answers == ["a"] * 3

    run(scenario())


def test_the_background_leaves_a_part_of_a_rate_to_those_who_wait() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="requests_per_minute = 120"), a=Script())
        for _ in range(15):  # of the 20 that ten seconds allow
            await bench.complete(background=True)
        with pytest.raises(ModelsUnavailable):
            await bench.complete(background=True)
        for _ in range(5):
            await bench.complete()

    run(scenario())


def test_who_is_told_to_come_back_knows_whether_its_own_request_failed() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(status=429, headers={"retry-after": "9"}))
        with pytest.raises(ModelsUnavailable) as refused:
            await bench.complete()
        assert isinstance(refused.value.__cause__, DeploymentFault)
        assert refused.value.__cause__.kind is FaultKind.THROTTLED
        with pytest.raises(ModelsUnavailable) as told:
            await bench.complete()
        assert told.value.__cause__ is None

    run(scenario())


def test_calls_in_the_background_wait_for_the_outcome_of_a_probe() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(status=429, headers={"retry-after": "2"}))
        with pytest.raises(ModelsUnavailable):
            await bench.complete(background=True)
        bench.script("a", seconds=0.1)
        await asyncio.sleep(2.0)
        answers = await asyncio.gather(*(bench.complete(background=True) for _ in range(10)))
        assert answers == ["a"] * 10
        bench.script("a", status=429, headers={"retry-after": "2"})
        with pytest.raises(ModelsUnavailable):
            await bench.complete()
        await asyncio.sleep(2.0)
        refused = await asyncio.gather(
            *(bench.complete(background=True) for _ in range(10)), return_exceptions=True
        )
        assert all(isinstance(error, ModelsUnavailable) for error in refused)
        assert bench.wire.hits("a") == 13  # of the last ten one was sent

    run(scenario())


def test_calls_in_the_background_wait_for_a_moment_to_pass_and_others_are_told() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(status=429, headers={"retry-after-ms": "100"}))
        with pytest.raises(ModelsUnavailable) as refused:
            await bench.complete()
        assert refused.value.retry_after == pytest.approx(0.1)
        bench.script("a")
        with pytest.raises(ModelsUnavailable):
            await bench.complete()
        assert await asyncio.gather(*(bench.complete(background=True) for _ in range(5))) == ["a"] * 5
        first, *others = [time for _, time in bench.wire.sent]
        assert others == [pytest.approx(first + 0.11)] * 5

    run(scenario())


def test_calls_in_the_background_go_on_once_the_probe_was_not_refused() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(status=429, headers={"retry-after": "2"}))
        with pytest.raises(ModelsUnavailable):
            await bench.complete()
        bench.script("a", seconds=30.0)
        await asyncio.sleep(2.0)
        await asyncio.gather(*(bench.complete(background=True) for _ in range(10)))
        probe, *others = [time for _, time in bench.wire.sent[1:]]
        assert others == [pytest.approx(probe + REFUSAL_SECONDS)] * 9

    run(scenario())


def test_a_moment_that_has_passed_keeps_nobody_looking() -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a", a="max_in_flight = 2"), a=Script(seconds=50.0))
        before = [asyncio.create_task(bench.complete()) for _ in range(2)]
        await asyncio.sleep(0.1)
        breaker, now = bench.gateway._dispatchers["m", "eu"].pool.members[0].breaker, bench.loop.time()
        breaker.failed(breaker.enter(now), now, FaultKind.THROTTLED, 0.05)
        assert await bench.complete(background=True) == "a"
        assert await asyncio.gather(*before) == ["a"] * 2

    run(scenario())


def test_those_in_line_are_told_when_the_deployment_they_wait_for_breaks() -> None:
    async def scenario() -> None:
        bench = Bench(
            catalogue_text("a", a="max_in_flight = 1"),
            a=Script(seconds=1.0, status=429, headers={"retry-after": "60"}),
        )
        started = bench.loop.time()
        results = await asyncio.gather(*(bench.complete() for _ in range(5)), return_exceptions=True)
        assert all(isinstance(result, ModelsUnavailable) for result in results)
        assert bench.loop.time() - started < 1.1

    run(scenario())


@pytest.mark.parametrize(
    ("headers", "limit"), [({}, 30), ({"retry-after": "1"}, 256)], ids=["no time", "a time named"]
)
def test_the_limit_in_flight_shrinks_under_refusals_that_name_no_time(
    headers: dict[str, str], limit: int
) -> None:
    async def scenario() -> None:
        bench = Bench(catalogue_text("a"), a=Script(seconds=1.0, status=429, headers=headers))
        await asyncio.gather(*(bench.complete() for _ in range(40)), return_exceptions=True)
        member = bench.gateway._dispatchers["m", "eu"].pool.members[0]
        assert member.limit.value == limit

    run(scenario())


def test_a_stream_that_breaks_before_its_first_token_moves_on() -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", tokens=0)
        for _ in range(30):
            assert await bench.stream() == "".join(TOKENS)
        assert bench.wire.hits("a") <= 4

    run(scenario())


@pytest.mark.parametrize("fault", [Script(tokens=3), Script(tokens=3, stalls=True)], ids=["drop", "stall"])
def test_a_stream_that_breaks_later_ends_typed_and_its_deployment_is_isolated(fault: Script) -> None:
    async def scenario() -> None:
        bench = two()
        bench.wire.scripts["a"] = fault
        broken = 0
        for _ in range(50):
            text = ""
            try:
                async for chunk in bench.gateway.stream("m", BODY, call=CALL):
                    text += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
                assert text == "".join(TOKENS)
            except StreamInterrupted:
                broken += 1
                assert text == "".join(TOKENS[:3])
            await asyncio.sleep(0.1)
        assert broken == 2
        await asyncio.sleep(60.0)  # a probe may be under way
        assert bench.wire.open["a"] == 0

    run(scenario())


def test_a_deadline_in_a_silent_stream_counts_where_silence_is_unusual() -> None:
    async def scenario() -> None:
        bench = two()
        for _ in range(10):
            await bench.stream()
        bench.script("a", tokens=3, stalls=True)
        late = 0
        for _ in range(50):
            try:
                await bench.stream(deadline=bench.loop.time() + 5.0)
            except DeadlineExceeded:
                late += 1
            await asyncio.sleep(0.01)
        assert late == 2

    run(scenario())


def test_closing_a_stream_early_stops_the_service_and_is_no_fault() -> None:
    async def scenario() -> None:
        bench = two()
        for _ in range(20):
            stream = bench.gateway.stream("m", BODY, call=CALL)
            assert await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            assert bench.wire.open == {"a": 0, "b": 0}
        pool = bench.gateway._dispatchers["m", "eu"].pool
        assert all(member.in_flight == 0 and member.breaker.cause is None for member in pool.members)
        assert [record.outcome for record in bench.records] == ["cancelled"] * 20

    run(scenario())


def test_every_call_is_recorded_once_with_its_outcome_and_tries() -> None:
    async def scenario() -> None:
        bench = two()
        bench.script("a", status=500)
        for _ in range(10):
            await bench.complete()
        bench.script("b", status=400)
        with pytest.raises(InvalidRequest):
            await bench.complete()
        outcomes = [record.outcome for record in bench.records]
        assert outcomes == ["ok"] * 10 + ["invalid_request"]
        assert sum(record.upstream_calls for record in bench.records) == len(bench.wire.sent)
        assert bench.records[0].call is not None
        assert bench.records[0].usage.prompt_tokens == 9

    run(scenario())


scripts = st.builds(
    Script,
    seconds=st.sampled_from([0.0, 0.01, 0.5, 5.0, 3600.0]),
    status=st.sampled_from([200, 200, 200, 400, 401, 429, 500]),
    headers=st.sampled_from([{}, {"retry-after": "3"}, {"retry-after-ms": "100"}]),
    lost=st.booleans(),
    garbage=st.booleans(),
    tokens=st.sampled_from([None, None, 0, 3]),
    stalls=st.booleans(),
)
events = st.lists(
    st.tuples(
        st.sampled_from(["complete", "stream", "cancel", "script"]),
        st.sampled_from(["a", "b", "c"]),
        scripts,
        st.sampled_from([0.0, 0.01, 1.0, 4.0]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(events, st.integers(0, 1000))
def test_under_any_faults_every_call_ends_typed_and_everything_recovers(events, seed: int) -> None:
    async def scenario() -> None:
        text = catalogue_text("a", "b", "c", a="max_in_flight = 3", b="max_in_flight = 3", c="priority = 2")
        bench = Bench(text, seed, a=Script(), b=Script(), c=Script())
        calls: list[asyncio.Task[str]] = []
        for action, name, script, pause in events:
            if action == "script":
                bench.wire.scripts[name] = script
            elif action == "cancel" and calls:
                calls[-1].cancel()
            else:
                deadline = bench.loop.time() + 30.0
                start = bench.stream if action == "stream" else bench.complete
                calls.append(asyncio.create_task(start(deadline=deadline)))
            await asyncio.sleep(pause)
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 31.0)
        for result in results:
            assert isinstance(result, str | GroundworkError | asyncio.CancelledError), result
            assert not isinstance(result, str) or result in ("a", "b", "c", "".join(TOKENS))
        for name in "abc":
            bench.script(name)
        await asyncio.sleep(400.0)  # longer than any probe or isolation
        pool = bench.gateway._dispatchers["m", "eu"].pool
        assert [member.in_flight for member in pool.members] == [0, 0, 0]
        assert bench.wire.open == {"a": 0, "b": 0, "c": 0}
        assert len(bench.records) == len(results)
        for _ in range(40):  # each probe lets one deployment return
            await bench.complete()
            await asyncio.sleep(1.0)
        await asyncio.gather(*(bench.complete() for _ in range(8)))  # enough to spill over to the last
        states = {member.name: member.breaker.state(bench.loop.time()) for member in pool.members}
        assert states == dict.fromkeys("abc", State.CLOSED)

    run(scenario())


def test_the_same_seed_and_the_same_faults_give_the_same_routing() -> None:
    async def scenario(seed: int) -> list[tuple[str, float]]:
        bench = two(seed)
        await bench.warm()
        bench.wire.scripts["a"] = replace(Script(), status=500)
        await fail_over_from_a(bench)
        return bench.wire.sent

    assert run(scenario(5)) == run(scenario(5))
