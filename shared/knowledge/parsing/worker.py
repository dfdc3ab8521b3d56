"""The process that reads documents for `ParserPool`: one request frame in, one response frame out.

It believes nothing about its input and is believed little: it has no secrets, writes no files, and answers
in JSON. It ends by itself when its standard input does, so it does not outlive its host.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
import sys
from dataclasses import astuple
from typing import Any, BinaryIO

from shared.errors import DocumentError, ParseMemoryExceeded
from shared.inferencing.tokens import load_tokenizer
from shared.knowledge.chunking import Chunk, ChunkBudget, chunk
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import ParsedDocument
from shared.knowledge.parsing.limits import ParseLimits

FRAME = struct.Struct(">IQ")
"""Bytes of a JSON header, bytes of a payload."""

# A long-lived process gathers fragments. Between documents a worker has 40 to 180 MB resident, by the
# tokenizers it has loaded; one that has grown retires, any other for good measure. Its successor costs half
# a second of CPU: at 500 documents that was more than reading short ones.
_DOCUMENTS_PER_WORKER = 5000
_RETIRE_RSS_SHARE = 0.25

# What libraries say may quote a document: the host reads a few words of it after a crash, and keeps none.
_STDERR_BYTES = 1024 * 1024
_OPEN_FILES = 64

# What a worker says when it aborts for want of memory.
NO_MEMORY = b"out of memory\n"
# The handler must live as long as the process may call it.
_on_abort: Any = None


def write_frame(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    encoded = json.dumps(header).encode()
    stream.write(FRAME.pack(len(encoded), len(payload)) + encoded)
    if payload:
        stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO, max_bytes: int) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None where the other side has gone. Raises `ValueError` beyond ``max_bytes``."""
    lengths = stream.read(FRAME.size)
    if len(lengths) < FRAME.size:
        return None
    header_bytes, payload_bytes = FRAME.unpack(lengths)
    if header_bytes + payload_bytes > max_bytes:
        raise ValueError("A frame is larger than allowed.")
    header, payload = stream.read(header_bytes), stream.read(payload_bytes)
    if len(header) < header_bytes or len(payload) < payload_bytes:
        return None
    return json.loads(header), payload


def main(limits: ParseLimits) -> None:
    """Serve requests on the standard streams until they end."""
    requests = os.fdopen(os.dup(0), "rb")
    responses = os.fdopen(os.dup(1), "wb")
    _silence()
    _tell_of_short_memory()
    limited = _confine(limits)
    write_frame(responses, {"pid": os.getpid(), "memory_limited": limited})
    served = 0
    while (frame := read_frame(requests, limits.input_bytes + 1024 * 1024)) is not None:
        if "tokenizer" in frame[0]:
            write_frame(responses, _load(frame[0]["tokenizer"]))
            continue
        write_frame(responses, {"reading": True})
        _extend_cpu(limits)
        header, payload = _answer_all(*frame, limits)
        served += len(frame[0].get("together", "1"))
        del frame
        grown = _rss_bytes() > _RETIRE_RSS_SHARE * limits.memory_bytes
        header["retire"] = grown or served >= _DOCUMENTS_PER_WORKER
        write_frame(responses, header, payload)
        if header["retire"]:
            return


def _silence() -> None:
    """Keep the frames to ourselves: what a library prints must not get between them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _tell_of_short_memory() -> None:
    """Say so where this process aborts because no memory was to be had.

    PDFium aborts without a word when an allocation fails; what failed last is still told by ``errno`` then.
    A handler of Python's own would run only after the abort, so this one is the C library's.
    """
    if sys.platform == "win32":
        return
    import ctypes

    global _on_abort
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p

    def on_abort(number: int) -> None:
        if ctypes.get_errno() == errno.ENOMEM:
            os.write(2, NO_MEMORY)
        set_handler(number, None)  # the default: it ends the process
        os.kill(os.getpid(), number)

    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int, use_errno=True)(on_abort)
    set_handler(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))


def _confine(limits: ParseLimits) -> bool:
    """Limit this process; return whether the system enforces the limit of memory."""
    if sys.platform == "win32":
        return False
    import resource

    for kind, amount in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _STDERR_BYTES),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(kind, (amount, amount))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    except (ValueError, OSError):  # macOS refuses it
        return False
    return sys.platform == "linux"


def _extend_cpu(limits: ParseLimits) -> None:
    """Allow the next document its CPU time: ends this process where the host can no longer do so."""
    if sys.platform == "win32":
        return
    import resource
    import time

    allowed = int(time.process_time() + 2 * limits.seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))


def _load(tokenizer: str) -> dict[str, Any]:
    try:
        load_tokenizer(tokenizer)
    except Exception as error:  # a wrong setting, not a wrong document
        return {"internal": f"{type(error).__name__}: {error}"}
    return {}


def _answer_all(request: dict[str, Any], content: bytes, limits: ParseLimits) -> tuple[dict[str, Any], bytes]:
    """The answer to a request for one document, or those for several in one."""
    if "together" not in request:
        return _answer(request, content, limits)
    headers: list[dict[str, Any]] = []
    payloads: list[bytes] = []
    start = 0
    for each in request["together"]:
        end = start + each["bytes"]
        header, payload = _answer(each, content[start:end], limits)
        headers.append({**header, "bytes": len(payload)})
        payloads.append(payload)
        start = end
    return {"together": headers}, b"".join(payloads)


def _answer(request: dict[str, Any], content: bytes, limits: ParseLimits) -> tuple[dict[str, Any], bytes]:
    from shared.knowledge.parsing import parse

    try:
        if "read" in request:
            document = ParsedDocument.from_dict({**request["read"], "text": content.decode()})
        else:
            document = parse(content, Media(request["media"]), request["name"], limits)
        if request["title"]:
            document = document.titled(request["title"])
        return response(document, chunk(document, ChunkBudget(**request["budget"])))
    except DocumentError as error:
        return {"error": error.code, "detail": error.detail, "extra": error.extra}, b""
    except MemoryError:
        return {"error": ParseMemoryExceeded.code, "detail": ParseMemoryExceeded.title, "extra": {}}, b""
    except Exception as error:  # its message may quote the document
        return {"internal": type(error).__name__}, b""


def response(document: ParsedDocument, chunks: tuple[Chunk, ...]) -> tuple[dict[str, Any], bytes]:
    """The text once, as the payload; of a chunk all but its text."""
    described = document.to_dict()
    text = described.pop("text")
    spans = [(item.start, item.end, item.page, item.page_end) for item in chunks]
    rest = [(item.headings, item.context, item.tokens) for item in chunks]
    return {"document": described, "spans": spans, "rest": rest}, text.encode()


def received(header: dict[str, Any], payload: bytes) -> tuple[ParsedDocument, tuple[Chunk, ...]]:
    """What `response` was made of."""
    document = ParsedDocument.from_dict({**header["document"], "text": payload.decode()})
    chunks = tuple(
        Chunk(ordinal, document.text[start:end], start, end, page, page_end, tuple(headings), context, tokens)
        for ordinal, ((start, end, page, page_end), (headings, context, tokens)) in enumerate(
            zip(header["spans"], header["rest"], strict=True)
        )
    )
    return document, chunks


def _rss_bytes() -> int:
    """Resident memory now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError):
        return 0


def limits_from(argument: str) -> ParseLimits:
    return ParseLimits(*json.loads(argument))


def limits_argument(limits: ParseLimits) -> str:
    return json.dumps(astuple(limits))
