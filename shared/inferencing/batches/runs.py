"""One run of a shard: its lines in flight at a time, what came of them noted every few seconds.

A line that is told to come back later waits and stays; only one that fails by itself, over and over, fails.
A run gives way after a while, so that a long wait is a timer's and not an activity's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shared.errors import GroundworkError, InternalError, ModelsUnavailable, RateLimited
from shared.identity import Principal
from shared.jobs import Ticket

from ..calls import CallContext, JobAccount
from ..faults import DeploymentFault, FaultKind
from .ledger import Ledger, Outcome
from .lines import Line, RawLine, answered_line, failed_line, parse_line, request_id

log = logging.getLogger("groundwork.batches")

LINES_IN_FLIGHT = 16
# What a killed host has to do again: the lines since the last note and those in flight.
NOTE_LINES = 64
NOTE_BYTES = 1024 * 1024
NOTE_SECONDS = 5.0
# After this long no new line is begun. An activity may take 30 minutes (host.json), a call under 4.
RUN_SECONDS = 60.0
# Between two looks at whether the job was cancelled or its time is over.
WATCH_SECONDS = 1.0
# A line whose own request failed this often, with the gateway's failover in each, is given up.
TRIES = 8
FIRST_WAIT_SECONDS = 0.1
WAIT_GROWTH = 3
LONGEST_WAIT_SECONDS = 30.0
# Where whoever refuses a line names no time.
UNNAMED_WAIT_SECONDS = 0.5


class Answerer(Protocol):
    """How a line is answered; `functions` brings it, since documents may be asked as well as models."""

    async def __call__(
        self, principal: Principal, endpoint: str, body: Mapping[str, Any], *, ticket: Ticket, request: str
    ) -> tuple[int, bytes]:
        """Status and JSON body. Raises what may pass if it is tried again later."""
        ...

    async def asked(
        self, principal: Principal, endpoint: str, body: Mapping[str, Any], *, ticket: Ticket, request: str
    ) -> dict[str, Any]:
        """The body as a service would be asked with it. Raises what refuses it."""
        ...

    def refusal(self, error: GroundworkError, request: str) -> tuple[int, bytes]:
        """Status and JSON body for an error that did not pass."""
        ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the lines that are left are given up."""

    code: str
    message: str


CANCELLED = Stop("batch_cancelled", "The batch was cancelled before this request was answered.")
EXPIRED = Stop("batch_expired", "The batch's completion window ended before this request was answered.")


def call_of(principal: Principal, ticket: Ticket, request: str) -> CallContext:
    """How the call of a line is accounted for."""
    return CallContext(
        tenant=principal.tenant,
        user=principal.user,
        purpose="batch",
        job=JobAccount(ticket.job, ticket.attempt),
        background=True,
        correlation_id=request,
    )


