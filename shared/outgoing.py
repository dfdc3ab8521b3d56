"""The one client for addresses that callers name: documents by URL, webhooks.

Whoever names an address may try to make the app speak to what only the app can reach: the metadata service
of its machine, its own network, itself. So a connection is made only to a public address, and that is decided
where the socket is made, of the very address that it will be connected to: no way of writing an address, no
redirect and no second answer of a name server gets around it. All else is bounded: time, size, redirects.
No cookies, proxies or credentials are ever sent along.
"""

from __future__ import annotations

import asyncio
import email.utils
import ipaddress
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit

from shared.errors import PayloadTooLarge, SourceRefused, SourceUnavailable, UrlRefused

if TYPE_CHECKING:
    import aiohttp

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Examine = Callable[[str | None, bytes], object]

# Servers and proxies take 8,000 octets of address at least (RFC 9110, 4.1).
URL_MAX_CHARACTERS = 4_000
SCHEMES = ("https", "http")
PORTS = (443, 80)
MAX_REDIRECTS = 3
CONNECT_SECONDS = 5.0
# A server that sends nothing for this long is not going to.
SILENCE_SECONDS = 10.0
TOTAL_SECONDS = 60.0
# Asked to wait for longer than this, the caller is told that the source is not there.
RETRY_AFTER_MAX_SECONDS = 900.0
_BLOCK_BYTES = 64 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
# Besides 5xx: what may pass when the same request is made later (RFC 9110, 15.5; RFC 8470; RFC 6585).
_TRANSIENT = (408, 425, 429)
# Compressed bodies could expand beyond any limit: none is asked for, and none is read.
_PLAIN_BODY = {"Accept-Encoding": "identity"}

# Public by its number, and yet the host of every Azure machine: DNS, health probes, the wire server.
AZURE_WIRE_SERVER = ipaddress.ip_address("168.63.129.16")
# RFC 6052 and RFC 8215: IPv6 addresses of translators, which carry the IPv4 address they lead to.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# A last label like this makes the whole host a number for many readers: 2130706433, 0x7f.1, 0177.0.0.1.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NOT_IN_A_URL = re.compile(r'[^\x21-\x7e]|[\\"<>^`{|}]')


@dataclass(frozen=True, slots=True)
class Fetched:
    """What an address gave: the body, its declared type, and the address after all redirects."""

    content: bytes
    content_type: str | None
    url: str


class _Forbidden(OSError):
    """The address to be connected to must not be reached; the next one of the same name may be tried."""


