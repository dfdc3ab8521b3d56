"""What jobs may cost: a call that could take its job above its ceiling is not made.

Every process counts what it has spent on an attempt of a job, and writes that into a row of its own in the
attempt's progress. Before a call it adds up: what it has spent itself, what its calls in flight may still
cost, what the others had spent when it last looked. So one process never passes a ceiling; several may
together, by what the others have in flight or have spent since, at most `SYNC_SECONDS` before.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import BudgetExceeded
from shared.jobs import PROGRESS_TABLE, Ticket
from shared.limits import lower
from shared.write_behind import WriteBehind

from .calls import CallContext

if TYPE_CHECKING:
    from shared.storage import Storage

# What a process spends may be unknown to the others for this long, and is lost when it is killed.
SYNC_SECONDS = 5.0
# Money is kept in whole numbers of this unit: a table's whole numbers end at 2^31, 21,474 of a currency.
UNITS_OF_MONEY = 100_000
MOST_UNITS = 2**31 - 1
# Attempts of jobs whose spending is kept, a kilobyte each: some times those that one process works for at a
# time. One that was written may be forgotten.
MOST_ATTEMPTS = 500
ROW_PREFIX = "spent."


@dataclass(slots=True)
class _Spending:
    """What one attempt has cost, as this process knows it. Its row is its own: no other life writes it."""

    row: str = field(default_factory=lambda: f"{ROW_PREFIX}{secrets.token_hex(8)}")
    spent: float = 0.0
    reserved: float = 0.0
    others: float = 0.0
    read_at: float | None = None
    unwritten: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class Reservation:
    """What a call may cost, set aside; settled with what it did cost."""

    __slots__ = ("_budgets", "_cost", "_spending")

    def __init__(self, budgets: JobBudgets, spending: _Spending, cost: float) -> None:
        self._budgets = budgets
        self._spending: _Spending | None = spending
        self._cost = cost
        spending.reserved += cost

    def settle(self, cost: float) -> None:
        """The call did cost ``cost``. Only the first settlement counts."""
        if self._spending is not None:
            self._spending.reserved -= self._cost
            self._budgets.spent(self._spending, cost)
            self._spending = None


class JobBudgets:
    """The spending of all jobs that this process works for."""

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._attempts: dict[Ticket, _Spending] = {}
        self._writer = WriteBehind(self.flush, SYNC_SECONDS)

    async def reserve(self, call: CallContext, ceiling: float | None, cost: float) -> Reservation | None:
        """Set ``cost`` aside for ``call`` on the account of its job; None where no job pays for it.

        ``ceiling`` is the tenant's for every job; the lower of it and the job's own counts. Raises
        `BudgetExceeded` where the job cannot pay. Where only calls in flight stand in the way, it waits
        for one of them to end, since they may cost less than was set aside.
        """
        if call.job is None:
            return None
        ticket = Ticket(call.tenant, call.job.job, call.job.attempt)
        spending = self._spending(ticket)
        ceiling = lower(ceiling, call.job.ceiling)
        while ceiling is not None:
            if spending.read_at is None or self._clock() - spending.read_at >= SYNC_SECONDS:
                await self._read_others(ticket, spending)
            spent = spending.spent + spending.others
            if spent + cost > ceiling:
                raise BudgetExceeded(
                    f"The job has cost about {spent:.4f} of at most {ceiling:g}; its next call may cost "
                    f"up to {cost:.4f}.",
                    spent=round(spent, 6),
                    ceiling=ceiling,
                )
            if spent + spending.reserved + cost <= ceiling:
                break
            spending.settled.clear()
            await spending.settled.wait()
        return Reservation(self, spending, cost)

    def spent(self, spending: _Spending, cost: float) -> None:
        spending.settled.set()
        if cost:
            spending.spent += cost
            spending.unwritten = True
            self._writer.changed()

    async def flush(self) -> None:
        """Write what has changed; raises `StorageUnavailable`, and then keeps it for the next time."""
        for ticket, spending in list(self._attempts.items()):
            if spending.unwritten:
                spending.unwritten = False
                units = min(MOST_UNITS, round(spending.spent * UNITS_OF_MONEY))
                row = {"PartitionKey": ticket.instance, "RowKey": spending.row, "spent": units}
                try:
                    await self._storage.put_row(PROGRESS_TABLE, row)
                except BaseException:
                    spending.unwritten = True
                    raise

    async def close(self) -> None:
        """Write what is left."""
        await self._writer.close()

    async def _read_others(self, ticket: Ticket, spending: _Spending) -> None:
        spending.read_at = self._clock()
        rows = self._storage.query_rows(
            PROGRESS_TABLE, ticket.instance, first=ROW_PREFIX, last=f"{ROW_PREFIX}~"
        )
        spending.others = sum([row["spent"] async for row in rows if row["RowKey"] != spending.row])
        spending.others /= UNITS_OF_MONEY

    def _spending(self, ticket: Ticket) -> _Spending:
        found = self._attempts.get(ticket)
        if found is None:
            if len(self._attempts) >= MOST_ATTEMPTS:
                self._forget_written()
            found = self._attempts[ticket] = _Spending()
        return found

    def _forget_written(self) -> None:
        """Forget attempts without calls in flight: coming back, they get rows of their own."""
        for ticket, spending in list(self._attempts.items()):
            if not spending.unwritten and spending.reserved < 1 / UNITS_OF_MONEY:
                del self._attempts[ticket]
