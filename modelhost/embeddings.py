"""Sentence embeddings by MiniLM-L6-v2: tokens, slices of work by priority, inference, pooling.

The weights are stored as int8 and computed as float32, so a text's vector does not depend on what it
is batched with. One session serves all worker threads, each run on one thread: on two cores that took
37 ms of CPU for a chunk of 209 tokens against 42 ms with one run spread over two threads, and small
runs beat large ones because their activations stay in the cache.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from modelhost import weights

DIMENSIONS = 384
# Word pieces the model was trained to see, [CLS] and [SEP] included (its sentence_bert_config.json).
MAX_TOKENS = 256
# Padded tokens in one run. Measured on 209-token chunks: 37 ms of CPU a text at 512, 41 at 1,024,
# 52 at 4,096. At about 80 ms a run it is also how long a short request waits for a busy worker.
SLICE_TOKENS = 512
# Tokens that may wait, for each class of request: about 45 s of work on two cores.
QUEUED_TOKENS_MAX = 524_288
# Slices of short requests taken in a row before one of a large request, so that neither starves.
SHORT_RUN_SLICES = 8

Ids = np.ndarray[Any, np.dtype[np.int64]]
Vectors = np.ndarray[Any, np.dtype[np.float32]]


class InputTooLong(ValueError):
    """Input ``index`` has ``count`` tokens, special ones included, of at most ``limit``."""

    def __init__(self, index: int, count: int, limit: int) -> None:
        super().__init__(f"Input {index} has {count} tokens; this model sees at most {limit}.")
        self.index, self.count, self.limit = index, count, limit


class InvalidTokenId(ValueError):
    """A token id outside the vocabulary."""


class QueueFull(Exception):
    """Too many tokens are waiting; ``retry_after_seconds`` says when to come back."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("Too much work is waiting for the embedding model.")
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True, eq=False)
class _Job:
    """One request: its vectors as they arrive, and the future that gets them all."""

    vectors: Vectors
    remaining: int
    future: Future[Vectors] = field(default_factory=Future)

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):  # cancelled, or failed by another slice
            self.future.set_exception(error)

    def succeed(self) -> None:
        with suppress(InvalidStateError):  # cancelled while its last slice ran
            self.future.set_result(self.vectors)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One text of a job."""

    ids: Ids
    job: _Job
    index: int


_Slice = list[_Row]


def cut(rows: Sequence[_Row]) -> list[_Slice]:
    """``rows`` sorted by length and cut where the padded size would exceed SLICE_TOKENS."""
    slices: list[_Slice] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if slices and (len(slices[-1]) + 1) * len(row.ids) <= SLICE_TOKENS:
            slices[-1].append(row)
        else:
            slices.append([row])
    return slices


def _fits(one: _Slice, other: _Slice) -> bool:
    longest = max(len(one[-1].ids), len(other[-1].ids))
    # Short with long would pad the short ones up; merging must not cost more than it saves.
    alike = 2 * min(len(one[-1].ids), len(other[-1].ids)) >= longest
    return alike and (len(one) + len(other)) * longest <= SLICE_TOKENS


class SliceQueue:
    """Slices of work in order of arrival; those of short requests first. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._short: deque[_Slice] = deque()
        self._large: deque[_Slice] = deque()
        self._queued_tokens = {True: 0, False: 0}
        self._short_run = 0
        self._closed = False

    def put(self, slices: list[_Slice]) -> None:
        """Add one request's slices. A request of one slice is short. Raises QueueFull."""
        short = len(slices) <= 1
        tokens = sum(len(row.ids) for part in slices for row in part)
        with self._changed:
            if self._closed:
                raise RuntimeError("the embedder is closed")
            waiting = self._queued_tokens[short]
            # A request larger than the whole limit is still served when nothing else waits.
            if waiting and waiting + tokens > QUEUED_TOKENS_MAX:
                raise QueueFull(retry_after_seconds=max(1, round(45 * waiting / QUEUED_TOKENS_MAX)))
            self._queued_tokens[short] += tokens
            (self._short if short else self._large).extend(slices)
            self._changed.notify(len(slices))

    def take(self) -> _Slice | None:
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
                while source and taken and _fits(taken, source[0]):
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

    def _pop(self, source: deque[_Slice], short: bool) -> _Slice:
        part = source.popleft()
        self._queued_tokens[short] -= sum(len(row.ids) for row in part)
        return [row for row in part if not row.job.future.done()]


