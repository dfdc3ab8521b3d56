"""A stack of its own whose chat model is a service that can be told to fail; its host may be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from batch_service import KEY, BatchService
from running_stack import RunningStack

from laptop.environment import ROOT
from laptop.stack import Stack, free_port

CATALOGUE = """
[models.chat]
kind = "chat"
context_tokens = 4000
max_output_tokens = 100
[[models.chat.deployments]]
name = "only"
endpoint = "http://127.0.0.1:{port}/v1"
deployment = "echo"
api = "openai"
version = "1"
data_zone = "local"

[models.priced]
kind = "chat"
context_tokens = 4000
max_output_tokens = 100
[[models.priced.deployments]]
name = "only"
endpoint = "http://127.0.0.1:{port}/v1"
deployment = "echo"
api = "openai"
version = "1"
data_zone = "local"
price_output_per_million = 20000

[models.bulk]
kind = "chat"
context_tokens = 4000
max_output_tokens = 100
[[models.bulk.deployments]]
name = "only"
endpoint = "http://127.0.0.1:{port}/v1"
deployment = "echo"
api = "openai"
version = "1"
data_zone = "local"
[[models.bulk.deployments]]
name = "night"
batch = true
endpoint = "http://127.0.0.1:{batch_port}"
deployment = "bulk-night"
api = "azure-v1"
version = "1"
data_zone = "local"
price_input_per_million = 1000
price_output_per_million = 2000
key_setting = "BATCH_SERVICE_KEY"
"""


@dataclass
class Service:
    """The model service behind the stack."""

    port: int

    def does(self, **wanted: Any) -> None:
        self._control(json.dumps(wanted).encode())

    def counts(self) -> dict[str, int]:
        return self._control(None)

    def _control(self, body: bytes | None) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/control", data=body, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    port = free_port()
    command = [sys.executable, "-m", "bench.batch_upstream", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        try:
            yield Service(port)
        finally:
            process.kill()


@pytest.fixture(scope="package")
def batch_service() -> Iterator[BatchService]:
    """A service that runs whole batches."""
    found = BatchService().start()
    yield found
    found.stop()


@pytest.fixture(scope="package")
def own(
    service: Service, batch_service: BatchService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningStack]:
    """A stack whose only models are those services."""
    folder = tmp_path_factory.mktemp("batches")
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE.format(port=service.port, batch_port=batch_service.port))
    endpoint = f"http://127.0.0.1:{service.port}/v1"
    stack = Stack(
        python=Path(sys.executable), folder=folder, model_endpoint=endpoint, models_file=str(catalogue)
    )
    stack.settings = {"BATCH_SERVICE_KEY": KEY}
    stack.start()
    try:
        yield RunningStack(stack)
    finally:
        stack.stop()


@pytest.fixture
def client(own: RunningStack, service: Service) -> openai.OpenAI:
    """openai-python with a tenant of its own; the service is in good health."""
    service.does()
    return openai.OpenAI(base_url=f"{own.url}/v1", api_key=own.key_for(own.new_tenant()), max_retries=2)
