"""Relevance of a text to a query by the cross-encoder ms-marco-MiniLM-L-12-v2, which reads both together.

Activations are quantised as they come, with one scale for all that runs together; so each pair runs by
itself, or its score would depend on its neighbours. On pairs of 55 tokens that costs the same: 12 ms of CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from modelhost import weights
from modelhost.embeddings import load_session, load_tokenizer
from modelhost.slices import Ids, Results, SliceWorkers

# Word pieces of a pair that the model was trained to see, special ones included (its model card).
MAX_TOKENS = 512
# A query's own, so that something is left for the text.
QUERY_MAX_TOKENS = 128
# Each pair runs by itself.
SLICE_TOKENS = 0
# Tokens that may wait, in the background as many again: about QUEUE_SECONDS of work on two cores.
QUEUED_TOKENS_MAX = 393_216


class Reranker:
    """Scores pairs with the packaged cross-encoder on ``threads`` worker threads. Thread-safe.

    Raises weights.WeightsError when a file is absent or is not the pinned one.
    """

    def __init__(self, threads: int = 2) -> None:
        self._tokenizer = load_tokenizer(weights.RERANKER_TOKENIZER.verified())
        self._session = load_session(weights.RERANKER_MODEL.verified())
        self._cls, self._sep = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        self._workers = SliceWorkers(
            self._infer,
            name="reranking",
            threads=threads,
            slice_tokens=SLICE_TOKENS,
            queued_tokens_max=QUEUED_TOKENS_MAX,
        )

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Results:
        """The log odds, shape (len(pairs),), that a text is relevant to its query. Raises QueueFull."""
        return self.submit(self.encode(pairs)).result()

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Ids]:
        """Each pair's token ids; a query and a text beyond what the model sees are cut at their ends."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        pieces = self._pieces([*queries, *(text for _, text in pairs)])
        of_query = {query: ids[:QUERY_MAX_TOKENS] for query, ids in zip(queries, pieces, strict=False)}
        rows = []
        for (query, _), text in zip(pairs, pieces[len(queries) :], strict=True):
            left = MAX_TOKENS - 3 - len(of_query[query])
            framed = [self._cls, *of_query[query], self._sep, *text[:left], self._sep]
            rows.append(np.array(framed, dtype=np.int64))
        return rows

    def submit(self, rows: Sequence[Ids], *, background: bool = False) -> Future[Results]:
        """The scores of encoded pairs, later; cancelling the future drops the work that still waits.

        What comes in the ``background`` gives way to all else. Raises QueueFull.
        """
        results = np.empty(len(rows), dtype=np.float32)
        return self._workers.submit(rows, results, background=background)

    def close(self) -> None:
        """Cancel waiting work and end the worker threads."""
        self._workers.close()

    def _pieces(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _infer(self, rows: list[Ids]) -> list[float]:
        return [self._score(ids) for ids in rows]

    def _score(self, ids: Ids) -> float:
        second = np.zeros_like(ids)
        second[int(np.argmax(ids == self._sep)) + 1 :] = 1
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": second}
        logits = self._session.run(["logits"], {name: value[None] for name, value in feed.items()})[0]
        return float(np.asarray(logits)[0, 0])
