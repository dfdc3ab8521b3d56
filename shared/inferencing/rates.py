"""Who may call how much: rates of requests and tokens for each user and each tenant.

A call is charged an estimate before it is sent and settled on what it used. Two buckets each, of requests
and of tokens, hold ten seconds' worth: over any span of time a caller is admitted for no more than its rate
in that span and ten seconds' worth beyond, and one last call may overdraw, so that a large one is not
refused for ever.

The buckets are those of this process: with several instances a caller may have as many times its rate.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from shared.errors import RateLimited
from shared.limits import Limits

from .calls import CallContext
from .capacity import RateBudget

# Callers whose buckets are kept: a few hundred bytes each.
MOST_CALLERS = 10_000
# How long a background call waits before its job's durable timer is the better place to wait.
BACKGROUND_WAIT_SECONDS = 30.0
# A background call that has waited this long competes like any other, so that it never starves.
BACKGROUND_PATIENCE_SECONDS = 10.0
# Less would be lost in the rounding of clocks.
SHORTEST_WAIT_SECONDS = 0.001

Caller = tuple[str, str | None]


class Charge:
    """What a call was charged; `settle` corrects it when the call has ended."""

    __slots__ = ("_background", "_buckets", "_clock", "_tokens")

    def __init__(
        self, buckets: tuple[RateBudget, ...], tokens: float, background: bool, clock: Callable[[], float]
    ) -> None:
        self._buckets = buckets
        self._tokens = tokens
        self._background = background
        self._clock = clock

    def settle(self, tokens: float) -> None:
        """The call used ``tokens``. Only the first settlement counts."""
        if tokens != self._tokens:
            now = self._clock()
            for bucket in self._buckets:
                bucket.take(now, tokens - self._tokens, self._background)
        self._buckets = ()


class _Buckets:
    """The two buckets of one caller, and the line of its background calls."""

    __slots__ = ("line", "requests", "tokens")

    def __init__(self) -> None:
        self.requests: RateBudget | None = None
        self.tokens: RateBudget | None = None
        self.line = asyncio.Lock()

    def allow(self, now: float, requests: float | None, tokens: float | None) -> None:
        """Let the buckets have these rates from now on."""
        self.requests = _with_rate(self.requests, requests, now)
        self.tokens = _with_rate(self.tokens, tokens, now)

    def is_full(self, now: float) -> bool:
        """Whether forgetting the buckets would change nothing."""
        buckets = (self.requests, self.tokens)
        return not self.line.locked() and all(b is None or b.share_left(now) >= 1 for b in buckets)


class CallerRates:
    """Admits calls at the rates of their tenants and users."""

    def __init__(
        self, clock: Callable[[], float], share: Callable[[Caller], float] = lambda caller: 1.0
    ) -> None:
        """``share`` is the part of a caller's rate that this process may give."""
        self._clock = clock
        self._share = share
        self._callers: OrderedDict[Caller, _Buckets] = OrderedDict()

    async def admit(self, call: CallContext, limits: Limits, tokens: float) -> Charge:
        """Charge ``call`` one request and ``tokens``, which `Charge.settle` corrects later.

        Raises `RateLimited` with ``retry_after``. A background call is counted on its tenant's rates alone;
        it waits its turn behind other background calls, and is refused after `BACKGROUND_WAIT_SECONDS` or
        at its deadline. So a batch asks for its share by sending its lines as background calls, as many at
        a time as it likes, and by waiting ``retry_after`` on a durable timer when one is refused.
        """
        now = self._clock()
        tenant = self._buckets((call.tenant, None), now)
        tenant.allow(
            now,
            self._rate(limits.tenant_requests_per_minute, (call.tenant, None)),
            self._rate(limits.tenant_tokens_per_minute, (call.tenant, None)),
        )
        if call.background:
            await self._wait_in_line(call, tenant, now)
            # Whoever lost patience is charged like everybody else, or the rate would not hold.
            yields = self._seconds_until_free(tenant, background=True) == 0
            return self._charge((tenant,), tokens, background=yields)
        self._refuse_above(limits.tenant_requests_per_minute, tenant.requests, now, "tenant", "requests")
        self._refuse_above(limits.tenant_tokens_per_minute, tenant.tokens, now, "tenant", "tokens")
        if call.user is None:
            return self._charge((tenant,), tokens)
        user = self._buckets((call.tenant, call.user), now)
        user.allow(
            now,
            self._rate(limits.user_requests_per_minute, (call.tenant, call.user)),
            self._rate(limits.user_tokens_per_minute, (call.tenant, call.user)),
        )
        self._refuse_above(limits.user_requests_per_minute, user.requests, now, "user", "requests")
        self._refuse_above(limits.user_tokens_per_minute, user.tokens, now, "user", "tokens")
        return self._charge((tenant, user), tokens)

    def _rate(self, limit: float | None, caller: Caller) -> float | None:
        return None if limit is None else limit * self._share(caller)

    def _refuse_above(
        self, limit: float | None, bucket: RateBudget | None, now: float, whose: str, unit: str
    ) -> None:
        if bucket is None or (wait := bucket.seconds_until_free(now)) == 0:
            return
        raise _refusal(whose, unit, limit, wait)

    def _charge(self, callers: tuple[_Buckets, ...], tokens: float, background: bool = False) -> Charge:
        now = self._clock()
        for caller in callers:
            if caller.requests is not None:
                caller.requests.take(now, 1, background)
            if caller.tokens is not None:
                caller.tokens.take(now, tokens, background)
        charged = tuple(caller.tokens for caller in callers if caller.tokens is not None)
        return Charge(charged, tokens, background, self._clock)

    async def _wait_in_line(self, call: CallContext, tenant: _Buckets, began: float) -> None:
        """Until the head of the tenant's line has room; the line is served in the order of arrival."""
        give_up_at = began + BACKGROUND_WAIT_SECONDS
        if call.deadline is not None:
            give_up_at = min(give_up_at, call.deadline)
        try:
            async with asyncio.timeout(max(0.0, give_up_at - began)), tenant.line:
                while (wait := self._seconds_to_wait(tenant, began)) > 0:  # noqa: ASYNC110 (time alone frees it)
                    await asyncio.sleep(max(wait, SHORTEST_WAIT_SECONDS))
        except TimeoutError:
            wait = max(self._seconds_to_wait(tenant, began), 1.0)
            raise _refusal("tenant", "background calls", None, wait) from None

    def _seconds_to_wait(self, tenant: _Buckets, began: float) -> float:
        patience = began + BACKGROUND_PATIENCE_SECONDS - self._clock()
        return min(
            self._seconds_until_free(tenant, background=True),
            max(self._seconds_until_free(tenant, background=False), patience),
        )

    def _seconds_until_free(self, tenant: _Buckets, background: bool) -> float:
        now = self._clock()
        buckets = (bucket for bucket in (tenant.requests, tenant.tokens) if bucket is not None)
        return max((bucket.seconds_until_free(now, background) for bucket in buckets), default=0.0)

    def _buckets(self, caller: Caller, now: float) -> _Buckets:
        found = self._callers.get(caller)
        if found is None:
            if len(self._callers) >= MOST_CALLERS:
                self._forget_idle(now)
            found = self._callers[caller] = _Buckets()
        self._callers.move_to_end(caller)
        return found

    def _forget_idle(self, now: float) -> None:
        """Forget callers whose buckets are full, which changes nothing, and else the one idle longest."""
        for caller in [caller for caller, buckets in self._callers.items() if buckets.is_full(now)]:
            del self._callers[caller]
        while len(self._callers) >= MOST_CALLERS:
            self._callers.popitem(last=False)


def _with_rate(bucket: RateBudget | None, per_minute: float | None, now: float) -> RateBudget | None:
    if per_minute is None:
        return None
    if bucket is None:
        return RateBudget(per_minute)
    bucket.change_rate(now, per_minute)
    return bucket


def _refusal(whose: str, unit: str, limit: float | None, wait: float) -> RateLimited:
    rate = f"the {whose}'s limit of {limit:g} {unit} a minute" if limit else f"the {whose}'s limit of {unit}"
    return RateLimited(f"This call exceeds {rate}.", retry_after=wait, scope=whose, unit=unit, limit=limit)
