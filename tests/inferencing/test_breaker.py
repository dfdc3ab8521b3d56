import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.inferencing.breaker import (
    FIRST_ISOLATION_SECONDS,
    ISOLATING_WEIGHT_ALONE,
    LONGEST_ISOLATION_SECONDS,
    LONGEST_MOMENT_SECONDS,
    MISCONFIGURED_SECONDS,
    MOST_MOMENTS,
    PROBATION_SUCCESSES,
    REFUSAL_SECONDS,
    WINDOW_OUTCOMES,
    Breaker,
    State,
)
from shared.inferencing.faults import FaultKind

FAILED, HUNG, INTERRUPTED = FaultKind.FAILED, FaultKind.HUNG, FaultKind.INTERRUPTED
THROTTLED = FaultKind.THROTTLED


def fail(breaker: Breaker, now: float, kind: FaultKind = FAILED, retry_after: float | None = None) -> None:
    breaker.failed(breaker.enter(now), now, kind, retry_after)


def succeed(breaker: Breaker, now: float) -> None:
    breaker.succeeded(breaker.begun(breaker.enter(now)))


def isolated() -> Breaker:
    breaker = Breaker()
    for _ in range(3):
        fail(breaker, 0.0)
    assert breaker.state(0.0) is State.OPEN
    return breaker


def test_two_errors_leave_it_closed_and_the_third_opens_it() -> None:
    breaker = Breaker()
    fail(breaker, 0.0)
    fail(breaker, 0.0)
    assert breaker.state(0.0) is State.CLOSED
    fail(breaker, 0.0)
    assert breaker.state(0.0) is State.OPEN


@pytest.mark.parametrize("kind", [HUNG, INTERRUPTED])
def test_a_fault_that_callers_notice_opens_it_the_second_time(kind: FaultKind) -> None:
    breaker = Breaker()
    fail(breaker, 0.0, kind)
    assert breaker.state(0.0) is State.CLOSED
    fail(breaker, 0.0, kind)
    assert breaker.state(0.0) is State.OPEN


def test_errors_count_while_they_are_within_the_last_twelve_outcomes() -> None:
    for successes, state in ((WINDOW_OUTCOMES - 3, State.OPEN), (WINDOW_OUTCOMES - 2, State.CLOSED)):
        breaker = Breaker()
        fail(breaker, 0.0)
        fail(breaker, 0.0)
        for _ in range(successes):
            succeed(breaker, 0.0)
        fail(breaker, 0.0)
        assert breaker.state(0.0) is state


def test_it_stays_open_until_the_last_moment_and_then_admits_one_probe() -> None:
    breaker = isolated()
    assert not breaker.admits(FIRST_ISOLATION_SECONDS - 0.001)
    assert breaker.retry_after(0.5) == FIRST_ISOLATION_SECONDS - 0.5
    assert breaker.state(FIRST_ISOLATION_SECONDS) is State.HALF_OPEN
    breaker.enter(FIRST_ISOLATION_SECONDS)
    assert not breaker.admits(FIRST_ISOLATION_SECONDS)
    assert breaker.retry_after(FIRST_ISOLATION_SECONDS) > 0


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = isolated()
    succeed(breaker, 5.0)
    assert breaker.state(5.0) is State.CLOSED
    assert breaker.cause is None


def test_each_failed_probe_lengthens_the_isolation_up_to_the_longest() -> None:
    breaker = isolated()
    fail(breaker, 2.0)
    assert breaker.retry_after(2.0) == 2 * FIRST_ISOLATION_SECONDS
    fail(breaker, 10.0)
    fail(breaker, 20.0)
    assert breaker.retry_after(20.0) == LONGEST_ISOLATION_SECONDS


def test_an_abandoned_probe_makes_room_for_another() -> None:
    breaker = isolated()
    breaker.abandoned(breaker.enter(5.0))
    assert breaker.admits(5.0)


def test_on_probation_one_error_isolates_again_and_after_it_does_not() -> None:
    for successes, state in ((PROBATION_SUCCESSES - 2, State.OPEN), (PROBATION_SUCCESSES, State.CLOSED)):
        breaker = isolated()
        succeed(breaker, 5.0)  # the probe, which counts as the first success
        for _ in range(successes):
            succeed(breaker, 5.0)
        fail(breaker, 5.0)
        assert breaker.state(5.0) is state


def test_after_probation_an_isolation_has_its_first_length_again() -> None:
    breaker = isolated()
    for _ in range(PROBATION_SUCCESSES + 1):
        succeed(breaker, 5.0)
    for _ in range(3):
        fail(breaker, 6.0)
    assert breaker.retry_after(6.0) == FIRST_ISOLATION_SECONDS


@pytest.mark.parametrize("seconds", [0.25, 10.0, 86400.0])
def test_retry_after_is_honoured_exactly(seconds: float) -> None:
    breaker = Breaker()
    fail(breaker, 100.0, THROTTLED, seconds)
    assert not breaker.admits(100.0 + seconds - 0.001)
    assert breaker.admits(100.0 + seconds)


def test_a_late_refusal_of_an_earlier_call_can_lengthen_the_window_but_not_shorten_it() -> None:
    breaker = Breaker()
    early, late = breaker.enter(0.0), breaker.enter(0.0)
    fail(breaker, 0.0, THROTTLED, 10.0)
    breaker.failed(early, 1.0, THROTTLED, 2.0)
    assert breaker.retry_after(1.0) == 9.0
    breaker.failed(late, 1.0, THROTTLED, 20.0)
    assert breaker.retry_after(1.0) == 20.0


