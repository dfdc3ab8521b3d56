"""openai-python as it is, against a started stack with its small real models."""

from __future__ import annotations

import base64
import struct
import urllib.request
from typing import Any

import openai
import pytest
from openai_tenant import Tenant

QUESTION: Any = [{"role": "user", "content": "How much does the Heron 42 S weigh?"}]
HELLO: Any = [{"role": "user", "content": "Say hello."}]


@pytest.fixture
def client(tenant: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=tenant.v1, api_key=tenant.key, max_retries=0)


@pytest.fixture
def reader(tenant: Tenant) -> openai.OpenAI:
    return openai.OpenAI(base_url=tenant.v1, api_key=tenant.reader_key, max_retries=0)


def test_the_models_are_those_of_the_catalogue_and_the_collections(client: openai.OpenAI):
    names = [model.id for model in client.models.list()]
    assert names == ["embedding", "chat", "rerank", "rag:pumps"]
    for name in names:
        assert client.models.retrieve(name).id == name


def test_a_collection_of_another_tenant_is_no_model(stack, client: openai.OpenAI):
    stranger = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key_for(stack.new_tenant()))
    assert "rag:pumps" not in [model.id for model in stranger.models.list()]
    with pytest.raises(openai.NotFoundError) as caught:
        stranger.models.retrieve("rag:pumps")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        stranger.chat.completions.create(model="rag:pumps", messages=QUESTION)


def test_a_chat_is_answered_whole(client: openai.OpenAI):
    answer = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer._request_id


async def test_a_chat_is_streamed_to_an_asynchronous_client_with_its_usage_last(tenant: Tenant):
    async with openai.AsyncOpenAI(base_url=tenant.v1, api_key=tenant.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="chat", messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


def test_a_stream_has_no_usage_unless_it_was_asked_for(client: openai.OpenAI):
    stream = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=4, stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in stream)


