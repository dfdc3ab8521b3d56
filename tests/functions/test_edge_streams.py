"""Streams of events that break off: they never just end."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from edge_tenant import Tenant, in_storage

from functions.http import Call, ended_by_error, sse
from shared.errors import StorageUnavailable
from shared.followers import TENANT_FOLLOWERS_MAX
from shared.jobs import TABLE, Jobs, Kind
from shared.storage import Storage

CALL = cast("Any", Call)(None, None, "the-request")


async def told(error: Exception | None) -> list[bytes]:
    async def events() -> AsyncGenerator[bytes, None]:
        yield sse("status", {"state": "running"})
        if error is not None:
            raise error

    return [event async for event in ended_by_error(CALL, events())]


async def test_a_stream_that_ends_well_is_left_as_it_is() -> None:
    assert await told(None) == [sse("status", {"state": "running"})]


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (StorageUnavailable(retry_after=5), "storage_unavailable", True),
        (ValueError("a secret"), "internal_error", False),
    ],
)
async def test_a_stream_that_breaks_off_ends_with_a_typed_error(
    error: Exception, code: str, retryable: bool
) -> None:
    event = (await told(error))[-1]
    assert event.startswith(b"event: error\n")
    assert b"a secret" not in event
    problem = json.loads(event.partition(b"data: ")[2])
    assert (problem["code"], problem["retryable"]) == (code, retryable)
    assert problem["correlation_id"] == "the-request"


async def test_a_client_that_leaves_ends_what_the_stream_waits_for() -> None:
    ended: list[bool] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"first"
            yield b"second"
        finally:
            ended.append(True)

    stream = cast("AsyncGenerator[bytes, None]", ended_by_error(CALL, events()))
    assert await anext(stream) == b"first"
    await stream.aclose()
    assert ended == [True]


def endless_job(tenant: Tenant, job: str) -> None:
    """A job that never starts: it stays queued for as long as the test looks at it."""

    async def announce(storage: Storage) -> None:
        await Jobs(storage).create(
            tenant.name, Kind.INGESTION, job_id=job, title="t", collection="c", owner="tester"
        )
        await Jobs(storage).started(job)

    in_storage(tenant.stack.storage, announce)


@pytest.mark.security("API4")
def test_one_follower_too_many_is_refused_until_another_leaves(tenant: Tenant) -> None:
    job, open_streams = "f" * 32, []
    endless_job(tenant, job)
    try:
        for _ in range(TENANT_FOLLOWERS_MAX):
            open_streams.append(urllib.request.urlopen(events_of(tenant, job), timeout=60))
            assert open_streams[-1].readline() == b"event: status\n"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(events_of(tenant, job), timeout=60)
        assert refused.value.code == 429
        assert int(refused.value.headers["retry-after"]) > 0
        assert json.loads(refused.value.read())["code"] == "rate_limited"
        open_streams.pop().close()
        deadline = time.monotonic() + 60
        while True:  # the host notices it at its next word
            try:
                open_streams.append(urllib.request.urlopen(events_of(tenant, job), timeout=60))
                break
            except urllib.error.HTTPError as error:
                error.close()
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        for stream in open_streams:
            stream.close()


def events_of(tenant: Tenant, job: str) -> urllib.request.Request:
    return urllib.request.Request(
        f"{tenant.stack.url}/api/jobs/{job}/events", headers={"Authorization": f"Bearer {tenant.key}"}
    )


def test_the_events_of_a_job_that_is_lost_end_with_an_error(shared_tenant: Tenant) -> None:
    tenant, job = shared_tenant, "0" * 32

    async def lose(storage: Storage) -> None:
        await storage.delete_row(TABLE, tenant.name, f"job:{job}")

    endless_job(tenant, job)
    with urllib.request.urlopen(events_of(tenant, job), timeout=60) as response:
        assert response.readline() == b"event: status\n"
        in_storage(tenant.stack.storage, lose)
        rest = response.read().split(b"\n\n")
    last = [event for event in rest if event][-1]
    assert last.startswith(b"event: error\n")
    assert json.loads(last.partition(b"data: ")[2])["code"] == "not_found"
