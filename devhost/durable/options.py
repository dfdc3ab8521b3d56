"""The `extensions.durableTask` section of host.json, as far as it has a meaning on one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from .versions import Match, Mismatch

# Defaults of the extension's DurableTaskOptions: ten functions a processor, entity batches of fifty
# (Consumption) and a poll interval of 30 s for durable HTTP calls that answer 202 without Retry-After.
FUNCTIONS_PER_PROCESSOR = 10
ENTITY_BATCH_OPERATIONS = 50
HTTP_POLL_MILLISECONDS = 30_000
DEFAULT_HUB = "TestHubName"

Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class DurableOptions:
    """Limits and names of one task hub.

    `storageProvider`, tracing and extended sessions are accepted in host.json and have no effect here:
    the engine always stores in its own SQLite file.
    """

    hub_name: str = DEFAULT_HUB
    max_concurrent_activities: int = FUNCTIONS_PER_PROCESSOR * (os.cpu_count() or 1)
    max_concurrent_orchestrators: int = FUNCTIONS_PER_PROCESSOR * (os.cpu_count() or 1)
    max_entity_batch: int = ENTITY_BATCH_OPERATIONS
    http_poll_milliseconds: int = HTTP_POLL_MILLISECONDS
    default_version: str = ""
    version_match: Match = Match.NONE
    version_mismatch: Mismatch = Mismatch.REJECT

    @classmethod
    def from_host_json(
        cls, host: Mapping[str, Any], settings: Mapping[str, str] | None = None
    ) -> DurableOptions:
        """Read a parsed host.json; `settings` resolves `%NAME%` in the hub name. Raises ValueError."""
        section = host.get("extensions", {}).get("durableTask", {})
        hub = _resolve(str(section.get("hubName") or DEFAULT_HUB), settings or {})
        limit = FUNCTIONS_PER_PROCESSOR * (os.cpu_count() or 1)
        return cls(
            hub_name=hub,
            max_concurrent_activities=_positive(section, "maxConcurrentActivityFunctions", limit),
            max_concurrent_orchestrators=_positive(section, "maxConcurrentOrchestratorFunctions", limit),
            max_entity_batch=_positive(section, "maxEntityOperationBatchSize", ENTITY_BATCH_OPERATIONS),
            http_poll_milliseconds=_positive(
                section.get("httpSettings", {}),
                "defaultAsyncRequestSleepTimeMilliseconds",
                HTTP_POLL_MILLISECONDS,
            ),
            default_version=str(section.get("defaultVersion") or ""),
            version_match=_choice(section, "versionMatchStrategy", Match.NONE),
            version_mismatch=_choice(section, "versionFailureStrategy", Mismatch.REJECT),
        )


def _resolve(name: str, settings: Mapping[str, str]) -> str:
    """Replace `%NAME%` by the app setting; a hub whose setting is absent gets the default name."""
    reference = re.fullmatch(r"%([^%]+)%", name)
    return settings.get(reference[1], DEFAULT_HUB) if reference else name


def _positive(section: Mapping[str, Any], key: str, default: int) -> int:
    value = section.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"host.json: durableTask.{key} must be a positive integer, not {value!r}")
    return value


def _choice(section: Mapping[str, Any], key: str, default: Choice) -> Choice:
    """Names of strategies are read whatever their case, as the extension reads them."""
    value = section.get(key)
    if value is None:
        return default
    for choice in type(default):
        if str(value).lower() == choice.lower():
            return choice
    names = ", ".join(type(default))
    raise ValueError(f"host.json: durableTask.{key} must be one of {names}, not {value!r}")
