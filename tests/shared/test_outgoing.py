"""Addresses that callers name: which are asked, and what their servers may do."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest
from aiohttp import web

from shared.errors import (
    PayloadTooLarge,
    SourceRefused,
    SourceUnavailable,
    UnsupportedMediaType,
    UrlRefused,
)
from shared.outgoing import MAX_REDIRECTS, URL_MAX_CHARACTERS, Outgoing, is_public

pytestmark = pytest.mark.security("API7", "API10", "LLM10")
LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)

# What the app must never be made to ask, each in one of the ways in which it is tried.
FORBIDDEN = (
    "http://169.254.169.254/metadata/instance?api-version=2021-02-01",
    "http://169.254.170.2/v2/credentials",
    "http://168.63.129.16/machine?comp=goalstate",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.1.:80/",
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST/",
    "http://0.0.0.0/",
    "http://0/",
    "http://10.0.0.4/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:53aa:64c:0:0:5601:5601]/",
    "http://[fd00:ec2::254]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[2001:db8::1]/",
    "http://8.8.8.8:22/",
    "http://8.8.8.8:10000/devstoreaccount1",
    "https://user:secret@example.org/",
    "https://example.org@169.254.169.254/",
    "http://169.254.169.254\\@example.org/",
    "http://example.org\\@169.254.169.254/",
    "http://169.254.169.254#@example.org/",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://example.org/",
    "gopher://127.0.0.1:6379/_INFO",
    "data:text/plain,hello",
    "javascript:alert(1)",
    "//169.254.169.254/",
    "169.254.169.254",
    "https://",
    "https:///path",
    "https://exa mple.org/",
    "https://example.org/\r\nX-Injected: 1",
    "https://example.org/\x00",
    "https://ex\u0430mple.org/",
    "https://①②⑦.⓪.⓪.①/",
    "https://example.org:99999/",
    "https://[::1/",
    "",
)


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        await Outgoing().fetch(url, limit=10)
    with pytest.raises(UrlRefused):
        await Outgoing().post(url, b"", {})


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("64:ff9b::808:808", True),
        ("168.63.129.15", True),
        ("168.63.129.16", False),
        ("100.63.255.255", True),
        ("100.64.0.0", False),
        ("172.15.255.255", True),
        ("172.32.0.0", True),
        ("172.31.255.255", False),
        ("::ffff:8.8.8.8", False),
        ("2002:808:808::1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_an_address_has_at_most_so_many_characters() -> None:
    base = "https://example.org/"
    Outgoing().check(base + "x" * (URL_MAX_CHARACTERS - len(base)))
    with pytest.raises(UrlRefused):
        Outgoing().check(base + "x" * (URL_MAX_CHARACTERS - len(base) + 1))


ALWAYS_SENT = ("Host", "User-Agent", "Accept", "Accept-Encoding", "Connection")


class TestNames:
    """A name server is not believed twice: what it says is what is checked, and what is connected to."""

    @pytest.mark.parametrize("answer", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"])
    async def test_a_name_of_a_private_address_is_refused(
        self, answer: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names(monkeypatch, [answer])
        with pytest.raises(UrlRefused):
            await Outgoing().fetch("http://rebound.example.org/", limit=10)

    async def test_a_name_that_changes_between_two_looks_leads_nowhere_else(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outside = await serve(lambda request: web.Response(text="outside"))
        asked: list[str] = []
        await serve(lambda request: asked.append(request.path) or web.Response(), "127.0.0.2", outside.port)
        looks = names(monkeypatch, ["127.0.0.1"], then=["127.0.0.2"], port=outside.port)
        outgoing = Outgoing(LOOPBACK)
        assert (await outgoing.fetch("http://rebound.example.org/", limit=10)).content == b"outside"
        with pytest.raises(UrlRefused):
            await outgoing.fetch("http://rebound.example.org/", limit=10)
        assert len(looks) == 2
        assert not asked

    async def test_one_private_address_among_others_is_never_connected_to(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outside = await serve(lambda request: web.Response(text="outside"))
        asked: list[str] = []
        await serve(lambda request: asked.append(request.path) or web.Response(), "127.0.0.2", outside.port)
        names(monkeypatch, ["127.0.0.2", "127.0.0.1"], port=outside.port)
        fetched = await Outgoing(LOOPBACK).fetch("http://mixed.example.org/", limit=10)
        assert fetched.content == b"outside"
        assert not asked


class TestServers:
    async def test_a_body_is_fetched_with_its_type(self, serve: Serve) -> None:
        server = await serve(lambda request: web.Response(text="# Hello", content_type="text/markdown"))
        fetched = await Outgoing(LOOPBACK).fetch(f"{server}/a.md?x=%2F#part", limit=100)
        assert (fetched.content, fetched.content_type) == (b"# Hello", "text/markdown; charset=utf-8")

    async def test_nothing_is_sent_along(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
        seen: list[dict[str, str]] = []

        def answer(request: web.Request) -> web.Response:
            seen.append(dict(request.headers))
            response = web.Response(status=302, headers={"Location": "/again"})
            response.set_cookie("tracked", "yes")
            return response if len(seen) == 1 else web.Response(text="x")

        await Outgoing(LOOPBACK).fetch(f"{await serve(answer)}/", limit=100)
        assert [set(headers) for headers in seen] == [{*ALWAYS_SENT}] * 2

    async def test_a_body_may_have_the_limit_of_bytes_and_no_more(self, serve: Serve) -> None:
        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x" * int(request.query["bytes"]))
            return response

        declared = await serve(lambda request: web.Response(body=b"x" * int(request.query["bytes"])))
        for server in (declared, await serve(stream)):
            assert len((await Outgoing(LOOPBACK).fetch(f"{server}/?bytes=100", limit=100)).content) == 100
            with pytest.raises(PayloadTooLarge):
                await Outgoing(LOOPBACK).fetch(f"{server}/?bytes=101", limit=100)

    async def test_an_endless_body_ends_at_the_limit(self, serve: Serve) -> None:
        sent = 0

        async def stream(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536

        with pytest.raises(PayloadTooLarge):
            await Outgoing(LOOPBACK).fetch(f"{await serve(stream)}/", limit=1_000_000)
        assert sent < 20_000_000

    async def test_a_compressed_body_is_refused(self, serve: Serve) -> None:
        def answer(request: web.Request) -> web.Response:
            return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})

        with pytest.raises(SourceRefused):
            await Outgoing(LOOPBACK).fetch(f"{await serve(answer)}/", limit=100)

    async def test_a_slow_server_is_left(self, serve: Serve) -> None:
        async def drip(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.05)

        began = time.monotonic()
        with pytest.raises(SourceUnavailable):
            await Outgoing(LOOPBACK, total_seconds=0.5).fetch(f"{await serve(drip)}/", limit=10**9)
        assert time.monotonic() - began < 30

    async def test_the_type_is_examined_before_the_rest_is_read(self, serve: Serve) -> None:
        def refuse(content_type: str | None, head: bytes) -> None:
            assert (content_type, head[:4]) == ("image/png", b"\x89PNG")
            raise UnsupportedMediaType("No pictures.")

        def answer(request: web.Request) -> web.Response:
            return web.Response(body=b"\x89PNG" + bytes(10), content_type="image/png")

        with pytest.raises(UnsupportedMediaType):
            await Outgoing(LOOPBACK).fetch(f"{await serve(answer)}/", limit=100, examine=refuse)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (404, SourceRefused),
            (401, SourceRefused),
            (304, SourceRefused),
            (408, SourceUnavailable),
            (429, SourceUnavailable),
            (503, SourceUnavailable),
        ],
    )
    async def test_what_is_not_given(self, serve: Serve, status: int, error: type[Exception]) -> None:
        server = await serve(lambda request: web.Response(status=status))
        for ask in (
            Outgoing(LOOPBACK).fetch(f"{server}/", limit=9),
            Outgoing(LOOPBACK).post(f"{server}/", b"", {}),
        ):
            with pytest.raises(error):
                await ask

    @pytest.mark.parametrize(
        ("value", "least", "most"),
        [
            ("7", 7, 7),
            ("999999", 900, 900),
            ("Fri, 31 Dec 2100 23:59:59 GMT", 900, 900),
            ("soon", None, None),
            ("-1", None, None),
        ],
    )
    async def test_the_servers_own_wait_is_told(
        self, serve: Serve, value: str, least: float | None, most: float | None
    ) -> None:
        server = await serve(lambda request: web.Response(status=503, headers={"Retry-After": value}))
        with pytest.raises(SourceUnavailable) as failed:
            await Outgoing(LOOPBACK).fetch(f"{server}/", limit=9)
        after = failed.value.retry_after
        assert after is None if least is None or most is None else least <= (after or -1) <= most

    async def test_nobody_listens(self) -> None:
        with pytest.raises(SourceUnavailable):
            await Outgoing(LOOPBACK).fetch(f"http://127.0.0.1:{unused_port()}/", limit=9)

    async def test_a_certificate_that_does_not_prove_the_host_is_refused(self, serve: Serve) -> None:
        server = await serve(lambda request: web.Response(text="x"))
        with pytest.raises((SourceRefused, SourceUnavailable)):
            await Outgoing(LOOPBACK, tls=ssl.create_default_context()).fetch(
                f"https://127.0.0.1:{server.port}/", limit=9
            )


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_followed_with_the_same_rules(self, serve: Serve, status: int) -> None:
        def answer(request: web.Request) -> web.Response:
            if request.path == "/b":
                return web.Response(text="there")
            return web.Response(status=status, headers={"Location": "b"})

        server = await serve(answer)
        fetched = await Outgoing(LOOPBACK).fetch(f"{server}/a", limit=9)
        assert (fetched.content, fetched.url) == (b"there", f"{server}/b")

    @pytest.mark.parametrize(
        "target",
        [
            "http://169.254.169.254/",
            "http://127.0.0.2/",
            "file:///etc/passwd",
            "//[::1]/",
            "http://2130706433/",
        ],
    )
    async def test_a_redirect_to_a_forbidden_address_is_refused(self, serve: Serve, target: str) -> None:
        server = await serve(lambda request: web.Response(status=302, headers={"Location": target}))
        with pytest.raises(UrlRefused):
            await Outgoing(LOOPBACK).fetch(f"{server}/", limit=9)

    async def test_as_many_redirects_as_allowed_and_no_more(self, serve: Serve) -> None:
        def answer(request: web.Request) -> web.Response:
            left = int(request.query["left"])
            if not left:
                return web.Response(text="there")
            return web.Response(status=302, headers={"Location": f"/?left={left - 1}"})

        server = await serve(answer)
        assert (
            await Outgoing(LOOPBACK).fetch(f"{server}/?left={MAX_REDIRECTS}", limit=9)
        ).content == b"there"
        with pytest.raises(SourceRefused):
            await Outgoing(LOOPBACK).fetch(f"{server}/?left={MAX_REDIRECTS + 1}", limit=9)

    async def test_a_post_is_not_sent_elsewhere(self, serve: Serve) -> None:
        server = await serve(lambda request: web.Response(status=307, headers={"Location": "/b"}))
        with pytest.raises(SourceRefused):
            await Outgoing(LOOPBACK).post(f"{server}/", b"signed", {})


# --- servers and names of the tests ---


class Server:
    def __init__(self, port: int) -> None:
        self.port = port

    def __str__(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Answer = Callable[[web.Request], Any]


class Serve(Protocol):
    async def __call__(self, answer: Answer, host: str = "127.0.0.1", port: int | None = None) -> Server: ...


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers on this machine, and stops them."""
    runners: list[web.ServerRunner] = []

    async def start(answer: Answer, host: str = "127.0.0.1", port: int | None = None) -> Server:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            answered = answer(request)  # type: ignore[arg-type]
            return await answered if asyncio.iscoroutine(answered) else answered

        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        port = port or unused_port()
        await web.TCPSite(runner, host, port).start()
        return Server(port)

    yield start
    for runner in runners:
        await runner.cleanup()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def names(
    monkeypatch: pytest.MonkeyPatch, answers: list[str], *, then: list[str] | None = None, port: int = 0
) -> list[str]:
    """Let the system's name look-up give ``answers``, then ``then``; the looks taken."""
    looks: list[str] = []

    def getaddrinfo(host: str, asked_port: int, *_: Any, **__: Any) -> list[Any]:
        looks.append(host)
        given = answers if len(looks) == 1 or then is None else then
        found: list[Any] = []
        for address in given:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            where = (address, port or asked_port, 0, 0) if ":" in address else (address, port or asked_port)
            found.append((family, socket.SOCK_STREAM, 6, "", where))
        return found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looks
