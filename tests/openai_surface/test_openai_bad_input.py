"""What the surface answers to requests that are wrong: typed, in OpenAI's shape, at once."""

from __future__ import annotations

from typing import Any

import pytest
from openai_tenant import Tenant

from functions.chat import MAX_MESSAGE_CHARACTERS

MESSAGES = [{"role": "user", "content": "How much does the Heron 42 S weigh?"}]
CHAT = "/v1/chat/completions"


def error_of(answer: tuple[int, dict[str, str], Any], status: int) -> dict[str, Any]:
    assert answer[0] == status, answer
    assert set(answer[2]) == {"error"}
    error = answer[2]["error"]
    assert {"message", "type", "code", "param", "retryable", "correlation_id"} <= set(error)
    assert answer[1]["x-request-id"] == error["correlation_id"]
    assert answer[1]["x-should-retry"] == str(error["retryable"]).lower()
    return error


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"model": "chat", ', "malformed_json"),
        (b'["chat"]', "malformed_json"),
        (b'{"model": "chat", "messages": [], "temperature": NaN}', "malformed_json"),
        (b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}', "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b"", "invalid_request"),
        (b"{}", "invalid_request"),
        (b'{"model": "chat"}', "invalid_request"),
        (b'{"model": "chat", "messages": []}', "invalid_request"),
        (b'{"model": 7, "messages": [{"role": "user", "content": "x"}]}', "invalid_request"),
        (b'{"model": "chat", "messages": ["x"]}', "invalid_request"),
        (b'{"model": "chat", "messages": [{}], "stream_options": "x"}', "invalid_request"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "invalid_parameter"),
        (b'{"model": "rag:pumps", "messages": [{"role": "tool", "content": "x"}]}', "invalid_parameter"),
        (b'{"model": "rag:pumps", "messages": [{"role": "user", "content": [7]}]}', "invalid_parameter"),
        (b'{"model": "rag:pumps", "messages": [{"role": "assistant", "content": "x"}]}', "invalid_parameter"),
    ],
)
def test_a_malformed_chat_is_refused(tenant: Tenant, body: bytes, code: str):
    headers = {"Content-Type": "application/json"}
    error = error_of(tenant.post(CHAT, body, headers=headers), 400)
    assert (error["code"], error["type"], error["retryable"]) == (code, "invalid_request_error", False)


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("APPLICATION/JSON; charset=utf-8", 400),
    ],
)
def test_only_json_is_taken(tenant: Tenant, path: str, media_type: str, status: int):
    error = error_of(tenant.post(path, b"{}", headers={"Content-Type": media_type}), status)
    assert error["code"] == ("unsupported_media_type" if status == 415 else "invalid_request")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x", ""]}, "input"),
        ({"input": ["x", 1]}, "input"),
        ({"input": [1, -1]}, "input"),
        ({"input": [[1], []]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": 7}, "input"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": -384}, "dimensions"),
        ({"input": "x", "dimensions": 385}, "dimensions"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_malformed_embeddings_are_refused_by_the_name_of_the_parameter(
    tenant: Tenant, more: dict[str, Any], param: str
):
    error = error_of(tenant.post("/v1/embeddings", {"model": "embedding", **more}), 400)
    assert error["param"] == param


@pytest.mark.parametrize(("words", "fits"), [(254, True), (255, False)])
def test_an_input_that_is_too_long_is_refused_with_its_count(tenant: Tenant, words: int, fits: bool):
    body = {"model": "embedding", "input": ["short", "pump " * words]}  # two tokens frame the words
    answer = tenant.post("/v1/embeddings", body)
    if fits:
        assert answer[0] == 200, answer
        return
    error = error_of(answer, 400)
    assert (error["code"], error["tokens"], error["limit"], error["index"]) == (
        "prompt_too_long",
        257,
        256,
        1,
    )


def test_too_many_token_ids_are_refused_with_their_count(tenant: Tenant):
    error = error_of(tenant.post("/v1/embeddings", {"model": "embedding", "input": [[1] * 257]}), 400)
    assert (error["code"], error["tokens"], error["limit"]) == ("prompt_too_long", 257, 256)


@pytest.mark.parametrize(
    ("characters", "fits"), [(MAX_MESSAGE_CHARACTERS, True), (MAX_MESSAGE_CHARACTERS + 1, False)]
)
def test_a_message_to_a_collection_has_a_limit(tenant: Tenant, characters: int, fits: bool):
    earlier = {"role": "assistant", "content": "x" * characters}
    answer = tenant.post(CHAT, {"model": "rag:pumps", "messages": [earlier, *MESSAGES]})
    if fits:
        assert answer[0] == 200, answer
        return
    error = error_of(answer, 400)
    assert (error["code"], error["param"]) == ("prompt_too_long", "messages[0]")
    assert (error["characters"], error["limit"]) == (characters, MAX_MESSAGE_CHARACTERS)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True, "stream": True}, "stream"),
        ({"background": True, "max_output_tokens": 10_000}, "max_completion_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]}, "input[0]"),
        ({"input": [7]}, "input[0]"),
    ],
)
def test_what_a_response_cannot_be_is_refused_by_name(tenant: Tenant, more: dict[str, Any], param: str):
    error = error_of(tenant.post("/v1/responses", {"model": "chat", "input": "x", **more}), 400)
    assert error["param"] == param


@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models", "/openai/models"])
def test_a_request_without_a_key_gets_openais_shape(tenant: Tenant, path: str):
    answer = tenant.stack.exchange("GET", path, key=None)
    assert error_of(answer, 401)["code"] == "unauthenticated"
    assert answer[1]["www-authenticate"].startswith("Bearer")
