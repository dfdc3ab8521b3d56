"""Whether a deployment may be called: closed, open until a time, or half-open for one probe.

    closed ── faults of enough weight ──────────────▶ open for an isolation
    closed ── throttled, misconfigured ─────────────▶ open for the time named
    open ──── its time has passed ──────────────────▶ half-open: one probe may go
    open ──── it was throttled for a moment ────────▶ closed
    half-open ── the probe succeeds ────────────────▶ closed, on probation
    half-open ── the probe fails ───────────────────▶ open again, for longer
    half-open ── throttled, the probe not refused ──▶ closed
    half-open ── the probe is abandoned ────────────▶ half-open: another may go
    closed, on probation ── any fault ──────────────▶ open again, for longer

A breaker holds no clock: every method is told the time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from .faults import FaultKind

# What a fault weighs. One that costs the caller a wait or a broken answer weighs double, so that at most
# two callers notice a deployment that hangs or breaks its streams.
FAULT_WEIGHTS = {FaultKind.FAILED: 1, FaultKind.HUNG: 2, FaultKind.INTERRUPTED: 2}
# Three errors in the last twelve outcomes isolate: a share of 30% is met within about ten requests, while
# one of 1% trips by chance in two of ten thousand windows (binomial).
ISOLATING_WEIGHT = 3
WINDOW_OUTCOMES = 12
# With nobody to take its calls over, an isolation refuses them all: half of the outcomes must be errors
# before. A share of 1% has that by chance in one of a thousand million windows.
ISOLATING_WEIGHT_ALONE = 6
# A shorter ``Retry-After`` asks for a slower pace: to wait for a probe's answer as well would take more time
# than was asked for. Refused this often in a row, without any answer, it is no moment.
LONGEST_MOMENT_SECONDS = 0.25
MOST_MOMENTS = 3
# A refusal comes at once, an answer takes its time: a probe that is out for longer was not refused.
REFUSAL_SECONDS = 1.0
# The first isolation outlasts a restart of a process; the longest one lets a deployment return within 5 s.
FIRST_ISOLATION_SECONDS = 2.0
LONGEST_ISOLATION_SECONDS = 4.0
# Someone has to change a role or a name first; a probe twice a minute notices soon enough.
MISCONFIGURED_SECONDS = 30.0
# Successes after a return until an isolation begins with its first length again.
PROBATION_SUCCESSES = 10
# What to tell a caller when only the outcome of a probe is awaited.
PROBE_UNDER_WAY_SECONDS = 1.0


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to make one call. An outcome counts only in the era in which its ticket was given."""

    era: int
    probe: bool


class Breaker:
    """``alone``: whether nobody else can take the calls of this deployment."""

    def __init__(self, *, alone: bool = False) -> None:
        self._isolating_weight = ISOLATING_WEIGHT_ALONE if alone else ISOLATING_WEIGHT
        self._open_until: float | None = None
        self._cause: FaultKind | None = None
        self._needs_proof = False
        self._refusals = 0  # windows named since the last answer
        self._probed_at: float | None = None
        self._era = 0
        self._weights: deque[int] = deque(maxlen=WINDOW_OUTCOMES)
        self._isolations = 0
        self._probation_left = 0

    def state(self, now: float) -> State:
        if self._open_until is None or now >= self.closes_at:
            return State.CLOSED
        return State.OPEN if now < self._open_until else State.HALF_OPEN

    @property
    def closes_at(self) -> float:
        """When it closes by time alone; infinite where it takes an answer, or where it is closed."""
        if self._open_until is None:
            return math.inf
        if not self._needs_proof:
            return self._open_until
        if self._cause is FaultKind.THROTTLED and self._probed_at is not None:
            return self._probed_at + REFUSAL_SECONDS
        return math.inf

    @property
    def cause(self) -> FaultKind | None:
        """Why it is not closed; None while it is."""
        return self._cause

    def admits(self, now: float) -> bool:
        state = self.state(now)
        return state is State.CLOSED or (state is State.HALF_OPEN and self._probed_at is None)

    @property
    def is_probed(self) -> bool:
        """Whether a probe is out, whose outcome says in a moment whether calls are admitted."""
        return self._probed_at is not None

    def retry_after(self, now: float) -> float:
        """Seconds until a call may be admitted; 0 where one is now."""
        if self.admits(now):
            return 0.0
        if self._open_until is not None and now < self._open_until:
            return self._open_until - now
        return PROBE_UNDER_WAY_SECONDS

    def enter(self, now: float) -> Ticket:
        """A ticket for a call that ``admits`` allows now."""
        if now >= self.closes_at:
            self._close()
        probe = self.state(now) is State.HALF_OPEN
        if probe:
            self._probed_at = now
        return Ticket(self._era, probe)

    def begun(self, ticket: Ticket) -> Ticket:
        """The answer has begun. That is proof enough for a probe, unless answers used to break later."""
        self._refusals = 0
        if ticket.probe and ticket.era == self._era and self._cause is not FaultKind.INTERRUPTED:
            self._close()
            return Ticket(self._era, probe=False)
        return ticket

    def succeeded(self, ticket: Ticket) -> None:
        if ticket.era != self._era:
            return
        if ticket.probe:
            self._close()
        self._weights.append(0)
        self._probation_left = max(0, self._probation_left - 1)
        if self._probation_left == 0:
            self._isolations = 0

    def failed(self, ticket: Ticket, now: float, kind: FaultKind, retry_after: float | None) -> None:
        if kind is FaultKind.THROTTLED and retry_after is not None:
            self._throttled(ticket, now, retry_after)
        elif ticket.era != self._era:
            return
        elif kind is FaultKind.MISCONFIGURED:
            self._open(now + MISCONFIGURED_SECONDS, kind)
        elif kind is FaultKind.THROTTLED:
            self._isolate(now, kind)
        else:
            self._weights.append(FAULT_WEIGHTS[kind])
            if ticket.probe or self._probation_left or sum(self._weights) >= self._isolating_weight:
                self._isolate(now, kind)

    def abandoned(self, ticket: Ticket) -> None:
        """The call ended without saying anything about the deployment."""
        if ticket.probe and ticket.era == self._era:
            self._probed_at = None

    def _throttled(self, ticket: Ticket, now: float, seconds: float) -> None:
        momentary = seconds <= LONGEST_MOMENT_SECONDS and self._refusals < MOST_MOMENTS
        if ticket.era == self._era or self._open_until is None:
            self._refusals += 1
            self._open(now + seconds, FaultKind.THROTTLED, needs_proof=not momentary)
        elif self._probed_at is None:
            # Sent before the breaker opened: it can only tell of a later end.
            self._open_until = max(self._open_until, now + seconds)
            self._needs_proof = self._needs_proof or not momentary

    def _isolate(self, now: float, cause: FaultKind) -> None:
        seconds = min(LONGEST_ISOLATION_SECONDS, FIRST_ISOLATION_SECONDS * 2**self._isolations)
        self._isolations = min(self._isolations + 1, 8)  # any bound beyond the longest will do
        self._open(now + seconds, cause)

    def _open(self, until: float, cause: FaultKind, *, needs_proof: bool = True) -> None:
        self._era += 1
        self._open_until = until
        self._cause = cause
        self._needs_proof = needs_proof
        self._probed_at = None
        self._weights.clear()

    def _close(self) -> None:
        self._era += 1
        if self._cause is not FaultKind.THROTTLED:
            self._probation_left = PROBATION_SUCCESSES
        self._open_until = None
        self._cause = None
        self._probed_at = None
        self._weights.clear()
