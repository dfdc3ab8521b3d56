"""Embeddings in OpenAI's format: inputs checked before anything is sent, batches put together after."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Sequence
from typing import Any

from shared.errors import InvalidParameter, PromptTooLong

from .calls import Embedded
from .catalogue import Model
from .chat import MOST_TOKENS_AROUND_MESSAGE, MOST_TOKENS_PER_CHARACTER
from .embeddings import count_inputs

# Of one request ("Embeddings" in OpenAI's API reference).
INPUTS_MAX = 2048


async def check_inputs(model: Model, given: Any, dimensions: int | None) -> list[str]:
    """The texts of the request's ``input``; none where it holds token ids, which only the service can read.

    Raises `InvalidParameter` for another form, and `PromptTooLong` with the count, the limit and the index
    of the first input over the model's limit.
    """
    if dimensions is not None and model.dimensions is not None and dimensions > model.dimensions:
        raise InvalidParameter(
            f"'dimensions' must be at most {model.dimensions}.",
            parameter="dimensions",
            limit=model.dimensions,
        )
    inputs: list[Any] = given if isinstance(given, list) and not _are_ids(given) else [given]
    if not inputs or len(inputs) > INPUTS_MAX:
        raise InvalidParameter(
            f"'input' holds {len(inputs)} inputs; 1 to {INPUTS_MAX} are allowed.",
            parameter="input",
            limit=INPUTS_MAX,
        )
    if all(isinstance(text, str) and text for text in inputs):
        await _check_texts(model, inputs)
        return inputs
    if not all(_are_ids(ids) for ids in inputs):
        detail = "'input' must be a text, texts, token ids or lists of token ids, none of them empty."
        raise InvalidParameter(detail, parameter="input")
    for index, ids in enumerate(inputs):
        if model.max_input_tokens and len(ids) > model.max_input_tokens:
            raise PromptTooLong(
                f"Input {index} has {len(ids)} tokens; the limit is {model.max_input_tokens}.",
                tokens=len(ids),
                limit=model.max_input_tokens,
                index=index,
            )
    return []


def embeddings_document(model: str, embedded: Embedded, as_base64: bool) -> dict[str, Any]:
    """The answer to an embeddings request; base64 holds little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)}
        for index, vector in enumerate(embedded.vectors)
    ]
    tokens = embedded.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


async def _check_texts(model: Model, texts: Sequence[str]) -> None:
    """Counts only where a text is long enough to leave a doubt."""
    longest = max(map(len, texts)) * MOST_TOKENS_PER_CHARACTER + MOST_TOKENS_AROUND_MESSAGE
    if model.max_input_tokens and longest > model.max_input_tokens:
        await asyncio.to_thread(count_inputs, model, texts)


def _base64(vector: Any) -> str:
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")
