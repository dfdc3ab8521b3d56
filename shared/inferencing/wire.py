"""The network edge of the gateway: sends one request, gives one response, says how it was lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Protocol

from .faults import DeploymentFault, FaultKind

if TYPE_CHECKING:
    import aiohttp

# Azure's front ends drop idle connections after minutes; a minute avoids most stale ones.
KEEP_ALIVE_SECONDS = 60
DNS_CACHE_SECONDS = 60


class WireResponse(Protocol):
    """A response whose headers have arrived. Reading raises ``DeploymentFault`` when it is lost."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """By name, whatever its case."""
        ...

    async def read(self) -> bytes:
        """The whole body."""
        ...

    async def read_some(self) -> bytes:
        """The next bytes of the body, as they arrive; empty at its end."""
        ...

    def close(self) -> None:
        """Let go: a connection whose body was not read to its end is closed, which stops the service."""
        ...


class Wire(Protocol):
    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, connect_seconds: float
    ) -> WireResponse: ...
    async def get(self, url: str, headers: Mapping[str, str], connect_seconds: float) -> WireResponse: ...
    async def close(self) -> None: ...


class HttpWire:
    """HTTP/1.1 over one aiohttp session, made at the first request because it belongs to its event loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, connect_seconds: float
    ) -> WireResponse:
        return await self.send("POST", url, headers, body, connect_seconds)

    async def get(self, url: str, headers: Mapping[str, str], connect_seconds: float) -> WireResponse:
        return await self.send("GET", url, headers, None, connect_seconds)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] | None,
        connect_seconds: float,
    ) -> WireResponse:
        """Send any request; a body that comes in parts needs its ``Content-Length`` among the headers."""
        import aiohttp

        session = self._session or self._open()
        timeout = aiohttp.ClientTimeout(total=None, connect=connect_seconds)
        try:
            response = await session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            )
        except aiohttp.ConnectionTimeoutError:
            raise DeploymentFault(FaultKind.FAILED, "connect_timeout") from None
        except aiohttp.ClientConnectorError:
            raise DeploymentFault(FaultKind.FAILED, "connect_failed") from None
        except (aiohttp.ClientConnectionError, ConnectionError):
            raise DeploymentFault(FaultKind.FAILED, CONNECTION_LOST) from None
        except aiohttp.ClientError:
            raise DeploymentFault(FaultKind.FAILED, "not_http") from None
        return _HttpResponse(response)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        # The gateway limits requests in flight per deployment itself; a second limit would only hide it.
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, ttl_dns_cache=DNS_CACHE_SECONDS
        )
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


# A kept-alive connection may have been closed by the other side just as we wrote to it.
CONNECTION_LOST = "connection_lost"


class _HttpResponse:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        import aiohttp

        try:
            return await self._response.read()
        except (aiohttp.ClientError, ConnectionError):
            raise DeploymentFault(FaultKind.FAILED, "truncated") from None

    async def read_some(self) -> bytes:
        import aiohttp

        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, ConnectionError):
            raise DeploymentFault(FaultKind.FAILED, "truncated") from None

    def close(self) -> None:
        self._response.close()
