"""Jobs in their table: created once, changed by one writer at a time, ended once, listed newest first."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from dataclasses import replace

import pytest

from shared.errors import Conflict, IdempotencyKeyReused, InvalidParameter, NotFound
from shared.jobs import (
    STATUS_ERRORS,
    Job,
    Jobs,
    Kind,
    State,
    Ticket,
    derived_id,
    iso,
    new_id,
    status_document,
)
from shared.storage import Storage

FINAL = [State.SUCCEEDED, State.PARTIAL, State.FAILED, State.CANCELLED]
RETRYABLE = [State.PARTIAL, State.FAILED, State.CANCELLED]


@pytest.fixture
def jobs(storage: Storage) -> Jobs:
    return Jobs(storage)


@pytest.fixture
def tenant() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


async def made(jobs: Jobs, tenant: str, job_id: str = "", **more) -> Job:
    return await jobs.create(
        tenant,
        Kind.INGESTION,
        job_id=job_id or new_id(),
        title="Ingest é",
        collection="c",
        owner="alice",
        **more,
    )


# --- ids and tickets ---


def test_a_new_id_has_128_random_bits():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(job_id) == 32 and int(job_id, 16) >= 0 for job_id in ids)


def test_an_event_always_has_the_same_id_and_another_event_another():
    assert derived_id("a", "b") == derived_id("a", "b")
    ids = [derived_id(*parts) for parts in (("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), ("ab", ""))]
    assert len(set(ids)) == len(ids)
    assert all(len(job_id) == 32 and job_id.isalnum() for job_id in ids)


def test_a_ticket_survives_the_journey_through_an_orchestration():
    ticket = Ticket("t", "0" * 32, 3)
    assert Ticket.from_dict(ticket.to_dict()) == ticket
    assert (ticket.instance, ticket.prefix) == (f"{'0' * 32}-3", f"t/{'0' * 32}/3")


def test_a_job_survives_the_journey_through_its_row():
    job = Job(
        "t",
        new_id(),
        Kind.ANSWER,
        State.PARTIAL,
        "T",
        "c",
        "o",
        2,
        created=1.5,
        updated=2.5,
        started=2.0,
        cancel_requested=True,
        total=0,
        counts={"indexed": 1},
        errors=({"item": "é", "code": "x"},),
        generation="g",
    )
    assert Job.from_row(job.to_row()) == job
    bare = replace(job, started=None, total=None)
    assert Job.from_row(bare.to_row()) == bare


# --- life ---


async def test_a_job_is_created_once_however_often_it_is_asked_for(jobs: Jobs, tenant: str):
    job_id = new_id()
    made_at_once = await asyncio.gather(*(made(jobs, tenant, job_id) for _ in range(6)))
    assert len({job.created for job in made_at_once}) == 1
    assert {job.state for job in made_at_once} == {State.QUEUED}
    await jobs.begin(made_at_once[0].ticket, total=3)
    again = await made(jobs, tenant, job_id)
    assert (again.state, again.total) == (State.RUNNING, 3)
    assert len((await jobs.newest(tenant))[0]) == 1


async def test_a_job_of_another_tenant_is_not_found(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    for other, job_id in (("other", job.id), (tenant, "x" * 32), (tenant, "' or true"), (tenant, "")):
        with pytest.raises(NotFound):
            await jobs.get(other, job_id)


@pytest.mark.parametrize("state", FINAL)
async def test_a_job_that_has_ended_stays_as_it_is(jobs: Jobs, tenant: str, state: State):
    job = await made(jobs, tenant)
    await jobs.begin(job.ticket, total=1)
    ended = await jobs.finish(job.ticket, state, counts={"indexed": 1}, errors=[{"code": "x"}])
    assert ended.state is state
    for change in (
        jobs.finish(job.ticket, State.FAILED),
        jobs.begin(job.ticket, total=9),
        jobs.change(tenant, job.id, title="Other"),
    ):
        await change
    found = await jobs.get(tenant, job.id)
    assert (found.state, found.total, found.title, found.counts) == (state, 1, "Ingest é", {"indexed": 1})
    listed = (await jobs.newest(tenant))[0]
    assert [line.state for line in listed] == [state]


async def test_of_two_ends_at_once_one_holds_in_the_row_and_in_the_list(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    await asyncio.gather(*(jobs.finish(job.ticket, state) for state in FINAL))
    found = await jobs.get(tenant, job.id)
    assert found.state.final
    assert [line.state for line in (await jobs.newest(tenant))[0]] == [found.state]


async def test_the_start_is_kept_when_a_step_is_repeated(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    first = await jobs.begin(job.ticket, total=5)
    again = await jobs.begin(job.ticket)
    assert (again.started, again.total) == (first.started, 5)


async def test_no_more_errors_are_shown_than_the_row_can_hold(jobs: Jobs, tenant: str):
    few = await made(jobs, tenant)
    errors = [{"item": f"{n}", "code": "no_text"} for n in range(STATUS_ERRORS + 1)]
    ended = await jobs.finish(few.ticket, State.FAILED, errors=errors)
    assert list(ended.errors) == errors[:STATUS_ERRORS]
    long = await made(jobs, tenant)
    errors = [{"item": "é" * 900, "code": "no_text"} for _ in range(STATUS_ERRORS)]
    ended = await jobs.finish(long.ticket, State.FAILED, errors=errors)
    assert 1 <= len(ended.errors) < STATUS_ERRORS
    assert (await jobs.get(tenant, long.id)).errors == ended.errors


# --- cancel and retry ---


async def test_a_cancel_is_seen_by_the_attempt_that_runs(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    assert not await jobs.cancel_requested(job.ticket)
    await jobs.request_cancel(tenant, job.id)
    assert await jobs.cancel_requested(job.ticket)
    assert (await jobs.begin(job.ticket)).cancel_requested
    await jobs.finish(job.ticket, State.CANCELLED)
    assert (await jobs.request_cancel(tenant, job.id)).state is State.CANCELLED


async def test_an_attempt_that_was_overtaken_is_told_to_stop(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    await jobs.finish(job.ticket, State.FAILED)
    second = await jobs.retry(tenant, job.id)
    assert await jobs.cancel_requested(job.ticket)
    assert not await jobs.cancel_requested(second.ticket)
    assert await jobs.cancel_requested(Ticket(tenant, new_id()))


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.PARTIAL, State.FAILED])
async def test_a_job_that_has_ended_cannot_be_cancelled(jobs: Jobs, tenant: str, state: State):
    job = await made(jobs, tenant)
    await jobs.finish(job.ticket, state)
    with pytest.raises(Conflict):
        await jobs.request_cancel(tenant, job.id)


@pytest.mark.parametrize("state", RETRYABLE)
async def test_a_retry_is_a_new_attempt_that_begins_afresh(jobs: Jobs, tenant: str, state: State):
    job = await made(jobs, tenant)
    await jobs.begin(job.ticket, total=7)
    await jobs.request_cancel(tenant, job.id)
    await jobs.finish(job.ticket, state, counts={"failed": 1}, errors=[{"code": "x"}])
    again = await jobs.retry(tenant, job.id)
    assert (again.state, again.attempt, again.cancel_requested) == (State.QUEUED, 2, False)
    assert (again.started, again.counts, again.errors) == (None, {}, ())
    # the first attempt, where it still lives, can no longer end the job
    assert (await jobs.finish(job.ticket, State.SUCCEEDED)).state is State.QUEUED
    assert [
        found.id async for found in jobs.announced_before(time.time() + 1) if isinstance(found, Job)
    ].count(job.id) == 1


async def test_a_job_that_runs_or_succeeded_cannot_be_retried(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    with pytest.raises(Conflict):
        await jobs.retry(tenant, job.id)
    await jobs.begin(job.ticket)
    with pytest.raises(Conflict):
        await jobs.retry(tenant, job.id)
    await jobs.finish(job.ticket, State.SUCCEEDED)
    with pytest.raises(Conflict):
        await jobs.retry(tenant, job.id)


async def test_of_two_retries_at_once_one_is_made(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)
    await jobs.finish(job.ticket, State.FAILED)
    results = await asyncio.gather(*(jobs.retry(tenant, job.id) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, Job) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 3
    assert (await jobs.get(tenant, job.id)).attempt == 2


# --- list ---


async def test_jobs_are_listed_newest_first_and_each_once(jobs: Jobs, tenant: str):
    made_in_order = [(await made(jobs, tenant)).id for _ in range(7)]
    await jobs.finish((await jobs.get(tenant, made_in_order[2])).ticket, State.FAILED)
    seen: list[str] = []
    after: str | None = ""
    for _ in itertools.count():
        assert after is not None
        page, after = await jobs.newest(tenant, after=after, limit=3)
        assert len(page) <= 3
        seen += [job.id for job in page]
        if after is None:
            break
    assert sorted(seen) == sorted(made_in_order)
    created = {job_id: (await jobs.get(tenant, job_id)).created for job_id in seen}
    assert [int(created[job_id] * 1000) for job_id in seen] == sorted(
        (int(moment * 1000) for moment in created.values()), reverse=True
    )


async def test_a_page_begins_where_one_ended(jobs: Jobs, tenant: str):
    with pytest.raises(InvalidParameter):
        await jobs.newest(tenant, after="job:")
    assert await jobs.newest(tenant) == ([], None)


# --- announcements ---


async def test_a_job_is_announced_until_it_was_started(jobs: Jobs, tenant: str):
    job = await made(jobs, tenant)

    async def announced(moment: float) -> list[str]:
        found = [each async for each in jobs.announced_before(moment)]
        return [each.id for each in found if isinstance(each, Job)]

    assert job.id in await announced(time.time() + 1)
    assert job.id not in await announced(job.created)
    await jobs.started(job.id)
    await jobs.started(job.id)
    assert job.id not in await announced(time.time() + 1)


@pytest.mark.parametrize(("ahead", "found"), [(30, False), (90, True)])
async def test_a_job_that_was_announced_by_a_clock_far_ahead_has_waited_long_enough(
    jobs: Jobs, tenant: str, monkeypatch: pytest.MonkeyPatch, ahead: float, found: bool
):
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr("shared.jobs.store.time.time", lambda: now + ahead)
        job = await made(jobs, tenant)
    announced = [each async for each in jobs.announced_before(now - 30)]
    assert (job.id in [each.id for each in announced if isinstance(each, Job)]) is found


# --- progress and blobs ---


async def test_the_progress_of_shards_adds_up_and_a_repeated_report_counts_once(jobs: Jobs, tenant: str):
    ticket = (await made(jobs, tenant)).ticket
    await jobs.report(ticket, "00000", parsed=3, chunks=9)
    await jobs.report(ticket, "00000", published=2)
    await jobs.report(ticket, "00001", parsed=4)
    await jobs.report(ticket, "00001.0", embedded_0000=64)
    await jobs.report(ticket, "00001.0", embedded_0001=3)
    await jobs.report(ticket, "00001.0", embedded_0001=3)
    assert await jobs.progress(ticket) == {"parsed": 7, "chunks": 9, "published": 2, "embedded": 67}
    assert await jobs.progress(replace(ticket, attempt=2)) == {}


async def test_what_an_attempt_keeps_is_its_own(jobs: Jobs, tenant: str):
    ticket = Ticket(tenant, new_id())
    await jobs.put(ticket, "plan", {"é": [1, None]})
    assert await jobs.fetch(ticket, "plan") == {"é": [1, None]}
    assert await jobs.fetch(replace(ticket, attempt=2), "plan") is None
    assert await jobs.fetch(ticket, "other") is None


# --- the status document ---


@pytest.mark.parametrize("state", State)
def test_the_status_links_what_can_be_done(state: State):
    job = Job("t", "0" * 32, Kind.INGESTION, state, "T", "c", "o", 1, 0.0, 1.0, cancel_requested=True)
    document = status_document(job, {"done": 1}, "https://g.example")
    links = document["links"]
    assert links["self"] == f"https://g.example/api/jobs/{'0' * 32}"
    assert ("cancel" in links) == (state in (State.QUEUED, State.RUNNING))
    assert ("retry" in links) == (state in RETRYABLE)
    assert document.get("cancel_requested", False) == (not state.final)
    assert document["created"] == "1970-01-01T00:00:00.000Z"
    assert document["progress"] == {"done": 1}
    assert not {"tenant", "owner", "etag", "generation"} & {*document}


def test_moments_are_told_in_utc_with_milliseconds():
    assert iso(None) is None
    assert iso(1.0625) == "1970-01-01T00:00:01.062Z"


async def test_what_ended_long_ago_is_found_and_removed_with_all_that_it_has(jobs: Jobs, tenant: str):
    ended, running = await made(jobs, tenant), await made(jobs, tenant)
    await jobs.put(ended.ticket, "plan", {"shards": 1})
    await jobs.report(ended.ticket, "00000", parsed=3)
    await jobs.begin(running.ticket)
    await jobs.finish(ended.ticket, State.SUCCEEDED)

    async def old(moment: float) -> list[str]:
        return [job.id async for job in jobs.ended_before(moment) if job.tenant == tenant]

    assert await old(time.time() - 60) == []
    assert await old(time.time() + 60) == [ended.id]
    assert [job.id async for job in jobs.unfinished() if job.tenant == tenant] == [running.id]
    await jobs.remove(ended)
    assert await jobs.find(tenant, ended.id) is None
    assert await jobs.fetch(ended.ticket, "plan") is None
    assert await jobs.progress(ended.ticket) == {}
    listed, _ = await jobs.newest(tenant)
    assert [job.id for job in listed] == [running.id]


# --- keys ---


async def test_a_key_belongs_to_the_request_that_came_first(jobs: Jobs, tenant: str):
    job_id = new_id()
    claims = [jobs.claim_key(tenant, job_id, "one") for _ in range(4)]
    assert sorted(await asyncio.gather(*claims)) == [False, False, False, True]
    with pytest.raises(IdempotencyKeyReused):
        await jobs.claim_key(tenant, job_id, "another")
    assert await jobs.claim_key(f"{tenant}-2", job_id, "another")


async def test_a_key_is_released_while_it_has_no_job_and_not_after(jobs: Jobs, tenant: str):
    job_id = new_id()
    await jobs.claim_key(tenant, job_id, "one")
    await jobs.release_key(tenant, job_id)
    assert await jobs.claim_key(tenant, job_id, "another")
    await jobs.create(tenant, Kind.ANSWER, job_id=job_id, title="", collection="", owner="")
    await jobs.release_key(tenant, job_id)
    with pytest.raises(IdempotencyKeyReused):
        await jobs.claim_key(tenant, job_id, "one")


async def test_old_keys_are_forgotten(jobs: Jobs, tenant: str):
    await jobs.claim_key(tenant, old := new_id(), "one")
    assert await jobs.forget_keys(time.time() - 86_400, most=1000) == 0
    assert await jobs.forget_keys(time.time() + 60, most=1000) >= 1
    assert await jobs.claim_key(tenant, old, "another")
