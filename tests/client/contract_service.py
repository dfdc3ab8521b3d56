"""A small service that speaks the contract over real HTTP, and replies as a test has scripted it."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "gw_0123456789abcdef_secret"


@dataclass
class Scripted:
    """One reply. ``parts`` are sent as chunks, each on its own; ``drop`` breaks the connection after them."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] | None = None
    drop: bool = False


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    peer: tuple[str, int]

    def json(self) -> Any:
        return json.loads(self.body)


class Service:
    """Replies come in order for ``METHOD path``; the last one of a route is given again and again."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._replies: dict[str, list[Scripted]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def on(self, route: str, *replies: Scripted) -> None:
        self._replies[route] = list(replies)

    def next_reply(self, seen: Seen) -> Scripted:
        self.seen.append(seen)
        replies = self._replies.get(f"{seen.method} {seen.target.partition('?')[0]}")
        if replies is None:
            return problem(404, "not_found", f"No reply is scripted for {seen.method} {seen.target}.")
        return replies.pop(0) if len(replies) > 1 else replies[0]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def problem(status: int, code: str, detail: str = "Told by the test.", **members: Any) -> Scripted:
    headers = {"Content-Type": "application/problem+json"}
    if "retry_after" in members:
        headers["Retry-After"] = str(max(1, round(members["retry_after"])))
    document = {
        "type": f"https://groundwork.example/errors/{code}",
        "title": code,
        "status": status,
        "detail": detail,
        "code": code,
        "retryable": status in (429, 503),
        "correlation_id": "c0ffee00c0ffee00",
        **members,
    }
    return Scripted(status, document, headers)


def events(*pairs: tuple[str, Any]) -> bytes:
    """A stream of server-sent events with JSON data."""
    return "".join(
        f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n" for name, data in pairs
    ).encode()


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = service.next_reply(Seen(self.command, self.path, headers, body, self.client_address))
            if reply.parts is None:
                if reply.drop:
                    self.close_connection = True
                    return
                data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                for name, value in ({"Content-Length": str(len(data))} | reply.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in reply.parts:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.flush()
            if not reply.drop:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the test's own assertions say what matters."""

    return Handler
