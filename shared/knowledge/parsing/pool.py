"""Reading untrusted documents in bounded subprocesses.

A worker is a plain Python process on two pipes, driven by a thread: that works on every event loop and
system, needs no signal handler, and lets the host run any number of loops. Documents go through the pipe:
1 MB takes 1 ms (through a temporary file 3 ms; 10 MB 26 against 14 ms), and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, cast

from shared import errors
from shared.knowledge.chunking import Chunk, ChunkBudget
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import ParsedDocument
from shared.knowledge.parsing.limits import DEFAULT_LIMITS, ParseLimits
from shared.knowledge.parsing.short import Answer, ShortDocuments, is_short
from shared.knowledge.parsing.worker import NO_MEMORY, limits_argument, read_frame, received, write_frame

_log = logging.getLogger(__name__)

# A worker starts in a fraction of a second; a machine that needs longer than this is not usable.
_START_SECONDS = 60.0
# What a start takes beyond this is taken from the time of the document that waited for it, half at the most:
# the bar of 10 s a file holds on a busy machine as well.
_FREE_START_SECONDS = 1.0

# Idle workers hold about 40 MB each.
_IDLE_SECONDS = 60.0

_RSS_CHECK_SECONDS = 0.05

# JSON escapes a character in up to 6 bytes, and describes each chunk besides.
_RESPONSE_BYTES_PER_CHAR = 16

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from shared.knowledge.parsing.worker import limits_from, main; main(limits_from(sys.argv[1]))"
)

# What allocators of C++, Rust and Python say before they give up, and what a worker says of PDFium.
_OUT_OF_MEMORY = (b"memory allocation of", b"bad_alloc", b"ut of memory", b"MemoryError", NO_MEMORY)

_DOCUMENT_ERRORS = {cls.code: cls for cls in (errors.DocumentError, *errors.DocumentError.__subclasses__())}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document read and cut: ``chunks`` are spans of ``document.text``."""

    document: ParsedDocument
    chunks: tuple[Chunk, ...]


class _WorkerGone(Exception):
    """The worker ended, or broke the protocol, before it answered."""


class _WorkerLost(Exception):
    """The worker ended before it began to read the document, which is not to blame then."""


