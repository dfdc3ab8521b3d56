"""Slices of inference work: requests cut into runs, a queue by priority, threads, results put together.

A model says how a slice is inferred; all else about serving many requests with few threads is here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Slices of short requests taken in a row before one of a large request, so that neither starves.
SHORT_RUN_SLICES = 8
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
    """Slices of work in order of arrival; those of short requests first. Thread-safe.

    ``slice_tokens`` bounds the padded tokens of one run, ``queued_tokens_max`` those that may wait for each
    class of request.
    """

    def __init__(self, slice_tokens: int, queued_tokens_max: int) -> None:
        self._slice_tokens = slice_tokens
        self._queued_tokens_max = queued_tokens_max
        self._changed = threading.Condition()
        self._short: deque[Slice] = deque()
        self._large: deque[Slice] = deque()
        self._queued_tokens = {True: 0, False: 0}
        self._short_run = 0
        self._closed = False

    def put(self, slices: list[Slice]) -> None:
        """Add one request's slices. A request of one slice is short. Raises QueueFull."""
        short = len(slices) <= 1
        tokens = sum(len(row.ids) for part in slices for row in part)
        with self._changed:
            if self._closed:
                raise RuntimeError("the model is closed")
            waiting = self._queued_tokens[short]
            # A request larger than the whole limit is still served when nothing else waits.
            if waiting and waiting + tokens > self._queued_tokens_max:
                share = waiting / self._queued_tokens_max
                raise QueueFull(retry_after_seconds=max(1, round(QUEUE_SECONDS * share)))
            self._queued_tokens[short] += tokens
            (self._short if short else self._large).extend(slices)
            self._changed.notify(len(slices))

    def take(self) -> Slice | None:
        """The next slice, topped up with waiting ones of like length; None when closed."""
        with self._changed:
            while True:
                while not (self._short or self._large):
                    if self._closed:
                        return None
                    self._changed.wait()
                short = self._next_is_short()
                source = self._short if short else self._large
                taken = self._pop(source, short)
                while source and taken and _fits(taken, source[0], self._slice_tokens):
                    taken = sorted(taken + self._pop(source, short), key=lambda row: len(row.ids))
                if taken:
                    return taken

    def close(self) -> None:
        """Cancel what waits and release the workers."""
        with self._changed:
            self._closed = True
            for part in (*self._short, *self._large):
                for row in part:
                    row.job.future.cancel()
            self._short.clear()
            self._large.clear()
            self._changed.notify_all()

    def _next_is_short(self) -> bool:
        if self._short and (not self._large or self._short_run < SHORT_RUN_SLICES):
            self._short_run += 1
            return True
        self._short_run = 0
        return False

    def _pop(self, source: deque[Slice], short: bool) -> Slice:
        part = source.popleft()
        self._queued_tokens[short] -= sum(len(row.ids) for row in part)
        return [row for row in part if not row.job.future.done()]


class SliceWorkers:
    """Infers rows on ``threads`` threads. ``infer`` gets the ids of one slice and gives a result for each.

    Thread-safe. What ``infer`` raises goes to those who asked.
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
        self._queue = SliceQueue(slice_tokens, queued_tokens_max)
        self._delivery = threading.Lock()
        self._workers = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def submit(self, rows: Sequence[Ids], results: Results) -> Future[Results]:
        """``results``, later, filled in row by row; cancelling drops the work that still waits.

        Raises QueueFull.
        """
        job = Job(results, remaining=len(rows))
        if rows:
            self._queue.put(cut([Row(ids, job, index) for index, ids in enumerate(rows)], self._slice_tokens))
        else:
            job.succeed()
        return job.future

    def close(self) -> None:
        """Cancel waiting work and end the worker threads."""
        self._queue.close()
        for worker in self._workers:
            worker.join()

    def _work(self) -> None:
        while (rows := self._queue.take()) is not None:
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
