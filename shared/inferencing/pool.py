"""The deployments that may answer a call in place of each other, and which of them is next.

A pool holds no clock and does no I/O: it is told the time and the outcome of each call. Lowest priority
group first, spilling over to the next; inside a group two random choices, the less loaded wins.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from random import Random

from .breaker import Breaker, State, Ticket
from .capacity import InFlightLimit, Latency, Pace, RateBudget
from .catalogue import Capability, Deployment
from .faults import DeploymentFault, FaultKind
from .line import Wants

log = logging.getLogger("groundwork.inferencing")

# Answers of alike requests take alike times; the shape says which are alike (see `Request.shape`).
Shape = tuple[str, int]
# The silences inside streams, learned like the times of answers.
GAP: Shape = ("gap", 0)

# Below a second nobody can tell a hanging deployment from a pause of the machine's.
LEAST_PATIENCE_SECONDS = 1.0
# With hedging asked for, a second request is cheap; a probe that fails early costs nobody anything.
LEAST_HEDGE_SECONDS = 0.05
LEAST_PROBE_SECONDS = 0.5
# Requests sent beside one that is merely slow: one in ten, after a burst of ten, so that a pool that is
# slow as a whole does not get twice the load (Dean and Barroso, "The Tail at Scale").
HEDGES_PER_CALL = 0.1
MOST_HEDGES = 10.0
# Calls in the background take at most this share of a deployment's calls in flight.
BACKGROUND_SHARE = 0.75
# Faults that the deployment announces: the next caller may be its probe. After any other, a probe is a copy
# of a call that someone else answers, so that no caller pays for a deployment that is still broken.
ANNOUNCED = frozenset({FaultKind.THROTTLED})


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call needs of a deployment."""

    shape: Shape
    tokens: int
    session: str | None = None
    background: bool = False
    needs: frozenset[Capability] = frozenset()

    def wants(self, tried: Collection[str] = ()) -> Wants:
        return Wants(self.background, self.needs, frozenset(tried))


class Member:
    """A deployment with what is known of it."""

    def __init__(self, deployment: Deployment, *, alone: bool) -> None:
        self.deployment = deployment
        self.name = deployment.name
        self.breaker = Breaker(alone=alone)
        self.limit = InFlightLimit(deployment.max_in_flight)
        self.in_flight = 0
        self.background_in_flight = 0
        self.answered_at: float | None = None
        self._latencies: defaultdict[Shape, Latency] = defaultdict(Latency)
        self._requests = _budget(deployment.requests_per_minute)
        self._tokens = _budget(deployment.tokens_per_minute)
        self._budgets = [budget for budget in (self._requests, self._tokens) if budget is not None]

    @property
    def load(self) -> float:
        return self.in_flight / self.deployment.weight

    def has_room(self, background: bool = False) -> bool:
        """Whether one more call may be in flight. Those in the background never keep others out."""
        if background:
            return self.in_flight < max(1, int(self.limit.value * BACKGROUND_SHARE))
        return self.in_flight - self.background_in_flight < self.limit.value

    def serves(self, now: float, background: bool = False) -> bool:
        """Whether a caller's request may be sent to it now, as far as its health and its rates go."""
        if self.breaker.state(now) is State.CLOSED:
            return self._rate_wait(now, background) == 0
        return self.awaits_probe(now, background) and self.breaker.cause in ANNOUNCED

    def awaits_probe(self, now: float, background: bool = False) -> bool:
        half_open = self.breaker.state(now) is State.HALF_OPEN
        return half_open and self.breaker.admits(now) and self._rate_wait(now, background) == 0

    def retry_after(self, now: float, background: bool = False) -> float:
        return max(self.breaker.retry_after(now), self._rate_wait(now, background))

    def charge(self, now: float, demand: Demand) -> None:
        if self._requests is not None:
            self._requests.take(now, 1, demand.background)
        if self._tokens is not None:
            self._tokens.take(now, demand.tokens, demand.background)

    def latency(self, shape: Shape) -> Latency:
        return self._latencies[shape]

    def _rate_wait(self, now: float, background: bool) -> float:
        return max((budget.seconds_until_free(now, background) for budget in self._budgets), default=0.0)


def _budget(per_minute: float | None) -> RateBudget | None:
    return None if per_minute is None else RateBudget(per_minute)


