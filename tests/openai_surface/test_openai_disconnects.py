"""Clients that leave: whatever they asked for and whenever they go, no request stays open upstream."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.parse
from typing import Any

import pytest
from openai_tenant import Tenant
from scripted_service import ScriptedService

CLIENTS = 200
AT_ONCE = 40
LONGEST_STAY_SECONDS = 0.6
SEED = 20261125
MESSAGES = [{"role": "user", "content": "Hello?"}]


def request_of(tenant: Tenant, path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: surface\r\nAuthorization: Bearer {tenant.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def ask_and_leave(tenant: Tenant, data: bytes, seconds: float) -> bool:
    """Send a request, read what comes for some time, hang up; whether anything had come."""
    address = urllib.parse.urlsplit(tenant.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    got = b""
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            while block := await reader.read(65536):
                got += block
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()
    return bool(got)


def bodies(kind: str, choice: random.Random) -> tuple[str, dict[str, Any]]:
    messages = MESSAGES
    if kind == "whole":
        return "/v1/chat/completions", {"model": "silent", "messages": messages}
    if choice.random() < 0.25:
        return "/v1/responses", {"model": "endless", "input": "Hello?", "stream": True}
    return "/v1/chat/completions", {"model": "endless", "messages": messages, "stream": True}


@pytest.mark.parametrize(("kind", "clients"), [("streams", CLIENTS), ("whole", CLIENTS // 4)])
async def test_a_load_of_clients_that_leave_at_random_leaves_no_request_open(
    scripted: Tenant, service: ScriptedService, kind: str, clients: int
) -> None:
    choice = random.Random(SEED)
    await asyncio.to_thread(service.wait_for_open, 0)
    before, gate = len(service.requests), asyncio.Semaphore(AT_ONCE)

    async def one(data: bytes, seconds: float) -> bool:
        async with gate:
            return await ask_and_leave(scripted, data, seconds)

    stays = [choice.uniform(0, LONGEST_STAY_SECONDS) for _ in range(clients)]
    asked = [request_of(scripted, *bodies(kind, choice)) for _ in range(clients)]
    answered = await asyncio.gather(*map(one, asked, stays))
    # Enough of them must have been upstream when they left, or the test would show nothing.
    assert len(service.requests) - before >= clients // 5
    assert any(answered) is (kind == "streams")
    await asyncio.to_thread(service.wait_for_open, 0, 30)
    status, _, answer = await asyncio.to_thread(
        scripted.post,
        "/v1/chat/completions",
        {"model": "chat", "messages": MESSAGES},
    )
    assert status == 200, answer
