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


def count_inputs(model: Model, inputs: Sequence[str], tokens: Sequence[int] | None = None) -> Sequence[int]:
    """Tokens of each input, taken from ``tokens`` where the caller has counted already.

    Raises ``PromptTooLong`` for the first that exceeds the model's limit.
    """
    if any(not isinstance(text, str) or not text for text in inputs):
        raise InvalidParameter("Every input of an embedding must be a text that is not empty.")
    if tokens is None:
        tokens = load_tokenizer(model.tokenizer).count_many(inputs) if model.tokenizer else [0] * len(inputs)
    if len(tokens) != len(inputs):
        raise ValueError(f"{len(tokens)} token counts for {len(inputs)} inputs")
    limit = model.max_input_tokens or math.inf
    for index, count in enumerate(tokens):
        if count > limit:
            detail = f"Input {index} has {count} tokens; the limit is {limit}."
            raise PromptTooLong(detail, tokens=count, limit=limit, index=index)
    return tokens


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


def vectors_reader(
    model: Model, body: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], list[array[float]]]:
    """Reads the vectors of an answer to ``body``, from base64 or from lists of numbers.

    What it reads with raises ``ValueError`` where they are not one finite vector of the right dimensions
    for each input, in the order of the inputs.
    """
    inputs = body.get("input")
    is_many = isinstance(inputs, list) and not (inputs and isinstance(inputs[0], int))
    expected = len(inputs) if isinstance(inputs, list) and is_many else 1
    dimensions = body.get("dimensions") or model.dimensions

    def read(answer: Mapping[str, Any]) -> list[array[float]]:
        items = sorted(answer["data"], key=lambda item: item["index"])
        if [item["index"] for item in items] != list(range(expected)):
            raise ValueError("the indexes are not those of the inputs")
        vectors = [_vector(item["embedding"]) for item in items]
        if not all(len(vector) == dimensions and math.isfinite(sum(vector)) for vector in vectors):
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