class Lease:
    """The right to one call of a deployment. It must be settled: ``succeeded``, ``failed`` or ``let_go``."""

    def __init__(self, pool: Pool, member: Member, demand: Demand, now: float) -> None:
        self._pool = pool
        self._member = member
        self._demand = demand
        self._ticket: Ticket = member.breaker.enter(now)
        self._settled = False
        self.started = now
        self.deployment = member.deployment
        member.in_flight += 1
        member.background_in_flight += demand.background
        member.charge(now, demand)

    @property
    def is_background(self) -> bool:
        """Whether nobody waits for the call."""
        return self._demand.background

    @property
    def isolated(self) -> bool:
        """Whether others have found the deployment broken since this call was sent."""
        return self._member.breaker.cause is not None and not self._ticket.probe

    @property
    def patience(self) -> float | None:
        """Seconds after which the answer is overdue; None while too little is known to say."""
        return self._pool.suspicious_seconds(self._member, self._demand.shape, self._pool.least_patience)

    @property
    def probe_patience(self) -> float | None:
        """The same for a probe, whose failure costs nobody anything."""
        return self._pool.suspicious_seconds(self._member, self._demand.shape, LEAST_PROBE_SECONDS)

    def learn_pace(self, now: float, tokens: int) -> None:
        """An answer of ``tokens`` is complete."""
        self._pool.pace.add(self._demand.shape[1], tokens, now - self.started)

    def learn_gap(self, seconds: float) -> None:
        """The longest silence in a stream that ended well."""
        self._pool.learn(self._member, GAP, seconds)

    def is_suspicious_gap(self, seconds: float) -> bool:
        longest = self._pool.suspicious_seconds(self._member, GAP, LEAST_PATIENCE_SECONDS)
        return longest is not None and seconds >= longest

    def begun(self, now: float) -> None:
        """The answer, or the first content of a stream, has come."""
        self._pool.learn(self._member, self._demand.shape, now - self.started)
        self._member.answered_at = now
        self._member.limit.answered(self._member.in_flight)
        was_probe = self._ticket.probe
        self._ticket = self._member.breaker.begun(self._ticket)
        if was_probe and not self._ticket.probe:
            self._log_return()

    def succeeded(self) -> None:
        if self._release():
            self._member.breaker.succeeded(self._ticket)
            if self._ticket.probe:
                self._log_return()

    def failed(self, now: float, fault: DeploymentFault) -> None:
        if not self._release():
            return
        member = self._member
        # Who names a time limits a rate, not what is in flight: with answers that take long, few calls in
        # flight would be far below that rate. A probe goes alone, whatever the limit.
        unpaced = fault.kind is FaultKind.THROTTLED and fault.retry_after is None
        if (unpaced or fault.kind is FaultKind.HUNG) and not self._ticket.probe:
            member.limit.overloaded(now, member.in_flight + 1)
        member.breaker.failed(self._ticket, now, fault.kind, fault.retry_after)
        name = self.deployment.name
        fields: dict[str, object] = {"deployment": name, "fault": fault.kind.value, "reason": fault.reason}
        log.info("model_try_failed", extra=fields)
        if member.breaker.state(now) is State.OPEN and member.breaker.closes_at == math.inf:
            fields["seconds"] = round(member.breaker.retry_after(now), 3)
            misconfigured = fault.kind is FaultKind.MISCONFIGURED
            log.log(logging.ERROR if misconfigured else logging.WARNING, "deployment_isolated", extra=fields)

    def let_go(self) -> None:
        """The call ended for a reason that says nothing about the deployment."""
        if self._release():
            self._member.breaker.abandoned(self._ticket)

    def _release(self) -> bool:
        if self._settled:
            return False
        self._settled = True
        self._member.in_flight -= 1
        self._member.background_in_flight -= self._demand.background
        self._pool.on_release()
        return True

    def _log_return(self) -> None:
        log.info("deployment_returned", extra={"deployment": self.deployment.name})


