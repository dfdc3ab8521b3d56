"""Whether a call may be made at all: under its tenant's limits, at its caller's rate, in its job's budget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shared.limits import Limits

from .budgets import JobBudgets, Reservation
from .calls import CallContext
from .rates import CallerRates, Charge

LimitsOf = Callable[[str], Awaitable[Limits]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """What an admitted call was charged; `settle` corrects it when the call has ended."""

    charge: Charge
    reservation: Reservation | None

    def settle(self, tokens: int, cost: float) -> None:
        self.charge.settle(tokens)
        if self.reservation is not None:
            self.reservation.settle(cost)


class Admission:
    """Admits calls or refuses them, before anything is sent. ``limits_of`` gives a tenant's limits."""

    def __init__(self, limits_of: LimitsOf, rates: CallerRates, budgets: JobBudgets | None = None) -> None:
        self.limits_of = limits_of
        self._rates = rates
        self._budgets = budgets

    async def admit(self, call: CallContext, limits: Limits, tokens: int, cost: float) -> Admitted:
        """Charge ``call`` with what it may use at most; it must be settled when it ends.

        Raises `BudgetExceeded` where its job cannot pay, and `RateLimited` with ``retry_after``.
        """
        reservation = None
        if self._budgets is not None:
            reservation = await self._budgets.reserve(call, limits.job_cost, cost)
        try:
            return Admitted(await self._rates.admit(call, limits, tokens), reservation)
        except BaseException:
            if reservation is not None:
                reservation.settle(0.0)
            raise

    async def spend(self, call: CallContext, cost: float) -> None:
        """Charge the call's job with what it has cost already."""
        if self._budgets is not None and (reserved := await self._budgets.reserve(call, None, 0.0)):
            reserved.settle(cost)
