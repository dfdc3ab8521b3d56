"""Who waits for a deployment that is busy: those in the background last, each kind in the order it came."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from .catalogue import Capability

# How many calls of one kind may wait: more is better refused, since the caller knows whether it can
# wait. Apart from each other, so that a batch that fills its own line turns no reader away.
MOST_WAITING = 1000


class Wants(NamedTuple):
    """What a waiting call would take; calls that want the same may go at the same moment."""

    background: bool
    needs: frozenset[Capability]
    tried: frozenset[str]


class Line:
    """The calls that wait for one of those in flight to end.

    ``may_go`` says whether such a call should look again now: a place is free for it, or there is nothing
    left to wait for.
    """

    def __init__(self, may_go: Callable[[Wants], bool], clock: Callable[[], float]) -> None:
        self._may_go = may_go
        self._clock = clock
        self._numbers = count()
        self._waiting: dict[Wants, list[tuple[int, asyncio.Future[None]]]] = {}

    def draw_number(self) -> int:
        """A place in line; who is called in vain keeps it."""
        return next(self._numbers)

    def ahead_of(self, background: bool) -> int:
        """How many calls would be served before a new one."""
        if not self._waiting:
            return 0
        return sum(len(places) for wants, places in self._waiting.items() if wants.background <= background)

    async def wait(self, number: int, wants: Wants, look_at: float) -> bool:
        """Wait to be called, until ``look_at`` at the latest. False, at once, when the line is full."""
        alike = (places for other, places in self._waiting.items() if other.background == wants.background)
        if sum(map(len, alike)) >= MOST_WAITING:
            return False
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (number, called)
        insort(self._waiting.setdefault(wants, []), place)
        try:
            async with asyncio.timeout(max(0.0, look_at - self._clock())):
                await called
        except TimeoutError:
            pass  # nobody has called, but it is time to look
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                self.advance()
            raise
        finally:
            self._leave(wants, place)
        return True

    def advance(self) -> None:
        """Call the first in line that may go."""
        for wants in sorted(self._waiting, key=lambda wants: (wants.background, self._waiting[wants][0])):
            if self._may_go(wants):
                place = self._waiting[wants][0]
                self._leave(wants, place)
                if not place[1].done():
                    place[1].set_result(None)
                return

    def _leave(self, wants: Wants, place: tuple[int, asyncio.Future[None]]) -> None:
        places = self._waiting.get(wants, [])
        if place in places:
            places.remove(place)
            if not places:
                del self._waiting[wants]