def test_embeddings_are_the_same_as_base64_and_as_numbers(client: openai.OpenAI):
    texts = ["a pump", "a very different thing"]
    default = client.embeddings.create(model="embedding", input=texts)  # the client asks for base64
    numbers = client.embeddings.create(model="embedding", input=texts, encoding_format="float")
    raw = client.embeddings.create(model="embedding", input="a pump", encoding_format="base64")
    assert [len(item.embedding) for item in default.data] == [384, 384]
    for one, other in zip(default.data, numbers.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    decoded = struct.unpack("<384f", base64.b64decode(str(raw.data[0].embedding)))
    assert list(decoded) == pytest.approx(default.data[0].embedding, abs=0.05)
    assert numbers.usage.prompt_tokens > 0


def test_token_ids_and_their_lists_are_embedded(client: openai.OpenAI):
    one = client.embeddings.create(model="embedding", input=[7592, 2088])
    two = client.embeddings.create(model="embedding", input=[[7592, 2088], [2088]])
    assert (len(one.data), len(two.data)) == (1, 2)
    assert one.data[0].embedding == pytest.approx(two.data[0].embedding, abs=0.05)


def test_more_inputs_than_a_deployment_takes_at_once_come_back_in_order(client: openai.OpenAI):
    texts = [f"{number}" for number in range(65)]  # the catalogue allows 64
    many = client.embeddings.create(model="embedding", input=texts)
    assert [item.index for item in many.data] == list(range(65))
    last = client.embeddings.create(model="embedding", input=texts[-1])
    assert many.data[-1].embedding == pytest.approx(last.data[0].embedding, abs=0.05)
    assert many.usage.prompt_tokens >= 65


@pytest.mark.parametrize("at_the_client", [True, False])
def test_azure_clients_name_the_deployment_in_the_path(tenant: Tenant, at_the_client: bool):
    deployment: Any = {"azure_deployment": "chat"} if at_the_client else {}
    client = openai.AzureOpenAI(
        azure_endpoint=tenant.url, api_key=tenant.key, api_version="2024-10-21", max_retries=0, **deployment
    )
    answer = client.chat.completions.create(model="chat", messages=HELLO, max_tokens=4)
    assert answer.choices[0].message.content
    assert "chat" in [model.id for model in client.models.list()]


def test_an_azure_client_embeds_and_asks_a_collection(tenant: Tenant):
    client = openai.AzureOpenAI(azure_endpoint=tenant.url, api_key=tenant.key, api_version="2024-10-21")
    assert len(client.embeddings.create(model="embedding", input="x").data[0].embedding) == 384
    answer = client.chat.completions.create(model="rag:pumps", messages=QUESTION)
    assert "18.5" in (answer.choices[0].message.content or "")
    assert client.responses.create(model="rag:pumps", input="What weighs the Heron 42 S?").output_text


def test_a_model_that_is_null_is_taken_from_the_path(tenant: Tenant):
    path = "/openai/deployments/chat/chat/completions?api-version=2024-10-21"
    body = {"model": None, "messages": HELLO, "max_tokens": 2}
    status, headers, answer = tenant.post(path, body, key=None, headers={"api-key": tenant.key})
    assert status == 200, answer
    assert headers["x-request-id"] == headers["x-correlation-id"]


def test_the_newer_azure_address_serves_the_same(tenant: Tenant):
    client = openai.OpenAI(base_url=f"{tenant.url}/openai/v1/", api_key=tenant.key, max_retries=0)
    assert client.chat.completions.create(model="chat", messages=HELLO, max_tokens=2).choices


def test_an_answer_from_documents_carries_citations(tenant: Tenant, client: openai.OpenAI):
    answer = client.chat.completions.create(model="rag:pumps", messages=QUESTION)
    message: Any = answer.choices[0].message
    text = message.content
    assert answer.model == "rag:pumps"
    assert "18.5 kilograms" in text
    assert message.citations[0]["document"] == "heron.md"
    assert message.citations[0]["quote"] in text
    assert message.found
    assert message.grounded
    assert message.annotations
    for annotation in message.annotations:
        cited = annotation.url_citation
        assert text[cited.start_index : cited.end_index] == "[1]"
        request = urllib.request.Request(cited.url, headers={"api-key": tenant.key})
        with urllib.request.urlopen(request) as document:
            assert b"18.5 kilograms" in document.read()


def test_a_streamed_answer_from_documents_says_the_same_and_ends_with_citations(client: openai.OpenAI):
    whole = client.chat.completions.create(model="rag:pumps", messages=QUESTION).choices[0].message
    stream = client.chat.completions.create(
        model="rag:pumps",
        messages=QUESTION,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"Cache-Control": "no-store"},
    )
    *chunks, usage = list[Any](stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.content
    assert chunks[0].choices[0].delta.role == "assistant"
    last = chunks[-1].choices[0]
    assert last.finish_reason == "stop"
    assert last.delta.citations[0]["document"] == "heron.md"
    assert last.delta.annotations[0]["type"] == "url_citation"
    assert usage.choices == []
    assert usage.usage.prompt_tokens > 0


def test_who_may_not_read_a_document_gets_no_answer_from_it(client: openai.OpenAI, reader: openai.OpenAI):
    question: Any = [{"role": "user", "content": "What is the salary of the captain of the Albatros?"}]
    allowed = client.chat.completions.create(model="rag:pumps", messages=question).choices[0].message
    refused = reader.chat.completions.create(model="rag:pumps", messages=question).choices[0].message
    assert "9,400" in (allowed.content or "")
    assert "9,400" not in refused.model_dump_json()
    assert "secret.md" not in refused.model_dump_json()


def test_a_response_is_written_by_a_model(client: openai.OpenAI):
    response = client.responses.create(
        model="chat", instructions="Be brief.", input="Say hello.", max_output_tokens=8
    )
    assert response.model_dump()["store"] is False
    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert response.usage is not None
    assert response.usage.output_tokens <= 8


def test_a_streamed_response_comes_in_openais_order(client: openai.OpenAI):
    with client.responses.stream(model="rag:pumps", input="How much does the Heron 42 S weigh?") as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    annotations = kinds.count("response.output_text.annotation.added")
    assert deltas >= 1
    assert annotations >= 1
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        *["response.output_text.annotation.added"] * annotations,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "18.5 kilograms" in final.output_text
    message: Any = final.output[0]
    assert message.content[0].annotations[0].type == "url_citation"
    assert message.citations[0]["document"] == "heron.md"


def test_a_wrong_key_is_an_authentication_error(tenant: Tenant):
    client = openai.OpenAI(base_url=tenant.v1, api_key="gw_0000_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="chat", messages=HELLO)
    assert caught.value.code == "unauthenticated"


def test_an_unknown_model_is_not_found(client: openai.OpenAI):
    for call in (
        lambda: client.chat.completions.create(model="gpt-9", messages=HELLO),
        lambda: client.chat.completions.create(model="gpt-9", messages=HELLO, stream=True),
        lambda: client.chat.completions.create(model="rag:none", messages=HELLO, stream=True),
        lambda: client.chat.completions.create(model="rag:Not A Name", messages=HELLO),
        lambda: client.embeddings.create(model="gpt-9", input="x"),
        lambda: client.responses.create(model="gpt-9", input="x"),
        lambda: client.models.retrieve("gpt-9"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(("tokens", "fine"), [(-1, False), (0, False), (1, True), (512, True), (513, False)])
def test_a_limit_of_the_answer_must_lie_within_the_models(client: openai.OpenAI, tokens: int, fine: bool):
    # From documents, because an answer by quotes takes no time to write.
    if fine:
        client.chat.completions.create(model="rag:pumps", messages=QUESTION, max_tokens=tokens)
        return
    for model in ("chat", "rag:pumps"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=QUESTION, max_tokens=tokens)
        assert (caught.value.code, caught.value.param) == ("invalid_parameter", "max_tokens")


def test_answers_from_documents_refuse_what_they_cannot_honour(client: openai.OpenAI):
    refused: dict[str, Any] = {"n": {"n": 2}, "tools": {"tools": [{"type": "function"}]}}
    for name, more in refused.items():
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="rag:pumps", messages=QUESTION, **more)
        assert caught.value.param == name
