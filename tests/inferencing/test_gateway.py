"""The gateway over real HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator
from random import Random

import pytest

from shared.errors import (
    InvalidParameter,
    InvalidRequest,
    ModelsUnavailable,
    NotFound,
    PromptTooLong,
    StreamInterrupted,
)
from shared.inferencing import CallContext, CallRecord, DeploymentCredentials, Gateway, parse_catalogue
from shared.inferencing.breaker import State

from .upstream import DIMENSIONS, TOKENS, Fault, Upstream, serving

CALL = CallContext(tenant="t1", user="u1", purpose="test", prompt_version="v3")
BODY = {"messages": [{"role": "user", "content": "ping"}]}

CATALOGUE = f"""
[models.chat]
kind = "chat"
tokenizer = "o200k"
context_tokens = 1000
max_output_tokens = 100
timeouts = {{ gap_seconds = 0.2, connect_seconds = 1, first_token_seconds = 1, answer_seconds = 1 }}

[[models.chat.deployments]]
name = "a"
endpoint = "${{A}}/v1"
deployment = "gpt"
api = "openai"
version = "1"
data_zone = "eu"
key_setting = "KEY_A"
price_input_per_million = 2
price_output_per_million = 8

[[models.chat.deployments]]
name = "b"
endpoint = "${{B}}"
deployment = "gpt-b"
api = "azure-deployments"
api_version = "2024-10-21"
version = "1"
data_zone = "eu"
key_setting = "KEY_B"

[models.embedding]
kind = "embedding"
tokenizer = "o200k"
dimensions = {DIMENSIONS}
max_input_tokens = 8
batch_max_inputs = 3
batch_max_tokens = 10

[[models.embedding.deployments]]
name = "a"
endpoint = "${{A}}"
deployment = "embed"
api = "azure-v1"
version = "1"
data_zone = "eu"
key_setting = "KEY_A"

[models.rerank]
kind = "rerank"

