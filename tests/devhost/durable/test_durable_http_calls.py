"""Durable HTTP calls against a real server."""

import json
from collections.abc import AsyncIterator

import pytest
from durable_host import Host, listening, output
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


class Service:
    """Answers 202 as often as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.accepts = 2
        self.retry_after = "0"
        self.seen: list[tuple[str, str, dict[str, str]]] = []

    async def start(self, request: Request) -> Response:
        return await self._answer(request)

    async def poll(self, request: Request) -> Response:
        return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        body = (await request.body()).decode()
        self.seen.append((f"{request.method} {request.url.path}", body, dict(request.headers)))
        if self.accepts > 0:
            self.accepts -= 1
            return Response(status_code=202, headers={"Location": "/poll", "Retry-After": self.retry_after})
        return JSONResponse({"done": True}, headers={"x-note": "n"})


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    service = Service()
    routes = [
        Route("/start", service.start, methods=["GET", "POST"]),
        Route("/poll", service.poll),
        Route("/broken", lambda request: PlainTextResponse("no", 500)),
    ]
    async with listening(Starlette(routes=routes)) as url:
        yield service, url


async def test_an_accepted_call_is_polled_until_it_is_done(host: Host, service: tuple[Service, str]) -> None:
    answers, url = service
    headers = {"x-functions-key": "secret", "x-trace": "t"}
    request = {"method": "POST", "url": f"{url}/start", "content": {"a": 1}, "headers": headers}
    response = output(await host.run("calls_http", request))
    assert (response["statusCode"], json.loads(response["content"])) == (200, {"done": True})
    assert response["headers"]["x-note"] == "n"
    assert [seen[0] for seen in answers.seen] == ["POST /start", "GET /poll", "GET /poll"]
    assert answers.seen[0][1] == '{"a": 1}'
    assert answers.seen[1][2]["x-trace"] == "t"
    assert "x-functions-key" not in answers.seen[1][2]


async def test_retry_after_is_honoured(host: Host, service: tuple[Service, str]) -> None:
    answers, url = service
    answers.retry_after = "3600"
    started = await host.start("calls_http", {"url": f"{url}/start"})

    async def postponed() -> bool:
        return len(answers.seen) == 1 and (await host.engine.stats())["activities_running"] == 0

    await host.until(postponed)
    assert await host.status(started) == "Running"
    assert (await host.engine.stats())["pending"]["activities"] == 1


async def test_an_error_status_is_a_result(host: Host, service: tuple[Service, str]) -> None:
    response = output(await host.run("calls_http", {"url": f"{service[1]}/broken"}))
    assert (response["statusCode"], response["content"]) == (500, "no")


async def test_a_server_that_is_not_there_fails_the_call(host: Host) -> None:
    instance = await host.run("calls_http", {"url": "http://127.0.0.1:9/"})
    assert instance.status == "Failed"
    assert "BuiltIn::HttpActivity" in instance.output