class _Worker:
    """One subprocess. Used by one thread at a time; `kill` may be called from any."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._end: type[errors.DocumentError] | None = None
        self.idle_since = 0.0
        self._process = subprocess.Popen(
            [
                *(sys.executable or "python3", "-I", "-B", "-X", "utf8", "-c", _BOOT),
                limits_argument(limits),
                json.dumps([os.path.abspath(path) for path in sys.path]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(),
            cwd=tempfile.gettempdir(),
            start_new_session=True,  # Ctrl-C is for the host, which then closes the pipe
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        self._tokenizers: set[str] = set()
        self._watch_memory = False
        try:
            with self._watched(_START_SECONDS):
                ready, _ = self._receive()
        except _WorkerGone:
            code = self.discard()
            raise errors.HostFault(f"A parser process could not be started (exit code {code}).") from None
        self._watch_memory = not ready["memory_limited"]

    def ask(self, request: dict[str, Any], content: bytes, begun: float) -> tuple[dict[str, Any], bytes]:
        """The answer to a request. Raises `_WorkerLost` or `_WorkerGone` before or after it was begun.

        The time a document may take begins when its worker has all that it needs for any document; it is
        shorter where that was long after the request had ``begun``, by the monotonic clock.
        """
        try:
            refused = self._load(request["budget"]["tokenizer"])
        except _WorkerGone:
            raise _WorkerLost from None
        if refused is not None:
            return refused, b""
        late = max(0.0, time.monotonic() - begun - _FREE_START_SECONDS)
        with self._watched(max(self._limits.seconds - late, self._limits.seconds / 2)):
            try:
                self._send(request, content)
                self._receive()  # it has the whole document, and begins
            except _WorkerGone:
                if self._end is not None:
                    raise
                raise _WorkerLost from None
            return self._receive()

    def _load(self, tokenizer: str) -> dict[str, Any] | None:
        """Have the tokenizer loaded; the answer, where that is that it cannot be."""
        if tokenizer not in self._tokenizers:
            with self._watched(_START_SECONDS):
                self._send({"tokenizer": tokenizer})
                answer, _ = self._receive()
            if "internal" in answer:
                return answer
            self._tokenizers.add(tokenizer)
        return None

    def _send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        try:
            write_frame(self._stdin, header, payload)
        except OSError:
            raise _WorkerGone from None

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        try:
            frame = read_frame(self._stdout, _RESPONSE_BYTES_PER_CHAR * self._limits.output_chars)
        except (OSError, ValueError):
            frame = None
        if frame is None:
            raise _WorkerGone
        return frame

    @contextmanager
    def _watched(self, seconds: float) -> Iterator[None]:
        """End the process where what is done within takes more than ``seconds``, or too much memory."""
        done = threading.Event()
        threading.Thread(target=self._watch, args=(done, seconds), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _watch(self, done: threading.Event, seconds: float) -> None:
        watch_memory = self._watch_memory
        deadline = time.monotonic() + seconds
        while not done.wait(min(_RSS_CHECK_SECONDS, seconds) if watch_memory else seconds):
            if time.monotonic() >= deadline:
                self.kill(errors.ParseTimeout)
                return
            if watch_memory and _rss_bytes(self._process.pid) > self._limits.memory_bytes:
                self.kill(errors.ParseMemoryExceeded)
                return

    def kill(self, reason: type[errors.DocumentError] | None = None) -> None:
        self._end = self._end or reason
        self._process.kill()

    def alive(self) -> bool:
        return self._process.poll() is None

    def verdict(self) -> errors.DocumentError:
        """Why it ended while it read a document."""
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._end is not None:
            return self._end()
        if sys.platform != "win32" and code == -signal.SIGXCPU:
            return errors.ParseTimeout()
        words = self._last_words()
        killed = sys.platform != "win32" and code == -signal.SIGKILL  # not by us: the system's memory ran out
        if killed or any(said in words for said in _OUT_OF_MEMORY):
            return errors.ParseMemoryExceeded()
        return errors.CorruptDocument("The reader failed on the document.")

    def _last_words(self) -> bytes:
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4096))
        return self._stderr.read()

    def discard(self) -> int:
        """End the process and free what belongs to it; returns its exit code."""
        self._process.kill()
        code = self._process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            with suppress(OSError):  # unsent bytes for a process that has gone
                stream.close()
        return code


@dataclass(slots=True, eq=False)
class _Job:
    """One document, or some short ones, on the way; `cancel` ends the worker that reads them."""

    request: dict[str, Any]
    content: bytes
    worker: _Worker | None = None
    cancelled: bool = False
    begun: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def assign(self, worker: _Worker) -> None:
        with self.lock:
            self.worker = worker
            if self.cancelled:
                worker.kill()

    def cancel(self) -> None:
        with self.lock:
            self.cancelled = True
            if self.worker is not None:
                self.worker.kill()


class ParserPool:
    """At most ``workers`` subprocesses that read documents; started when needed, gone when idle.

    A document that crashes its worker, or exceeds its time or memory, fails alone with a `DocumentError`.
    Workers get no environment, no open files and no network of use, and end when the host does.
    """

    def __init__(
        self, *, workers: int, limits: ParseLimits = DEFAULT_LIMITS, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        self._limits = limits
        self._idle_seconds = idle_seconds
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="parser-pool")
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._jobs: set[_Job] = set()
        self._short = ShortDocuments(self._asked)
        self._reaping = False
        self._closed = False

    async def prepare(
        self,
        content: bytes,
        media: Media,
        *,
        name: str | None,
        budget: ChunkBudget,
        title: str | None = None,
    ) -> Prepared:
        """Read and cut one document; ``title`` replaces the one it has.

        Raises a `DocumentError` for what is wrong with the document, `ParseTimeout` and
        `ParseMemoryExceeded` included; `InternalError` for what is wrong here, `HostFault` where no worker
        can be had. Waits for a free worker;
        cancelling it ends the work.
        """
        if len(content) > self._limits.input_bytes:
            raise errors.DocumentTooComplex(
                "The document is larger than what is read.", limit=self._limits.input_bytes
            )
        request = {"media": media.value, "name": name, "title": title, "budget": asdict(budget)}
        read = self._short.read if is_short(media, content) else self._asked
        return _prepared(*await read(request, content))

    async def cut(self, document: ParsedDocument, budget: ChunkBudget) -> tuple[Chunk, ...]:
        """Cut a document that was read before. Raises as `prepare` does."""
        described = document.to_dict()
        text = described.pop("text")
        request = {"read": described, "title": None, "budget": asdict(budget), "media": document.media.value}
        return _prepared(*await self._asked(request, text.encode())).chunks

    async def _asked(self, request: dict[str, Any], content: bytes) -> Answer:
        job = _Job(request, content)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)
        except asyncio.CancelledError:
            job.cancel()
            raise

    async def close(self) -> None:
        """End all workers. Documents on their way fail."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        for worker in idle:
            worker.discard()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _run(self, job: _Job) -> Answer:
        job.begun = time.monotonic()
        with self._lock:
            self._jobs.add(job)
        try:
            return self._ask(job)
        finally:
            with self._lock:
                self._jobs.discard(job)

    def _ask(self, job: _Job) -> Answer:
        try:
            return self._ask_of(self._take(), job)
        except _WorkerLost:
            pass  # it died while it was idle: a new one then
        try:
            return self._ask_of(self._new_worker(), job)
        except _WorkerLost:
            raise errors.HostFault("A parser process ended before it read the document.") from None

    def _ask_of(self, worker: _Worker, job: _Job) -> tuple[dict[str, Any], bytes]:
        job.assign(worker)
        try:
            header, payload = worker.ask(job.request, job.content, job.begun)
        except _WorkerGone:
            verdict = worker.verdict()
            exit_code = worker.discard()
            if job.cancelled:
                raise errors.Cancelled() from None
            fields = {"exit_code": exit_code, "media": job.request["media"], "code": verdict.code}
            _log.warning("parser_worker_ended", extra=fields)
            raise verdict from None
        except BaseException:
            worker.discard()
            if job.cancelled:
                raise errors.Cancelled() from None
            raise
        self._give_back(worker, retire=header.pop("retire", False))
        return header, payload

    def _take(self) -> _Worker:
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._new_worker()
            if worker.alive():
                return worker
            worker.discard()

    def _new_worker(self) -> _Worker:
        try:
            return _Worker(self._limits)
        except OSError as error:  # no room for a file, no more processes
            raise errors.HostFault("A parser process could not be started.") from error

    def _give_back(self, worker: _Worker, *, retire: bool) -> None:
        with self._lock:
            keep = not retire and not self._closed
            if keep:
                worker.idle_since = time.monotonic()
                self._idle.append(worker)
                if not self._reaping:
                    self._reaping = True
                    threading.Thread(target=self._reap, name="parser-pool-reaper", daemon=True).start()
        if not keep:
            worker.discard()

    def _reap(self) -> None:
        """End workers that have been idle for long; ends itself with the last of them."""
        while True:
            with self._lock:
                before = time.monotonic() - self._idle_seconds
                expired = [worker for worker in self._idle if worker.idle_since <= before]
                self._idle = [worker for worker in self._idle if worker.idle_since > before]
                self._reaping = bool(self._idle)
                wait = self._idle[0].idle_since - before if self._idle else 0.0
            for worker in expired:
                worker.discard()
            if not wait:
                return
            time.sleep(wait)


def _prepared(header: dict[str, Any], payload: bytes) -> Prepared:
    """What a worker has made of a document; raises what was wrong with it."""
    if "internal" in header:
        raise errors.InternalError(f"Reading a document failed ({header['internal']}).")
    if "error" in header:
        raise _DOCUMENT_ERRORS[header["error"]](header["detail"], **header["extra"])
    return Prepared(*received(header, payload))


def _environment() -> dict[str, str]:
    """The worker's whole environment: nothing of the host's, which may hold secrets."""
    environment = {
        "TOKENIZERS_PARALLELISM": "false",  # one document, one core: the pool is the parallelism
        "RAYON_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # glibc reserves 64 MiB of address space for each arena
    }
    if sys.platform == "win32":
        import ctypes

        buffer = ctypes.create_unicode_buffer(260)
        ctypes.windll.kernel32.GetWindowsDirectoryW(buffer, 260)
        environment["SYSTEMROOT"] = buffer.value  # its system libraries do not load without
    return environment


def _rss_bytes(pid: int) -> int:
    """Resident memory of a process, where psutil is there to tell; else 0."""
    try:
        import psutil

        return psutil.Process(pid).memory_info().rss
    except Exception:  # not installed, or the process has just gone
        return 0
