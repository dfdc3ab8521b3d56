"""Prompt Shields over real HTTP, with requests and answers as the service's documentation shows them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from shared.intelligence.screening import shields
from shared.intelligence.screening.shields import CHARACTERS_MAX, DOCUMENTS_MAX, PromptShields


@dataclass
class Service:
    """Finds an attack wherever "attack" is said, and holds callers to the documented limits."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    answer: web.Response | None = None
    hangs: bool = False

    async def shield(self, request: web.Request) -> web.Response:
        assert request.query["api-version"] == "2024-09-01"
        body = json.loads(await request.read())
        self.bodies.append(body)
        self.headers.append(request.headers)
        if self.hangs:
            await asyncio.sleep(60)
        if self.answer is not None:
            return self.answer
        prompt, documents = body["userPrompt"], body["documents"]
        assert set(body) == {"userPrompt", "documents"}
        if len(prompt) > CHARACTERS_MAX or len(documents) > DOCUMENTS_MAX:
            return web.json_response({"error": {"code": "InvalidRequestBody"}}, status=400)
        if sum(map(len, documents)) > CHARACTERS_MAX:
            return web.json_response({"error": {"code": "InvalidRequestBody"}}, status=400)
        return web.json_response(
            {
                "userPromptAnalysis": {"attackDetected": "attack" in prompt},
                "documentsAnalysis": [{"attackDetected": "attack" in text} for text in documents],
            }
        )


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    found = Service()
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/contentsafety/text:shieldPrompt", found.shield)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/"  # type: ignore[union-attr]
    yield found
    await runner.cleanup()


async def token() -> dict[str, str]:
    return {"Authorization": "Bearer a-token"}


async def test_a_question_and_its_passages_go_in_one_call_with_the_identitys_token(service: Service) -> None:
    found = await PromptShields(service.url, token).attacks("a question", ["good", "an attack"])
    assert found == (False, [False, True])
    assert service.bodies == [{"userPrompt": "a question", "documents": ["good", "an attack"]}]
    assert service.headers[0]["Authorization"] == "Bearer a-token"


async def test_a_question_that_is_an_attack_is_told_from_its_passages(service: Service) -> None:
    assert await PromptShields(service.url, token).attacks("an attack", []) == (True, [])


async def test_many_and_long_texts_are_judged_in_calls_that_keep_the_limits(service: Service) -> None:
    long = "x" * 12_000
    documents = ["y" * 900] * 7 + [f"{long} attack"] + ["z" * 9_000] * 2 + ["", "attack"]
    asked, by_document = await PromptShields(service.url, token).attacks(f"{long} attack", documents)
    assert asked
    assert by_document == [False] * 7 + [True] + [False] * 3 + [True]
    assert len(service.bodies) > 2
    sent = sum(len(text) for body in service.bodies for text in body["documents"])
    assert sent == sum(map(len, documents))
    assert sum(len(body["userPrompt"]) for body in service.bodies) == len(long) + 7


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(status=503),
        web.Response(status=429, headers={"Retry-After": "1"}),
        web.Response(text="<html>"),
        web.json_response({}),
        web.json_response({"userPromptAnalysis": {"attackDetected": True}, "documentsAnalysis": []}),
        web.json_response([1]),
    ],
    ids=["503", "429", "no JSON", "empty", "too few", "a list"],
)
async def test_a_service_that_fails_leaves_the_judgement_to_the_classifier(
    service: Service, answer: web.Response
) -> None:
    service.answer = answer
    assert await PromptShields(service.url, token).attacks("q", ["d"]) == (False, [False])
    assert len(service.bodies) == 1


async def test_a_service_that_hangs_or_is_not_there_does_not_hold_an_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shields, "CALL_SECONDS", 0.2)
    service.hangs = True
    assert await PromptShields(service.url, token).attacks("q", ["d"]) == (False, [False])
    assert await PromptShields("http://127.0.0.1:9/", token).attacks("q", ["d"]) == (False, [False])