@pytest.mark.parametrize(
    ("seconds", "state"),
    [(LONGEST_MOMENT_SECONDS, State.CLOSED), (LONGEST_MOMENT_SECONDS + 0.001, State.HALF_OPEN)],
)
def test_a_moment_passes_without_a_probe_and_more_does_not(seconds: float, state: State) -> None:
    breaker = Breaker()
    fail(breaker, 0.0, THROTTLED, seconds)
    assert breaker.state(seconds - 0.001) is State.OPEN
    assert breaker.state(seconds) is state
    assert [breaker.enter(seconds).probe for _ in range(2)] == [state is State.HALF_OPEN] * 2


def test_moments_that_follow_each_other_without_an_answer_end_with_a_probe() -> None:
    for answered, state in ((False, State.HALF_OPEN), (True, State.CLOSED)):
        breaker = Breaker()
        early = breaker.enter(0.0)
        for moment in range(MOST_MOMENTS + 1):
            assert breaker.state(moment) is State.CLOSED
            fail(breaker, moment, THROTTLED, 0.1)
            if answered and moment == 1:
                breaker.begun(early)  # from before, but it shows that there are answers
        assert breaker.state(MOST_MOMENTS + 0.5) is state


def test_a_late_refusal_for_longer_makes_more_of_a_moment() -> None:
    breaker = Breaker()
    early = breaker.enter(0.0)
    fail(breaker, 0.0, THROTTLED, 0.1)
    breaker.failed(early, 0.05, THROTTLED, 1.0)
    assert breaker.state(1.04) is State.OPEN
    assert breaker.state(1.05) is State.HALF_OPEN


def test_a_probe_that_is_not_refused_at_once_ends_a_throttling_and_nothing_else() -> None:
    for kind, state in ((THROTTLED, State.CLOSED), (FaultKind.MISCONFIGURED, State.HALF_OPEN)):
        breaker = Breaker()
        fail(breaker, 0.0, kind, 30.0)
        probe = breaker.enter(30.0)
        assert not breaker.admits(30.0 + REFUSAL_SECONDS - 0.001)
        assert breaker.state(30.0 + REFUSAL_SECONDS) is state
        if state is State.CLOSED:
            assert not breaker.enter(40.0).probe
            breaker.succeeded(breaker.begun(probe))
            assert breaker.state(40.0) is State.CLOSED


def test_whoever_is_alone_is_isolated_when_half_of_its_outcomes_are_errors() -> None:
    breaker = Breaker(alone=True)
    for _ in range(ISOLATING_WEIGHT_ALONE - 1):
        fail(breaker, 0.0)
        succeed(breaker, 0.0)
    assert breaker.state(0.0) is State.CLOSED
    fail(breaker, 0.0)
    assert breaker.state(0.0) is State.OPEN


def test_throttling_without_a_time_isolates() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, THROTTLED)
    assert breaker.retry_after(0.0) == FIRST_ISOLATION_SECONDS


def test_misconfiguration_opens_it_at_once_for_long() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, FaultKind.MISCONFIGURED)
    assert breaker.retry_after(0.0) == MISCONFIGURED_SECONDS


def test_the_outcome_of_a_call_from_before_the_isolation_changes_nothing() -> None:
    breaker = Breaker()
    old_success, old_failure = breaker.enter(0.0), breaker.enter(0.0)
    for _ in range(3):
        fail(breaker, 0.0)
    breaker.succeeded(old_success)
    assert breaker.state(0.0) is State.OPEN
    succeed(breaker, 5.0)
    breaker.failed(old_failure, 5.0, HUNG, None)
    assert breaker.state(5.0) is State.CLOSED


def test_a_stream_that_begins_proves_nothing_where_streams_used_to_break() -> None:
    for kind, state in ((INTERRUPTED, State.HALF_OPEN), (HUNG, State.CLOSED)):
        breaker = Breaker()
        fail(breaker, 0.0, kind)
        fail(breaker, 0.0, kind)
        breaker.begun(breaker.enter(5.0))
        assert breaker.state(5.0) is state


outcomes = st.sampled_from(
    ["succeed", "fail", "hang", "interrupt", "throttle", "moment", "refuse", "abandon", "wait"]
)


@given(st.lists(st.tuples(outcomes, st.integers(0, 5), st.floats(0, 3)), max_size=80))
def test_whatever_happens_it_admits_again_once_everything_has_ended(
    steps: list[tuple[str, int, float]],
) -> None:
    breaker, tickets, now = Breaker(), [], 0.0
    kinds = {
        "fail": (FAILED, None),
        "hang": (HUNG, None),
        "interrupt": (INTERRUPTED, None),
        "throttle": (THROTTLED, 7.0),
        "moment": (THROTTLED, 0.1),
        "refuse": (FaultKind.MISCONFIGURED, None),
    }
    for outcome, which, seconds in steps:
        now += seconds
        if breaker.admits(now):
            tickets.append(breaker.enter(now))
        if not tickets or outcome == "wait":
            continue
        ticket = tickets.pop(which % len(tickets))
        if outcome == "succeed":
            breaker.succeeded(breaker.begun(ticket))
        elif outcome == "abandon":
            breaker.abandoned(ticket)
        else:
            kind, retry_after = kinds[outcome]
            breaker.failed(ticket, now, kind, retry_after)
    for ticket in tickets:
        breaker.abandoned(ticket)
    later = now + MISCONFIGURED_SECONDS
    assert breaker.admits(later)
    assert breaker.retry_after(later) == 0
    succeed(breaker, later)
    assert breaker.state(later) is State.CLOSED


@given(st.lists(st.floats(0, 1), max_size=30))
def test_half_open_never_has_two_probes_out(pauses: list[float]) -> None:
    breaker, now, out = isolated(), 2.0, 0
    for pause in pauses:
        now += pause
        if breaker.admits(now):
            assert breaker.enter(now).probe
            out += 1
    assert out <= 1
