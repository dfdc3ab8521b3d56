"""What goes into a model call besides its body, and what comes out besides its answer."""

from __future__ import annotations

import secrets
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class JobAccount:
    """The attempt of a job that pays for a call. ``ceiling`` is the most that the attempt may cost.

    None leaves the ceiling to the tenant's limits.
    """

    job: str
    attempt: int = 1
    ceiling: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """Who calls a model, what for, and by when.

    ``deadline`` is a time of the gateway's clock (``time.monotonic`` unless told otherwise): it bounds the
    whole call with all its tries. ``session`` keeps calls of one conversation on one deployment while that
    one is healthy, which makes use of its prompt cache. ``data_zone`` restricts the call to deployments of
    that zone; without it the first deployment in the catalogue decides. ``background`` marks a call that
    nobody waits for: it takes what the others leave, and no other ever waits for it. That is how an
    ingestion or a batch gets its share of its tenant's rates, see `CallerRates.admit`.

    ``job`` is charged with the call, and refuses what it cannot afford.
    """

    tenant: str
    user: str | None = None
    purpose: str = ""
    prompt_version: str | None = None
    deadline: float | None = None
    session: str | None = None
    data_zone: str | None = None
    job: JobAccount | None = None
    background: bool = False
    correlation_id: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. ``estimated`` says that the service did not report them and we counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    estimated: bool = False

    @classmethod
    def reported(cls, usage: Any) -> Usage | None:
        """The ``usage`` member of an answer, or None where it is missing or malformed."""
        if not isinstance(usage, Mapping) or not isinstance(usage.get("prompt_tokens"), int):
            return None
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else 0
        return cls(usage["prompt_tokens"], usage.get("completion_tokens") or 0, cached or 0)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished chat completion: the body as the service sent it, parsed."""

    json: dict[str, Any]
    deployment: str
    usage: Usage

    @property
    def text(self) -> str:
        """The first choice's text; empty where the model called a tool instead."""
        return self.json["choices"][0]["message"].get("content") or ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector per input, in the order of the inputs; each an ``array('f')`` (4 bytes a number)."""

    vectors: list[array[float]]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Reranked:
    """One score per document, in the order of the documents: the higher, the more relevant to the query.

    Their scale is the model's own.
    """

    scores: list[float]
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """What one model call cost and how it ended; handed to the recorder exactly once per call.

    ``outcome`` is ``ok``, ``cancelled`` (the caller went away) or the code of the error that was raised.
    ``upstream_calls`` counts requests sent, probes not included. Times are in seconds.
    """

    call: CallContext
    model: str
    kind: str
    model_version: str
    deployment: str
    outcome: str
    usage: Usage
    estimated_cost: float
    upstream_calls: int
    seconds: float
    seconds_to_first_token: float | None


Recorder = Callable[[CallRecord], None]


def discard(record: CallRecord) -> None:
    """The recorder that keeps nothing."""
