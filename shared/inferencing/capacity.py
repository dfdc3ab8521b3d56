"""How much a deployment takes, and how long it takes: limits that adapt and waits that are learned.

Nothing here holds a clock: every method that needs the time is told it.
"""

from __future__ import annotations

from collections import defaultdict

# A quarter of the level at which it was refused is given up at once and won back one by one (AIMD,
# Chiu and Jain 1989); a burst of refusals belongs to one overload.
SHRINK_FACTOR = 0.75
SHRINK_PAUSE_SECONDS = 1.0


class InFlightLimit:
    """How many calls may be in flight: ``most``, or less after a deployment has shown that it is too much."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._shrunk_at = float("-inf")

    @property
    def value(self) -> int:
        return int(self._limit)

    def answered(self, in_flight: int) -> None:
        """An answer came while ``in_flight`` calls were out: grow by one per full round of answers."""
        if self._limit < self._most and 2 * in_flight >= self._limit:
            self._limit = min(self._most, self._limit + 1 / self._limit)

    def overloaded(self, now: float, in_flight: int) -> None:
        """A call hangs, or was refused without a time to come back, while ``in_flight`` calls were out."""
        if now - self._shrunk_at >= SHRINK_PAUSE_SECONDS:
            self._limit = max(1.0, min(self._limit, in_flight) * SHRINK_FACTOR)
            self._shrunk_at = now


# Azure checks limits per minute over windows of 1 to 10 s ("Manage Azure OpenAI quota").
BURST_SECONDS = 10.0

# What calls in the background leave of a burst: the size of one refusal's shrinking, above.
BACKGROUND_RESERVE = 0.25


class RateBudget:
    """A leaky allowance of ``per_minute`` units, of which ten seconds' worth may be used at once.

    Calls in the background leave a quarter of it. What one of them uses beyond that is a debt: paid back
    from what overflows, it keeps others in the background waiting and nobody else.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._per_second = per_minute / 60
        self._most = max(1.0, self._per_second * BURST_SECONDS)
        self._reserve = self._most * BACKGROUND_RESERVE
        self._level = self._most
        self._debt = 0.0
        self._filled_at: float | None = None

    def seconds_until_free(self, now: float, background: bool = False) -> float:
        """0 while a unit is left: one call may overdraw, so that a large one is not refused for ever."""
        self._fill(now)
        if not background:
            return max(0.0, (1 - self._level) / self._per_second)
        if self._debt:
            return (self._most - self._level + self._debt) / self._per_second
        return max(0.0, (min(self._most, self._reserve + 1) - self._level) / self._per_second)

    def take(self, now: float, units: float, background: bool = False) -> None:
        """Use ``units``; less than nothing gives back what was taken too much."""
        self._fill(now)
        if background:
            # The smallest budgets have no more than the one unit that every call may take.
            spare = max(min(1.0, self._level), self._level - self._reserve, 0.0)
            self._debt += max(0.0, units - spare)
            units = min(units, spare)
        self._level -= units

    def share_left(self, now: float) -> float:
        """How full it is: 1 at most, below 0 where it was overdrawn."""
        self._fill(now)
        return (self._level - self._debt) / self._most

    def change_rate(self, now: float, per_minute: float) -> None:
        """Fill at another rate from now on; what is left stays, as far as it fits."""
        if per_minute == self._per_minute:
            return
        self._fill(now)
        self._per_minute, self._per_second = per_minute, per_minute / 60
        self._most = max(1.0, self._per_second * BURST_SECONDS)
        self._reserve = self._most * BACKGROUND_RESERVE
        self._level = min(self._most, self._level)

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            level = self._level + (now - self._filled_at) * self._per_second
            self._level = min(self._most, level)
            self._debt = max(0.0, self._debt - (level - self._level))
        self._filled_at = now


# Below this number of answers the estimate says nothing.
MIN_SAMPLES = 3


class Latency:
    """How long answers take: a smoothed mean and deviation, and from them a time that is suspiciously long.

    The estimator is TCP's for its retransmission timer (Jacobson and Karels; RFC 6298): mean plus four
    deviations, gains of 1/8 and 1/4.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._mean = 0.0
        self._deviation = 0.0

    def add(self, seconds: float) -> None:
        if self._samples == 0:
            self._mean, self._deviation = seconds, seconds / 2
        else:
            self._deviation += (abs(self._mean - seconds) - self._deviation) / 4
            self._mean += (seconds - self._mean) / 8
        self._samples += 1

    @property
    def mean(self) -> float | None:
        return None if self._samples < MIN_SAMPLES else self._mean

    @property
    def suspicious_seconds(self) -> float | None:
        return None if self._samples < MIN_SAMPLES else self._mean + 4 * self._deviation


# Shorter answers say more of the time to the first token than of the pace of the rest.
LEAST_PACE_TOKENS = 16


class Pace:
    """How long answers get and how fast they come, learned from those to requests with like limits."""

    def __init__(self) -> None:
        self._seconds_per_token = Latency()
        self._tokens: defaultdict[int, Latency] = defaultdict(Latency)

    def add(self, size: int, tokens: int, seconds: float) -> None:
        """An answer of ``tokens`` to a request whose limit is of the order ``size``."""
        self._tokens[size].add(tokens)
        if tokens >= LEAST_PACE_TOKENS:
            self._seconds_per_token.add(seconds / tokens)

    def expected_seconds(self, size: int, limit: int | None) -> float | None:
        """What such an answer takes; None where too few have been seen."""
        tokens, pace = self._tokens[size].mean, self._seconds_per_token.mean
        if tokens is None or pace is None:
            return None
        return pace * (tokens if limit is None else min(tokens, limit))
