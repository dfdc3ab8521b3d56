"""Counts of what a tenant has: exact under concurrency, never too low, put right by a recount."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import pytest

from shared.errors import Overloaded, QuotaExceeded, QuotaExhausted
from shared.jobs import Job, Jobs, Kind, State, new_id
from shared.knowledge.documents import Documents, Upload
from shared.limits import UNLIMITED, Limits, TenantLimits
from shared.quotas import DAY_SECONDS, Quotas, Usage
from shared.storage import Storage

pytestmark = pytest.mark.security("API4")

LIMITS = Limits(documents=10, bytes=5_000_000_000, running_jobs=3, jobs_per_day=5)


@pytest.fixture
def tenant() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def quotas_of(storage: Storage, limits: Limits = LIMITS, now: float = 1e9) -> Quotas:
    """As one process has them."""
    return Quotas(storage, TenantLimits(storage, limits), clock=lambda: now)


async def test_a_limit_is_reached_exactly_and_the_refusal_tells_the_count(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    await quotas.reserve(tenant, Usage(documents=9, bytes=4_000_000_000))
    await quotas.reserve(tenant, Usage(documents=1, bytes=1_000_000_000))
    with pytest.raises(QuotaExceeded) as caught:
        await quotas.reserve(tenant, Usage(documents=1))
    assert caught.value.extra == {"quota": "documents", "limit": 10, "present": 10}
    assert (caught.value.status, caught.value.retryable) == (403, False)
    assert await quotas.usage(tenant) == Usage(documents=10, bytes=5_000_000_000)
    await quotas.reserve(tenant, Usage(documents=0, bytes=-10))
    await quotas.give_back(tenant, Usage(documents=1))
    await quotas.reserve(tenant, Usage(documents=1, bytes=10))


async def test_jobs_are_refused_for_a_while(storage: Storage, tenant: str):
    quotas = quotas_of(storage, now=DAY_SECONDS * 100 + 80_000)
    job = Usage(running_jobs=1, jobs_per_day=1)
    for _ in range(3):
        await quotas.reserve(tenant, job)
    with pytest.raises(QuotaExhausted) as running:
        await quotas.reserve(tenant, job)
    assert (running.value.status, running.value.code) == (429, "quota_exceeded")
    assert running.value.extra["quota"] == "running_jobs"
    await quotas.give_back(tenant, Usage(running_jobs=3))
    for _ in range(2):
        await quotas.reserve(tenant, job)
    with pytest.raises(QuotaExhausted) as daily:
        await quotas.reserve(tenant, job)
    assert daily.value.extra["quota"] == "jobs_per_day"
    assert daily.value.retry_after == 6400
    # what must not be refused is counted all the same
    await quotas.add(tenant, job)
    assert (await quotas.usage(tenant)).jobs_per_day == 6
    tomorrow = quotas_of(storage, now=DAY_SECONDS * 101)
    assert (await tomorrow.usage(tenant)).jobs_per_day == 0
    await tomorrow.give_back(tenant, Usage(running_jobs=2))
    await tomorrow.reserve(tenant, job)


async def test_many_writers_in_several_processes_take_each_place_once(storage: Storage, tenant: str):
    processes = [quotas_of(storage) for _ in range(3)]
    wishes = [process.reserve(tenant, Usage(documents=1, bytes=3)) for process in processes for _ in range(8)]
    results = await asyncio.gather(*wishes, return_exceptions=True)
    assert sum(result is None for result in results) == 10
    assert sum(isinstance(result, QuotaExceeded) for result in results) == 14
    assert await processes[0].usage(tenant) == Usage(documents=10, bytes=30)
    await asyncio.gather(*(process.give_back(tenant, Usage(1, 3)) for process in processes for _ in range(3)))
    assert await processes[0].usage(tenant) == Usage(documents=1, bytes=3)


async def test_one_who_gives_up_takes_nobody_along(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    wishes = [asyncio.ensure_future(quotas.reserve(tenant, Usage(documents=1))) for _ in range(6)]
    await asyncio.sleep(0)
    wishes[0].cancel()
    results = await asyncio.gather(*wishes, return_exceptions=True)
    assert all(result is None for result in results[1:])
    assert 5 <= (await quotas.usage(tenant)).documents <= 6


async def test_no_limits_refuse_nothing(storage: Storage, tenant: str):
    quotas = quotas_of(storage, UNLIMITED)
    await quotas.reserve(tenant, Usage(10**9, 10**15, 10**6, 10**6))
    assert (await quotas.usage(tenant)).bytes == 10**15


async def test_a_recount_puts_the_truth_in_the_place_of_what_is_counted(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    await quotas.reserve(tenant, Usage(documents=7, bytes=70, running_jobs=2, jobs_per_day=2))

    async def count(_: str) -> Usage:
        return Usage(documents=3, bytes=30)

    assert await quotas.recount(tenant, count)
    assert await quotas.usage(tenant) == Usage(documents=3, bytes=30, jobs_per_day=2)
    assert tenant in [name async for name in quotas.tenants()]


async def test_a_recount_never_overwrites_what_came_meanwhile(storage: Storage, tenant: str):
    quotas = quotas_of(storage)

    async def count(_: str) -> Usage:
        await quotas.reserve(tenant, Usage(documents=1))
        return Usage()

    await quotas.reserve(tenant, Usage(documents=1))
    assert not await quotas.recount(tenant, count)
    assert (await quotas.usage(tenant)).documents == 4


# --- what is counted ---


async def test_a_job_counts_from_its_creation_to_its_end_and_once(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    jobs = Jobs(storage, quotas=quotas)
    job_id = new_id()

    async def create(job: str, refusable: bool = True) -> None:
        await jobs.create(
            tenant, Kind.ANSWER, job_id=job, title="", collection="", owner="", refusable=refusable
        )

    await asyncio.gather(*(create(job_id) for _ in range(3)))  # repeated, also at the same time
    assert await quotas.usage(tenant) == Usage(running_jobs=1, jobs_per_day=1)
    assert await jobs.usage(tenant) == Usage(running_jobs=1)
    job = await jobs.get(tenant, job_id)
    for _ in range(2):
        await jobs.finish(job.ticket, State.FAILED)
    assert await quotas.usage(tenant) == Usage(jobs_per_day=1)
    again = await jobs.retry(tenant, job_id)
    assert await quotas.usage(tenant) == Usage(running_jobs=1, jobs_per_day=1)
    await jobs.finish(again.ticket, State.SUCCEEDED)
    assert await jobs.usage(tenant) == Usage()
    for _ in range(3):
        await create(new_id())
    with pytest.raises(QuotaExhausted):
        await create(new_id())
    await create(new_id(), refusable=False)


async def test_documents_count_while_they_are_there_with_their_last_size(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    documents = Documents(storage, quotas)

    async def put(name: str, size: int, job: str) -> None:
        uploads = [Upload(name, "0" * 64, size, "text/plain")]
        records = await documents.find_all(tenant, "c", [name])
        hold = await documents.hold(tenant, uploads, records, job)
        await documents.accept(tenant, "c", uploads, job, hold=hold)
        await documents.release(tenant, hold)

    await put("a", 100, "j1")
    await put("a", 40, "j2")
    await put("a", 40, "j2")  # repeated after a crash
    await put("b", 5, "j3")
    assert await quotas.usage(tenant) == Usage(documents=2, bytes=45)
    await documents.mark_deleted(tenant, "c", "a", "j4", version=2)
    await documents.mark_deleted(tenant, "c", "a", "j4", version=2)
    assert await quotas.usage(tenant) == Usage(documents=1, bytes=5)
    for number in range(9):
        await put(f"n{number}", 1, f"k{number}")
    with pytest.raises(QuotaExceeded):
        await put("one-too-many", 1, "j5")
    await put("b", 6, "j6")  # a new version of one that is there needs no place
    assert await quotas.usage(tenant) == Usage(documents=10, bytes=15)


# --- documents that are not finished ---


async def test_documents_of_an_ingestion_count_until_it_has_ended(storage: Storage, tenant: str):
    quotas = quotas_of(storage, Limits(unfinished_documents=100))
    jobs = Jobs(storage, quotas=quotas)

    async def create(total: int, kind: Kind = Kind.INGESTION) -> Job:
        job_id = new_id()
        return await jobs.create(tenant, kind, job_id=job_id, title="", collection="", owner="", total=total)

    large = await create(300)  # by itself it may be larger than the limit
    with pytest.raises(QuotaExhausted) as caught:
        await create(1)
    assert caught.value.extra["quota"] == "unfinished_documents"
    assert caught.value.status == 429
    await create(1000, Kind.REINDEXING)
    await jobs.begin(large.ticket, total=90)
    assert (await quotas.usage(tenant)).unfinished_documents == 90
    await create(10)
    with pytest.raises(QuotaExhausted):
        await create(1)
    await jobs.finish(large.ticket, State.PARTIAL)
    assert (await quotas.usage(tenant)).unfinished_documents == 10
    again = await jobs.retry(tenant, large.id)
    assert (await quotas.usage(tenant)).unfinished_documents == 100
    await jobs.begin(again.ticket, total=5)
    assert await jobs.usage(tenant) == replace(await quotas.usage(tenant), jobs_per_day=0)
    assert (await quotas.usage(tenant)).unfinished_documents == 15


async def test_all_tenants_together_have_a_bound_too(storage: Storage):
    def process(limit: int, now: float = 1e9) -> Quotas:
        return Quotas(storage, TenantLimits(storage, UNLIMITED), lambda: now, max_unfinished_documents=limit)

    tenants = [f"t-{uuid.uuid4().hex[:12]}" for _ in range(2)]
    before = await process(10**9)._count_in_all()
    await process(10**9).reserve(tenants[0], Usage(unfinished_documents=7))
    await process(before + 8).reserve(tenants[1], Usage(unfinished_documents=2))
    with pytest.raises(Overloaded) as caught:
        await process(before + 9).reserve(tenants[1], Usage(unfinished_documents=1))
    assert (caught.value.status, caught.value.retryable) == (503, True)
    assert caught.value.retry_after
    # events and what frees room are counted, and refused by nothing
    await process(before + 9).reserve(tenants[1], Usage(), but=Usage(unfinished_documents=1))
    await process(before + 9).give_back(tenants[1], Usage(unfinished_documents=1))
    await process(before + 9).reserve(tenants[1], Usage(documents=1))


async def test_what_nothing_refuses_is_counted_all_the_same(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    job = Usage(running_jobs=9, jobs_per_day=9)
    await quotas.reserve(tenant, Usage(documents=10), but=job)
    assert await quotas.usage(tenant) == Usage(documents=10) + job
    with pytest.raises(QuotaExceeded):
        await quotas.reserve(tenant, Usage(documents=1), but=job)
    assert await quotas.usage(tenant) == Usage(documents=10) + job


async def test_a_job_is_taken_from_room_that_was_held_for_it(storage: Storage, tenant: str):
    quotas = quotas_of(storage)
    documents, jobs = Documents(storage, quotas), Jobs(storage, quotas=quotas)
    job_id = new_id()

    async def accept() -> None:
        beside = Jobs.begun(Kind.INGESTION, 2)
        hold = await documents.hold(tenant, [], {}, job_id, beside=beside)
        await jobs.create(
            tenant, Kind.INGESTION, job_id=job_id, title="", collection="", owner="", total=2, hold=hold
        )
        await documents.release(tenant, hold)

    for _ in range(2):  # the second time gives back what it did not need
        await accept()
        usage = Usage(running_jobs=1, jobs_per_day=1, unfinished_documents=2)
        assert await quotas.usage(tenant) == usage
