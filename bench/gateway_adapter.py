"""The gateway behind the four methods that a run of the router harness calls.

Each call takes the way of a request of the product: under its tenant's limits and rates, into the ledger.
Only what these keep every few seconds is kept nowhere.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from shared.inferencing import CallContext, DeploymentCredentials, Gateway, parse_catalogue
from shared.inferencing.admission import Admission
from shared.inferencing.budgets import JobBudgets
from shared.inferencing.ledger import UsageLedger
from shared.inferencing.rates import CallerRates
from shared.limits import TenantLimits, parse_limits

MODEL = "chat"
# As the product's defaults, at rates that no run reaches.
LIMITS = parse_limits(
    "user_requests_per_minute=1000000000, user_tokens_per_minute=1000000000000, "
    "tenant_requests_per_minute=1000000000, tenant_tokens_per_minute=1000000000000"
)
BODY = {"messages": [{"role": "user", "content": "ping"}]}


def catalogue_of(urls: list[str]) -> str:
    """A catalogue of one chat model with a deployment at each URL, all in one priority group."""
    deployments = [
        f'[[models.chat.deployments]]\nname = "{chr(97 + index)}"\nendpoint = "{url}/v1"\n'
        'deployment = "gpt-4o-mini"\napi = "openai"\nversion = "1"\ndata_zone = "bench"\n'
        for index, url in enumerate(urls)
    ]
    limits = 'kind = "chat"\ntokenizer = "o200k"\ncontext_tokens = 128000\nmax_output_tokens = 16384\n'
    return f"[models.chat]\n{limits}" + "".join(deployments)


class _NoStorage:
    """Finds nothing and keeps nothing."""

    async def get_rows(self, *_: Any) -> dict[str, Any]:
        return {}

    async def put_row(self, *_: Any) -> None:
        pass


class GatewayAlone:
    """The gateway called by the app itself."""

    name = "gateway"
    multi = True

    async def start(self, urls: list[str], timeout: float) -> None:  # noqa: ASYNC109 (the harness names it so)
        self._timeout_seconds = timeout
        storage: Any = _NoStorage()
        limits = TenantLimits(storage, LIMITS)
        self._gateway = Gateway(
            parse_catalogue(catalogue_of(urls), {}),
            credentials=DeploymentCredentials({}),
            recorder=UsageLedger(storage).record,
            admission=Admission(limits.of, CallerRates(time.monotonic), JobBudgets(storage)),
        )

    async def chat(self) -> str:
        return (await self._gateway.complete(MODEL, BODY, call=self._call())).text

    async def stream(self) -> AsyncIterator[str]:
        async for chunk in self._gateway.stream(MODEL, BODY, call=self._call()):
            if chunk["choices"]:
                yield chunk["choices"][0]["delta"].get("content") or ""

    async def close(self) -> None:
        await self._gateway.close()

    def _call(self) -> CallContext:
        return CallContext(tenant="bench", user="bench", deadline=time.monotonic() + self._timeout_seconds)


class SdkOverGateway(GatewayAlone):
    """The openai SDK with the gateway as its transport."""

    name = "openai+gateway"

    async def start(self, urls: list[str], timeout: float) -> None:  # noqa: ASYNC109 (the harness names it so)
        await super().start(urls, timeout)
        import httpx2
        from openai import AsyncOpenAI

        from shared.inferencing.transport import GatewayTransport

        transport = GatewayTransport(self._gateway, lambda _: CallContext(tenant="bench", user="bench"))
        self._client: Any = AsyncOpenAI(
            base_url="http://gateway/v1",
            api_key="none",
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.AsyncClient(transport=transport),
        )

    async def chat(self) -> str:
        answer = await self._client.chat.completions.create(model=MODEL, **BODY)
        return answer.choices[0].message.content

    async def stream(self) -> AsyncIterator[str]:
        async for chunk in await self._client.chat.completions.create(model=MODEL, stream=True, **BODY):
            if chunk.choices:
                yield chunk.choices[0].delta.content or ""

    async def close(self) -> None:
        await self._client.close()
        await super().close()
