"""The server of the embedded index: what it answers, and when, among requests that wait together."""

from __future__ import annotations

import io
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.knowledge.index import ALL_VERSIONS, IndexedChunk
from shared.knowledge.index.shard import WRITES_PER_SYNC, Shard, answer, arrived, read_frame

Make = Callable[..., IndexedChunk]
NOBODY = ("acme", "handbook", "nobody.md", ALL_VERSIONS, None, None)


class Watched(Shard):
    """A shard that tells when it was brought to disk, among the answers."""

    def __init__(self, path: Path, replies: io.BytesIO) -> None:
        super().__init__(path, 4, 1.0)
        self._replies = replies
        self.synced_at: list[int] = []
        self.full = False

    def sync(self) -> None:
        if self.full:
            raise OSError("No space left on device")
        was_written = self.is_written
        super().sync()
        if was_written:
            self.synced_at.append(self._replies.tell())


def answered(shard: Watched, replies: io.BytesIO, *requests: tuple[Any, ...]) -> list[tuple[int, Any, Any]]:
    """The answers to requests that wait together, each with the place where it begins."""
    waiting: queue.PriorityQueue[tuple[int, int, Any]] = queue.PriorityQueue()
    start = replies.tell()
    shard.synced_at.clear()
    for order, request in enumerate((*requests, (0, "close", ())), start=1):
        waiting.put(arrived(order, request))
    answer(shard, waiting, replies)
    end = replies.tell()
    replies.seek(start)
    found: list[tuple[int, Any, Any]] = []
    while (place := replies.tell()) < end:
        number, good, value = read_frame(replies)
        found.append((place, number, value if good else value[0]))
    return found


@pytest.fixture
def replies() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def shard(tmp_path: Path, replies: io.BytesIO) -> Watched:
    made = Watched(tmp_path, replies)
    made.sync()
    return made


def test_writes_that_wait_together_come_to_disk_together_and_are_answered_then(
    shard: Watched, replies: io.BytesIO, chunk: Make
):
    uploads = [(n, "upload", ([chunk(document=f"{n}.md")],)) for n in range(1, 2 * WRITES_PER_SYNC)]
    counting = (500, "count", ("acme", "handbook", None))
    found = answered(shard, replies, *uploads, counting)
    assert [number for _, number, _ in found] == [500, *range(1, 2 * WRITES_PER_SYNC), 0]
    assert len(shard.synced_at) == 2
    first, second = shard.synced_at
    places = {number: place for place, number, _ in found}
    assert first <= places[1]
    assert places[WRITES_PER_SYNC] < second <= places[WRITES_PER_SYNC + 1]


def test_what_changes_nothing_waits_for_no_disk(shard: Watched, replies: io.BytesIO):
    found = answered(shard, replies, (1, "delete_document", NOBODY))
    assert [(number, value) for _, number, value in found] == [(1, 0), (0, None)]
    assert not shard.synced_at


def test_no_write_is_said_to_be_kept_that_could_not_be_brought_to_disk(
    shard: Watched, replies: io.BytesIO, chunk: Make
):
    shard.full = True
    uploads = [(n, "upload", ([chunk(document=f"{n}.md")],)) for n in (1, 2)]
    found = answered(shard, replies, *uploads)
    assert [(number, value) for _, number, value in found] == [
        (1, "IndexUnavailable"),
        (2, "IndexUnavailable"),
        (0, "IndexUnavailable"),
    ]


class _Cramped:
    """The library's shard on a disk that has no room for writing it anew."""

    def __init__(self, shard: Any) -> None:
        self._shard = shard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)

    def optimize(self) -> None:
        raise Exception("Not enough space available for optimization")


def test_an_index_serves_though_there_is_no_room_to_write_it_anew(
    tmp_path: Path, chunk: Make, monkeypatch: pytest.MonkeyPatch
):
    opened = Shard._open
    monkeypatch.setattr(Shard, "_open", lambda self, path: _Cramped(opened(self, path)))
    replies = io.BytesIO()
    shard = Watched(tmp_path, replies)
    found = answered(shard, replies, (1, "upload", ([chunk()],)), (2, "count", ("acme", "handbook", None)))
    assert [(number, value) for _, number, value in found] == [(2, 0), (1, None), (0, None)]
