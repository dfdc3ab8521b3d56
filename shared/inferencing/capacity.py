"""How much a deployment takes, and how long it takes: limits that adapt and waits that are learned.

Nothing here holds a clock: every method that needs the time is told it.
"""

from __future__ import annotations

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
        """A call was refused or left hanging while ``in_flight`` calls were out."""
        if now - self._shrunk_at >= SHRINK_PAUSE_SECONDS:
            self._limit = max(1.0, min(self._limit, in_flight) * SHRINK_FACTOR)
            self._shrunk_at = now


# Azure checks limits per minute over windows of 1 to 10 s ("Manage Azure OpenAI quota").
BURST_SECONDS = 10.0


class RateBudget:
    """A leaky allowance of ``per_minute`` units, of which ten seconds' worth may be used at once."""

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._most = max(1.0, self._per_second * BURST_SECONDS)
        self._level = self._most
        self._filled_at: float | None = None

    def seconds_until_free(self, now: float, reserve: float = 0.0) -> float:
        """0 while a unit is left: one call may overdraw, so that a large one is not refused for ever.

        ``reserve`` is the share of the burst that must be left besides.
        """
        self._fill(now)
        least = min(self._most, 1 + reserve * self._most)
        return max(0.0, (least - self._level) / self._per_second)

    def take(self, now: float, units: float) -> None:
        self._fill(now)
        self._level -= units

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            self._level = min(self._most, self._level + (now - self._filled_at) * self._per_second)
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
    def suspicious_seconds(self) -> float | None:
        return None if self._samples < MIN_SAMPLES else self._mean + 4 * self._deviation