class Outgoing:
    """Requests to addresses that callers name."""

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        *,
        total_seconds: float = TOTAL_SECONDS,
        tls: Any = True,
    ) -> None:
        """``allowed``: networks that may be reached, on any port, though they are not public.

        ``tls`` is the `ssl.SSLContext` for https where it is not the system's.
        """
        self._allowed = tuple(allowed)
        self._total_seconds = total_seconds
        self._tls = tls

    async def fetch(self, url: str, *, limit: int, examine: Examine | None = None) -> Fetched:
        """The body at ``url``, at most ``limit`` bytes, after at most `MAX_REDIRECTS` redirects.

        ``examine`` is told the declared type and the first block, and may raise before the rest is read.
        Raises `UrlRefused` for an address that must not be asked, `PayloadTooLarge`, `SourceRefused` where
        the server does not give it, and `SourceUnavailable` where it may do so later.
        """
        async with self._deadline():
            for _ in range(MAX_REDIRECTS + 1):
                parts = self.check(url)
                async with self._request("GET", parts, headers=_PLAIN_BODY) as answer:
                    if answer.status not in _REDIRECTS:
                        _check_status(answer)
                        content = await _body(answer, limit, examine)
                        return Fetched(content, answer.headers.get("Content-Type"), url)
                    url = urljoin(url, answer.headers.get("Location", ""))
                if parts.scheme == "https" and not url.startswith("https:"):
                    raise UrlRefused("The address leads from https to something else.")
        raise SourceRefused(f"The address was redirected more than {MAX_REDIRECTS} times.")

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send ``body``; the status of success. Redirects are not followed, the answer's body is not read.

        Raises as `fetch` does.
        """
        async with (
            self._deadline(),
            self._request("POST", self.check(url), headers=headers, data=body) as answer,
        ):
            _check_status(answer)
            return answer.status

    def check(self, url: str) -> SplitResult:
        """The parts of an address that may be asked, as far as it can tell; raises `UrlRefused`.

        Names are not looked up: what they stand for is decided when a connection is made.
        """
        if len(url) > URL_MAX_CHARACTERS:
            raise UrlRefused(f"An address has at most {URL_MAX_CHARACTERS} characters.")
        if _NOT_IN_A_URL.search(url):
            raise UrlRefused("An address is written in ASCII, with all else percent-encoded.")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise UrlRefused("This is no address.") from None
        if parts.scheme not in SCHEMES:
            raise UrlRefused("An address begins with https:// or http://.")
        if "@" in parts.netloc:
            raise UrlRefused("An address may not hold a user name or password.")
        literal = _literal(host)
        if literal is None and not _is_name(host):
            raise UrlRefused("The address names no host.")
        if f".{host.removesuffix('.')}".endswith(".localhost"):  # RFC 6761, 6.3: it is no name to look up
            raise UrlRefused(_NOT_PUBLIC)
        if literal is not None and not self._may_reach(literal, port or PORTS[SCHEMES.index(parts.scheme)]):
            raise UrlRefused(_NOT_PUBLIC)
        return parts

    def _may_reach(self, address: Address, port: int) -> bool:
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        return port in PORTS and is_public(address)

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._total_seconds):
                yield
        except TimeoutError:
            raise SourceUnavailable("The address did not answer in time.") from None

    @asynccontextmanager
    async def _request(
        self, method: str, parts: SplitResult, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp
        from yarl import URL

        refused = False

        def make_socket(target: tuple[Any, ...]) -> socket.socket:
            """A socket for one looked-up address: there is no other way to a connection."""
            nonlocal refused
            family, kind, protocol, _, (host, port, *_) = target
            if not self._may_reach(ipaddress.ip_address(host), port):
                refused = True
                raise _Forbidden
            return socket.socket(family, kind, protocol)

        connector = aiohttp.TCPConnector(
            socket_factory=make_socket, use_dns_cache=False, force_close=True, ssl=self._tls
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
            ),
            headers={"User-Agent": "Groundwork"},
        )
        url = URL(parts._replace(fragment="").geturl(), encoded=True)
        try:
            async with session, session.request(method, url, allow_redirects=False, **request) as answer:
                yield answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if refused:
                raise UrlRefused(_NOT_PUBLIC) from None
            if isinstance(error, (aiohttp.ClientSSLError, aiohttp.InvalidURL, ValueError)):
                raise SourceRefused(f"The address cannot be asked ({type(error).__name__}).") from None
            raise SourceUnavailable(f"The address did not answer ({type(error).__name__}).") from None


_NOT_PUBLIC = "The address is not a public one, or its port is neither 443 nor 80."


def is_public(address: Address) -> bool:
    """Whether everyone on the internet would reach the same host under ``address``.

    Of IPv6 addresses that carry one of IPv4 only those of the well-known translators are: the other kinds
    lead to wherever their inner address does, and nobody publishes them.
    """
    if isinstance(address, ipaddress.IPv6Address):
        carries = address.ipv4_mapped or address.sixtofour or address.teredo
        if address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        elif carries or address.is_site_local or address.scope_id is not None or address in _NAT64_LOCAL:
            return False
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_private
    return address.is_global and not special and address != AZURE_WIRE_SERVER


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return (
        len(host) <= 253  # RFC 1035, 2.3.4
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMBER.fullmatch(labels[-1])
    )


def _check_status(answer: aiohttp.ClientResponse) -> None:
    status = answer.status
    if 200 <= status < 300:
        return
    if status in _TRANSIENT or status >= 500:
        after = _retry_after(answer.headers.get("Retry-After", ""))
        raise SourceUnavailable(f"The address answered with the status {status}.", retry_after=after)
    raise SourceRefused(f"The address answered with the status {status}.")


def _retry_after(value: str) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3); None where there is no good one."""
    if value.isascii() and value.isdigit() and len(value) < 9:
        return min(float(value), RETRY_AFTER_MAX_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, moment - time.time()), RETRY_AFTER_MAX_SECONDS)


async def _body(answer: aiohttp.ClientResponse, limit: int, examine: Examine | None) -> bytes:
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise SourceRefused("The address gave a compressed body, though none was asked for.")
    too_large = PayloadTooLarge(f"The address gives more than {limit} bytes.", limit=limit)
    if (answer.content_length or 0) > limit:
        raise too_large
    content = bytearray()
    async for block in answer.content.iter_chunked(_BLOCK_BYTES):
        if not content and examine is not None:
            examine(answer.headers.get("Content-Type"), block)
        content += block
        if len(content) > limit:
            raise too_large
    return bytes(content)
