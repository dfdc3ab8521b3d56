"""A service's answers to a batch on their way from its files into the ledgers."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..calls import Usage
from .ledger import Ledger, Outcome
from .lines import LineSplitter, answered_line, encode, failed_line
from .plans import Plan
from .runs import CANCELLED, EXPIRED, Stop

LOST = Stop("request_lost", "The service's batch ended without an answer to this request.")


@dataclass
class Collection:
    """What is held of them; ``custom_ids`` are those of the lines without an outcome, by number."""

    job: str
    plan: Plan
    ledgers: list[Ledger] = field(default_factory=list)
    custom_ids: dict[int, str] = field(default_factory=dict)
    bytes: int = 0
    answered: int = 0
    failed: int = 0
    _held: dict[int, list[Outcome]] = field(default_factory=dict)
    _usages: dict[int, Usage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._firsts = [shard.first_line for shard in self.plan.shards]

    @property
    def is_open(self) -> bool:
        """Whether any line has no outcome."""
        return bool(self.custom_ids)

    def take(self, line: Mapping[str, Any]) -> bool:
        """Hold what the service says of a line; False where that is nothing, or was said before."""
        name = line.get("custom_id")
        number = int(name) if isinstance(name, str) and name.isdecimal() else 0
        custom_id = self.custom_ids.get(number)
        if custom_id is None:
            return False
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            status, body = response["status_code"], response.get("body")
            data = answered_line(self.job, number, custom_id, status, encode(body))
            if isinstance(body, dict) and (usage := Usage.reported(body.get("usage"))):
                self._usages[number] = usage
            self._hold(number, data, status == 200)
        elif isinstance(error, dict) and error.get("code") not in (CANCELLED.code, EXPIRED.code):
            code, message = str(error.get("code") or "failed"), str(error.get("message") or "")
            self._hold(number, failed_line(self.job, number, custom_id, code, message), False)
        else:
            return False
        return True

    def give_up(self, why: Stop) -> None:
        """Hold the error of all lines that are left."""
        for number, custom_id in [*self.custom_ids.items()]:
            told = failed_line(self.job, number, custom_id, why.code, why.message)
            self._hold(number, told, False, "" if why is LOST else why.code)

    def drain(self) -> tuple[dict[int, list[Outcome]], dict[int, Usage]]:
        """What is held, by shard, and what it has used, by line; nothing is held from here on."""
        held, usages = self._held, self._usages
        self._held, self._usages, self.bytes = {}, {}, 0
        return held, usages

    def _hold(self, number: int, data: bytes, answered: bool, stop: str = "") -> None:
        del self.custom_ids[number]
        shard = bisect_right(self._firsts, number) - 1
        index = number - self._firsts[shard]
        self._held.setdefault(shard, []).append(Outcome(index, data, answered, stop))
        self.bytes += len(data)


async def answer_lines(stream: AsyncIterator[bytes]) -> AsyncIterator[Mapping[str, Any]]:
    """The objects in a service's file; what is none is left out, as if the line were not there."""
    splitter = LineSplitter()
    async for data in stream:
        for raw in splitter.feed(data):
            if (line := _object(raw.data)) is not None:
                yield line
    for raw in splitter.end():
        if (line := _object(raw.data)) is not None:
            yield line


def _object(data: bytes | None) -> Mapping[str, Any] | None:
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
