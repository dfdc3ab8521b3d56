"""The one retry loop: from a request to an answer that has begun, whichever deployment gives it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from shared.errors import DeadlineExceeded, ModelsUnavailable

from .catalogue import Timeouts
from .credentials import Credentials
from .exchange import Answer, Request, StreamAnswer, open_answer
from .faults import DeploymentFault, FaultKind, Rejected
from .line import Line, Wants
from .pool import Demand, Lease, Pool
from .wire import CONNECTION_LOST, Wire

log = logging.getLogger("groundwork.inferencing")

# How long a call may wait for one in flight to end: longer is better refused, since the caller knows
# whether it can wait.
LONGEST_WAIT_SECONDS = 10.0
# How soon to look again for someone to take over a call that is overdue.
OVERDUE_CHECK_SECONDS = 0.25
# While too little is known to say what is overdue, how soon to look whether more is known.
UNKNOWN_PATIENCE_SECONDS = 1.0
# What to tell a caller when no deployment names a time.
DEFAULT_RETRY_AFTER_SECONDS = 1.0
# What nobody waits for, as RFC 9218 (4.1) has it: our own model server lets it give way, others ignore it.
BACKGROUND_PRIORITY = "u=7"
# Another deployment answered in less than half the time that this one has been silent: it hangs.
HANGING_FACTOR = 2.0

Try = asyncio.Task[Answer]


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer that has begun, with the lease that must be settled when it ends."""

    answer: Answer
    lease: Lease


class Dispatcher:
    """Sends requests to one pool."""

    def __init__(
        self, pool: Pool, timeouts: Timeouts, wire: Wire, credentials: Credentials, clock: Callable[[], float]
    ) -> None:
        self.pool = pool
        self._timeouts = timeouts
        self._wire = wire
        self._credentials = credentials
        self.clock = clock
        self._line = Line(self._may_go, clock)
        self._probes: set[asyncio.Task[None]] = set()
        pool.on_release = self._line.advance

    async def open(self, request: Request, demand: Demand, deadline: float, tries: list[str]) -> Opened:
        """An answer to ``request`` that has begun.

        A try that fails moves on to a deployment that was not tried yet; one that is overdue is joined by a
        second one, and the first to begin wins. ``tries`` receives the name of each deployment asked.
        Raises ``ModelsUnavailable``, ``DeadlineExceeded`` or ``Rejected``.
        """
        call = _Call(self, request, demand, deadline, tries)
        try:
            return await call.run()
        finally:
            call.abandon_rest()

    async def close(self) -> None:
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    async def lease(self, demand: Demand, tried: set[str], deadline: float) -> Lease | None:
        """The next deployment to try, waiting for one that is only busy; None where there is none."""
        wants = demand.wants(tried)
        # Nobody waits for a call in the background, so it may stand in line until its deadline.
        give_up_at = deadline if wants.background else min(deadline, self.clock() + LONGEST_WAIT_SECONDS)
        lease = None
        if not self._line.ahead_of(wants.background) or self.pool.has_room(self.clock(), wants):
            lease = self.pool.acquire(self.clock(), demand, tried)
        number = self._line.draw_number()
        while lease is None and self.clock() < give_up_at and self.pool.is_busy(self.clock(), wants):
            # A breaker that closes by time alone calls nobody.
            look_at = min(give_up_at, self.pool.closes_at(self.clock(), wants))
            if not await self._line.wait(number, wants, look_at):
                break
            lease = self.pool.acquire(self.clock(), demand, tried)
        self._line.advance()  # to take what is left, or to learn that there is nothing to wait for
        return lease

    def expected_seconds(self, demand: Demand, limit: int | None) -> float | None:
        """How long a call will likely take, its turn in line included; None where too little is known."""
        answer = self.pool.pace.expected_seconds(demand.shape[1], limit)
        if answer is None:
            return None
        return answer + self.pool.turn_seconds(self.clock(), demand, self._line.ahead_of(demand.background))

    def _may_go(self, wants: Wants) -> bool:
        now = self.clock()
        return self.pool.has_room(now, wants) or not self.pool.is_busy(now, wants)

    async def open_once(self, lease: Lease, request: Request) -> Answer:
        """One try. Raises ``DeploymentFault`` or ``Rejected``."""
        headers = await self._headers(lease)
        return await open_answer(self._wire, lease.deployment, headers, request, self._timeouts)

    def probe_beside(self, request: Request, demand: Demand) -> None:
        """Send a copy of ``request`` to a deployment whose isolation is over, if there is one."""
        lease = self.pool.acquire_probe(self.clock(), demand)
        if lease is not None:
            task = asyncio.create_task(self._probe(lease, request))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    async def _probe(self, lease: Lease, request: Request) -> None:
        try:
            async with asyncio.timeout(lease.probe_patience):
                answer = await self.open_once(lease, request)
            lease.begun(self.clock())
            try:
                async with asyncio.timeout(self._timeouts.total_seconds):
                    while isinstance(answer, StreamAnswer) and await answer.next() is not None:
                        pass
            finally:
                answer.close()
            lease.succeeded()
        except TimeoutError:
            lease.failed(self.clock(), DeploymentFault(FaultKind.HUNG, "probe_timeout"))
        except DeploymentFault as fault:
            lease.failed(self.clock(), fault)
        except Rejected:
            lease.succeeded()
        finally:
            lease.let_go()

    async def _headers(self, lease: Lease) -> Mapping[str, str]:
        try:
            credentials = await self._credentials(lease.deployment)
        except Exception as error:
            # The text of an identity library's error may hold what must not be logged.
            fields = {"deployment": lease.deployment.name, "error": type(error).__name__}
            log.error("credential_unavailable", extra=fields)
            raise DeploymentFault(FaultKind.MISCONFIGURED, "credential_unavailable") from None
        headers = {"Content-Type": "application/json", **credentials}
        return {**headers, "Priority": BACKGROUND_PRIORITY} if lease.is_background else headers


