"""Every error that a caller may see, with a stable code.

    GroundworkError
    ├── InvalidRequest            400  the request itself is wrong
    │   ├── MalformedJson         400
    │   ├── InvalidName           400
    │   ├── InvalidFilter         400
    │   ├── InvalidParameter      400
    │   ├── UrlRefused            400  an address that the app must not ask
    │   ├── PromptTooLong         400
    │   ├── PromptRefused         400  screening takes it for an attack
    │   └── OutlastsRequest       400  the answer would come after HTTP has given up
    ├── Unauthenticated           401
    ├── BudgetExceeded            402  a job has reached its cost ceiling
    ├── Forbidden                 403
    │   └── QuotaExceeded         403  of what stays, such as documents
    │       └── QuotaExhausted    429  of what time gives back, such as jobs; retryable, the same code
    ├── NotFound                  404  (resource: collection, document, job, …)
    │   └── Hidden                404  it is there, but not for the caller; answered alike
    ├── Conflict                  409
    │   └── Contended             409  retryable: others are changing the same thing
    ├── IdempotencyKeyReused      422  it came with another request before
    ├── PayloadTooLarge           413
    ├── UnsupportedMediaType      415
    ├── DocumentError             422  a document that cannot be read; its reason is the code
    │   ├── EmptyDocument, NoText, PasswordProtected, CorruptDocument,
    │   └── ParseTimeout, ParseMemoryExceeded, DocumentTooComplex
    ├── SourceRefused             422  an address does not give what it should
    ├── RateLimited               429  retryable
    ├── Overloaded                503  retryable: nothing is accepted until some of what was is finished
    ├── Cancelled                 409
    ├── InternalError             500
    │   ├── HostFault             503  retryable: the machine could not do it, its disk is full
    │   └── Poisoned              500  retryable: an event whose tries are used up
    ├── DependencyError           502  retryable: something behind us failed
    │   ├── ModelFailed           502
    │   ├── SourceUnavailable     502  an address that a caller named
    │   ├── StreamInterrupted     502  a stream that had begun
    │   ├── AnswerRefused         502  a model began to repeat what it was told in confidence
    │   ├── ModelsUnavailable     503  no deployment can serve now
    │   ├── IdentityUnavailable   503
    │   ├── IndexUnavailable      503
    │   └── StorageUnavailable    503
    └── DeadlineExceeded          504  retryable

An error's ``detail`` is written for the caller: it never holds a secret, prompt or document text.
`shared.errors` is the only place that knows HTTP status numbers; the edge turns an error into
RFC 9457 problem details, `/v1` into OpenAI's shape.
"""

from __future__ import annotations

from typing import Any, ClassVar

# What passes by itself is asked for again after this long where nobody knows better.
RETRY_AFTER_SECONDS = 5.0


class GroundworkError(Exception):
    """An error with a stable ``code``.

    ``retryable`` says whether the same call may succeed later without being changed;
    ``retry_after`` is the number of seconds to wait before that, where known.
    ``extra`` holds further members for the problem document, such as a count and its limit.
    """

    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "", *, retry_after: float | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after = retry_after
        self.extra = extra

    @property
    def wait_seconds(self) -> float | None:
        """How long a caller should wait before the same call: of 429 and 503 always a number."""
        if self.retry_after is None and self.status in (429, 503):
            return RETRY_AFTER_SECONDS
        return self.retry_after


class InvalidRequest(GroundworkError):
    code, title, status = "invalid_request", "The request is not valid", 400


class MalformedJson(InvalidRequest):
    code, title = "malformed_json", "The body is not valid JSON"


class InvalidName(InvalidRequest):
    code, title = "invalid_name", "A name is not valid"


class InvalidFilter(InvalidRequest):
    code, title = "invalid_filter", "The filter is not valid"


class InvalidParameter(InvalidRequest):
    code, title = "invalid_parameter", "A parameter is not valid"


class PromptTooLong(InvalidRequest):
    code, title = "prompt_too_long", "The prompt exceeds the model's limit"


class PromptRefused(InvalidRequest):
    """``extra`` names the ``judge``. The code is the one that clients of Azure OpenAI look for."""

    code, title = "content_filter", "The prompt was refused by screening"


class UrlRefused(InvalidRequest):
    code, title = "url_refused", "The address must not be asked"


class OutlastsRequest(InvalidRequest):
    """``extra`` has the ``expected_seconds`` and the ``limit`` of a request that waits."""

    code, title = "outlasts_request", "The answer would take longer than a request may wait"


