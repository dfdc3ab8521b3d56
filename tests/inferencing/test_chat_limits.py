"""Caps of prompt, completion and both together: of the model, and of the tenant."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import InvalidParameter, PromptTooLong, RateLimited
from shared.inferencing import CallContext, CallRecord, Gateway, parse_catalogue
from shared.inferencing.admission import Admission
from shared.inferencing.chat import check_chat
from shared.inferencing.rates import CallerRates
from shared.limits import UNLIMITED, Limits

from .scripted import Script, ScriptedWire

CATALOGUE = """
[models.chat]
kind = "chat"
tokenizer = "o200k"
context_tokens = 1000
max_output_tokens = 500
max_prompt_tokens = 400
[[models.chat.deployments]]
name = "a"
endpoint = "http://a/v1"
deployment = "m"
api = "openai"
version = "1"
data_zone = "z"
price_input_per_million = 1.0
price_output_per_million = 2.0
[[models.chat.deployments]]
name = "b"
endpoint = "http://b/v1"
deployment = "m"
api = "openai"
version = "1"
data_zone = "z"
price_input_per_million = 3.0
price_output_per_million = 1.0
"""
MODEL = parse_catalogue(CATALOGUE, {}).models["chat"]
# In o200k " a" is one token; a message of a user's adds four, and the answer is primed with three.
WRAPPING = 7


def body(tokens: int, **more: Any) -> dict[str, Any]:
    """A body whose prompt has exactly ``tokens`` tokens."""
    return {"messages": [{"role": "user", "content": " a" * (tokens - WRAPPING)}], **more}


@pytest.mark.parametrize(
    ("limits", "more", "most"),
    [
        (UNLIMITED, {}, 400),
        (UNLIMITED, {"max_tokens": 450}, 400),
        (Limits(prompt_tokens=300), {}, 300),
        (Limits(prompt_tokens=900), {}, 400),
        (Limits(request_tokens=350), {"max_completion_tokens": 50}, 300),
        (Limits(request_tokens=350), {}, 349),
        (Limits(prompt_tokens=100, request_tokens=350), {"max_tokens": 50}, 100),
    ],
)
async def test_a_prompt_may_have_the_lowest_of_its_limits_and_not_one_token_more(
    limits: Limits, more: dict[str, Any], most: int
) -> None:
    assert (await check_chat(MODEL, body(most, **more), limits, exact=True)).prompt_tokens == most
    with pytest.raises(PromptTooLong) as refused:
        await check_chat(MODEL, body(most + 1, **more), limits)
    assert refused.value.extra == {"tokens": most + 1, "limit": most}


@pytest.mark.parametrize(("asked", "allowed"), [(200, True), (201, False)])
async def test_a_completion_may_have_what_the_tenant_may(asked: int, allowed: bool) -> None:
    limits = Limits(completion_tokens=200)
    if allowed:
        demand = await check_chat(MODEL, body(20, max_tokens=asked), limits)
        assert demand.completion_tokens == asked
        return
    with pytest.raises(InvalidParameter) as refused:
        await check_chat(MODEL, body(20, max_tokens=asked), limits)
    assert refused.value.extra["limit"] == 200


@pytest.mark.parametrize(
    ("limits", "completion"),
    [
        (UNLIMITED, None),
        (Limits(completion_tokens=200), 200),
        (Limits(completion_tokens=900), None),  # the model itself allows less
        (Limits(request_tokens=350), 330),
        (Limits(request_tokens=350, completion_tokens=300), 300),
    ],
)
async def test_an_answer_whose_length_was_left_open_gets_the_tenants_limit(
    limits: Limits, completion: int | None
) -> None:
    given = body(20)
    demand = await check_chat(MODEL, given, limits)
    assert demand.completion_tokens == completion
    assert demand.body.get("max_completion_tokens") == completion
    assert "max_completion_tokens" not in given


def test_a_call_is_taken_to_cost_what_the_dearest_deployment_takes() -> None:
    assert MODEL.cost_at_most(1_000_000, 1_000_000) == 4.0
    assert MODEL.cost_at_most(1_000_000, 0) == 3.0
    assert MODEL.cost_at_most(0, None) == pytest.approx(500 * 2.0 / 1e6)


def limited(limits: Limits) -> tuple[Gateway, list[CallRecord], ScriptedWire]:
    records: list[CallRecord] = []
    wire = ScriptedWire(a=Script(), b=Script())

    async def limits_of(tenant: str) -> Limits:
        return limits if tenant == "contoso" else UNLIMITED

    async def no_headers(deployment: Any) -> dict[str, str]:
        return {}

    gateway = Gateway(
        parse_catalogue(CATALOGUE, {}),
        credentials=no_headers,
        wire=wire,
        recorder=records.append,
        admission=Admission(limits_of, CallerRates(lambda: 0.0)),
    )
    return gateway, records, wire


async def test_a_call_above_its_rate_is_refused_before_anything_is_sent_and_recorded() -> None:
    gateway, records, wire = limited(Limits(user_requests_per_minute=6))
    call = CallContext(tenant="contoso", user="ada")
    await gateway.complete("chat", body(20), call=call)
    for _ in range(3):
        with pytest.raises(RateLimited):
            await gateway.complete("chat", body(20), call=call)
        with pytest.raises(RateLimited):
            async for _chunk in gateway.stream("chat", body(20), call=call):
                pass
    assert len(wire.sent) == 1
    assert [record.outcome for record in records] == ["ok", *["rate_limited"] * 6]
    assert await gateway.complete("chat", body(20), call=CallContext(tenant="fabrikam", user="ada"))


async def test_the_tokens_that_a_call_used_are_what_it_pays_in_the_end() -> None:
    # The scripted answer reports few tokens; the estimate, with a full answer, would use up the burst.
    gateway, records, _ = limited(Limits(user_tokens_per_minute=600))
    call = CallContext(tenant="contoso", user="ada")
    for _ in range(3):
        await gateway.complete("chat", body(20, max_tokens=400), call=call)
    assert all(record.usage.prompt_tokens + record.usage.completion_tokens < 30 for record in records)


async def test_a_tenants_limit_of_the_answer_reaches_the_service() -> None:
    gateway, _, wire = limited(Limits(completion_tokens=7))
    sent: list[bytes] = []
    post = wire.post

    async def spy(url: str, headers: Any, data: bytes, connect_seconds: float) -> Any:
        sent.append(data)
        return await post(url, headers, data, connect_seconds)

    wire.post = spy  # type: ignore[method-assign]
    await gateway.complete("chat", body(20), call=CallContext(tenant="contoso", user="ada"))
    assert b'"max_completion_tokens": 7' in sent[0]
