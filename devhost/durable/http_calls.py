"""Durable HTTP: `context.call_http`, with the 202 pattern polled by the engine.

A call is an activity. While the service answers 202 the call is put back with the URL to ask next, due after
`Retry-After`; nothing is held in memory in between, and polling goes on after a restart.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

if TYPE_CHECKING:
    import aiohttp

# HttpClient's own timeout, which the extension leaves as it is.
TIMEOUT_SECONDS = 100.0


@dataclass(frozen=True, slots=True)
class Poll:
    """The service is not done: send `request` after `delay_seconds`."""

    request: str
    delay_seconds: float


class HttpCaller:
    """Sends durable HTTP requests over one client session."""

    def __init__(self, poll_milliseconds: int, clock: Callable[[], float]) -> None:
        self._poll_seconds = poll_milliseconds / 1000
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def call(self, payload: str) -> str | Poll:
        """Send one request; return the response as the SDK expects it, or what to poll next."""
        request = json.loads(payload)
        status, headers, content = await self._send(request)
        location = next((v for k, v in headers.items() if k.lower() == "location"), None)
        if status == 202 and location and request.get("asynchronousPatternEnabled", True):
            return self._poll(request, str(location), headers)
        return json.dumps({"statusCode": status, "headers": headers, "content": content})

    async def _send(self, request: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))
        headers = dict(request.get("headers") or {})
        content = request.get("content")
        if content is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "text/plain"
        if request.get("tokenSource"):
            headers["Authorization"] = f"Bearer {await _access_token(request['tokenSource']['resource'])}"
        async with self._session.request(
            request["method"], request["uri"], data=content, headers=headers
        ) as response:
            names = dict.fromkeys(response.headers)
            values = {name: response.headers.getall(name) for name in names}
            plain = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
            return response.status, plain, await response.text()

    def _poll(self, request: dict[str, Any], location: str, headers: dict[str, Any]) -> Poll:
        after = next((str(v) for k, v in headers.items() if k.lower() == "retry-after"), "")
        # A function key belongs to the function that was called, not to the one that reports on it.
        kept = {k: v for k, v in (request.get("headers") or {}).items() if k.lower() != "x-functions-key"}
        following = {
            "method": "GET",
            "uri": urljoin(request["uri"], location),
            "headers": kept,
            "tokenSource": request.get("tokenSource"),
        }
        return Poll(json.dumps(following), self._delay(after))

    def _delay(self, retry_after: str) -> float:
        """Seconds from a Retry-After header, which may be a number or a date."""
        if not retry_after:
            return self._poll_seconds
        try:
            return max(0.0, float(retry_after))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(retry_after).timestamp() - self._clock())
        except ValueError:
            return self._poll_seconds


async def _access_token(resource: str) -> str:
    """A token of the developer's own identity, in the place of the app's managed identity."""
    from azure.identity.aio import DefaultAzureCredential

    async with DefaultAzureCredential() as credential:
        token = await credential.get_token(f"{resource.rstrip('/')}/.default")
    return token.token
