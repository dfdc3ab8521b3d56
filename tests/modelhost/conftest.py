"""One model host with the real weights for the whole test session, spoken to over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest
from model_host_process import API_KEY, ModelHost, announced_url, start, wait_until_ready
from openai import AzureOpenAI, OpenAI


@pytest.fixture(scope="session")
def host() -> Iterator[ModelHost]:
    process = start("--port", "0", "--api-key", API_KEY)
    # Nobody reads the log, and a full pipe would stop the server.
    threading.Thread(target=lambda: process.stderr and process.stderr.read(), daemon=True).start()
    try:
        url = announced_url(process)
        wait_until_ready(url)
        yield ModelHost(url, process)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def client(host: ModelHost) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{host.url}/v1", api_key=API_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def azure(host: ModelHost) -> Iterator[AzureOpenAI]:
    with AzureOpenAI(
        azure_endpoint=host.url, api_key=API_KEY, api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="session")
def http(host: ModelHost) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx2.Client(base_url=host.url, headers=headers, timeout=60) as client:
        yield client
