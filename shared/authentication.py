"""From what a request brings to the principal behind it: an API key, an access token, a trusted ingress.

A valid credential is always taken. One that fails too often, from one source or against one key, is
answered with 429 and leaves no further line in the audit trail: nobody is locked out by the mistakes of
others, and nobody fills a table with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from shared.audit import Entry
from shared.entra import ingress_principal
from shared.errors import RateLimited, Unauthenticated
from shared.keys import KEY_PATTERN, RefusedKey

if TYPE_CHECKING:
    from shared.audit import Audit
    from shared.config import EntraSettings
    from shared.entra import AccessTokens
    from shared.identity import Principal
    from shared.keys import Keys

WINDOW_SECONDS = 60.0
# Names that are counted at a time: a flood from more sources than this is the network's to stop.
NAMES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request brings: a Bearer token or key, values of the ingress's header, its source address."""

    credential: str | None = field(default=None, repr=False)
    ingress: tuple[str, ...] = field(default=(), repr=False)
    source: str = ""


class FailedAttempts:
    """Counts failures by name, over fixed windows."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """``most`` failures of one name in a window are let through."""
        self._most = most
        self._clock = clock
        self._window = -1
        self._counts: dict[str, int] = {}

    def add(self, names: list[str]) -> float:
        """Count a failure for each name; seconds to wait where one of them has too many, else 0."""
        now = self._clock()
        window = int(now // WINDOW_SECONDS)
        if window != self._window or len(self._counts) > NAMES_MAX:
            self._window, self._counts = window, {}
        for name in names:
            self._counts[name] = self._counts.get(name, 0) + 1
        too_many = any(self._counts[name] > self._most for name in names)
        return (window + 1) * WINDOW_SECONDS - now if too_many else 0.0


class Authentication:
    """Decides who calls. Fails closed: what it does not know is `Unauthenticated`."""

    def __init__(
        self,
        *,
        keys: Keys,
        tokens: AccessTokens | None,
        audit: Audit,
        attempts: FailedAttempts,
        trusted_ingress: EntraSettings | None,
    ) -> None:
        """``tokens`` is None where no access tokens are taken, ``trusted_ingress`` where none is trusted."""
        self._keys = keys
        self._tokens = tokens
        self._audit = audit
        self._attempts = attempts
        self._trusted_ingress = trusted_ingress

    async def principal(self, presented: Presented, correlation_id: str) -> Principal:
        """The caller; raises `Unauthenticated`, `RateLimited`, `IdentityUnavailable`."""
        try:
            return await self._proved(presented)
        except Unauthenticated as error:
            if presented.credential is None and not (self._trusted_ingress and presented.ingress):
                raise  # nothing was tried
            names = [f"source:{presented.source}"]
            if isinstance(error, RefusedKey):
                names.append(f"key:{error.key.id}")
            if wait := self._attempts.add(names):
                raise RateLimited("Too many credentials were refused.", retry_after=wait) from None
            if isinstance(error, RefusedKey):
                await self._write_refusal(error, correlation_id)
            raise

    async def _proved(self, presented: Presented) -> Principal:
        credential = presented.credential
        if credential is not None:
            if KEY_PATTERN.fullmatch(credential):
                return await self._keys.resolve(credential)
            if self._tokens is not None and credential.count(".") == 2:
                return await self._tokens.resolve(credential)
            raise Unauthenticated("The credential is neither an API key nor an access token.")
        if self._trusted_ingress is not None and presented.ingress:
            return ingress_principal(presented.ingress, self._trusted_ingress)
        raise Unauthenticated("Give a credential as 'Authorization: Bearer …' or 'api-key: …'.")

    async def _write_refusal(self, error: RefusedKey, correlation_id: str) -> None:
        offered = f"key:{error.key.id}"
        who = replace(error.key.principal, roles=(), credential=offered)
        await self._audit.write(Entry.of(who, "authenticate", offered, correlation_id, error.reason))
