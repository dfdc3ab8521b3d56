"""HTTP to one Groundwork service: kept connections, time limits, patient retries.

No redirect is followed, since the key would follow it too, and no proxy is read from the environment.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from client.errors import ApiError, ConnectionFailed, StreamInterrupted

# Tries of one call in all, the first included.
MAX_TRIES = 5
# Waits without a Retry-After: doubled from the first to the longest, with jitter.
FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 8.0
# A service that asks for more patience than this is answered by an error that says so.
MAX_RETRY_AFTER_SECONDS = 60.0
REFUSALS = frozenset({429, 503})
IDLE_CONNECTIONS = 4
READ_BYTES = 64 * 1024

Query = Mapping[str, str | int | list[str] | tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


class Transport:
    """Calls to ``base_url``; safe to use from several threads."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_seconds: float,
        max_tries: int = MAX_TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"The address must look like http://127.0.0.1:7071, not {base_url!r}.")
        self.base_url = base_url.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "User-Agent": "groundwork-client/0.1"}
        self._timeout = timeout_seconds
        self._max_tries = max_tries
        self._sleep = sleep
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._lock = threading.Lock()

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> Reply:
        """The reply to one call; raises `ApiError` from status 400 on, and `ConnectionFailed`.

        A body that is not bytes is sent as JSON. 429 and 503 refuse the work before it begins, so every
        call is tried again after them; after a broken connection only one that may happen twice is.
        """
        safe = method in ("GET", "PUT", "DELETE") if idempotent is None else idempotent
        data, sent = self._request(body, content_type, headers)
        target = self._target(path, query)
        for attempt in range(1, self._max_tries + 1):
            last = attempt == self._max_tries
            try:
                connection, response = self._open(method, target, data, sent, reuse=safe)
                reply = self._read(connection, response)
            except ConnectionFailed:
                if last or not safe:
                    raise
                self._sleep(_backoff(attempt))
                continue
            if reply.status < 400:
                return reply
            error = ApiError.from_response(reply.status, reply.headers, reply.body)
            self._wait_or_raise(error, attempt, last)
        raise AssertionError("the last try returns or raises")

    def stream(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Generator[bytes, None, None]:
        """The response's bytes as they arrive; a break raises `StreamInterrupted`.

        The call is made at once, and refusals are retried like those of `call`; the connection closes
        with the iterator.
        """
        data, sent = self._request(
            body, "application/json", {"Accept": "text/event-stream", **(headers or {})}
        )
        target = self._target(path, None)
        for attempt in range(1, self._max_tries + 1):
            connection, response = self._open(method, target, data, sent, reuse=False)
            if response.status < 400:
                return _parts(connection, response)
            reply = self._read(connection, response)
            error = ApiError.from_response(reply.status, reply.headers, reply.body)
            self._wait_or_raise(error, attempt, attempt == self._max_tries)
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connections that wait for further calls."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def _wait_or_raise(self, error: ApiError, attempt: int, last: bool) -> None:
        wait = error.retry_after if error.retry_after is not None else _backoff(attempt)
        if last or error.status not in REFUSALS or wait > MAX_RETRY_AFTER_SECONDS:
            raise error
        self._sleep(wait)

    def _request(
        self, body: Any, content_type: str, headers: Mapping[str, str] | None
    ) -> tuple[bytes | None, dict[str, str]]:
        sent = {**self._headers, "Accept": "application/json", **(headers or {})}
        if body is None:
            return None, sent
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        return data, {**sent, "Content-Type": content_type}

    def _target(self, path: str, query: Query | None) -> str:
        given = {name: value for name, value in (query or {}).items() if value not in (None, "", [], ())}
        return f"{self._prefix}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")

    def _open(
        self, method: str, target: str, data: bytes | None, headers: Mapping[str, str], *, reuse: bool
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request and read the head of the response.

        Only calls that may happen twice go over a kept connection: the service may have closed it, and
        nothing then tells whether the request was read.
        """
        connection = self._take() if reuse else None
        kept = connection is not None
        connection = connection or self._connect()
        try:
            connection.request(method, target, body=data, headers=dict(headers))
            return connection, connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            connection.close()
            if kept:
                return self._open(method, target, data, headers, reuse=reuse)
            raise ConnectionFailed(f"{self.base_url} closed the connection: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ConnectionFailed(f"No answer from {self.base_url}: {error}") from error

    def _read(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Reply:
        headers = {name.lower(): value for name, value in response.getheaders()}
        try:
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ConnectionFailed(f"The answer from {self.base_url} broke off: {error}") from error
        self._keep(connection, response)
        return Reply(response.status, headers, body)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self._timeout)

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        with self._lock:
            if not response.will_close and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()


def _parts(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse
) -> Generator[bytes, None, None]:
    try:
        while part := response.read1(READ_BYTES):
            yield part
    except (OSError, http.client.HTTPException) as error:
        raise StreamInterrupted(f"The stream broke off: {error}") from error
    finally:
        with suppress(OSError):
            connection.close()


def _backoff(attempt: int) -> float:
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)
