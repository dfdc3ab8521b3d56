"""Fixtures of the durable engine's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from azure.durable_functions import DurableOrchestrationClient
from durable_host import Host, running, serving


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with running(tmp_path / "hub.db") as started:
        yield started


@pytest.fixture
async def base_url(host: Host) -> AsyncIterator[str]:
    async with serving(host.engine) as url:
        yield url


@pytest.fixture
def client(host: Host, base_url: str) -> DurableOrchestrationClient:
    """The SDK's own client over the engine's binding."""
    return DurableOrchestrationClient(host.engine.client_binding(base_url))