@dataclass(frozen=True, slots=True)
class Left:
    """Lines that a run has left, and how long to wait before the next."""

    lines: int
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a run needs to know of its batch."""

    ticket: Ticket
    endpoint: str
    principal: Principal
    first_line: int

    @property
    def job(self) -> str:
        return self.ticket.job


class Run:
    """Works through the pending lines of one shard."""

    def __init__(
        self, work: Work, ledger: Ledger, answer: Answerer, stop: Callable[[], Awaitable[Stop | None]]
    ) -> None:
        self._work = work
        self._ledger = ledger
        self._answer = answer
        self._stop_asked = stop
        self._stop: Stop | None = None
        self._queue: deque[tuple[int, RawLine]] = deque()
        self._unsettled: dict[int, RawLine] = {}
        self._outcomes: list[Outcome] = []
        self._bytes = 0
        self._noted_at = time.monotonic()
        self._noting: asyncio.Future[None] | None = None
        self._resume_at = 0.0
        self._ends_at = time.monotonic() + RUN_SECONDS
        self._wait = 0.0

    async def through(self, lines: AsyncIterator[tuple[int, RawLine]], pending: int) -> Left:
        """Work on the ``pending`` ones of a shard's lines until they are done or the run gives way."""
        async for number, raw in lines:
            index = number - self._work.first_line
            if pending >> index & 1:
                self._queue.append((index, raw))
                self._unsettled[index] = raw
        self._stop = await self._stop_asked()
        if self._stop is None:
            await self._work_through()
        if self._stop is not None:
            for index, raw in [*self._unsettled.items()]:
                await self._settle(index, self._given_up(index, raw, self._stop), False, self._stop.code)
        while self._outcomes or (self._noting is not None and not self._noting.done()):
            await self._note()
        return Left(len(self._unsettled), self._wait)

    async def _work_through(self) -> None:
        workers = [
            asyncio.ensure_future(self._worker()) for _ in range(min(LINES_IN_FLIGHT, len(self._queue)))
        ]
        watch = asyncio.ensure_future(self._watch(workers))
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            # Closing a call's connection stops the service's work on it.
            for task in (watch, *workers):
                task.cancel()
            ends = await asyncio.gather(watch, *workers, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _watch(self, workers: Sequence[asyncio.Future[None]]) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._outcomes and time.monotonic() - self._noted_at >= NOTE_SECONDS:
                await self._note()
            self._stop = await self._stop_asked()
            if self._stop is not None:
                for worker in workers:
                    worker.cancel()
                return

    async def _worker(self) -> None:
        while self._queue and time.monotonic() < self._ends_at:
            index, raw = self._queue.popleft()
            line = parse_line(raw.data, self._work.endpoint)
            number = self._work.first_line + index
            if line.fault is not None:
                fault = line.fault
                data = failed_line(
                    self._work.job, number, line.custom_id, fault.code, fault.message, fault.param
                )
                await self._settle(index, data, False)
            elif (answer := await self._answered(number, line)) is not None:
                status, body = answer
                data = answered_line(self._work.job, number, line.custom_id or "", status, body)
                await self._settle(index, data, status == 200)

    async def _answered(self, number: int, line: Line) -> tuple[int, bytes] | None:
        """The answer to a line; None where the run has no time left to wait for it."""
        work, own_id = self._work, request_id(self._work.job, number)
        failures = 0
        while True:
            if not await self._resumed():
                return None
            try:
                return await self._answer(
                    work.principal, work.endpoint, line.body, ticket=work.ticket, request=own_id
                )
            except GroundworkError as error:
                if _asks_to_wait(error):
                    # Who is told to stay away is told so for every line.
                    wait = error.retry_after or UNNAMED_WAIT_SECONDS
                    self._resume_at = max(self._resume_at, time.monotonic() + wait)
                    continue
                failures += 1
                if not error.retryable or failures == TRIES:
                    return self._answer.refusal(error, own_id)
                wait = FIRST_WAIT_SECONDS * WAIT_GROWTH ** (failures - 1)
                if not await self._slept(min(LONGEST_WAIT_SECONDS, wait)):
                    return None
            except Exception:
                # One line that trips us up must not take the others with it.
                log.exception("line_failed", extra={"job": work.job, "line": number})
                return self._answer.refusal(InternalError(), own_id)

    async def _resumed(self) -> bool:
        """Wait while the service asks to stay away; False where that outlasts the run."""
        while (wait := self._resume_at - time.monotonic()) > 0:
            if not await self._slept(wait):
                return False
        return True

    async def _slept(self, seconds: float) -> bool:
        if time.monotonic() + seconds > self._ends_at:
            self._wait = max(self._wait, seconds)
            return False
        await asyncio.sleep(seconds)
        return True

    def _given_up(self, index: int, raw: RawLine, stop: Stop) -> bytes:
        line = parse_line(raw.data, self._work.endpoint)
        number = self._work.first_line + index
        fault = line.fault or stop  # a line that is none is told so, whatever else
        return failed_line(self._work.job, number, line.custom_id, fault.code, fault.message)

    async def _settle(self, index: int, data: bytes, answered: bool, stop: str = "") -> None:
        # A line is settled once it is among the outcomes: what is cancelled from here on loses nothing.
        del self._unsettled[index]
        self._outcomes.append(Outcome(index, data, answered, stop))
        self._bytes += len(data)
        if len(self._outcomes) >= NOTE_LINES or self._bytes >= NOTE_BYTES:
            await self._note()

    async def _note(self) -> None:
        """Note what has come to an end. Whoever is cancelled while waiting for it leaves it going on."""
        if self._noting is None or self._noting.done():
            self._noting = asyncio.ensure_future(self._append())
        await asyncio.shield(self._noting)

    async def _append(self) -> None:
        while outcomes := self._outcomes:
            self._outcomes, self._bytes = [], 0
            self._noted_at = time.monotonic()
            try:
                await self._ledger.append(outcomes)
            except BaseException:
                self._outcomes[:0] = outcomes
                raise


def _asks_to_wait(error: GroundworkError) -> bool:
    """Whether the service wants fewer requests, rather than having failed at this one."""
    if isinstance(error, ModelsUnavailable):
        fault = error.__cause__
        return not isinstance(fault, DeploymentFault) or fault.kind is FaultKind.THROTTLED
    return isinstance(error, RateLimited)
