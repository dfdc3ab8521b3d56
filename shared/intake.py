"""Intake: events become jobs no faster than the jobs end.

A queue with ten thousand messages would otherwise be ten thousand jobs within minutes, all begun and none
done. What waits in the queue is as safe, costs nothing, and is seen in the queue's length. Each process
counts the jobs that it has begun for events; while too many have not ended, the next event waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING

from shared.errors import StorageUnavailable

if TYPE_CHECKING:
    from shared.jobs import Job

log = logging.getLogger("groundwork.intake")

# Enough to keep reading, embedding and storing busy with jobs of one document each.
OPEN_JOBS_MAX = 64
# The oldest jobs are looked at this often, a few at a time: those begun first end first.
LOOK_SECONDS = 1.0
LOOK_JOBS = 16
# Then an event goes on regardless: jobs that wait long, for a model that is down, must not stop the others.
PATIENCE_SECONDS = 120.0


class Intake:
    """The jobs that this process has begun for events and that may not have ended."""

    def __init__(
        self,
        find: Callable[[str, str], Awaitable[Job | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``find`` gives a tenant's job by its id."""
        self._find = find
        self._clock = clock
        self._sleep = sleep
        self._open: dict[str, str] = {}
        self._looked = float("-inf")

    @property
    def full(self) -> bool:
        return len(self._open) >= OPEN_JOBS_MAX

    async def room(self) -> None:
        """Return when one more job may begin, or patience has ended."""
        deadline = self._clock() + PATIENCE_SECONDS
        while self.full and (now := self._clock()) < deadline:
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                await self._look()
            else:
                await self._sleep(LOOK_SECONDS)

    def begun(self, job: Job) -> None:
        """A job has begun for an event."""
        self._open.setdefault(job.id, job.tenant)

    async def _look(self) -> None:
        """Forget the oldest jobs that have ended."""
        while oldest := list(islice(self._open.items(), LOOK_JOBS)):
            try:
                found = await asyncio.gather(*(self._find(tenant, job) for job, tenant in oldest))
            except StorageUnavailable:
                return  # whoever waits will be told when it goes on
            ended = [each for each, job in zip(oldest, found, strict=True) if job is None or job.state.final]
            for job, _ in ended:
                self._open.pop(job, None)
            if len(ended) < len(oldest):
                return