class Pool:
    """Deployments of one model version in one data zone."""

    def __init__(self, deployments: Iterable[Deployment], random: Random, *, hedge: bool = False) -> None:
        ordered = sorted(deployments, key=lambda deployment: deployment.priority)
        self.members = [Member(deployment, alone=len(ordered) == 1) for deployment in ordered]
        self._groups = [list(g) for _, g in groupby(self.members, key=lambda m: m.deployment.priority)]
        self._random = random
        self._latencies: defaultdict[Shape, Latency] = defaultdict(Latency)
        self.pace = Pace()
        self.on_release: Callable[[], None] = lambda: None
        self.least_patience = LEAST_HEDGE_SECONDS if hedge else LEAST_PATIENCE_SECONDS
        self._hedges = MOST_HEDGES

    def acquire(self, now: float, demand: Demand, tried: Collection[str] = ()) -> Lease | None:
        """A lease on the best deployment that was not tried yet and can take a call; None where none can."""
        self._hedges = min(MOST_HEDGES, self._hedges + HEDGES_PER_CALL)
        member = self._choose(now, demand, tried) or self._last_resort(now, demand, tried)
        return None if member is None else Lease(self, member, demand, now)

    def acquire_beside(self, now: float, demand: Demand, tried: Collection[str], slow: Lease) -> Lease | None:
        """A lease for a second request beside one that is overdue."""
        free = slow.isolated
        if not free and self._hedges < 1:
            return None
        member = self._choose(now, demand, tried)
        if member is None:
            return None
        self._hedges -= 0 if free else 1
        return Lease(self, member, demand, now)

    def acquire_probe(self, now: float, demand: Demand) -> Lease | None:
        """A lease for a copy of a call, to see whether an isolated deployment is back."""
        for member in self._able(demand.wants()):
            if member.awaits_probe(now, demand.background) and member.breaker.cause not in ANNOUNCED:
                return Lease(self, member, demand, now)
        return None

    def has_room(self, now: float, wants: Wants) -> bool:
        able = (member for member in self._able(wants) if member.serves(now, wants.background))
        return any(member.has_room(wants.background) for member in able)

    def is_busy(self, now: float, wants: Wants) -> bool:
        """Whether a deployment would take a call if one of those in flight ended.

        A call in the background also waits for the outcome of a probe, or for a moment to pass; others are
        told at once.
        """
        able = [*self._able(wants)]
        if wants.background and any(member.breaker.is_probed for member in able):
            return True
        if self.closes_at(now, wants) < math.inf:
            return True
        serving = (member for member in able if member.serves(now, wants.background))
        return any(not member.has_room(wants.background) for member in serving)

    def closes_at(self, now: float, wants: Wants) -> float:
        """When a breaker closes by time alone that such a call waits for; infinite where there is none."""
        if not wants.background:
            return math.inf
        ends = (member.breaker.closes_at for member in self._able(wants))
        return min((end for end in ends if end > now), default=math.inf)

    def supports(self, needs: frozenset[Capability]) -> bool:
        return any(needs <= member.deployment.capabilities for member in self.members)

    def retry_after(self, now: float, demand: Demand) -> float:
        """The shortest time after which a call may be taken; 0 where it is only that each was tried."""
        able = self._able(demand.wants())
        waits = (member.retry_after(now, demand.background) for member in able)
        return min(waits, default=0.0)

    def turn_seconds(self, now: float, demand: Demand, ahead: int) -> float:
        """How long the last of ``ahead`` calls in line will likely wait; 0 where too little is known."""
        able = [m for m in self._able(demand.wants()) if m.serves(now, demand.background)]
        mean = self._latencies[demand.shape].mean
        if not able or mean is None:
            return 0.0
        return mean * ahead / sum(member.limit.value for member in able)

    def learn(self, member: Member, shape: Shape, seconds: float) -> None:
        member.latency(shape).add(seconds)
        self._latencies[shape].add(seconds)

    def suspicious_seconds(self, member: Member, shape: Shape, least: float) -> float | None:
        """From the member's own answers to alike requests, or the pool's where it has too few."""
        # A stream begins no later than a whole answer to the same request would have come.
        whole = ("answer", shape[1])
        for latency in (member.latency(shape), self._latencies[shape], self._latencies[whole]):
            if latency.suspicious_seconds is not None:
                return max(least, latency.suspicious_seconds)
        return None

    def _able(self, wants: Wants) -> Iterator[Member]:
        return (
            member
            for member in self.members
            if member.name not in wants.tried and wants.needs <= member.deployment.capabilities
        )

    def _choose(self, now: float, demand: Demand, tried: Collection[str]) -> Member | None:
        background, needs = demand.background, demand.needs
        for group in self._groups:
            able = [
                member
                for member in group
                if member.name not in tried
                and needs <= member.deployment.capabilities
                and member.has_room(background)
                and member.serves(now, background)
            ]
            if able:
                return self._pick(able, demand.session)
        return None

    def _last_resort(self, now: float, demand: Demand, tried: Collection[str]) -> Member | None:
        """With nobody else to answer, the caller's own request is the probe."""
        for member in self._able(demand.wants(tried)):
            if member.awaits_probe(now, demand.background):
                return member
        return None

    def _pick(self, able: list[Member], session: str | None) -> Member:
        if len(able) == 1:
            return able[0]
        if session is not None:
            return max(able, key=lambda member: _affinity(session, member.deployment))
        first, second = self._draw_two(able)
        return second if second.load < first.load else first

    def _draw_two(self, able: list[Member]) -> tuple[Member, Member]:
        """Two different members, each drawn by weight."""
        first = self._draw(able)
        return first, self._draw([member for member in able if member is not first])

    def _draw(self, able: list[Member]) -> Member:
        if len(able) == 1:
            return able[0]
        mark = self._random.random() * sum(member.deployment.weight for member in able)
        for member in able:
            mark -= member.deployment.weight
            if mark < 0:
                return member
        return able[-1]


def _affinity(session: str, deployment: Deployment) -> float:
    """Weighted rendezvous hashing: most sessions stay where they are when a deployment comes or goes."""
    digest = hashlib.blake2b(f"{session}\0{deployment.name}".encode(), digest_size=8).digest()
    share = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -deployment.weight / math.log(share)
