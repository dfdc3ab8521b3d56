from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
from model_host_process import API_KEY, ModelHost
from openai import AsyncOpenAI, AzureOpenAI, BadRequestError, NotFoundError, OpenAI

from modelhost.chat import BACKGROUND_SLOTS, CONTEXT_TOKENS, SLOTS, WAITING_MAX

HELLO: list[Any] = [{"role": "user", "content": "Say hello."}]
STORY: list[Any] = [{"role": "user", "content": "Tell a very long story about the sea."}]
# At temperature 0 the model counts on until the context is full.
COUNT: list[Any] = [{"role": "user", "content": "Count from 1 to 1000: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"}]


def post(http: httpx2.Client, **body: Any) -> httpx2.Response:
    return http.post("/v1/chat/completions", json={"model": "smollm2", "messages": HELLO, **body})


def events(answer: httpx2.Response) -> list[str]:
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def in_flight(http: httpx2.Client) -> int:
    return http.get("/health/ready").json()["models"]["smollm2"]["in_flight"]


def wait_for_in_flight(http: httpx2.Client, wanted: int, within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while (count := in_flight(http)) != wanted:
        assert time.monotonic() < deadline, f"{count} generations in flight, expected {wanted}"
        time.sleep(0.05)


def test_an_answer_has_text_a_finish_reason_and_usage(client: OpenAI):
    answer = client.chat.completions.create(model="smollm2", messages=HELLO, max_tokens=8, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.model == "smollm2"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_is_role_then_text_then_finish_then_usage_then_done(http: httpx2.Client):
    answer = post(http, stream=True, stream_options={"include_usage": True}, max_tokens=6, temperature=0)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, last = events(answer)
    assert last == "[DONE]"
    role, *texts, finish, usage = (json.loads(line) for line in lines)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(text["choices"][0]["delta"]["content"] for text in texts)
    assert all(text["choices"][0]["finish_reason"] is None for text in texts)
    assert finish["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6
    assert finish["usage"] is None
    assert len({each["id"] for each in (role, *texts, finish, usage)}) == 1


def test_usage_is_sent_only_on_request(http: httpx2.Client):
    chunks = [json.loads(line) for line in events(post(http, stream=True, max_tokens=3))[:-1]]
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)


def test_a_stream_and_a_whole_answer_say_the_same(client: OpenAI):
    options: dict[str, Any] = {"model": "smollm2", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options).choices[0].message.content
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


async def test_the_async_client_streams(host: ModelHost):
    async with AsyncOpenAI(base_url=f"{host.url}/v1", api_key=API_KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="smollm2", messages=HELLO, max_tokens=4, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"


def test_azure_paths_take_the_model_from_the_path(azure: AzureOpenAI, http: httpx2.Client):
    answer = azure.chat.completions.create(model="smollm2", messages=HELLO, max_tokens=3)
    assert answer.model == "smollm2"
    path = "/openai/deployments/smollm2/chat/completions?api-version=2024-10-21"
    bodiless = http.post(path, json={"model": None, "messages": HELLO, "max_tokens": 1})
    assert bodiless.status_code == 200


def test_a_stop_sequence_ends_the_answer_and_is_not_part_of_it(client: OpenAI):
    options: dict[str, Any] = {"model": "smollm2", "messages": STORY, "max_tokens": 40, "temperature": 0}
    full = client.chat.completions.create(**options).choices[0].message.content or ""
    stop = full.split()[5]
    cut = client.chat.completions.create(**options, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == full[: full.index(stop)]


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(client: OpenAI):
    def answer(seed: int) -> str | None:
        options: dict[str, Any] = {"max_tokens": 24, "temperature": 1.5, "seed": seed}
        return (
            client.chat.completions.create(model="smollm2", messages=STORY, **options)
            .choices[0]
            .message.content
        )

    # The first answer of a prompt fills the slot's cache, which may change the last bits of a sum.
    answer(1)
    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_content_may_be_text_parts_and_max_completion_tokens_wins(client: OpenAI):
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    options: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_completion_tokens": 5}
    from_parts = client.chat.completions.create(messages=parts, max_tokens=9, **options)
    from_text = client.chat.completions.create(messages=HELLO, **options)
    assert from_parts.usage
    assert from_text.usage
    assert from_parts.usage.prompt_tokens == from_text.usage.prompt_tokens
    assert from_parts.usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_is_refused_before_any_answer(http: httpx2.Client, stream: bool):
    answer = post(http, messages=[{"role": "user", "content": "word " * CONTEXT_TOKENS}], stream=stream)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    assert str(CONTEXT_TOKENS) in error["message"]


def test_clients_that_leave_end_their_generations(http: httpx2.Client):
    reading = []  # an iterator that nobody holds would close its stream
    with ExitStack() as open_streams:
        for _ in range(SLOTS):
            body = {"model": "smollm2", "messages": COUNT, "stream": True, "temperature": 0}
            stream = open_streams.enter_context(http.stream("POST", "/v1/chat/completions", json=body))
            reading.append(stream.iter_lines())
            next(reading[-1])
        assert in_flight(http) == SLOTS
    # Left alone, they would run for a minute and more.
    wait_for_in_flight(http, 0, within_seconds=10)


def test_a_client_that_leaves_while_its_prompt_is_read_ends_the_generation(http: httpx2.Client):
    long_prompt = [{"role": "user", "content": "sea " * (CONTEXT_TOKENS - 200)}]
    with pytest.raises(httpx2.TimeoutException):
        http.post("/v1/chat/completions", json={"model": "smollm2", "messages": long_prompt}, timeout=0.5)
    wait_for_in_flight(http, 0, within_seconds=10)


@pytest.mark.parametrize(
    ("priority", "slots", "others"),
    [("u=3", SLOTS, "u=7"), ("u=7", BACKGROUND_SLOTS, "u=3")],
    ids=["foreground", "background"],
)
def test_a_full_queue_answers_429_with_retry_after_and_leaves_the_other_kind_alone(
    http: httpx2.Client, host: ModelHost, priority: str, slots: int, others: str
):
    """Where all of the foreground is taken the background waits, but is not refused."""

    async def fill() -> tuple[httpx2.Response, httpx2.Response]:
        body = {"model": "smollm2", "messages": STORY, "max_tokens": 3_000}
        headers = {**http.headers, "Priority": priority}
        async with httpx2.AsyncClient(base_url=host.url, headers=headers, timeout=60) as client:

            async def asked(**more: Any) -> httpx2.Response:
                return await client.post("/v1/chat/completions", json=body, **more)

            waiting = [asyncio.create_task(asked()) for _ in range(slots + WAITING_MAX)]
            await asyncio.to_thread(wait_for_in_flight, http, len(waiting), 30)
            refused = await asked()
            body["max_tokens"] = 1
            other = asyncio.create_task(asked(headers={"Priority": others}))
            if priority == "u=7":  # a slot is free for it
                await other
                assert not any(task.done() for task in waiting)
            else:
                await asyncio.to_thread(wait_for_in_flight, http, len(waiting) + 1, 30)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return refused, await other

    refused, other = asyncio.run(fill())
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert other.status_code == 200
    wait_for_in_flight(http, 0, within_seconds=10)
    assert post(http, max_tokens=1).status_code == 200


def test_an_unknown_model_is_not_found(client: OpenAI):
    for name in ("nonsense", "minilm"):
        with pytest.raises(NotFoundError) as missing:
            client.chat.completions.create(model=name, messages=HELLO)
        assert missing.value.code == "model_not_found"


def test_what_the_server_cannot_do_is_refused_by_name(client: OpenAI):
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="smollm2", messages=HELLO, n=2)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "n")


@pytest.mark.parametrize(
    ("member", "accepted", "refused"),
    [
        ("max_tokens", [1], [0, -1, 1.5, "5", True]),
        ("max_completion_tokens", [1], [0, -1]),
        ("temperature", [0, 2, 0.7], [-0.1, 2.1, "hot", False]),
        ("top_p", [0, 1], [-0.1, 1.1]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("seed", [0, 2**32 - 2], [-1, 2**32 - 1, 1.0]),
        ("stop", ["x", ["x"] * 4, None], ["", [""], ["x"] * 5, 7]),
        ("n", [1, None], [0, 2, -1]),
        ("stream", [False, None], ["yes", 1]),
        ("tools", [[], None], [[{"type": "function"}]]),
        ("response_format", [{"type": "text"}], ["json", {"type": "xml"}]),
        ("stream_options", [None], [{"include_usage": True}, 7]),
    ],
)
def test_members_are_accepted_up_to_their_limits_and_refused_beyond(
    http: httpx2.Client, member: str, accepted: list[Any], refused: list[Any]
):
    for value in accepted:
        assert post(http, **{"max_tokens": 1, member: value}).status_code == 200, value
    for value in refused:
        answer = post(http, **{"max_tokens": 1, member: value})
        assert answer.status_code == 400, value
        assert answer.json()["error"]["param"] == member


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "hello",
        ["hello"],
        [{"role": "user"}],
        [{"role": "tool", "content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": [{"type": "text", "text": 7}]}],
    ],
)
def test_wrong_messages_are_a_400(http: httpx2.Client, messages: Any):
    answer = post(http, messages=messages)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("messages")
