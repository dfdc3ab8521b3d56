"""Whether this host may go on with an orchestration of another version, as host.json says.

The order of versions and both strategies are those of the Durable Task worker (`VersionMatchStrategy`,
`VersionFailureStrategy` of microsoft/durabletask-dotnet): numbers where both are numbers with dots, else
text; no version is older than any.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Match(StrEnum):
    """Which versions beside its own a host takes."""

    NONE = "None"
    STRICT = "Strict"
    CURRENT_OR_OLDER = "CurrentOrOlder"


class Mismatch(StrEnum):
    """What becomes of the others: left for a host that takes them, or failed."""

    REJECT = "Reject"
    FAIL = "Fail"


_NUMBERS = re.compile(r"\d+(?:\.\d+){1,3}")


def accepts(match: Match, own: str, other: str) -> bool:
    """Whether a host of version ``own`` goes on with an orchestration of version ``other``."""
    if match is Match.NONE or own == other:
        return True
    return match is Match.CURRENT_OR_OLDER and _older(other, own)


def _older(one: str, other: str) -> bool:
    if _NUMBERS.fullmatch(one) and _NUMBERS.fullmatch(other):
        return _numbers(one) <= _numbers(other)
    return one.lower() < other.lower()


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
