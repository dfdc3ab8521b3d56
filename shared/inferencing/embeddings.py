"""Embedding requests and answers: batches within the model's limits, vectors decoded and checked."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shared.errors import InvalidParameter, PromptTooLong

from .catalogue import Model
from .tokens import load_tokenizer

FLOAT32_BYTES = 4


def count_inputs(model: Model, inputs: Sequence[str]) -> list[int]:
    """Tokens of each input. Raises ``PromptTooLong`` for the first that exceeds the model's limit."""
    if any(not isinstance(text, str) or not text for text in inputs):
        raise InvalidParameter("Every input of an embedding must be a text that is not empty.")
    if model.tokenizer is None:
        return [0] * len(inputs)
    counts = load_tokenizer(model.tokenizer).count_many(inputs)
    check_counts(model, counts)
    return counts


def check_counts(model: Model, counts: Sequence[int]) -> None:
    limit = model.max_input_tokens or math.inf
    for index, tokens in enumerate(counts):
        if tokens > limit:
            raise PromptTooLong(
                f"Input {index} has {tokens} tokens; the limit is {limit}.",
                tokens=tokens,
                limit=limit,
                index=index,
            )


def batches(model: Model, counts: Sequence[int]) -> Iterator[slice]:
    """Consecutive runs of inputs that each fit one request, by number and by tokens."""
    start = tokens = 0
    most_tokens = model.batch_max_tokens or math.inf
    for index, count in enumerate(counts):
        full = index - start == model.batch_max_inputs or tokens + count > most_tokens
        if index > start and full:
            yield slice(start, index)
            start, tokens = index, 0
        tokens += count
    if start < len(counts):
        yield slice(start, len(counts))


def vectors_reader(model: Model, expected: int) -> Callable[[Mapping[str, Any]], list[array[float]]]:
    """Reads an answer's vectors, in the order of the inputs, from base64 or from lists of numbers.

    Raises ``ValueError`` where they are not ``expected`` finite vectors of the model's dimensions.
    """

    def read(answer: Mapping[str, Any]) -> list[array[float]]:
        items = sorted(answer["data"], key=lambda item: item["index"])
        if [item["index"] for item in items] != list(range(expected)):
            raise ValueError("the indexes are not those of the inputs")
        vectors = [_vector(item["embedding"]) for item in items]
        if not all(len(vector) == model.dimensions and math.isfinite(sum(vector)) for vector in vectors):
            raise ValueError("a vector is not one of the model's")
        return vectors

    return read


def _vector(embedding: Any) -> array[float]:
    if not isinstance(embedding, str):
        return array("f", embedding)
    vector = array("f", b"")
    vector.frombytes(base64.b64decode(embedding, validate=True))  # little-endian float32
    if sys.byteorder == "big":
        vector.byteswap()
    return vector
