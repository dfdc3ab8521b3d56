"""Other people's clients, unmodified, each in a process of its own: Node, LangChain, Semantic Kernel, llm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from openai import AzureOpenAI
from openai_tenant import Tenant

from laptop import environment

CLIENTS = Path(__file__).parent / "clients"
WHOLE, STREAMED = "Whole answer.", "Streamed answer [1]."
DIMENSIONS = 384
CLIENT_SECONDS = 120


@pytest.fixture(scope="session")
def python() -> Path:
    return environment.ensure_clients(Path(sys.executable))


def seen_by(scripted: Tenant, *command: str, **more: str) -> Any:
    """What a client printed as JSON."""
    return json.loads(printed_by(scripted, *command, **more))


def printed_by(scripted: Tenant, *command: str, **more: str) -> str:
    own = {"SURFACE_URL": scripted.url, "SURFACE_KEY": scripted.key, "NO_PROXY": "127.0.0.1", **more}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    ended = subprocess.run(
        command, env={**kept, **own}, capture_output=True, text=True, timeout=CLIENT_SECONDS
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def test_openais_client_for_node(scripted: Tenant):
    node, folder = environment.ensure_node_client(Path(sys.executable))
    seen = seen_by(scripted, node, str(CLIENTS / "node" / "client.mjs"), CLIENT_FOLDER=str(folder))
    assert (seen["chat"], "".join(seen["stream"]), seen["azure"]) == (WHOLE, STREAMED, WHOLE)
    assert seen["tools"] == ["weather", "clock"]
    assert seen["documents"] == STREAMED
    assert seen["cited"]
    assert seen["vectors"] == [DIMENSIONS] * 2
    assert seen["same"] is True
    assert seen["response"] == WHOLE
    assert seen["events"] == ["response.created", "response.completed"]
    assert {"chat", "embedding", "rag:pumps"} <= set(seen["models"])
    assert seen["content"] is True
    assert seen["refused"] == ["NotFoundError", 404, "model_not_found"]
    for batch in (seen["batch"], seen["batchOnAzure"]):
        assert batch == {
            "status": "completed",
            "answers": {"model": WHOLE, "documents": STREAMED},
            "errors": [["nobody", 404]],
            "listed": True,
            "files": True,
        }


def test_langchain(scripted: Tenant, python: Path):
    seen = seen_by(scripted, str(python), str(CLIENTS / "langchain_client.py"))
    assert (seen["chat"], "".join(seen["stream"]), seen["azure"]) == (WHOLE, STREAMED, WHOLE)
    assert seen["responses"] == WHOLE
    assert seen["documents"] == STREAMED
    assert seen["usage"] == 14
    assert seen["tools"] == ["weather", "clock"]
    assert seen["vectors"] == [DIMENSIONS] * 2
    assert seen["query"] is True


def test_semantic_kernel(scripted: Tenant, python: Path):
    seen = seen_by(scripted, str(python), str(CLIENTS / "semantic_kernel_client.py"))
    assert (seen["chat"], "".join(seen["stream"])) == (WHOLE, STREAMED)
    assert seen["documents"] == STREAMED
    assert seen["vectors"] == [DIMENSIONS] * 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["-m", "chat"], STREAMED), (["-m", "rag:pumps", "--no-stream"], STREAMED)],
)
def test_the_llm_command(scripted: Tenant, python: Path, tmp_path: Path, options: list[str], expected: str):
    models = [
        {"model_id": name, "model_name": name, "api_base": scripted.v1, "api_key_name": "surface"}
        for name in ("chat", "rag:pumps")
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # YAML holds JSON
    (tmp_path / "keys.json").write_text(json.dumps({"surface": scripted.key}))
    command = [str(python), "-m", "llm", "prompt", "How heavy is it?", *options]
    assert printed_by(scripted, *command, LLM_USER_PATH=str(tmp_path)).strip() == expected


def test_azure_openai_for_python(scripted: Tenant):
    client = AzureOpenAI(
        azure_endpoint=scripted.url, api_key=scripted.key, api_version="2024-10-21", max_retries=0
    )
    messages: Any = [{"role": "user", "content": "How heavy is it?"}]
    assert client.chat.completions.create(model="chat", messages=messages).choices[0].message.content == WHOLE
    stream = client.chat.completions.create(model="chat", messages=messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == STREAMED
    assert len(client.embeddings.create(model="embedding", input=["one"]).data[0].embedding) == DIMENSIONS
    assert client.responses.create(model="chat", input="Hello?").output_text == WHOLE
    answer = client.chat.completions.create(model="rag:pumps", messages=messages).choices[0].message
    assert answer.content == STREAMED
    assert getattr(answer, "citations", None)


def test_batches_and_files_through_azure_openai_for_python(scripted: Tenant):
    client = AzureOpenAI(
        azure_endpoint=scripted.url, api_key=scripted.key, api_version="2025-04-01-preview", max_retries=0
    )
    body = {"messages": [{"role": "user", "content": "How heavy is it?"}]}
    line = {"method": "POST", "url": "/chat/completions"}
    lines = [{**line, "custom_id": name, "body": {**body, "model": name}} for name in ("chat", "rag:pumps")]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    assert client.files.retrieve(file.id).bytes == len(data)
    assert client.files.content(file.id).read() == data
    azure: Any = client  # its endpoint has no version before it, which the SDK's types do not know
    batch = azure.batches.create(
        input_file_id=file.id, endpoint="/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    deadline = time.monotonic() + CLIENT_SECONDS
    while batch.status != "completed" and time.monotonic() < deadline:
        time.sleep(0.25)
        batch = client.batches.retrieve(batch.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 0)
    answers = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    found = {a["custom_id"]: a["response"]["body"]["choices"][0]["message"]["content"] for a in answers}
    assert found == {"chat": WHOLE, "rag:pumps": STREAMED}
    assert batch.id in [each.id for each in client.batches.list()]
    assert {file.id, batch.output_file_id} <= {each.id for each in client.files.list()}
    assert client.files.delete(file.id).deleted
