"""What goes through to a model service and back: unchanged, and stopped when the client leaves."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import urllib.parse
from typing import Any

import openai
import pytest
from openai_tenant import Tenant, open_stream, read_lines
from scripted_service import CALL_STREAM, CALLS, STREAM, USAGE_CHUNK, WHOLE, ScriptedService

MESSAGES: Any = [{"role": "user", "content": "Hello?"}]
CHAT = "/v1/chat/completions"
FUNCTION: Any = {"name": "weather", "parameters": {"type": "object"}, "strict": True}
WEATHER: Any = {"type": "function", "function": FUNCTION}
SCHEMA: Any = {"name": "n", "schema": {"type": "object"}, "strict": True}


@pytest.fixture
def client(scripted: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=scripted.v1, api_key=scripted.key, max_retries=0)


def raw(tenant: Tenant, path: str, body: Any) -> bytes:
    with open_stream(tenant, path, json.dumps(body).encode()) as response:
        return response.read()


def leave(tenant: Tenant, path: str, body: Any, service: ScriptedService, *, after_bytes: int = 0) -> None:
    """Send a request, wait until the service works on it (and a part of its answer is here), hang up."""
    service.wait_for_open(0)
    address = urllib.parse.urlsplit(tenant.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    headers = {"Authorization": f"Bearer {tenant.key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    service.wait_for_open(1)
    if after_bytes:
        response = connection.getresponse()
        assert response.status == 200
        assert len(response.read(after_bytes)) == after_bytes
    with contextlib.suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def test_a_request_reaches_the_service_with_all_that_the_client_said(
    scripted: Tenant, service: ScriptedService
):
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hé"}], "name": "ada"}],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": SCHEMA},
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"50256": -100},
        "seed": 7,
        "stop": ["\n"],
        "temperature": 0.25,
        "max_completion_tokens": 20,
        "a_member_of_tomorrow": {"x": [1, None]},
    }
    raw(scripted, CHAT, body)
    assert service.requests[-1] == {**body, "model": "echo"}
    raw(scripted, CHAT, {**body, "stream": True})
    sent = {**body, "model": "echo", "stream": True, "stream_options": {"include_usage": True}}
    assert service.requests[-1] == sent


@pytest.mark.security("LLM06", "API10")
@pytest.mark.parametrize("name", ["data_sources", "dataSources"])
def test_a_service_is_not_told_to_read_with_its_own_identity(
    scripted: Tenant, service: ScriptedService, name: str
):
    seen = len(service.requests)
    source = {"type": "azure_search", "parameters": {"authentication": {"type": "system_assigned"}}}
    status, _, answer = scripted.post(CHAT, {"model": "chat", "messages": MESSAGES, name: [source]})
    assert (status, answer["error"]["param"]) == (400, name)
    assert len(service.requests) == seen


def test_an_answer_comes_back_byte_by_byte(scripted: Tenant):
    assert raw(scripted, CHAT, {"model": "chat", "messages": MESSAGES}) == WHOLE


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_comes_back_byte_by_byte(scripted: Tenant, usage: bool):
    body = {"model": "chat", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": usage}}
    with open_stream(scripted, CHAT, json.dumps(body).encode()) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        assert read_lines(response) == [*STREAM, *([USAGE_CHUNK] if usage else []), b"[DONE]"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES, "stream": True}),
        ("/v1/responses", {"input": "Hello?", "stream": True}),
        (CHAT, {"messages": MESSAGES}),
        ("/v1/responses", {"input": "Hello?"}),
    ],
)
def test_the_service_is_stopped_when_the_client_leaves_before_the_answer(
    scripted: Tenant, service: ScriptedService, path: str, body: dict[str, Any]
):
    leave(scripted, path, {"model": "silent", **body}, service)
    service.wait_for_open(0)


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"messages": MESSAGES, "stream": True}), ("/v1/responses", {"input": "Hello?", "stream": True})],
)
def test_the_service_is_stopped_when_the_client_leaves_a_stream(
    scripted: Tenant, service: ScriptedService, path: str, body: dict[str, Any]
):
    leave(scripted, path, {"model": "endless", **body}, service, after_bytes=600)
    service.wait_for_open(0)


def until_error(stream: Any) -> tuple[list[Any], openai.APIError]:
    """What a stream gives before it raises, and what it raises."""
    given: list[Any] = []
    try:
        for item in stream:
            given.append(item)  # noqa: PERF402 - the loop ends with an error
    except openai.APIError as error:
        return given, error
    raise AssertionError(f"the stream ended as if it were whole: {given}")


@pytest.mark.parametrize(("script", "after_bytes"), [("silent", 0), ("endless", 600)])
def test_the_service_is_stopped_when_the_client_leaves_an_answer_from_documents(
    scripted: Tenant, service: ScriptedService, script: str, after_bytes: int
):
    question = f"How much does the Heron 42 S weigh? (script {script})"
    body = {"model": "rag:pumps", "messages": [{"role": "user", "content": question}], "stream": True}
    leave(scripted, CHAT, body, service, after_bytes=after_bytes)
    service.wait_for_open(0)


def test_an_answer_from_documents_that_breaks_off_ends_with_an_error(client: openai.OpenAI):
    question: Any = [{"role": "user", "content": "How much does the Heron 42 S weigh? (script breaks)"}]
    given, raised = until_error(
        client.chat.completions.create(model="rag:pumps", messages=question, stream=True)
    )
    assert "".join(chunk.choices[0].delta.content for chunk in given).startswith("Streamed answer")
    assert raised.code == "stream_interrupted"


def test_a_stream_that_breaks_off_ends_with_an_error_and_not_as_if_it_were_whole(
    scripted: Tenant, client: openai.OpenAI
):
    body: Any = {"model": "breaks", "messages": MESSAGES, "stream": True}
    with open_stream(scripted, CHAT, json.dumps(body).encode()) as response:
        *chunks, last = read_lines(response)
    assert chunks == STREAM[:-1]
    error = json.loads(last)["error"]
    assert (error["code"], error["type"], error["retryable"]) == ("stream_interrupted", "server_error", True)

    given, raised = until_error(client.chat.completions.create(**body))
    assert "".join(chunk.choices[0].delta.content for chunk in given) == "Streamed answer [1]."
    assert raised.code == "stream_interrupted"


def test_a_response_that_breaks_off_ends_with_an_error(client: openai.OpenAI):
    given, raised = until_error(client.responses.create(model="breaks-too", input="Hello?", stream=True))
    kinds = [event.type for event in given]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.output_text.delta"
    assert raised.code == "stream_interrupted"


def test_a_service_that_is_down_is_said_to_be_with_the_time_to_wait(scripted: Tenant):
    status, headers, answer = scripted.post(CHAT, {"model": "down", "messages": MESSAGES})
    assert status == 503, answer
    error = answer["error"]
    assert (error["code"], error["type"], error["retryable"]) == ("models_unavailable", "server_error", True)
    assert int(headers["retry-after"]) >= error["retry_after"] > 0
    assert headers["x-should-retry"] == "true"


def test_what_the_service_refuses_is_given_in_its_own_words_with_our_code(client: openai.OpenAI):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="refuses", messages=MESSAGES, temperature=-1, stream=stream)
        assert "must be 0 to 2" in caught.value.message
        assert (caught.value.code, caught.value.param) == ("invalid_request", "temperature")


def test_a_prompt_over_the_models_context_is_refused_with_its_count(
    scripted: Tenant, service: ScriptedService
):
    seen = len(service.requests)
    body = {"model": "small", "messages": [{"role": "user", "content": "pump " * 300}], "max_tokens": 10}
    for path, asked in ((CHAT, body), ("/v1/responses", {"model": "small", "input": "pump " * 400})):
        status, _, answer = scripted.post(path, asked)
        assert status == 400, answer
        error = answer["error"]
        assert error["code"] == "prompt_too_long"
        assert error["tokens"] > error["limit"] >= 190
    assert len(service.requests) == seen


def test_calls_of_functions_pass_through_a_chat(client: openai.OpenAI):
    message = (
        client.chat.completions.create(model="calls", messages=MESSAGES, tools=[WEATHER]).choices[0].message
    )
    assert [call.model_dump(exclude_none=True) for call in message.tool_calls or ()] == CALLS


def test_a_response_calls_functions_in_openais_order(client: openai.OpenAI, service: ScriptedService):
    tool: Any = {"type": "function", **FUNCTION}
    stream = client.responses.create(model="calls", input="Hello?", tools=[tool], stream=True)
    events: list[Any] = list(stream)
    assert service.requests[-1]["tools"] == [WEATHER]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(CALL_STREAM) < len(events)
    streamed = events[-1].response.output
    whole: Any = client.responses.create(model="calls", input="Hello?").output
    for output in (streamed, whole):
        said, *calls = output
        assert (said.type, said.content[0].text) == ("message", "Let me look.")
        found = [(call.call_id, call.name, call.arguments) for call in calls]
        assert found == [("call_a", "weather", '{"city":"Oslo"}'), ("call_b", "clock", "{}")]


def test_the_results_of_functions_go_back_as_a_chat_has_them(client: openai.OpenAI, service: ScriptedService):
    first: Any = client.responses.create(model="calls", input="Hello?")
    results: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
        for call in first.output[1:]
    ]
    text: Any = {"format": {"type": "json_schema", **SCHEMA}}
    second: Any = client.responses.create(
        model="echo",
        instructions="Be brief.",
        input=[{"role": "user", "content": "Hello?"}, *first.output, *results],
        text=text,
        include=["message.output_text.logprobs"],
    )
    sent = service.requests[-1]
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "call_a", "content": "12 degrees"},
        {"role": "tool", "tool_call_id": "call_b", "content": "12 degrees"},
    ]
    assert sent["response_format"] == {"type": "json_schema", "json_schema": SCHEMA}
    assert sent["logprobs"] is True
    assert second.output_text == "Whole answer."
    assert second.output[0].content[0].logprobs[0].token == "Whole"
    assert second.usage.total_tokens == 14


def test_an_answer_that_a_model_puts_into_words_is_annotated(client: openai.OpenAI):
    question: Any = [{"role": "user", "content": "How much does the Heron 42 S weigh?"}]
    chunks = list(client.chat.completions.create(model="rag:pumps", messages=question, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    last: Any = chunks[-1].choices[0].delta.model_extra
    assert text == "Streamed answer [1]."
    (annotation,) = last["annotations"]
    start, end = (annotation["url_citation"][name] for name in ("start_index", "end_index"))
    assert text[start:end] == "[1]"
    assert last["citations"][0]["collection"] == "pumps"


def test_texts_beyond_a_deployments_batch_are_put_together(client: openai.OpenAI):
    five = [f"text {number}" for number in range(5)]  # the catalogue allows four
    together = client.embeddings.create(model="embedding", input=five, encoding_format="float")
    coded = client.embeddings.create(model="embedding", input=five)
    assert [len(item.embedding) for item in together.data] == [384] * 5
    for one, other in zip(together.data, coded.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=0.05)
