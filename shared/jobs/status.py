"""A job as its status URL shows it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shared.jobs.job import Job, Kind, State

# What a client should wait before it asks again.
POLL_SECONDS = 2


def iso(moment: float | None) -> str | None:
    """A moment as RFC 3339 in UTC, with milliseconds."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_document(job: Job, progress: Mapping[str, Any] | None, base_url: str = "") -> dict[str, Any]:
    """The job as its status URL shows it."""
    me = f"{base_url}/api/jobs/{job.id}"
    links = {"self": me, "result": f"{me}/result", "events": f"{me}/events"}
    if not job.state.final:
        links["cancel"] = f"{me}/cancel"
    if job.state in (State.FAILED, State.PARTIAL, State.CANCELLED):
        links["retry"] = f"{me}/retry"
    if job.kind is Kind.BATCH:
        links["batch"] = f"{base_url}/v1/batches/batch_{job.id}"
    document: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind.value,
        "title": job.title,
        "collection": job.collection,
        "state": job.state.value,
        "attempt": job.attempt,
        "created": iso(job.created),
        "updated": iso(job.updated),
        "counts": dict(job.counts or {}),
        "errors": [dict(error) for error in job.errors],
        "links": links,
    }
    if progress is not None:
        document["progress"] = progress
    if job.cancel_requested and not job.state.final:
        document["cancel_requested"] = True
    return document