class Unauthenticated(GroundworkError):
    code, title, status = "unauthenticated", "No valid credential was given", 401


class BudgetExceeded(GroundworkError):
    code, title, status = "budget_exceeded", "The cost ceiling is reached", 402


class Forbidden(GroundworkError):
    code, title, status = "forbidden", "The credential does not allow this", 403


class QuotaExceeded(Forbidden):
    """``extra`` names the ``quota``, its ``limit`` and what is ``present``."""

    code, title = "quota_exceeded", "A quota of the tenant is exceeded"


class QuotaExhausted(QuotaExceeded):
    status, retryable = 429, True


class NotFound(GroundworkError):
    """``NotFound("collection", name)``. Another tenant's object is not found either."""

    code, title, status = "not_found", "Not found", 404

    def __init__(self, resource: str, name: str = "") -> None:
        super().__init__(f"There is no {resource} {name!r}." if name else f"There is no such {resource}.")
        self.extra = {"resource": resource}


class Hidden(NotFound):
    """Answered as `NotFound` is, and audited as denied."""


class Conflict(GroundworkError):
    code, title, status = "conflict", "The request conflicts with the present state", 409


class Contended(Conflict):
    code, title, retryable = "contended", "Others are changing the same thing", True


class IdempotencyKeyReused(GroundworkError):
    code, title, status = "idempotency_key_reused", "The Idempotency-Key came with another request", 422


class Cancelled(GroundworkError):
    code, title, status = "cancelled", "The job was cancelled", 409


class PayloadTooLarge(GroundworkError):
    code, title, status = "payload_too_large", "The body exceeds the limit", 413


class UnsupportedMediaType(GroundworkError):
    code, title, status = "unsupported_media_type", "This type of document is not supported", 415


class DocumentError(GroundworkError):
    code, title, status = "document_error", "The document cannot be read", 422


class EmptyDocument(DocumentError):
    code, title = "empty_document", "The document is empty"


class NoText(DocumentError):
    code, title = "no_text", "The document has pages but no text"


class PasswordProtected(DocumentError):
    code, title = "password_protected", "The document is protected by a password"


class CorruptDocument(DocumentError):
    code, title = "corrupt_document", "The document is damaged"


class ParseTimeout(DocumentError):
    code, title = "parse_timeout", "Reading the document took too long"


class ParseMemoryExceeded(DocumentError):
    code, title = "parse_memory_exceeded", "Reading the document took too much memory"


class DocumentTooComplex(DocumentError):
    code, title = "document_too_complex", "The document exceeds a structural limit"


class SourceRefused(GroundworkError):
    code, title, status = "source_refused", "The address does not give it", 422


class RateLimited(GroundworkError):
    code, title, status, retryable = "rate_limited", "Too many requests", 429, True


class Overloaded(GroundworkError):
    code, title, status, retryable = "overloaded", "More was accepted than is finished", 503, True


class InternalError(GroundworkError):
    pass


class HostFault(InternalError):
    code, title, status, retryable = "host_fault", "The machine could not do its part", 503, True


class Poisoned(InternalError):
    code, title, retryable = "poisoned", "All tries of an event are used up", True

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was tried as often as it may be, and each try failed or ended its host.")


class DependencyError(GroundworkError):
    code, title, status, retryable = "dependency_failed", "A service behind this one failed", 502, True


class ModelFailed(DependencyError):
    code, title = "model_failed", "The model failed"


class SourceUnavailable(DependencyError):
    code, title = "source_unavailable", "The address does not answer now"


class AnswerRefused(DependencyError):
    code, title = "answer_refused", "The model's answer was refused"


class StreamInterrupted(DependencyError):
    code, title = "stream_interrupted", "The stream ended before it was complete"


class ModelsUnavailable(DependencyError):
    code, title, status = "models_unavailable", "No model deployment can serve now", 503


class IdentityUnavailable(DependencyError):
    code, title, status = "identity_unavailable", "The keys that sign access tokens cannot be had now", 503


class IndexUnavailable(DependencyError):
    code, title, status = "index_unavailable", "The search index cannot serve now", 503


class StorageUnavailable(DependencyError):
    code, title, status = "storage_unavailable", "Storage cannot serve now", 503


class DeadlineExceeded(GroundworkError):
    code, title, status, retryable = "deadline_exceeded", "The time allowed was not enough", 504, True


def typed(error: Exception) -> GroundworkError:
    """An error as callers see it. What the operating system refuses passes: a full disk, too many files."""
    if isinstance(error, GroundworkError):
        return error
    return HostFault() if isinstance(error, OSError) else InternalError()
