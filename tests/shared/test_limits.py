from __future__ import annotations

import uuid

import pytest

from shared.errors import InvalidParameter, StorageUnavailable
from shared.limits import CACHE_SECONDS, Limits, Source, TenantLimits, checked_limits, parse_limits
from shared.storage import Storage


def test_limits_are_read_from_one_line() -> None:
    limits = parse_limits("user_requests_per_minute=60, job_cost=2.5\n prompt_tokens=1000")
    assert limits == Limits(user_requests_per_minute=60, job_cost=2.5, prompt_tokens=1000)
    assert parse_limits("") == Limits()


@pytest.mark.parametrize(
    "text", ["user_requests=60", "job_cost=0", "job_cost=inf", "job_cost", "job_cost=-1", "job_cost=1e9"]
)
def test_a_misspelt_or_meaningless_limit_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ValueError, match=text.split("=")[0]):
        parse_limits(text)


@pytest.mark.parametrize("value", [0, -1, "60", True, float("inf"), float("nan")])
def test_a_limit_is_a_number_above_nothing_or_none(value: object) -> None:
    with pytest.raises(InvalidParameter) as refused:
        checked_limits({"job_cost": value})
    assert refused.value.extra["parameter"] == "job_cost"
    assert checked_limits({"job_cost": None}) == {"job_cost": None}


def test_a_tenant_goes_below_what_it_is_granted_and_never_above() -> None:
    granted = Limits(user_requests_per_minute=100, job_cost=5).changed_by({"job_cost": None})
    assert granted == Limits(user_requests_per_minute=100)
    own = {"user_requests_per_minute": 1000.0, "job_cost": 3.0, "prompt_tokens": None}
    assert granted.tightened_by(own) == Limits(user_requests_per_minute=100, job_cost=3)


async def test_limits_of_a_tenant_are_those_of_the_platform_under_its_own(storage: Storage) -> None:
    tenant, other = f"t-{uuid.uuid4().hex[:8]}", f"t-{uuid.uuid4().hex[:8]}"
    limits = TenantLimits(storage, Limits(user_requests_per_minute=100))
    assert await limits.of(tenant) == Limits(user_requests_per_minute=100)
    await limits.put(tenant, Source.PLATFORM, {"user_requests_per_minute": 50, "job_cost": 4})
    await limits.put(tenant, Source.TENANT, {"user_requests_per_minute": 60, "job_cost": 1})
    assert await limits.of(tenant) == Limits(user_requests_per_minute=50, job_cost=1)
    assert await limits.of(other) == Limits(user_requests_per_minute=100)


async def test_a_process_learns_of_a_change_by_another_within_its_time(storage: Storage) -> None:
    tenant, now = f"t-{uuid.uuid4().hex[:8]}", [0.0]
    here = TenantLimits(storage, Limits(), clock=lambda: now[0])
    there = TenantLimits(storage, Limits())
    assert await here.of(tenant) == Limits()
    await there.put(tenant, Source.PLATFORM, {"job_cost": 4})
    assert await here.of(tenant) == Limits()
    now[0] += CACHE_SECONDS
    assert await here.of(tenant) == Limits(job_cost=4)


class _DownStorage:
    async def get_rows(self, table: str, partition: str, rows: object) -> dict[str, object]:
        raise StorageUnavailable


async def test_without_storage_the_limits_known_last_stay_in_force(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, now = f"t-{uuid.uuid4().hex[:8]}", [0.0]
    limits = TenantLimits(storage, Limits(job_cost=9), clock=lambda: now[0])
    await limits.put(tenant, Source.TENANT, {"job_cost": 4})
    assert await limits.of(tenant) == Limits(job_cost=4)
    monkeypatch.setattr(limits, "_storage", _DownStorage())
    now[0] += CACHE_SECONDS
    assert await limits.of(tenant) == Limits(job_cost=4)
    assert await limits.of("unknown") == Limits(job_cost=9)
