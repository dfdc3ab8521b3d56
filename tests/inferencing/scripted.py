"""A wire without a network, for virtual time: each deployment answers by a script that tests can change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from urllib.parse import urlsplit

from shared.inferencing import CallContext, CallRecord, Gateway, parse_catalogue
from shared.inferencing.faults import DeploymentFault, FaultKind

from .upstream import TOKENS, completion, delta

CALL = CallContext(tenant="t1", user="u1", purpose="test")
BODY = {"messages": [{"role": "user", "content": "ping"}]}


@dataclass
class Script:
    """After ``seconds``: ``status``, or a lost connection; of a stream only the first ``tokens`` tokens."""

    seconds: float = 0.01
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    garbage: bool = False
    tokens: int | None = None
    stalls: bool = False


class ScriptedWire:
    def __init__(self, **scripts: Script) -> None:
        self.scripts = scripts
        self.sent: list[tuple[str, float]] = []  # deployment and time
        self.sent_headers: list[Mapping[str, str]] = []
        self.open: dict[str, int] = dict.fromkeys(scripts, 0)
        self.most_open = dict(self.open)

    def hits(self, name: str) -> int:
        return sum(1 for sent, _ in self.sent if sent == name)

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, connect_seconds: float
    ) -> ScriptedResponse:
        name = str(urlsplit(url).hostname)
        script = self.scripts[name]
        self.sent.append((name, asyncio.get_running_loop().time()))
        self.sent_headers.append(headers)
        self.open[name] += 1
        self.most_open[name] = max(self.most_open[name], self.open[name])
        response = ScriptedResponse(self, name, script, json.loads(body))
        try:
            await asyncio.sleep(script.seconds)
            if script.lost:
                raise DeploymentFault(FaultKind.FAILED, "connection_lost")
        except BaseException:
            response.close()
            raise
        return response

    async def get(self, url: str, headers: Mapping[str, str], connect_seconds: float) -> ScriptedResponse:
        raise DeploymentFault(FaultKind.FAILED, "connect_failed")

    async def close(self) -> None:
        pass


class ScriptedResponse:
    def __init__(self, wire: ScriptedWire, name: str, script: Script, body: dict[str, Any]) -> None:
        self.status = script.status
        self.headers = script.headers
        self._wire = wire
        self._name = name
        self._closed = False
        self._script = script
        self._blocks = _events(script) if body.get("stream") else [json.dumps(completion(name)).encode()]
        if script.garbage:
            self._blocks = [b"<html>"]

    async def read(self) -> bytes:
        data = b"".join(self._blocks)
        self.close()
        return data

    async def read_some(self) -> bytes:
        await asyncio.sleep(0.001)
        if self._blocks:
            return self._blocks.pop(0)
        if self._script.stalls:
            await asyncio.sleep(3600)
        if self._script.tokens is not None:
            self.close()
            raise DeploymentFault(FaultKind.FAILED, "truncated")
        self.close()
        return b""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._wire.open[self._name] -= 1


def _events(script: Script) -> list[bytes]:
    texts = TOKENS[: script.tokens]
    events = [delta("", role="assistant"), *(delta(text) for text in texts)]
    blocks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    if script.tokens is None and not script.stalls:
        blocks += [b"data: " + json.dumps(delta(None, "stop")).encode() + b"\n\n", b"data: [DONE]\n\n"]
    return blocks


def catalogue_text(*names: str, model: str = "", **deployments: str) -> str:
    """A chat model ``m`` with a deployment per name; ``deployments`` adds lines to the one so named."""
    parts = [
        '[models.m]\nkind = "chat"\ntokenizer = "o200k"\ncontext_tokens = 128000\nmax_output_tokens = 4096\n',
        model,
    ]
    for name in names:
        extra = deployments.get(name, "")
        zone = "" if "data_zone" in extra else 'data_zone = "eu"\n'
        version = "" if "version" in extra else 'version = "1"\n'
        parts.append(
            f'\n[[models.m.deployments]]\nname = "{name}"\nendpoint = "http://{name}/v1"\n'
            f'deployment = "gpt"\napi = "openai"\n{zone}{version}{extra}\n'
        )
    return "".join(parts)


async def no_credentials(_: Any) -> dict[str, str]:
    return {}


class Bench:
    """A gateway over scripted deployments, inside a virtual-time loop."""

    def __init__(self, text: str, seed: int = 1, **scripts: Script) -> None:
        self.wire = ScriptedWire(**scripts)
        self.records: list[CallRecord] = []
        self.loop = asyncio.get_running_loop()
        self.gateway = Gateway(
            parse_catalogue(text, {}),
            credentials=no_credentials,
            clock=self.loop.time,
            random=Random(seed),
            recorder=self.records.append,
            wire=self.wire,
        )

    def script(self, name: str, **changes: Any) -> None:
        self.wire.scripts[name] = replace(Script(), **changes)

    async def complete(self, **call: Any) -> str:
        return (await self.gateway.complete("m", BODY, call=replace(CALL, **call))).deployment

    async def stream(self, **call: Any) -> str:
        text = ""
        async for chunk in self.gateway.stream("m", BODY, call=replace(CALL, **call)):
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
        return text

    async def warm(self, calls: int = 6) -> None:
        for _ in range(calls):
            await self.complete()
        self.wire.sent.clear()
