"""The project's own speed and behaviour runs of the gateway, for a checkout without the shared harness.

Both give the records that the shared harness gives, so the same bars judge either.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from bench.gateway_adapter import BODY, GatewayAlone, SdkOverGateway

WARM_UP_CALLS = 30


class RawAiohttp:
    """The floor: one session, one URL, no routing."""

    name = "aiohttp"

    async def start(self, urls: list[str], timeout: float) -> None:  # noqa: ASYNC109
        import aiohttp

        self._url = f"{urls[0]}/v1/chat/completions"
        limit = aiohttp.TCPConnector(limit=200)
        self._session = aiohttp.ClientSession(connector=limit, timeout=aiohttp.ClientTimeout(total=timeout))

    async def chat(self) -> str:
        async with self._session.post(self._url, json={"model": "m", **BODY}) as response:
            return (await response.json())["choices"][0]["message"]["content"]

    async def close(self) -> None:
        await self._session.close()


class OpenAiSdk:
    """The openai SDK as it comes."""

    name = "openai"

    def http_client(self) -> Any:
        return None

    async def start(self, urls: list[str], timeout: float) -> None:  # noqa: ASYNC109
        from openai import AsyncOpenAI

        client = self.http_client()
        self._client: Any = AsyncOpenAI(
            base_url=f"{urls[0]}/v1", api_key="none", timeout=timeout, http_client=client
        )

    async def chat(self) -> str:
        answer = await self._client.chat.completions.create(model="m", **BODY)
        return answer.choices[0].message.content

    async def close(self) -> None:
        await self._client.close()


class OpenAiSdkOnAiohttp(OpenAiSdk):
    name = "openai+aiohttp"

    def http_client(self) -> Any:
        from openai import DefaultAioHttpClient

        return DefaultAioHttpClient()


CLIENTS = (RawAiohttp, OpenAiSdk, OpenAiSdkOnAiohttp, GatewayAlone, SdkOverGateway)


async def speed(
    urls: list[str], concurrencies: tuple[int, ...], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """CPU a request (the least of the rounds: noise only adds) and requests a second (the median)."""
    clients = [make() for make in CLIENTS]
    for client in clients:
        await client.start(urls, 30.0)
        for _ in range(WARM_UP_CALLS):
            await client.chat()
    cells: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for concurrency in concurrencies:
            for client in clients:
                cell = await _closed_loop(client, concurrency, seconds)
                cells.setdefault((client.name, concurrency), []).append(cell)
    for client in clients:
        await client.close()
    return [
        {
            "client": name,
            "conc": concurrency,
            "cpu_us": min(cpu for cpu, _ in found),
            "rps": statistics.median(rate for _, rate in found),
        }
        for (name, concurrency), found in cells.items()
    ]


async def _closed_loop(client: Any, concurrency: int, seconds: float) -> tuple[float, float]:
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await client.chat()
            done += 1

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    cpu_used, elapsed = time.process_time() - cpu, time.perf_counter() - started
    return cpu_used / done * 1e6, done / elapsed


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    a: dict[str, Any]
    b: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    rate: float = 20.0
    seconds: float = 10.0


THROTTLED = {"mode": "429", "retry_after": 10}
SCENARIOS = (
    Scenario("s1 throttled for 10 s", THROTTLED, seconds=14),
    Scenario("s2 hangs", {"mode": "hang"}, rate=10, seconds=14),
    Scenario("s3 500", {"mode": "500"}),
    Scenario("s4 resets", {"mode": "reset"}),
    Scenario("s5 503 at 30%", {"mode": "503", "share": 0.3}),
    Scenario("s6 garbage", {"mode": "garbage"}, seconds=8),
    Scenario("s7 truncated", {"mode": "truncate"}, seconds=8),
    Scenario("s8 both throttled", THROTTLED, THROTTLED, rate=5, seconds=6),
    Scenario("s9 500 for 5 s", {"mode": "500", "for_seconds": 5}, seconds=15),
    Scenario("t1 stream, no fault", {}, stream=True, rate=10, seconds=5),
    Scenario("t2 stream drops at 5", {"mode": "drop"}, stream=True, rate=10),
    Scenario("t3 stream drops at 0", {"mode": "drop", "after": 0}, stream=True, rate=10),
    Scenario("t4 stream stalls at 5", {"mode": "stall"}, stream=True, rate=5),
    Scenario("t5 error event at 5", {"mode": "error_event"}, stream=True, rate=10),
    Scenario("t6 stream throttled", THROTTLED, stream=True, rate=10, seconds=8),
)


async def behaviour(ports: tuple[int, int], only: set[str]) -> list[dict[str, Any]]:
    """Each scenario against A, which is faulty, and B, which is well: open loop."""
    chosen = [scenario for scenario in SCENARIOS if not only or scenario.name.split()[0] in only]
    return [await _run(scenario, ports) for scenario in chosen]


async def _run(scenario: Scenario, ports: tuple[int, int]) -> dict[str, Any]:
    client = GatewayAlone()
    await client.start([f"http://127.0.0.1:{port}" for port in ports], 5.0)
    control(ports[0], {})
    control(ports[1], {})
    for _ in range(4):
        await client.chat()
    control(ports[0], scenario.a)
    control(ports[1], scenario.b)
    number, started, calls = int(scenario.rate * scenario.seconds), time.perf_counter(), []
    for index in range(number):
        await asyncio.sleep(max(0.0, started + index / scenario.rate - time.perf_counter()))
        calls.append(asyncio.create_task(_one(client, scenario.stream)))
    results = await asyncio.gather(*calls)
    a, b = control(ports[0])["hits"], control(ports[1])["hits"]
    await client.close()
    return _record(scenario, results, a, b)


def _record(
    scenario: Scenario, results: list[tuple[str, float]], a: list[float], b: list[float]
) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for kind, _ in results:
        kinds[kind] = kinds.get(kind, 0) + 1
    latencies = sorted(seconds * 1000 for _, seconds in results)
    down = scenario.a.get("for_seconds")
    returned = [at - down for at in a if down is not None and at > down]
    return {
        "scenario": scenario.name,
        "n": len(results),
        "ok": 100 * kinds.get("ok", 0) / len(results),
        "kinds": kinds,
        "p99": latencies[min(len(latencies) - 1, int(0.99 * len(latencies)))],
        "max": latencies[-1],
        "A_hits": len(a),
        "B_hits": len(b),
        "amp": (len(a) + len(b)) / len(results),
        "A_first_after_recovery": returned[0] if returned else None,
    }


async def _one(client: GatewayAlone, stream: bool) -> tuple[str, float]:
    started, text = time.perf_counter(), ""
    try:
        if stream:
            async for piece in client.stream():
                text += piece
            kind = _judge_stream(text)
        else:
            text = await client.chat()
            kind = "ok" if text.startswith("pong") else "wrong"
    except Exception as error:
        kind = f"err:{type(error).__name__}" + ("/partial" if text else "")
    return kind, time.perf_counter() - started


def _judge_stream(text: str) -> str:
    pieces = [piece.split("@") for piece in text.split()]
    if [token for token, _ in pieces] != [f"t{number}" for number in range(20)]:
        return "silently cut" if len(pieces) < 20 else "repeated"
    return "ok" if len({source for _, source in pieces}) == 1 else "spliced"


def control(port: int, fault: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if fault is None else json.dumps(fault).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/control", data, timeout=5) as answer:
        return json.load(answer)
