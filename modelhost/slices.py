"""Slices of inference work: requests cut into runs, queues, threads, results put together.

A model says how a slice is inferred; all else about serving many requests with few threads is here.

What somebody waits for has threads of its own. Those of the background run where the others leave them a
core: they give way in the middle of a slice, and nobody waits for the end of one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# More than one answer to a question needs: its 48 sentences and its 20 re-ranked passages stay below. A
# larger request takes seconds by itself, and goes into the background unasked.
FOREGROUND_TOKENS_MAX = 8_192
# A thread whose nice value is higher by this gets a quarter of a core that another wants as well
# (kernel/sched/core.c): the background goes on however much is asked in the foreground.
BACKGROUND_NICE = 5
# How long the work takes that a model lets wait, on two cores: its limit of queued tokens is chosen so.
QUEUE_SECONDS = 45

Ids = np.ndarray[Any, np.dtype[np.int64]]
Results = np.ndarray[Any, np.dtype[np.float32]]


class QueueFull(Exception):
    """Too many tokens are waiting; ``retry_after_seconds`` says when to come back."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Too much work is waiting for this model.")
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True, eq=False)
class Job:
    """One request: the results of its texts as they arrive, and the future that gets them all."""

    results: Results
    remaining: int
    future: Future[Results] = field(default_factory=Future)

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):  # cancelled, or failed by another slice
            self.future.set_exception(error)

    def succeed(self) -> None:
        with suppress(InvalidStateError):  # cancelled while its last slice ran
            self.future.set_result(self.results)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One text of a job."""

    ids: Ids
    job: Job
    index: int


Slice = list[Row]


def cut(rows: Sequence[Row], slice_tokens: int) -> list[Slice]:
    """``rows`` sorted by length and cut where the padded size would exceed ``slice_tokens``."""
    slices: list[Slice] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if slices and (len(slices[-1]) + 1) * len(row.ids) <= slice_tokens:
            slices[-1].append(row)
        else:
            slices.append([row])
    return slices


def _fits(one: Slice, other: Slice, slice_tokens: int) -> bool:
    longest = max(len(one[-1].ids), len(other[-1].ids))
    # Short with long would pad the short ones up; merging must not cost more than it saves.
    alike = 2 * min(len(one[-1].ids), len(other[-1].ids)) >= longest
    return alike and (len(one) + len(other)) * longest <= slice_tokens


class SliceQueue:
    """Slices of work in order of arrival. Thread-safe.

    ``slice_tokens`` bounds the padded tokens of one run, ``queued_tokens_max`` those that may wait.
    """

    def __init__(self, slice_tokens: int, queued_tokens_max: int) -> None:
        self._slice_tokens = slice_tokens
        self._queued_tokens_max = queued_tokens_max
        self._changed = threading.Condition()
        self._waiting: deque[Slice] = deque()
        self._waiting_tokens = 0
        self._closed = False

    def put(self, slices: list[Slice]) -> None:
        """Add one request's slices. Raises QueueFull."""
        tokens = sum(len(row.ids) for part in slices for row in part)
        with self._changed:
            if self._closed:
                raise RuntimeError("the model is closed")
            # A request larger than the whole limit is still served when nothing else waits.
            if self._waiting_tokens and self._waiting_tokens + tokens > self._queued_tokens_max:
                share = self._waiting_tokens / self._queued_tokens_max
                raise QueueFull(retry_after_seconds=max(1, round(QUEUE_SECONDS * share)))
            self._waiting_tokens += tokens
            self._waiting.extend(slices)
            self._changed.notify(len(slices))

    def take(self) -> Slice | None:
        """The next slice, topped up with waiting ones of like length; None when closed."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                taken = self._pop()
                while self._waiting and taken and _fits(taken, self._waiting[0], self._slice_tokens):
                    taken = sorted(taken + self._pop(), key=lambda row: len(row.ids))
                if taken:
                    return taken

    def close(self) -> None:
        """Cancel what waits and release the workers."""
        with self._changed:
            self._closed = True
            for part in self._waiting:
                for row in part:
                    row.job.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()

    def _pop(self) -> Slice:
        part = self._waiting.popleft()
        self._waiting_tokens -= sum(len(row.ids) for row in part)
        return [row for row in part if not row.job.future.done()]


class SliceWorkers:
    """Infers rows on ``threads`` threads, and as many for what waits in the background.

    ``infer`` gets the ids of one slice and gives a result for each. ``queued_tokens_max`` may wait of each
    kind. Thread-safe. What ``infer`` raises goes to those who asked.
    """

    def __init__(
        self,
        infer: Callable[[list[Ids]], Iterable[Any]],
        *,
        name: str,
        threads: int,
        slice_tokens: int,
        queued_tokens_max: int,
    ) -> None:
        self._infer = infer
        self._slice_tokens = slice_tokens
        self._foreground = SliceQueue(slice_tokens, queued_tokens_max)
        self._background = SliceQueue(slice_tokens, queued_tokens_max)
        self._delivery = threading.Lock()
        self._workers = [
            threading.Thread(target=self._work, args=(queue,), name=f"{name}-{number}", daemon=True)
            for number in range(threads)
            for queue in (self._foreground, self._background)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, rows: Sequence[Ids], results: Results, *, background: bool = False) -> Future[Results]:
        """``results``, later, filled in row by row; cancelling drops the work that still waits.

        A request of many tokens waits in the ``background`` in any case. Raises QueueFull.
        """
        job = Job(results, remaining=len(rows))
        if rows:
            background = background or sum(map(len, rows)) > FOREGROUND_TOKENS_MAX
            queue = self._background if background else self._foreground
            queue.put(cut([Row(ids, job, index) for index, ids in enumerate(rows)], self._slice_tokens))
        else:
            job.succeed()
        return job.future

    def close(self) -> None:
        """Cancel waiting work and end the worker threads."""
        self._foreground.close()
        self._background.close()
        for worker in self._workers:
            worker.join()

    def _work(self, queue: SliceQueue) -> None:
        if queue is self._background and sys.platform == "linux":  # threads have nice values there
            thread = threading.get_native_id()
            nice = os.getpriority(os.PRIO_PROCESS, thread) + BACKGROUND_NICE
            os.setpriority(os.PRIO_PROCESS, thread, nice)  # the system takes 19 for more; nobody may go below
        while (rows := queue.take()) is not None:
            try:
                results = self._infer([row.ids for row in rows])
            except Exception as error:  # whatever the runtime raises belongs to the callers
                for row in rows:
                    row.job.fail(error)
                continue
            for row, result in zip(rows, results, strict=True):
                self._deliver(row, result)

    def _deliver(self, row: Row, result: Any) -> None:
        row.job.results[row.index] = result
        with self._delivery:
            row.job.remaining -= 1
            done = row.job.remaining == 0
        if done:
            row.job.succeed()
