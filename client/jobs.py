"""Jobs: look at them, wait for them, stop them, run again what failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import quote

from client.errors import ApiError, ConnectionFailed, JobTimeout, StreamInterrupted
from client.events import parse_events
from client.models import JobStatus, Outcome
from client.transport import Reply, Transport

# The service names the wait in Retry-After; this is for the case that something in between drops it.
POLL_SECONDS = 2.0
# Breaks of a job's event stream in a row, without a status in between, after which following gives up.
STREAM_BREAKS = 5


def job_status(reply: Reply) -> JobStatus:
    """The status document in ``reply``, with the wait that its headers ask for."""
    wait = reply.headers.get("retry-after", "")
    return JobStatus.from_dict(reply.json(), float(wait) if wait.isdigit() else None)


class Jobs:
    """The jobs of the caller's tenant."""

    def __init__(self, transport: Transport, sleep: Callable[[float], None] = time.sleep) -> None:
        self._transport = transport
        self._sleep = sleep

    def list(self) -> Iterator[JobStatus]:
        """All jobs, newest first, page by page."""
        after = None
        while True:
            page = self._transport.call("GET", "/api/jobs", query={"after": after}).json()
            yield from map(JobStatus.from_dict, page["items"])
            after = page.get("next")
            if not after:
                return

    def status(self, job: str) -> JobStatus:
        """The job as it stands; raises `ApiError` with code ``not_found``."""
        return job_status(self._transport.call("GET", _path(job)))

    def wait(
        self,
        job: str,
        on_status: Callable[[JobStatus], None] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> JobStatus:
        """The job's final status; looks as often as the service asks for, and raises `JobTimeout`."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            status = self.status(job)
            if on_status:
                on_status(status)
            if status.final:
                return status
            wait = POLL_SECONDS if status.retry_after is None else status.retry_after
            if deadline is not None and time.monotonic() + wait > deadline:
                raise JobTimeout(status, timeout_seconds or 0)
            self._sleep(wait)

    def events(self, job: str) -> Iterator[JobStatus]:
        """Each status as it comes, until the final one; raises `StreamInterrupted` if that never comes."""
        with closing(self._transport.stream("GET", f"{_path(job)}/events")) as parts:
            for event in parse_events(parts):
                if event.name == "error":
                    raise ApiError.from_problem(event.json())
                if event.name == "status":
                    status = JobStatus.from_dict(event.json())
                    yield status
                    if status.final:
                        return
        raise StreamInterrupted(f"The events of the job {job} ended before the job did.")

    def follow(self, job: str) -> Iterator[JobStatus]:
        """Each status until the final one, over as many event streams as that takes."""
        breaks = 0
        while True:
            try:
                for status in self.events(job):
                    breaks = 0
                    yield status
                return
            except (StreamInterrupted, ConnectionFailed):
                breaks += 1
                if breaks > STREAM_BREAKS:
                    raise
            self._sleep(POLL_SECONDS)

    def cancel(self, job: str) -> JobStatus:
        """Ask the job to stop; asking twice is as good as once."""
        return job_status(self._transport.call("POST", f"{_path(job)}/cancel", idempotent=True))

    def retry(self, job: str) -> JobStatus:
        """Run again what failed; raises `ApiError` with code ``conflict`` where nothing did."""
        return job_status(self._transport.call("POST", f"{_path(job)}/retry"))

    def outcomes(self, job: str) -> Iterator[Outcome]:
        """What became of each document of an ingestion, page by page."""
        number = None
        while True:
            page = self._transport.call("GET", f"{_path(job)}/result", query={"page": number}).json()
            yield from map(Outcome.from_dict, page.get("items", ()))
            number = page.get("next")
            if not number:
                return


def _path(job: str) -> str:
    return f"/api/jobs/{quote(job, safe='')}"