[[models.rerank.deployments]]
name = "a"
endpoint = "${{A}}/v1"
deployment = "ranker"
api = "openai"
version = "1"
data_zone = "eu"
key_setting = "KEY_A"
"""


class Stack:
    def __init__(self, a: Upstream, b: Upstream) -> None:
        self.a, self.b = a, b
        settings = {"A": a.url, "B": b.url, "KEY_A": "secret-a", "KEY_B": "secret-b"}
        self.records: list[CallRecord] = []
        self.gateway = Gateway(
            parse_catalogue(CATALOGUE, settings),
            credentials=DeploymentCredentials(settings),
            random=Random(1),
            recorder=self.records.append,
        )

    def both(self, fault: Fault) -> None:
        self.a.fault = self.b.fault = fault

    async def stream_into(self, text: list[str]) -> None:
        async for chunk in self.gateway.stream("chat", BODY, call=CALL):
            text += (c["delta"]["content"] for c in chunk["choices"] if c["delta"].get("content"))

    async def stream_text(self) -> str:
        text: list[str] = []
        await self.stream_into(text)
        return "".join(text)

    async def until_idle(self) -> None:
        for _ in range(200):
            if not self.a.open and not self.b.open:
                return
            await asyncio.sleep(0.01)
        pytest.fail("a request is still open upstream")


@pytest.fixture
async def stack() -> AsyncIterator[Stack]:
    async with serving("a", "b") as (a, b):
        stack = Stack(a, b)
        yield stack
        await stack.gateway.close()


async def test_each_api_is_addressed_in_its_own_way(stack: Stack) -> None:
    for _ in range(12):
        await stack.gateway.complete("chat", BODY, call=CALL)
    await stack.gateway.embed("embedding", ["one"], call=CALL)
    assert set(stack.a.paths) == {"/v1/chat/completions", "/openai/v1/embeddings"}
    assert set(stack.b.paths) == {"/openai/deployments/gpt-b/chat/completions?api-version=2024-10-21"}
    assert stack.a.requests[0]["model"] == "gpt"
    assert "model" not in stack.b.requests[0]
    assert stack.a.headers[0]["authorization"] == "Bearer secret-a"
    assert stack.b.headers[0]["api-key"] == "secret-b"


async def test_a_completion_names_its_deployment_and_is_recorded_with_its_cost(stack: Stack) -> None:
    stack.b.fault = Fault("status", 500)
    completion = await stack.gateway.complete("chat", BODY, call=CALL)
    assert completion.deployment == "a"
    assert completion.text == "pong from a"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (9, 8)
    (record,) = stack.records
    assert record.call is CALL
    assert record.estimated_cost == pytest.approx((9 * 2 + 8 * 8) / 1e6)
    assert (record.outcome, record.model_version) == ("ok", "1")


@pytest.mark.parametrize(
    "fault",
    [Fault("status", 500), Fault("reset"), Fault("garbage"), Fault("truncate"), Fault("hang")],
    ids=lambda fault: fault.mode,
)
async def test_faults_of_one_deployment_reach_no_caller(stack: Stack, fault: Fault) -> None:
    stack.a.fault = fault
    answers = [(await stack.gateway.complete("chat", BODY, call=CALL)).text for _ in range(12)]
    assert set(answers) == {"pong from b"}
    assert stack.a.hits <= 3


async def test_an_unreachable_deployment_is_like_a_failing_one(stack: Stack) -> None:
    async with serving("gone") as (gone,):
        url = gone.url
    settings = {"A": url, "B": stack.b.url, "KEY_A": "x", "KEY_B": "y"}
    gateway = Gateway(parse_catalogue(CATALOGUE, settings), credentials=DeploymentCredentials(settings))
    for _ in range(8):
        assert (await gateway.complete("chat", BODY, call=CALL)).deployment == "b"
    await gateway.close()


async def test_a_stream_gives_every_chunk_and_hides_the_usage_nobody_asked_for(stack: Stack) -> None:
    assert await stack.stream_text() == "".join(TOKENS)
    chunks = [chunk async for chunk in stack.gateway.stream("chat", BODY, call=CALL)]
    assert all(chunk["choices"] for chunk in chunks)
    body = {**BODY, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in stack.gateway.stream("chat", body, call=CALL)]
    assert chunks[-1]["usage"]["prompt_tokens"] == 9
    assert [record.usage.completion_tokens for record in stack.records] == [8, 8, 8]
    assert stack.records[0].seconds_to_first_token is not None


@pytest.mark.parametrize("mode", ["drop", "stall", "error_event", "cut"])
async def test_a_stream_that_breaks_ends_with_a_typed_error_and_is_never_spliced(
    stack: Stack, mode: str
) -> None:
    stack.both(Fault(mode, after=3))
    text: list[str] = []
    with pytest.raises(StreamInterrupted):
        await stack.stream_into(text)
    assert text == TOKENS[:3]
    assert stack.a.hits + stack.b.hits == 1


@pytest.mark.parametrize("mode", ["drop", "error_event", "cut"])
async def test_a_stream_that_breaks_before_its_first_token_moves_on(stack: Stack, mode: str) -> None:
    stack.a.fault = Fault(mode, after=0)
    for _ in range(10):
        assert await stack.stream_text() == "".join(TOKENS)


async def test_a_refusal_inside_a_stream_is_the_callers(stack: Stack) -> None:
    stack.both(Fault("error_event", error={"message": "secret prompt", "code": "content_filter"}))
    with pytest.raises(InvalidRequest) as raised:
        await stack.stream_text()
    assert raised.value.extra["reason"] == "content_filter"
    assert "secret prompt" not in str(raised.value)


async def test_no_request_stays_open_after_clients_have_gone(stack: Stack) -> None:
    stack.a.gap_seconds = stack.b.gap_seconds = 0.02
    random = Random(3)

    async def one() -> None:
        stream = stack.gateway.stream("chat", BODY, call=CALL)
        try:
            async for _ in stream:
                await asyncio.sleep(0)
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    tasks = [asyncio.create_task(one()) for _ in range(40)]
    for task in tasks:
        await asyncio.sleep(random.random() * 0.01)
        if random.random() < 0.7:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await stack.until_idle()
    assert stack.a.most_open > 0
    assert {record.outcome for record in stack.records} == {"ok", "cancelled"}
    assert len(stack.records) == 40


async def test_a_prompt_may_fill_the_context_and_not_one_token_more(stack: Stack) -> None:
    def body(words: int) -> dict[str, object]:
        # " a" is one token; the message costs three and its role one, the answer's priming three.
        return {"messages": [{"role": "user", "content": " a" * words}], "max_tokens": 100}

    await stack.gateway.complete("chat", body(893), call=CALL)
    with pytest.raises(PromptTooLong) as raised:
        await stack.gateway.complete("chat", body(894), call=CALL)
    assert raised.value.extra == {"tokens": 901, "limit": 900}
    assert stack.a.hits + stack.b.hits == 1


@pytest.mark.parametrize("value", [0, -1, 101, "10", True, 1.5])
async def test_an_impossible_completion_limit_is_refused_before_sending(stack: Stack, value: object) -> None:
    with pytest.raises(InvalidParameter) as raised:
        await stack.gateway.complete("chat", {**BODY, "max_tokens": value}, call=CALL)
    assert raised.value.extra["parameter"] == "max_tokens"
    assert stack.a.hits + stack.b.hits == 0


async def test_unknown_models_and_wrong_kinds_are_refused(stack: Stack) -> None:
    with pytest.raises(NotFound):
        await stack.gateway.complete("nobody", BODY, call=CALL)
    with pytest.raises(InvalidParameter):
        await stack.gateway.complete("embedding", BODY, call=CALL)
    with pytest.raises(InvalidParameter):
        await stack.gateway.embed("chat", ["x"], call=CALL)
    with pytest.raises(InvalidParameter):
        await stack.gateway.complete("chat", {"messages": []}, call=CALL)
    with pytest.raises(InvalidRequest):
        await stack.gateway.complete("chat", {**BODY, "temperature": float("nan")}, call=CALL)


@pytest.mark.parametrize("as_base64", [True, False])
async def test_vectors_come_in_the_order_of_the_inputs_over_several_batches(
    stack: Stack, as_base64: bool
) -> None:
    stack.a.as_base64 = as_base64
    inputs = ["x" * length for length in range(1, 9)]
    embedded = await stack.gateway.embed("embedding", inputs, call=CALL)
    assert [vector[0] for vector in embedded.vectors] == [float(n) for n in range(1, 9)]
    assert embedded.usage.prompt_tokens == 8
    sizes = sorted(len(request["input"]) for request in stack.a.requests)
    assert sizes[-1] == 3
    assert sum(sizes) == 8
    assert stack.a.requests[0]["encoding_format"] == "base64"


async def test_no_inputs_are_no_vectors(stack: Stack) -> None:
    assert (await stack.gateway.embed("embedding", [], call=CALL)).vectors == []
    assert stack.a.hits == 0


async def test_an_input_over_the_limit_is_named_before_anything_is_sent(stack: Stack) -> None:
    await stack.gateway.embed("embedding", [" a" * 8], call=CALL)
    with pytest.raises(PromptTooLong) as raised:
        await stack.gateway.embed("embedding", ["ok", " a" * 9], call=CALL)
    assert raised.value.extra == {"tokens": 9, "limit": 8, "index": 1}
    assert stack.a.hits == 1


async def test_vectors_of_other_dimensions_are_garbage(stack: Stack) -> None:
    text = CATALOGUE.replace(f"dimensions = {DIMENSIONS}", f"dimensions = {DIMENSIONS + 1}")
    settings = {"A": stack.a.url, "B": stack.b.url, "KEY_A": "x"}
    gateway = Gateway(parse_catalogue(text, settings), credentials=DeploymentCredentials(settings))
    with pytest.raises(ModelsUnavailable):
        await gateway.embed("embedding", ["x"], call=CALL)
    await gateway.close()


async def test_health_asks_only_where_nothing_is_known(stack: Stack) -> None:
    health = await stack.gateway.health()
    assert health["chat"].serves
    assert health["embedding"].serves
    stack.both(Fault("status", 401))
    with pytest.raises(ModelsUnavailable):
        await stack.gateway.complete("chat", BODY, call=CALL)
    health = await stack.gateway.health()
    assert not health["chat"].serves
    assert [d.state for d in health["chat"].deployments] == [State.OPEN, State.OPEN]
    assert {d.cause for d in health["chat"].deployments} == {"misconfigured"}
    assert health["embedding"].serves


async def test_health_notices_a_service_that_is_not_there() -> None:
    async with serving("a", "b") as (a, b):
        stack = Stack(a, b)
    assert not any(health.serves for health in (await stack.gateway.health()).values())
    await stack.gateway.close()


async def test_logs_name_events_and_hold_neither_keys_nor_text(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stack.a.fault = Fault("status", 401, body=b'{"error": {"message": "bad key secret-a for ping"}}')
    for _ in range(8):
        await stack.gateway.complete("chat", BODY, call=CALL)
    ours = [record for record in caplog.records if record.name == "groundwork.inferencing"]
    assert any(record.message == "deployment_isolated" and record.levelno == logging.ERROR for record in ours)
    logged = "".join(str(vars(record)) for record in ours)
    assert "secret" not in logged
    assert "ping" not in logged


async def test_a_recorder_that_fails_does_not_fail_the_call(stack: Stack) -> None:
    def broken(record: CallRecord) -> None:
        raise RuntimeError("full")

    settings = {"A": stack.a.url, "B": stack.b.url, "KEY_A": "x", "KEY_B": "y"}
    gateway = Gateway(
        parse_catalogue(CATALOGUE, settings), credentials=DeploymentCredentials(settings), recorder=broken
    )
    assert (await gateway.complete("chat", BODY, call=CALL)).text.startswith("pong")
    await gateway.close()


async def test_usage_that_is_not_reported_is_counted(stack: Stack) -> None:
    stack.a.reports_usage = stack.b.reports_usage = False
    await stack.stream_text()
    usage = stack.records[0].usage
    assert usage.estimated
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
