"""The gateway below the unmodified openai SDK."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest

from shared.inferencing import CallContext
from shared.inferencing.transport import GatewayTransport

from .test_gateway import Stack
from .upstream import TOKENS, Fault, serving

MESSAGES: Any = [{"role": "user", "content": "ping"}]


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    async with serving("a", "b") as (a, b):
        stack = Stack(a, b)
        yield stack
        await stack.gateway.close()


def http_client(stack: Stack) -> Any:
    transport = GatewayTransport(stack.gateway, lambda _: CallContext(tenant="t1"))
    return httpx2.AsyncClient(transport=transport)


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url="http://gateway/v1", api_key="none", http_client=http_client(stack)
    ) as client:
        yield client


async def test_completions_streams_and_embeddings_pass(stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    stack.a.fault = Fault("status", 500)
    answer = await sdk.chat.completions.create(model="chat", messages=MESSAGES)
    assert answer.choices[0].message.content == "pong from b"
    stream = await sdk.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "".join(TOKENS)
    stack.a.fault = Fault()
    vectors = await sdk.embeddings.create(model="embedding", input=["x", "yy"])
    assert [item.embedding[0] for item in sorted(vectors.data, key=lambda item: item.index)] == [1.0, 2.0]


async def test_azures_older_paths_name_the_model_in_the_path(stack: Stack) -> None:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint="http://gateway", api_version="2024-10-21", api_key="x", http_client=http_client(stack)
    ) as client:
        answer = await client.chat.completions.create(model="chat", messages=MESSAGES)
        assert (answer.choices[0].message.content or "").startswith("pong")


async def test_the_sdk_does_not_retry_what_the_gateway_has_given_up(
    stack: Stack, sdk: openai.AsyncOpenAI
) -> None:
    stack.both(Fault("status", 429, headers={"retry-after": "7"}))
    with pytest.raises(openai.InternalServerError) as raised:
        await sdk.chat.completions.create(model="chat", messages=MESSAGES)
    assert raised.value.code == "models_unavailable"
    assert raised.value.response.headers["retry-after"] == "7"
    assert stack.a.hits + stack.b.hits == 2


async def test_the_services_own_refusal_reaches_the_sdk(stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    refusal = b'{"error": {"message": "no such role", "type": "invalid_request_error", "param": "messages"}}'
    stack.both(Fault("status", 400, body=refusal))
    with pytest.raises(openai.BadRequestError, match="no such role"):
        await sdk.chat.completions.create(model="chat", messages=MESSAGES)


async def test_an_unknown_model_or_path_is_not_found(stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await sdk.chat.completions.create(model="nobody", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError):
        await sdk.images.generate(prompt="x")


async def test_a_broken_stream_ends_with_a_typed_error(stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    stack.both(Fault("drop", after=3))
    stream = await sdk.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
    chunks = [await anext(stream) for _ in range(1 + 3)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "".join(TOKENS[:3])
    with pytest.raises(openai.APIError) as raised:
        await anext(stream)
    assert raised.value.code == "stream_interrupted"


async def test_closing_the_sdks_stream_stops_the_service(stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    stack.both(Fault("stall", after=2))
    stream = await sdk.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
    await anext(stream)
    assert stack.a.open + stack.b.open == 1
    await stream.close()
    await stack.until_idle()


async def test_the_sdks_time_out_is_the_deadline(stack: Stack, sdk: openai.AsyncOpenAI) -> None:
    stack.both(Fault("hang"))
    with pytest.raises(openai.APIStatusError) as raised:
        await sdk.chat.completions.create(model="chat", messages=MESSAGES, timeout=0.2)
    assert raised.value.status_code == 504
