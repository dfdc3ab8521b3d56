"""Wrong values, each with its exact status, code and parameter; nothing of them reaches a model service."""

from __future__ import annotations

from typing import Any

import pytest
from openai_tenant import Tenant
from scripted_service import ScriptedService

CHAT, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/embeddings", "/v1/responses"
MESSAGES: Any = [{"role": "user", "content": "Hello?"}]


def image(url: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


def part(kind: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [*MESSAGES, {"role": "user", "content": [{"type": kind, kind: fields}]}]}


WRONG: list[tuple[str, dict[str, Any], int, str, str | None]] = [
    (CHAT, {"model": "nobody"}, 404, "model_not_found", "model"),
    (CHAT, {"model": "rag:nowhere"}, 404, "model_not_found", "model"),
    (CHAT, {"model": "rag:../../etc"}, 404, "model_not_found", "model"),
    (CHAT, {"model": "embedding"}, 400, "invalid_parameter", None),
    (CHAT, {"model": 7}, 400, "invalid_request", "model"),
    (CHAT, {"model": "x" * 129}, 400, "invalid_request", "model"),
    (CHAT, {"max_tokens": -1}, 400, "invalid_parameter", "max_tokens"),
    (CHAT, {"max_tokens": 0}, 400, "invalid_parameter", "max_tokens"),
    (CHAT, {"max_completion_tokens": -5}, 400, "invalid_parameter", "max_completion_tokens"),
    (CHAT, {"max_tokens": 51}, 400, "invalid_parameter", "max_tokens"),
    (CHAT, {"max_tokens": 1.5}, 400, "invalid_parameter", "max_tokens"),
    (CHAT, {"max_tokens": True}, 400, "invalid_parameter", "max_tokens"),
    (CHAT, {"stream": "yes please"}, 400, "invalid_request", "stream"),
    (CHAT, {"messages": []}, 400, "invalid_request", "messages"),
    (CHAT, {"messages": "Hello?"}, 400, "invalid_request", "messages"),
    (CHAT, image("data:image/png;base64,@@@"), 400, "invalid_parameter", "messages[0]"),
    (CHAT, image("data:image/png;base64,AAA"), 400, "invalid_parameter", "messages[0]"),
    (CHAT, image("data:image/png;base64"), 400, "invalid_parameter", "messages[0]"),
    (CHAT, part("input_audio", data="no base64", format="wav"), 400, "invalid_parameter", "messages[1]"),
    (CHAT, part("file", file_data="data:x;base64,=", filename="x"), 400, "invalid_parameter", "messages[1]"),
    (EMBEDDINGS, {"model": "nobody", "input": "x"}, 404, "model_not_found", "model"),
    (EMBEDDINGS, {"model": "chat", "input": "x"}, 400, "invalid_parameter", None),
    (EMBEDDINGS, {"input": [-1]}, 400, "invalid_parameter", "input"),
    (EMBEDDINGS, {"input": "x", "dimensions": -1}, 400, "invalid_request", "dimensions"),
    (EMBEDDINGS, {"input": "x", "dimensions": 385}, 400, "invalid_parameter", "dimensions"),
    (EMBEDDINGS, {"input": "x", "encoding_format": "base65"}, 400, "invalid_request", "encoding_format"),
    (RESPONSES, {"model": "nobody"}, 404, "model_not_found", "model"),
    (RESPONSES, {"max_output_tokens": -1}, 400, "invalid_request", "max_output_tokens"),
    (RESPONSES, {"background": "later"}, 400, "invalid_request", "background"),
]
DEFAULTS: dict[str, dict[str, Any]] = {
    CHAT: {"model": "chat", "messages": MESSAGES},
    EMBEDDINGS: {"model": "embedding"},
    RESPONSES: {"model": "chat", "input": "Hello?"},
}


@pytest.mark.parametrize(("path", "body", "status", "code", "parameter"), WRONG)
def test_a_wrong_value_is_refused_before_anything_is_sent(
    scripted: Tenant,
    service: ScriptedService,
    path: str,
    body: dict[str, Any],
    status: int,
    code: str,
    parameter: str | None,
):
    sent = len(service.requests)
    answer = scripted.post(path, DEFAULTS[path] | body)
    error = answer[2]["error"]
    assert (answer[0], error["code"], error["param"]) == (status, code, parameter), error
    assert error["type"] == "invalid_request_error"
    assert error["retryable"] is False
    assert len(service.requests) == sent


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"model": "small"}), (RESPONSES, {"model": "small"})])
def test_a_prompt_over_the_limit_is_refused_with_its_count_and_the_cap(
    scripted: Tenant, path: str, body: dict[str, Any]
):
    long = "word " * 300
    more = {"messages": [{"role": "user", "content": long}]} if path == CHAT else {"input": long}
    status, _, document = scripted.post(path, body | more)
    error = document["error"]
    assert (status, error["code"], error["limit"]) == (400, "prompt_too_long", 200)
    assert 300 < error["tokens"] < 320


def test_data_that_is_base64_goes_on_to_the_model(scripted: Tenant, service: ScriptedService):
    body = {"model": "chat", **image("data:image/png;base64,iVBORw0KGgo=")}
    assert scripted.post(CHAT, body)[0] == 200
    assert service.requests[-1]["messages"] == body["messages"]
