"""Whether a call may be made at all: under its tenant's limits, at its caller's rate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shared.limits import Limits

from .calls import CallContext
from .rates import CallerRates, Charge

LimitsOf = Callable[[str], Awaitable[Limits]]


class Admission:
    """Admits calls or refuses them, before anything is sent. ``limits_of`` gives a tenant's limits."""

    def __init__(self, limits_of: LimitsOf, rates: CallerRates) -> None:
        self.limits_of = limits_of
        self._rates = rates

    async def admit(self, call: CallContext, limits: Limits, tokens: int, cost: float) -> Charge:
        """Charge ``call`` with what it may use; the charge must be settled when it ends.

        Raises `RateLimited` with ``retry_after``.
        """
        return await self._rates.admit(call, limits, tokens)
