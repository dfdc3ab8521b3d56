"""How a try fails: by the deployment's fault, which routing answers, or by the request's own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any


class FaultKind(Enum):
    """What a fault says about the deployment; each has its own consequence in `breaker.py`."""

    THROTTLED = "throttled"  # it names the time to stay away
    FAILED = "failed"  # an error, a lost connection, garbage: quickly seen, hidden from the caller
    HUNG = "hung"  # silence: seen late, so it costs the caller time
    INTERRUPTED = "interrupted"  # it broke an answer that the caller had begun to read
    MISCONFIGURED = "misconfigured"  # it refuses our credential or does not know the model


class DeploymentFault(Exception):
    """One try failed and another deployment may well succeed."""

    def __init__(self, kind: FaultKind, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after = retry_after


class Rejected(Exception):
    """The service refused the request itself: every deployment would, so there is no second try.

    ``body`` is the service's own, for an edge that speaks its protocol; it may quote the prompt, so it is
    for the caller alone and never for a log.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body

    @property
    def error(self) -> Mapping[str, Any]:
        """The ``error`` object of the body; empty where there is none."""
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return {}
        return error if isinstance(error, dict) else {}


# Statuses that blame the deployment, not the request: no such deployment, no right to use it.
MISCONFIGURATION_STATUSES = frozenset({401, 403, 404})
# A time-out is the service's; "conflict" and "too early" are what a model answers while it loads.
TRANSIENT_STATUSES = frozenset({408, 409, 425})


def classify_status(status: int, headers: Mapping[str, str], body: bytes) -> DeploymentFault | Rejected:
    """What a response with an error status means."""
    retry_after = retry_after_seconds(headers)
    if status == 429 or (status >= 500 and retry_after):
        return DeploymentFault(FaultKind.THROTTLED, f"status_{status}", retry_after)
    if status >= 500 or status in TRANSIENT_STATUSES or status < 400:
        return DeploymentFault(FaultKind.FAILED, f"status_{status}")
    if status in MISCONFIGURATION_STATUSES:
        return DeploymentFault(FaultKind.MISCONFIGURED, f"status_{status}")
    return Rejected(status, body)


# Error events that blame the request although the response began with 200.
REQUEST_ERRORS = frozenset({"invalid_request_error", "content_filter", "context_length_exceeded"})


def classify_error_event(error: Any) -> DeploymentFault | Rejected:
    """What an ``error`` object inside a stream means."""
    fields = error if isinstance(error, dict) else {}
    if REQUEST_ERRORS & {str(fields.get("code")), str(fields.get("type"))}:
        return Rejected(400, json.dumps({"error": fields}).encode())
    if str(fields.get("code")) in ("429", "rate_limit_exceeded"):
        return DeploymentFault(FaultKind.THROTTLED, "error_event")
    return DeploymentFault(FaultKind.FAILED, "error_event")


def retry_after_seconds(headers: Mapping[str, str], wall_time: float | None = None) -> float | None:
    """Seconds that the service asks to stay away: ``retry-after-ms``, then ``retry-after`` in seconds or
    as an HTTP date (RFC 9110, 10.2.3). None where it asks for nothing or for nonsense."""
    milliseconds = _non_negative(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _non_negative(value)
    if seconds is not None or value is None:
        return seconds
    try:
        date = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, date - (time.time() if wall_time is None else wall_time))


def _non_negative(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
