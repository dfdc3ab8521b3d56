"""The lines of a batch's files: split as they come, checked one by one, written as OpenAI writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

# A line holds one request; images in it take some mebibytes. A longer one is refused without being held.
MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_CUSTOM_ID_CHARACTERS = 512
ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses")


@dataclass(frozen=True, slots=True)
class RawLine:
    """Bytes from ``start`` up to ``end``, the line's end among them; too many of them are None."""

    start: int
    end: int
    data: bytes | None

    @property
    def is_blank(self) -> bool:
        return self.data is not None and not self.data.strip()


class LineSplitter:
    """Cuts a stream of bytes into lines, holding one line at most."""

    def __init__(self, start: int = 0) -> None:
        self._start = self._position = start
        self._held = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[RawLine]:
        first = 0
        while (end := data.find(b"\n", first) + 1) > 0:
            self._take(data[first:end])
            yield self._cut()
            first = end
        self._take(data[first:])

    def end(self) -> Iterator[RawLine]:
        """The last line, where it has no end of its own."""
        if self._position > self._start:
            yield self._cut()

    def _take(self, data: bytes) -> None:
        self._position += len(data)
        self._too_long = self._too_long or self._position - self._start > MAX_LINE_BYTES
        if self._too_long:
            self._held.clear()
        else:
            self._held += data

    def _cut(self) -> RawLine:
        line = RawLine(self._start, self._position, None if self._too_long else bytes(self._held))
        self._held.clear()
        self._start, self._too_long = self._position, False
        return line


@dataclass(frozen=True, slots=True)
class LineFault:
    """Why a line is no request; codes are those of OpenAI's and Azure's batch services."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch, or why it is none."""

    custom_id: str | None
    body: dict[str, Any]
    fault: LineFault | None = None

    @property
    def model(self) -> str | None:
        return self.body.get("model")


def parse_line(data: bytes | None, endpoint: str) -> Line:
    """Read a line of a batch for ``endpoint``."""
    if data is None:
        return _no_request(None, "line_too_long", f"The line has more than {MAX_LINE_BYTES} bytes.")
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
        if b"\\ud" in data or b"\\uD" in data:
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError):
        return _no_request(None, "invalid_json_line", "The line is not valid JSON in UTF-8.")
    if not isinstance(value, dict):
        return _no_request(None, "invalid_json_line", "The line is no JSON object.")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
        limit = f"a text of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters"
        return _no_request(None, "invalid_request", f"'custom_id' must be {limit}.", "custom_id")
    if value.get("method") != "POST":
        return _no_request(custom_id, "invalid_request", "'method' must be 'POST'.", "method")
    if full_endpoint(value.get("url")) != endpoint:
        return _no_request(custom_id, "url_mismatch", f"'url' must be {endpoint!r}, as the batch's.", "url")
    body = value.get("body")
    if not isinstance(body, dict):
        return _no_request(custom_id, "invalid_request", "'body' must be an object.", "body")
    if not isinstance(body.get("model"), str):
        return _no_request(custom_id, "invalid_request", "'model' must name a model.", "model")
    return Line(custom_id, body)


def _no_request(custom_id: str | None, code: str, message: str, param: str | None = None) -> Line:
    return Line(custom_id, {}, LineFault(code, message, param))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def full_endpoint(url: Any) -> str | None:
    """An endpoint as OpenAI names it; Azure's form has no ``/v1`` before it. None for any other."""
    if not isinstance(url, str):
        return None
    full = url if url.startswith("/v1/") else f"/v1{url}"
    return full if full in ENDPOINTS else None


def request_id(job: str, number: int) -> str:
    """The id of one request of a batch: always the same for the same line."""
    return f"batch_req_{hashlib.sha256(f'{job}:{number}'.encode()).hexdigest()[:32]}"


def answered_line(job: str, number: int, custom_id: str, status: int, body: bytes) -> bytes:
    """The line of a request that was answered over HTTP, well or not; ``body`` is JSON as it was sent."""
    own_id = request_id(job, number)
    # JSON has line ends between its tokens only, so that a space can take their place.
    flat = body.replace(b"\r", b" ").replace(b"\n", b" ")
    head = encode({"id": own_id, "custom_id": custom_id})[:-1]
    told = b',"response":{"status_code":%d,"request_id":"%b","body":%b},"error":null}\n'
    return head + told % (status, own_id.encode(), flat)


def failed_line(
    job: str, number: int, custom_id: str | None, code: str, message: str, param: str | None = None
) -> bytes:
    """The line of a request that was never answered; ``line`` is its number in the input, from 1."""
    error: dict[str, Any] = {"code": code, "message": message, "param": param, "line": number}
    return encode(
        {"id": request_id(job, number), "custom_id": custom_id, "response": None, "error": error}
    ) + (b"\n")


def error_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Code and message of a line of an errors file."""
    body = (line.get("response") or {}).get("body") or {}
    return line.get("error") or (body.get("error") if isinstance(body, dict) else None) or {}


def encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
