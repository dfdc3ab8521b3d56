"""Sentence embeddings by MiniLM-L6-v2: tokens, inference, pooling.

The weights are stored as int8 and computed as float32, so a text's vector does not depend on what it
is batched with. One session serves all worker threads, each run on one thread: on two cores that took
37 ms of CPU for a chunk of 209 tokens against 42 ms with one run spread over two threads, and small
runs beat large ones because their activations stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from modelhost import weights
from modelhost.slices import Ids, SliceWorkers

DIMENSIONS = 384
# Word pieces the model was trained to see, [CLS] and [SEP] included (its sentence_bert_config.json).
MAX_TOKENS = 256
# Padded tokens in one run. Measured on 209-token chunks: 37 ms of CPU a text at 512, 41 at 1,024,
# 52 at 4,096.
SLICE_TOKENS = 512
# Tokens that may wait, in the background as many again: about QUEUE_SECONDS of work on two cores.
QUEUED_TOKENS_MAX = 524_288

Vectors = np.ndarray[Any, np.dtype[np.float32]]


class InputTooLong(ValueError):
    """Input ``index`` has ``count`` tokens, special ones included, of at most ``limit``."""

    def __init__(self, index: int, count: int, limit: int) -> None:
        super().__init__(f"Input {index} has {count} tokens; this model sees at most {limit}.")
        self.index, self.count, self.limit = index, count, limit


class InvalidTokenId(ValueError):
    """A token id outside the vocabulary."""


class Embedder:
    """Embeds texts with the packaged MiniLM on ``threads`` worker threads. Thread-safe.

    Raises weights.WeightsError when a file is absent or is not the pinned one.
    """

    def __init__(self, threads: int = 2) -> None:
        self._tokenizer = load_tokenizer(weights.MINILM_TOKENIZER.verified())
        self._session = load_session(weights.MINILM_MODEL.verified())
        self._cls, self._sep = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        self._vocabulary_size = self._tokenizer.get_vocab_size()
        self._workers = SliceWorkers(
            self._infer,
            name="embedding",
            threads=threads,
            slice_tokens=SLICE_TOKENS,
            queued_tokens_max=QUEUED_TOKENS_MAX,
        )

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

    def submit(self, rows: Sequence[Ids], *, background: bool = False) -> Future[Vectors]:
        """The vectors of framed ids, later; cancelling the future drops the work that still waits.

        What comes in the ``background`` gives way to all else. Raises QueueFull.
        """
        results = np.empty((len(rows), DIMENSIONS), dtype=np.float32)
        return self._workers.submit(rows, results, background=background)

    def close(self) -> None:
        """Cancel waiting work and end the worker threads."""
        self._workers.close()

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
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32, copy=False)


def load_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    # The file asks for 128 tokens, cut and padded; lengths are this module's own business.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes vary from run to run; a plan for each costs more
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