class Embedder:
    """Embeds texts with the packaged MiniLM on ``threads`` worker threads. Thread-safe.

    Raises weights.WeightsError when a file is absent or is not the pinned one.
    """

    def __init__(self, threads: int = 2) -> None:
        self._tokenizer = _load_tokenizer(weights.MINILM_TOKENIZER.verified())
        self._session = _load_session(weights.MINILM_MODEL.verified())
        self._cls, self._sep = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        self._vocabulary_size = self._tokenizer.get_vocab_size()
        self._queue = SliceQueue()
        self._delivery = threading.Lock()
        self._workers = [
            threading.Thread(target=self._work, name=f"embedding-{number}", daemon=True)
            for number in range(threads)
        ]
        for worker in self._workers:
            worker.start()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, shape (len(texts), 384), float32. Raises InputTooLong, QueueFull."""
        return self.submit(self.encode(texts)).result()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Each text's token ids between [CLS] and [SEP]. Raises InputTooLong."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        for index, encoding in enumerate(encodings):
            if len(encoding) > MAX_TOKENS:
                raise InputTooLong(index, len(encoding), MAX_TOKENS)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def frame(self, token_lists: Sequence[Sequence[int]]) -> list[Ids]:
        """Token ids as a client gives them, put between [CLS] and [SEP] where those are missing.

        Raises InputTooLong, InvalidTokenId.
        """
        return [self._frame(index, tokens) for index, tokens in enumerate(token_lists)]

    def submit(self, rows: Sequence[Ids]) -> Future[Vectors]:
        """The vectors of framed ids, later; cancelling the future drops the work that still waits.

        Raises QueueFull.
        """
        job = _Job(np.empty((len(rows), DIMENSIONS), dtype=np.float32), remaining=len(rows))
        if rows:
            self._queue.put(cut([_Row(ids, job, index) for index, ids in enumerate(rows)]))
        else:
            job.succeed()
        return job.future

    def close(self) -> None:
        """Cancel waiting work and end the worker threads."""
        self._queue.close()
        for worker in self._workers:
            worker.join()

    def _frame(self, index: int, tokens: Sequence[int]) -> Ids:
        framed = list(tokens)
        if not (len(framed) >= 2 and framed[0] == self._cls and framed[-1] == self._sep):
            framed = [self._cls, *framed, self._sep]
        if len(framed) > MAX_TOKENS:
            raise InputTooLong(index, len(framed), MAX_TOKENS)
        if any(not 0 <= token < self._vocabulary_size for token in framed):
            raise InvalidTokenId(
                f"Input {index} has a token id outside this model's vocabulary (0 to "
                f"{self._vocabulary_size - 1}); token ids of another tokenizer cannot be used."
            )
        return np.array(framed, dtype=np.int64)

    def _work(self) -> None:
        while (rows := self._queue.take()) is not None:
            try:
                vectors = self._infer([row.ids for row in rows])
            except Exception as error:  # whatever the runtime raises belongs to the callers
                for row in rows:
                    row.job.fail(error)
                continue
            for row, vector in zip(rows, vectors, strict=True):
                self._deliver(row, vector)

    def _deliver(self, row: _Row, vector: Vectors) -> None:
        row.job.vectors[row.index] = vector
        with self._delivery:
            row.job.remaining -= 1
            done = row.job.remaining == 0
        if done:
            row.job.succeed()

    def _infer(self, rows: list[Ids]) -> Vectors:
        """Mean over the tokens of each text, scaled to unit length: how the model was trained."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = np.asarray(self._session.run(["last_hidden_state"], feed)[0])
        means = np.stack([states[row, : len(tokens)].mean(axis=0) for row, tokens in enumerate(rows)])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def _load_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    # The file asks for 128 tokens, cut and padded; lengths are this module's own business.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary from run to run; a plan for each costs more
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
