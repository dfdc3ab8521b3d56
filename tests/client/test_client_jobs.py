"""Following jobs to their end."""

from __future__ import annotations

from typing import Any

import pytest
from contract_service import Scripted, Service, events, problem

from client import ApiError, Groundwork, JobTimeout, StreamInterrupted
from client.jobs import POLL_SECONDS, STREAM_BREAKS


def status(state: str, done: int = 0, **members: Any) -> dict[str, Any]:
    progress = {
        "done": done,
        "total": 4,
        "unit": "documents",
        "rate": 2.0,
        "eta_seconds": None,
        "stages": [{"name": "parsed", "done": done, "total": 4, "unit": "documents"}],
    }
    return {"id": "j1", "kind": "ingestion", "state": state, "progress": progress, **members}


def test_waiting_looks_as_often_as_the_service_asks_for(
    service: Service, groundwork: Groundwork, waits: list[float]
) -> None:
    service.on(
        "GET /api/jobs/j1",
        Scripted(body=status("queued"), headers={"Retry-After": "2"}),
        Scripted(body=status("running", 2), headers={"Retry-After": "5"}),
        Scripted(body=status("running", 3)),
        Scripted(body=status("partial", 4, counts={"indexed": 3, "failed": 1})),
    )
    seen = []
    final = groundwork.jobs.wait("j1", seen.append)
    assert waits == [2, 5, POLL_SECONDS]
    assert [one.state for one in seen] == ["queued", "running", "running", "partial"]
    assert (final.final, final.counts) == (True, {"indexed": 3, "failed": 1})
    assert final.progress is not None
    assert final.progress.stages[0].name == "parsed"


def test_waiting_ends_when_its_time_is_over(service: Service, groundwork: Groundwork) -> None:
    service.on("GET /api/jobs/j1", Scripted(body=status("running"), headers={"Retry-After": "2"}))
    with pytest.raises(JobTimeout) as caught:
        groundwork.jobs.wait("j1", timeout_seconds=1)
    assert caught.value.status.state == "running"


def test_events_end_with_the_final_status(service: Service, groundwork: Groundwork) -> None:
    stream = events(
        ("status", status("running", 1)), ("status", status("succeeded", 4)), ("status", {"id": "no"})
    )
    service.on("GET /api/jobs/j1/events", Scripted(parts=[stream]))
    assert [one.state for one in groundwork.jobs.events("j1")] == ["running", "succeeded"]


def test_following_goes_on_after_a_broken_stream(
    service: Service, groundwork: Groundwork, waits: list[float]
) -> None:
    service.on(
        "GET /api/jobs/j1/events",
        Scripted(parts=[events(("status", status("running", 1)))], drop=True),
        Scripted(parts=[events(("status", status("running", 3)))]),
        Scripted(parts=[events(("status", status("succeeded", 4)))]),
    )
    assert [one.state for one in groundwork.jobs.follow("j1")] == ["running", "running", "succeeded"]
    assert waits == [POLL_SECONDS] * 2


def test_following_gives_up_when_no_stream_brings_a_status(service: Service, groundwork: Groundwork) -> None:
    service.on("GET /api/jobs/j1/events", Scripted(parts=[]))
    with pytest.raises(StreamInterrupted):
        list(groundwork.jobs.follow("j1"))
    assert len(service.seen) == STREAM_BREAKS + 1


def test_following_a_job_that_is_not_there_is_an_error(service: Service, groundwork: Groundwork) -> None:
    service.on("GET /api/jobs/j1/events", problem(404, "not_found"))
    with pytest.raises(ApiError, match="not_found"):
        list(groundwork.jobs.follow("j1"))


def test_cancelling_and_retrying_give_the_status(service: Service, groundwork: Groundwork) -> None:
    service.on("POST /api/jobs/j1/cancel", Scripted(202, status("running", cancel_requested=True)))
    service.on("POST /api/jobs/j1/retry", Scripted(202, status("queued", attempt=2)))
    assert groundwork.jobs.cancel("j1").cancel_requested
    assert groundwork.jobs.retry("j1").attempt == 2


def test_outcomes_and_jobs_come_from_all_pages(service: Service, groundwork: Groundwork) -> None:
    failed = {
        "id": "b.pdf",
        "state": "failed",
        "code": "no_text",
        "message": "None.",
        "pages_without_text": [1],
    }
    service.on(
        "GET /api/jobs/j1/result",
        Scripted(body={"counts": {}, "items": [{"id": "a.md", "state": "indexed"}], "next": "2"}),
        Scripted(body={"counts": {}, "items": [failed], "next": None}),
    )
    service.on(
        "GET /api/jobs",
        Scripted(body={"items": [status("running")], "next": "list:9"}),
        Scripted(body={"items": [status("failed")]}),
    )
    assert [one.state for one in groundwork.jobs.outcomes("j1")] == ["indexed", "failed"]
    assert [one.state for one in groundwork.jobs.list()] == ["running", "failed"]
    assert [seen.target.partition("?")[2] for seen in service.seen] == ["", "page=2", "", "after=list%3A9"]
