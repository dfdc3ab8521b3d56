"""Limits of a tenant: of its model calls, of what it holds and of its jobs.

`GROUNDWORK_LIMITS` holds the defaults. The platform's administrator may grant a tenant other values; the
tenant's own administrator may go below what is granted, never above. `docs/usage-and-limits.md` explains
each limit.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidParameter, StorageUnavailable

if TYPE_CHECKING:
    from shared.storage import Storage

log = logging.getLogger("groundwork.limits")

TABLE = "limits"
# A changed limit may go unnoticed for this long in a process that has just read it.
CACHE_SECONDS = 30.0
# Tenants whose limits are kept; a process serves fewer at a time.
CACHE_ENTRIES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one tenant may use; None is no limit.

    Rates count calls of models, and tokens of prompt and completion together. ``prompt_tokens``,
    ``completion_tokens`` and ``request_tokens`` (both together) cap one chat completion. ``job_cost`` is
    what one attempt of a job may cost, in the currency of the catalogue's prices. ``documents`` and their
    ``bytes``, ``running_jobs``, ``jobs_per_day`` and ``unfinished_documents`` are counted by
    `shared.quotas`.
    """

    user_requests_per_minute: float | None = None
    user_tokens_per_minute: float | None = None
    tenant_requests_per_minute: float | None = None
    tenant_tokens_per_minute: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    request_tokens: float | None = None
    job_cost: float | None = None
    documents: float | None = None
    bytes: float | None = None
    running_jobs: float | None = None
    jobs_per_day: float | None = None
    unfinished_documents: float | None = None

    def changed_by(self, grants: Mapping[str, float | None]) -> Limits:
        """These limits with those of ``grants`` in their place; None there lifts a limit."""
        return Limits(**{**self.to_dict(), **grants})

    def tightened_by(self, own: Mapping[str, float | None]) -> Limits:
        """These limits, or those of ``own`` where they are lower."""
        both = {name: (self.to_dict()[name], own.get(name)) for name in NAMES}
        return Limits(**{name: lower(*pair) for name, pair in both.items()})

    def to_dict(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in NAMES}


NAMES = tuple(field.name for field in fields(Limits))
UNLIMITED = Limits()


def lower(one: float | None, other: float | None) -> float | None:
    """The lower of two limits, of which each may be none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def parse_limits(text: str) -> Limits:
    """The limits in ``name=value, name=value``; raises ``ValueError`` that names what is wrong."""
    values: dict[str, Any] = {}
    for pair in filter(None, re.split(r"[,\s]+", text)):
        name, _, value = pair.partition("=")
        values[name] = float(value) if re.fullmatch(r"\d{1,15}(?:\.\d{1,9})?", value) else 0.0
    try:
        return Limits(**checked_limits(values))
    except InvalidParameter as error:
        raise ValueError(error.detail) from None


def checked_limits(values: Mapping[str, Any]) -> dict[str, float | None]:
    """``values`` as limits by name; raises `InvalidParameter` for an unknown name or what is no limit."""
    for name, value in values.items():
        if name not in NAMES:
            raise InvalidParameter(f"There is no limit {name[:64]!r}.", parameter=name[:64])
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise InvalidParameter(f"{name!r} must be a number above 0, or null.", parameter=name)
    return dict(values)


class Source(StrEnum):
    """Who set a limit: the platform for a tenant, or the tenant's administrator for its own."""

    PLATFORM = "platform"
    TENANT = "tenant"


class TenantLimits:
    """The limits of all tenants, read from a table and kept for a while."""

    def __init__(
        self, storage: Storage, defaults: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._defaults = defaults
        self._clock = clock
        self._known: dict[str, tuple[float, Limits]] = {}

    async def of(self, tenant: str) -> Limits:
        """The limits in force. While storage does not answer, those known last, or the defaults."""
        known = self._known.get(tenant)
        if known is not None and known[0] > self._clock():
            return known[1]
        try:
            limits = self.in_force(await self.set_for(tenant))
        except StorageUnavailable:
            # A call must not fail because its limit cannot be looked up; it is looked up again soon.
            log.warning("limits_not_read", extra={"tenant": tenant})
            limits = known[1] if known else self._defaults
        if len(self._known) >= CACHE_ENTRIES:
            self._known.clear()
        self._known[tenant] = (self._clock() + CACHE_SECONDS, limits)
        return limits

    async def set_for(self, tenant: str) -> dict[Source, dict[str, float | None]]:
        """What was set for the tenant, by whom."""
        rows = await self._storage.get_rows(TABLE, tenant, [source.value for source in Source])
        return {source: _read(rows.get(source.value)) for source in Source}

    async def put(self, tenant: str, source: Source, values: Mapping[str, float | None]) -> Limits:
        """Set all that ``source`` sets for the tenant; gives the limits in force from now on."""
        row = {"PartitionKey": tenant, "RowKey": source.value, "limits": json.dumps(checked_limits(values))}
        await self._storage.put_row(TABLE, row)
        self._known.pop(tenant, None)
        return self.in_force(await self.set_for(tenant))

    def in_force(self, values: Mapping[Source, Mapping[str, float | None]]) -> Limits:
        """What follows from the defaults and ``values``."""
        granted = self._defaults.changed_by(values[Source.PLATFORM])
        return granted.tightened_by(values[Source.TENANT])


def _read(row: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The limits of a row; names that this version does not know are left out."""
    values = json.loads(row["limits"]) if row else {}
    return {name: value for name, value in values.items() if name in NAMES}
