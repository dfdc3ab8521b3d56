"""What can go wrong between a program and Groundwork.

GroundworkClientError
├── ApiError            the service answered with problem details
├── ConnectionFailed    no answer: refused, reset, timed out
├── StreamInterrupted   a stream ended before its last event
└── JobTimeout          a job is still running after the time that the caller allowed
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class GroundworkClientError(Exception):
    """The root of all errors that this package raises by itself."""


class ApiError(GroundworkClientError):
    """The service's problem details: ``code`` is stable, ``detail`` is for people.

    ``retryable`` says whether the same call may succeed later; ``retry_after`` is the number of seconds
    to wait before that, where the service named one. Quote ``correlation_id`` when asking an operator.
    ``problem`` is the whole document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        correlation_id: str = "",
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code} ({status}): {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retryable = retryable
        self.retry_after = retry_after
        self.correlation_id = correlation_id
        self.problem = dict(problem or {})

    @classmethod
    def from_problem(cls, problem: Mapping[str, Any], status: int = 0) -> ApiError:
        """The error that problem details describe; members that are absent get neutral values."""
        return cls(
            int(problem.get("status") or status),
            str(problem.get("code") or f"http_{status}"),
            str(problem.get("detail") or problem.get("title") or "The service gave no detail."),
            retryable=bool(problem.get("retryable", False)),
            retry_after=_seconds(problem.get("retry_after")),
            correlation_id=str(problem.get("correlation_id") or ""),
            problem=problem,
        )

    @classmethod
    def from_response(cls, status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
        """The error of an HTTP response, also of one that a proxy in between has written."""
        try:
            problem = json.loads(body)
        except ValueError:
            problem = None
        if not isinstance(problem, dict) or "code" not in problem:
            # Not ours: a gateway's HTML page says nothing that a program could use.
            problem = {
                "detail": f"The answer {status} has no problem details.",
                "retryable": status in (429, 503),
            }
        error = cls.from_problem(problem, status)
        if error.retry_after is None:
            error.retry_after = _seconds(headers.get("retry-after"))
        if not error.correlation_id:
            error.correlation_id = headers.get("x-correlation-id", "")
        return error


class ConnectionFailed(GroundworkClientError):
    """No answer came: the address is wrong, the service is down, or the time was over."""


class StreamInterrupted(GroundworkClientError):
    """A stream ended before its last event; what came until then is not the whole."""


class JobTimeout(GroundworkClientError):
    """The job goes on, but the time to wait for it is over; ``status`` is the last one seen."""

    def __init__(self, status: Any, seconds: float) -> None:
        super().__init__(f"The job {status.id} is still {status.state} after {seconds:g} s.")
        self.status = status


def _seconds(value: Any) -> float | None:
    """A wait in seconds, or None where there is no sensible number (an HTTP date included)."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
