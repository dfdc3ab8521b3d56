"""A service that speaks the contract, and a client that talks to it without ever waiting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract_service import KEY, Service

from client import Groundwork


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.stop()


@pytest.fixture
def waits() -> list[float]:
    """The waits that the client has made, in seconds; no test really waits."""
    return []


@pytest.fixture
def groundwork(service: Service, waits: list[float]) -> Iterator[Groundwork]:
    with Groundwork(service.url, KEY, timeout_seconds=5, sleep=waits.append) as client:
        yield client
