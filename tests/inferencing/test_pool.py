from random import Random

import pytest

from shared.inferencing import Deployment, parse_catalogue
from shared.inferencing.faults import DeploymentFault, FaultKind
from shared.inferencing.pool import (
    HEDGES_PER_CALL,
    LEAST_HEDGE_SECONDS,
    LEAST_PATIENCE_SECONDS,
    MOST_HEDGES,
    Demand,
    Pool,
)

from .scripted import catalogue_text

DEMAND = Demand(("answer", 0), tokens=100)
THROTTLED = FaultKind.THROTTLED


def deployments(*names: str, **lines: str) -> tuple[Deployment, ...]:
    return parse_catalogue(catalogue_text(*names, **lines), {}).models["m"].deployments


def pool_of(*names: str, hedge: bool = False, **lines: str) -> Pool:
    return Pool(deployments(*names, **lines), Random(1), hedge=hedge)


def test_an_idle_pool_draws_by_weight() -> None:
    pool = pool_of("a", "b", "c", a="weight = 2", b="weight = 1", c="weight = 1")
    counts = dict.fromkeys("abc", 0)
    for _ in range(2000):
        lease = pool.acquire(0.0, DEMAND)
        assert lease is not None
        counts[lease.deployment.name] += 1
        lease.succeeded()
    assert counts["a"] / 2000 == pytest.approx(0.5, abs=0.05)


def test_a_lease_is_settled_once() -> None:
    pool = pool_of("a")
    lease = pool.acquire(0.0, DEMAND)
    assert lease is not None
    lease.succeeded()
    lease.failed(0.0, DeploymentFault(FaultKind.HUNG, "late"))
    lease.let_go()
    assert pool.members[0].in_flight == 0
    assert pool.retry_after(0.0, DEMAND) == 0.0


def test_the_shortest_wait_of_all_is_told() -> None:
    pool = pool_of("a", "b")
    for seconds in (30.0, 7.0):
        lease = pool.acquire(0.0, DEMAND)
        assert lease is not None
        lease.failed(0.0, DeploymentFault(THROTTLED, "status_429", seconds))
    assert pool.acquire(0.0, DEMAND) is None
    assert pool.retry_after(2.0, DEMAND) == 5.0


def test_tokens_are_charged_to_the_rate_of_the_deployment() -> None:
    pool = pool_of("a", a="tokens_per_minute = 600")
    assert pool.acquire(0.0, DEMAND) is not None
    assert pool.acquire(0.0, DEMAND) is None  # a hundred tokens are ten seconds' worth
    assert pool.acquire(0.11, DEMAND) is not None


@pytest.mark.parametrize(("hedge", "seconds"), [(False, LEAST_PATIENCE_SECONDS), (True, LEAST_HEDGE_SECONDS)])
def test_hedging_shortens_the_patience_with_fast_deployments(hedge: bool, seconds: float) -> None:
    pool = pool_of("a", hedge=hedge)
    for _ in range(3):
        lease = pool.acquire(0.0, DEMAND)
        assert lease is not None
        assert lease.patience is None
        lease.begun(0.001)
        lease.succeeded()
    lease = pool.acquire(0.0, DEMAND)
    assert lease is not None
    assert lease.patience == seconds


def test_patience_is_learned_apart_for_answers_of_other_lengths_and_shared_by_the_pool() -> None:
    pool = pool_of("a", "b")
    for _ in range(10):
        lease = pool.acquire(0.0, DEMAND, {"b"})
        assert lease is not None
        lease.begun(0.5)
        lease.succeeded()
    long = pool.acquire(0.0, Demand(("answer", 12), 100))
    other = pool.acquire(0.0, DEMAND, {"a"})
    stream = pool.acquire(0.0, Demand(("stream", 0), 100))
    assert long is not None
    assert other is not None
    assert stream is not None
    assert long.patience is None
    assert other.patience == stream.patience == LEAST_PATIENCE_SECONDS


def test_second_requests_are_rationed_but_not_where_the_first_is_known_to_be_broken() -> None:
    pool = pool_of("a", "b")
    slow = pool.acquire(0.0, DEMAND, {"b"})
    broken = [pool.acquire(0.0, DEMAND, {"b"}) for _ in range(2)]
    assert slow is not None
    allowed = 0
    while (second := pool.acquire_beside(0.0, DEMAND, {"a"}, slow)) is not None:
        second.let_go()
        allowed += 1
    assert allowed == MOST_HEDGES
    for _ in range(round(1 / HEDGES_PER_CALL) + 1):
        lease = pool.acquire(0.0, DEMAND)
        assert lease is not None
        lease.let_go()
    assert pool.acquire_beside(0.0, DEMAND, {"a"}, slow) is not None
    assert pool.acquire_beside(0.0, DEMAND, {"a"}, slow) is None
    for lease in broken:
        assert lease is not None
        lease.failed(0.0, DeploymentFault(FaultKind.HUNG, "overtaken"))
    assert pool.acquire_beside(0.0, DEMAND, {"a"}, slow) is not None


def test_a_session_moves_only_when_its_deployment_goes() -> None:
    def home(pool: Pool, session: int) -> str:
        lease = pool.acquire(0.0, Demand(("answer", 0), 0, str(session)))
        assert lease is not None
        lease.let_go()
        return lease.deployment.name

    three, two = pool_of("a", "b", "c"), pool_of("a", "b")
    homes = {session: home(three, session) for session in range(300)}
    assert {homes[s] for s in homes} == {"a", "b", "c"}
    assert all(home(two, s) == where for s, where in homes.items() if where != "c")
