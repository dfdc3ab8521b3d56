"""The embedded index as the app sees it: a client of the process that holds the shard.

The process is started by the first call and ends with this one, whichever way this one ends: it stops
when its standard input closes. A process that dies is started again by the next call; what was in flight
fails with ``IndexUnavailable``, which is retryable.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import shared.errors
from shared.errors import GroundworkError, IndexUnavailable
from shared.knowledge.index.protocol import (
    ALL_VERSIONS,
    DocumentVersion,
    IndexedChunk,
    IndexSpec,
    SearchRequest,
    SearchResult,
    VersionRange,
    nothing_found,
)
from shared.knowledge.index.shard import read_frame, write_frame

LOCK_WAIT_SECONDS = 10.0  # a process that was killed lets go of the shard within a write and a sync
CLOSE_SECONDS = 10.0  # a write and a sync that are under way
PROJECT = Path(__file__).resolve().parents[3]
_SERVE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from shared.knowledge.index.shard import serve; serve(*sys.argv[2:])"
)


class EmbeddedIndex:
    """`SearchIndex` in a folder. One process at a time may have the folder open."""

    def __init__(
        self, folder: Path, spec: IndexSpec, *, lock_wait_seconds: float = LOCK_WAIT_SECONDS
    ) -> None:
        self._folder = folder / spec.name
        self._dimensions = spec.dimensions
        self._lock_wait_seconds = lock_wait_seconds
        self._process: _ShardProcess | None = None
        self._starting = threading.Lock()
        self._closed = False

    async def ensure(self) -> None:
        await asyncio.to_thread(self._connect)

    async def upload(self, chunks: Sequence[IndexedChunk]) -> None:
        compact = [
            chunk if chunk.vector is None else replace(chunk, vector=array("f", chunk.vector))
            for chunk in chunks
        ]
        if compact:
            await self._call("upload", compact)

    async def delete_document(
        self,
        tenant: str,
        collection: str,
        document: str,
        versions: VersionRange = ALL_VERSIONS,
        *,
        layout: int | None = None,
        made_before: datetime | None = None,
    ) -> int:
        return await self._call(
            "delete_document", tenant, collection, document, versions, layout, made_before
        )

    async def delete_collection(self, tenant: str, collection: str, *, layout: int | None = None) -> int:
        return await self._call("delete_collection", tenant, collection, layout)

    async def search(self, request: SearchRequest) -> SearchResult:
        request.check()
        if request.finds_nothing:
            return nothing_found(request)
        if request.vector is not None:
            request = replace(request, vector=array("f", request.vector))
        return await self._call("search", request)

    async def document_versions(
        self, tenant: str, collection: str, *, first: str = "", last: str = ""
    ) -> list[DocumentVersion]:
        return await self._call("document_versions", tenant, collection, first, last)

    async def digest(self, tenant: str, collection: str) -> str:
        return await self._call("digest", tenant, collection)

    async def count(self, tenant: str, collection: str, document: str | None = None) -> int:
        return await self._call("count", tenant, collection, document)

    async def close(self) -> None:
        self._closed = True
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.close)

    @property
    def process_id(self) -> int | None:
        """The process that holds the shard, for telemetry of its memory."""
        return self._process.id if self._process is not None else None

    async def _call(self, operation: str, *arguments: Any) -> Any:
        process = self._process
        if process is None or not process.alive:
            process = await asyncio.to_thread(self._connect)
        return await asyncio.wrap_future(process.submit(operation, arguments))

    def _connect(self) -> _ShardProcess:
        with self._starting:
            if self._closed:
                raise IndexUnavailable("The search index was closed.")
            if self._process is None or not self._process.alive:
                self._process = _ShardProcess(self._folder, self._dimensions, self._lock_wait_seconds)
            return self._process


class _ShardProcess:
    """The child process; answers may be awaited from any thread and any event loop."""

    def __init__(self, folder: Path, dimensions: int, lock_wait_seconds: float) -> None:
        command = [sys.executable, "-c", _SERVE, str(PROJECT), str(folder), str(dimensions)]
        self._child = subprocess.Popen(
            [*command, str(lock_wait_seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._requests, self._replies = self._child.stdin, self._child.stdout
        self._sending = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._next_number = 1
        self.alive = True
        opened: Future[Any] = Future()
        self._pending[0] = opened
        threading.Thread(target=self._receive, name="embedded-index", daemon=True).start()
        try:
            opened.result()
        except GroundworkError:
            self._reap()
            raise

    @property
    def id(self) -> int:
        return self._child.pid

    def submit(self, operation: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """Send a request; the future gets its answer, or ``IndexUnavailable`` when the process dies."""
        answer: Future[Any] = Future()
        with self._sending:
            if not self.alive:
                raise _process_ended()
            number, self._next_number = self._next_number, self._next_number + 1
            self._pending[number] = answer
            try:
                write_frame(self._requests, (number, operation, arguments))
            except OSError:
                self._pending.pop(number, None)
                raise _process_ended() from None
        return answer

    def close(self) -> None:
        """Finish what was sent, sync, and end the process."""
        try:
            self.submit("close", ()).result(timeout=CLOSE_SECONDS)
        except (IndexUnavailable, TimeoutError):
            self._child.kill()
        self._reap()

    def _reap(self) -> None:
        self._requests.close()
        self._child.wait()

    def _receive(self) -> None:
        while True:
            try:
                number, succeeded, value = read_frame(self._replies)
            except (EOFError, OSError):
                break
            answer = self._pending.pop(number, None)
            if answer is None or not answer.set_running_or_notify_cancel():
                continue
            if succeeded:
                answer.set_result(value)
            else:
                answer.set_exception(_rebuilt(*value))
        with self._sending:
            self.alive = False
            pending, self._pending = self._pending, {}
        for answer in pending.values():
            if answer.set_running_or_notify_cancel():
                answer.set_exception(_process_ended())
        self._replies.close()


def _process_ended() -> IndexUnavailable:
    return IndexUnavailable("The process of the embedded index ended.", retry_after=1.0)


def _rebuilt(name: str, detail: str) -> GroundworkError:
    kind = getattr(shared.errors, name, IndexUnavailable)
    return kind(detail)
