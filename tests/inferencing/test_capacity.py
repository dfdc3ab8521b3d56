import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.inferencing.capacity import MIN_SAMPLES, InFlightLimit, Latency, RateBudget


def test_a_limit_gives_up_a_quarter_of_what_was_in_flight_once_a_second() -> None:
    limit = InFlightLimit(100)
    limit.overloaded(0.0, 40)
    limit.overloaded(0.9, 40)
    assert limit.value == 30
    limit.overloaded(1.0, 30)
    assert limit.value == 22


def test_a_limit_grows_by_one_per_round_of_answers_and_only_when_used() -> None:
    limit = InFlightLimit(100)
    limit.overloaded(0.0, 40)
    for _ in range(100):
        limit.answered(14)
    assert limit.value == 30
    for _ in range(31):
        limit.answered(16)
    assert limit.value == 31


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.floats(0, 2))))
def test_a_limit_stays_between_one_and_the_most(steps: list[tuple[bool, int, float]]) -> None:
    limit, now = InFlightLimit(50), 0.0
    for overloaded, in_flight, seconds in steps:
        now += seconds
        limit.overloaded(now, in_flight) if overloaded else limit.answered(in_flight)
        assert 1 <= limit.value <= 50


def test_a_budget_gives_ten_seconds_worth_at_once_and_then_its_rate() -> None:
    budget = RateBudget(60)
    for _ in range(10):
        assert budget.seconds_until_free(0.0) == 0
        budget.take(0.0, 1)
    assert budget.seconds_until_free(0.0) == pytest.approx(1.0)
    assert budget.seconds_until_free(0.9) > 0
    assert budget.seconds_until_free(1.01) == 0


def test_what_a_background_call_overdraws_keeps_only_background_calls_waiting() -> None:
    budget = RateBudget(600)  # 10 a second, 100 at once
    budget.take(0.0, 1000, background=True)
    assert budget.seconds_until_free(0.0) == 0
    wait = budget.seconds_until_free(0.0, background=True)
    assert wait == pytest.approx((75 + 925) / 10)
    budget.take(0.0, 25)
    assert budget.seconds_until_free(wait, background=True) == pytest.approx(2.5)


def test_the_smallest_budget_serves_both_kinds_of_calls() -> None:
    budget = RateBudget(1)
    budget.take(0.0, 1, background=True)
    assert budget.seconds_until_free(0.0) == pytest.approx(60)
    assert budget.seconds_until_free(0.0, background=True) == pytest.approx(60)
    assert budget.seconds_until_free(60.0, background=True) == 0


def test_a_large_call_overdraws_and_is_paid_back_before_the_next() -> None:
    budget = RateBudget(600)
    budget.take(0.0, 1000)
    assert budget.seconds_until_free(0.0) == pytest.approx(90.1)


def test_too_few_answers_say_nothing_of_what_is_suspicious() -> None:
    latency = Latency()
    for _ in range(MIN_SAMPLES - 1):
        latency.add(1.0)
    assert latency.suspicious_seconds is None
    latency.add(1.0)
    assert latency.suspicious_seconds is not None


def test_what_is_suspicious_follows_the_answers() -> None:
    latency = Latency()
    for _ in range(50):
        latency.add(1.0)
    assert latency.suspicious_seconds == pytest.approx(1.0, abs=0.01)
    for number in range(50):
        latency.add(5.0 if number % 2 else 1.0)
    assert 5.0 < (latency.suspicious_seconds or 0) < 15.0
