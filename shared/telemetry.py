"""Named events with fields, for logs and for Application Insights; never prompt or document text."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.inferencing import CallRecord

log = logging.getLogger("groundwork.telemetry")


def log_model_call(record: CallRecord) -> None:
    """What one model call cost and how it ended."""
    log.info(
        "model_call kind=%s model=%s version=%s deployment=%s outcome=%s prompt_tokens=%d "
        "completion_tokens=%d upstream_calls=%d ms=%.0f purpose=%s tenant=%s correlation_id=%s",
        record.kind,
        record.model,
        record.model_version,
        record.deployment,
        record.outcome,
        record.usage.prompt_tokens,
        record.usage.completion_tokens,
        record.upstream_calls,
        record.seconds * 1000,
        record.call.purpose,
        record.call.tenant,
        record.call.correlation_id,
    )
