from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import numpy as np
import pytest

from modelhost.slices import (
    BACKGROUND_NICE,
    FOREGROUND_TOKENS_MAX,
    Ids,
    Job,
    QueueFull,
    Row,
    SliceQueue,
    SliceWorkers,
    cut,
)

SLICE_TOKENS = 512
QUEUED_TOKENS_MAX = 65_536


def rows(*lengths: int) -> list[Row]:
    job = Job(np.empty((len(lengths), 384), dtype=np.float32), remaining=len(lengths))
    return [Row(np.zeros(length, dtype=np.int64), job, index) for index, length in enumerate(lengths)]


def lengths(taken: list[Row] | None) -> list[int]:
    assert taken
    return [len(row.ids) for row in taken]


def test_slices_hold_texts_of_like_length_and_at_most_the_padded_size():
    slices = cut(rows(*range(6, 257, 5)), SLICE_TOKENS)
    flat = [length for part in slices for length in lengths(part)]
    assert flat == sorted(flat)
    assert all(len(part) * lengths(part)[-1] <= SLICE_TOKENS for part in slices)
    assert len(cut(rows(256, 256), SLICE_TOKENS)) == 1
    assert len(cut(rows(256, 256, 256), SLICE_TOKENS)) == 2


def test_waiting_requests_of_like_length_share_a_slice():
    queue = SliceQueue(SLICE_TOKENS, QUEUED_TOKENS_MAX)
    for length in (9, 12, 10):
        queue.put(cut(rows(length), SLICE_TOKENS))
    assert lengths(queue.take()) == [9, 10, 12]


def test_cancelled_work_is_skipped():
    queue = SliceQueue(SLICE_TOKENS, QUEUED_TOKENS_MAX)
    cancelled, kept = rows(*[200] * 4), rows(9)
    queue.put(cut(cancelled, SLICE_TOKENS))
    queue.put(cut(kept, SLICE_TOKENS))
    cancelled[0].job.future.cancel()
    assert queue.take() == kept
    queue.put(cut(rows(*[100] * 10), SLICE_TOKENS))
    assert lengths(queue.take()) == [100] * 5


def test_a_request_of_other_length_begins_a_slice_of_its_own():
    queue = SliceQueue(SLICE_TOKENS, QUEUED_TOKENS_MAX)
    for length in (9, 200):
        queue.put(cut(rows(length), SLICE_TOKENS))
    assert [lengths(queue.take()), lengths(queue.take())] == [[9], [200]]


def test_the_queue_refuses_what_exceeds_its_limit_and_takes_what_just_fits():
    queue = SliceQueue(SLICE_TOKENS, QUEUED_TOKENS_MAX)
    filling = [256] * (QUEUED_TOKENS_MAX // 256)
    queue.put(cut(rows(*filling[:-4]), SLICE_TOKENS))
    queue.put(cut(rows(*filling[-4:]), SLICE_TOKENS))
    with pytest.raises(QueueFull) as full:
        queue.put(cut(rows(*[256] * 4), SLICE_TOKENS))
    assert full.value.retry_after_seconds >= 1
    queue.take()
    queue.put(cut(rows(*[256] * 2), SLICE_TOKENS))


def test_closing_the_queue_cancels_what_waits_and_releases_the_worker():
    queue = SliceQueue(SLICE_TOKENS, QUEUED_TOKENS_MAX)
    waiting = rows(200, 200, 200)
    queue.put(cut(waiting, SLICE_TOKENS))
    queue.close()
    assert waiting[0].job.future.cancelled()
    assert queue.take() is None


@pytest.fixture
def workers() -> Iterator[SliceWorkers]:
    """Workers of a model that says how long a text is, and fails at texts of 13 tokens."""

    def infer(slice_: list[Ids]) -> list[int]:
        if any(len(ids) == 13 for ids in slice_):
            raise ArithmeticError("13")
        return [len(ids) for ids in slice_]

    running = SliceWorkers(infer, name="test", threads=2, slice_tokens=0, queued_tokens_max=QUEUED_TOKENS_MAX)
    yield running
    running.close()


def texts(*lengths: int) -> list[Ids]:
    return [np.zeros(length, dtype=np.int64) for length in lengths]


def test_results_come_in_the_order_of_the_rows(workers: SliceWorkers):
    asked = [30, 7, 200, 12]
    assert workers.submit(texts(*asked), np.empty(4, dtype=np.float32)).result(10).tolist() == asked


def test_what_a_model_raises_goes_to_the_request_that_caused_it_alone(workers: SliceWorkers):
    broken = workers.submit(texts(13, 5), np.empty(2, dtype=np.float32))
    whole = workers.submit(texts(6), np.empty(1, dtype=np.float32))
    with pytest.raises(ArithmeticError):
        broken.result(10)
    assert whole.result(10).tolist() == [6]


@pytest.mark.parametrize(
    ("asked", "background", "gives_way"),
    [(9, False, False), (9, True, True), (FOREGROUND_TOKENS_MAX + 1, False, True)],
    ids=["foreground", "background", "large"],
)
def test_what_somebody_waits_for_never_waits_for_the_background(
    asked: int, background: bool, gives_way: bool
):
    """All threads of the background are held up by requests before; and their threads yield their cores."""
    go_on, held = threading.Event(), threading.Semaphore(0)
    nice: dict[int, int] = {}

    def infer(slice_: list[Ids]) -> list[int]:
        nice[len(slice_[0])] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        if len(slice_[0]) == 1:
            held.release()
            go_on.wait(10)
        return [0] * len(slice_)

    workers = SliceWorkers(
        infer, name="test", threads=2, slice_tokens=0, queued_tokens_max=4 * FOREGROUND_TOKENS_MAX
    )
    try:
        for _ in range(2):
            workers.submit(texts(1), np.empty(1, dtype=np.float32), background=True)
            assert held.acquire(timeout=10)
        answer = workers.submit(texts(asked), np.empty(1, dtype=np.float32), background=background)
        if gives_way:
            with pytest.raises(TimeoutError):
                answer.result(0.2)
            go_on.set()
        answer.result(10)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert nice[asked] == own + (BACKGROUND_NICE if gives_way and sys.platform == "linux" else 0)
    finally:
        go_on.set()
        workers.close()


def test_closing_cancels_the_work_that_waits():
    begun, go_on = threading.Event(), threading.Event()

    def infer(slice_: list[Ids]) -> list[int]:
        begun.set()
        go_on.wait(10)
        return [0] * len(slice_)

    workers = SliceWorkers(infer, name="test", threads=1, slice_tokens=0, queued_tokens_max=1_000)
    workers.submit(texts(5), np.empty(1, dtype=np.float32))
    begun.wait(10)
    waiting = workers.submit(texts(6), np.empty(1, dtype=np.float32))
    threading.Timer(0.1, go_on.set).start()
    workers.close()
    with pytest.raises(CancelledError):
        waiting.result(10)