class _Call:
    """The tries of one call."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Request,
        demand: Demand,
        deadline: float,
        names: list[str],
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = dispatcher.pool
        self._clock = dispatcher.clock
        self._request = request
        self._demand = demand
        self._deadline = deadline
        self._tries: dict[Try, Lease] = {}
        self._tried: set[str] = set()
        self._lost: str | None = None
        self._fault: DeploymentFault | None = None
        self._names = names
        self._join_at = math.inf

    async def run(self) -> Opened:
        self._start(await self._next())
        self._dispatcher.probe_beside(self._request, self._demand)
        while True:
            opened = await self._wait()
            if opened is not None:
                return opened
            if not self._tries:
                self._start(await self._next())

    def abandon_rest(self) -> None:
        """Stop what still runs; closing a try's connection stops the service's work on it."""
        for task, lease in self._tries.items():
            task.add_done_callback(_discard)
            task.cancel()
            lease.let_go()

    async def _next(self) -> Lease:
        if self._clock() >= self._deadline:
            raise DeadlineExceeded()
        lease = await self._dispatcher.lease(self._demand, self._tried, self._deadline)
        if lease is None and self._lost is not None:
            # Nobody else can answer, and a lost connection may just have been kept alive too long.
            self._tried.discard(self._lost)
            self._lost = None
            lease = await self._dispatcher.lease(self._demand, self._tried, self._deadline)
        if lease is None:
            if self._clock() >= self._deadline:
                raise DeadlineExceeded()
            wait = self._pool.retry_after(self._clock(), self._demand) or self._named_wait
            # Whoever may try again later must know whether this request was refused by itself.
            raise ModelsUnavailable(retry_after=wait) from self._fault
        return lease

    @property
    def _named_wait(self) -> float:
        named = self._fault.retry_after if self._fault is not None else None
        return named or DEFAULT_RETRY_AFTER_SECONDS

    def _start(self, lease: Lease) -> None:
        self._names.append(lease.deployment.name)
        self._tried.add(lease.deployment.name)
        self._tries[asyncio.create_task(self._dispatcher.open_once(lease, self._request))] = lease
        self._join_at = lease.started + (lease.patience or UNKNOWN_PATIENCE_SECONDS)

    async def _wait(self) -> Opened | None:
        """Until a try ends, or is overdue and joined by another, or the deadline passes."""
        timeout = max(0.0, min(self._deadline, self._join_at) - self._clock())
        done, _ = await asyncio.wait(self._tries, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            opened = self._judge(task, self._tries.pop(task))
            if opened is not None:
                return opened
        if not done:
            if self._clock() >= self._deadline:
                self._give_up()
            self._join()
        return None

    def _judge(self, task: Try, lease: Lease) -> Opened | None:
        now = self._clock()
        try:
            answer = task.result()
        except Rejected:
            lease.succeeded()  # the deployment works; the request does not
            raise
        except DeploymentFault as fault:
            lease.failed(now, fault)
            self._fault = fault
            if fault.reason == CONNECTION_LOST and len(self._names) == 1:
                self._lost = lease.deployment.name
            return None
        except BaseException:
            lease.let_go()
            raise
        lease.begun(now)
        for other in self._tries.values():
            silent = now - other.started
            if silent > HANGING_FACTOR * (now - lease.started) and _is_overdue(other, now):
                other.failed(now, DeploymentFault(FaultKind.HUNG, "overtaken"))
        return Opened(answer, lease)

    def _join(self) -> None:
        """Send the request to a second deployment as well, because the first is overdue."""
        now = self._clock()
        slow = next(reversed(self._tries.values()))
        self._join_at = now + OVERDUE_CHECK_SECONDS
        if _is_overdue(slow, now):
            lease = self._pool.acquire_beside(now, self._demand, self._tried, slow)
            if lease is not None:
                self._start(lease)

    def _give_up(self) -> NoReturn:
        now = self._clock()
        for lease in self._tries.values():
            if _is_overdue(lease, now):
                lease.failed(now, DeploymentFault(FaultKind.HUNG, "silent_at_deadline"))
        raise DeadlineExceeded()


def _is_overdue(lease: Lease, now: float) -> bool:
    return lease.patience is not None and now - lease.started >= lease.patience


def _discard(task: Try) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
