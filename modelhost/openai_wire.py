"""OpenAI's wire format: requests read strictly, responses, stream chunks and errors written."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

# OpenAI's own limits: inputs of one embeddings call, stop sequences of one chat call.
INPUTS_MAX = 2_048
STOP_SEQUENCES_MAX = 4
# Cohere's limit for one call of rerank ("Rerank API" in its reference).
DOCUMENTS_MAX = 1_000
# llama.cpp reads the seed as an unsigned 32-bit number, whose highest value means "random".
SEED_MAX = 2**32 - 2
# A bound on max_tokens that any context is smaller than; it keeps the number inside 32 bits.
MAX_TOKENS_MAX = 2**31 - 1

# An urgency below the default of 3 (RFC 9218, 4.1).
_BACKGROUND = re.compile(r"(?:^|,)\s*u=[4-7]\s*(?:,|$)")

# Members that would change the answer and that this server cannot honour: refused when they are set.
_UNSUPPORTED_CHAT = ("audio", "function_call", "functions", "logit_bias", "logprobs", "tool_choice", "tools")


class ApiError(Exception):
    """An error as the client sees it: an HTTP status and OpenAI's four members."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        *,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        if self.status == 429:
            kind = "rate_limit_error"
        else:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(param: str | None, message: str, code: str = "invalid_value") -> NoReturn:
    """Raise the 400 for one member of a request."""
    raise ApiError(400, code, message, param)


def is_background(priority: str) -> bool:
    """Whether the header ``Priority`` says that a request is less urgent than others (RFC 9218)."""
    return bool(_BACKGROUND.search(priority))


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """Either ``texts`` or ``token_lists`` is filled."""

    model: str
    texts: list[str] = field(default_factory=list)
    token_lists: list[list[int]] = field(default_factory=list)
    as_base64: bool = False
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Texts to be put in order for a query; ``top`` of them are wanted."""

    model: str
    query: str
    documents: list[str]
    top: int


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked chat request; ``sampling`` holds what goes to the engine as it is."""

    model: str
    messages: list[dict[str, str]]
    sampling: dict[str, Any]
    stream: bool
    include_usage: bool


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``. Raises ApiError."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_json", "The body must be a JSON object.")
    return value


def read_embeddings(body: dict[str, Any], deployment: str | None) -> EmbeddingsRequest:
    """The request in ``body``; ``deployment`` is the model named by the path. Raises ApiError."""
    encoding_format = body.get("encoding_format") or "float"
    if encoding_format not in ("float", "base64"):
        invalid("encoding_format", "'encoding_format' must be 'float' or 'base64'.")
    texts, token_lists = _read_inputs(body.get("input"))
    return EmbeddingsRequest(
        model=_read_model(body, deployment),
        texts=texts,
        token_lists=token_lists,
        as_base64=encoding_format == "base64",
        dimensions=_read_integer(body, "dimensions", 1, MAX_TOKENS_MAX),
    )


def read_rerank(body: dict[str, Any], deployment: str | None) -> RerankRequest:
    """The request in ``body``, in the form that Cohere, Jina and vLLM share. Raises ApiError."""
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query.strip():
        invalid("query", "'query' must be a text that is not blank.")
    if not isinstance(documents, list) or not all(isinstance(text, str) for text in documents):
        invalid("documents", "'documents' must be a list of texts.")
    if not 1 <= len(documents) <= DOCUMENTS_MAX:
        invalid("documents", f"'documents' must hold 1 to {DOCUMENTS_MAX} texts.")
    top = _read_integer(body, "top_n", 1, MAX_TOKENS_MAX)
    return RerankRequest(_read_model(body, deployment), query, documents, top or len(documents))


def read_chat(body: dict[str, Any], deployment: str | None) -> ChatRequest:
    """The request in ``body``; ``deployment`` is the model named by the path. Raises ApiError."""
    for member in _UNSUPPORTED_CHAT:
        if body.get(member):
            invalid(member, f"This server does not support '{member}'.", "unsupported_parameter")
    if body.get("n") not in (None, 1):
        invalid("n", "This server gives one choice a request: 'n' must be 1.", "unsupported_parameter")
    stream = _read_flag(body, "stream")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        invalid("stream_options", "'stream_options' must be an object.")
    if options and not stream:
        invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    return ChatRequest(
        model=_read_model(body, deployment),
        messages=_read_messages(body.get("messages")),
        sampling=_read_sampling(body),
        stream=stream,
        include_usage=_read_flag(options, "include_usage", "stream_options.include_usage"),
    )


def model_list(names: Sequence[str], created: int) -> dict[str, Any]:
    """The answer of ``GET /models``."""
    data = [{"id": name, "object": "model", "created": created, "owned_by": "modelhost"} for name in names]
    return {"object": "list", "data": data}


def embeddings_response(
    model: str, vectors: np.ndarray[Any, Any], prompt_tokens: int, as_base64: bool
) -> dict[str, Any]:
    """The answer of ``POST /embeddings``; base64 holds little-endian float32."""
    if as_base64:
        little_endian = np.ascontiguousarray(vectors, dtype="<f4")
        encoded: list[Any] = [base64.b64encode(row.data).decode("ascii") for row in little_endian]
    else:
        encoded = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(encoded)]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def rerank_response(asked: RerankRequest, scores: Sequence[float], tokens: int) -> dict[str, Any]:
    """The answer of ``POST /rerank``: the best texts first, by their place in the request."""
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[: asked.top]
    results = [{"index": index, "relevance_score": scores[index]} for index in order]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "results": results, "model": asked.model, "usage": usage}


class ChatReply:
    """Writes one chat answer, whole or in chunks; all chunks share id, time and model."""

    def __init__(self, model: str, include_usage: bool = False) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._include_usage = include_usage

    def whole(self, content: str, finish_reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """The answer of a request that does not stream."""
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def role_chunk(self) -> bytes:
        """The first event: who speaks."""
        return self._choice_chunk({"role": "assistant", "content": ""}, None)

    def content_chunk(self, content: str) -> bytes:
        """An event with more text."""
        return self._choice_chunk({"content": content}, None)

    def finish_chunk(self, finish_reason: str) -> bytes:
        """The event that says why the text ended."""
        return self._choice_chunk({}, finish_reason)

    def usage_chunk(self, usage: dict[str, int]) -> bytes:
        """The last event before the end where the client asked for usage: no choices."""
        return event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})

    def _choice_chunk(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return event({**chunk, "usage": None} if self._include_usage else chunk)


DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _read_model(body: dict[str, Any], deployment: str | None) -> str:
    if deployment is not None:
        return deployment  # clients of these paths send null, or the name once more
    model = body.get("model")
    if not isinstance(model, str) or not model:
        invalid("model", "'model' must be the name of a model.", "missing_required_parameter")
    return model


def _read_inputs(value: Any) -> tuple[list[str], list[list[int]]]:
    """Texts and token lists, one of them empty: the four forms that 'input' may have."""
    if isinstance(value, str):
        return [_read_text(value, "input")], []
    if not isinstance(value, list) or not value:
        invalid("input", "'input' must be a string, a list of strings, or token ids; it cannot be empty.")
    if all(isinstance(item, str) for item in value):
        _check_input_count(value)
        return [_read_text(item, f"input[{index}]") for index, item in enumerate(value)], []
    token_lists = value if all(isinstance(item, list) for item in value) else [value]
    _check_input_count(token_lists)
    for tokens in token_lists:
        if not tokens or any(type(token) is not int for token in tokens):
            invalid("input", "'input' must hold only strings, only token ids, or only lists of token ids.")
    return [], token_lists


def _check_input_count(inputs: list[Any]) -> None:
    if len(inputs) > INPUTS_MAX:
        invalid("input", f"'input' holds {len(inputs)} inputs; at most {INPUTS_MAX} are allowed.")


def _read_text(value: str, param: str) -> str:
    if not value:
        invalid(param, f"'{param}' is an empty string.")
    return _read_unicode(value, param)


def _read_unicode(value: str, param: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        invalid(param, f"'{param}' holds a lone surrogate, which is not text.")
    return value


def _read_messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        invalid("messages", "'messages' must be a list with at least one message.")
    messages: list[dict[str, str]] = []
    for index, item in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(item, dict):
            invalid(where, f"'{where}' must be an object.")
        role = item.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            invalid(f"{where}.role", f"'{where}.role' must be system, developer, user or assistant.")
        content = _read_content(item.get("content"), f"{where}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    return messages


def _read_content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return _read_unicode(value, where)
    if not isinstance(value, list) or not value:
        invalid(where, f"'{where}' must be a string or a list of text parts.")
    texts: list[str] = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            invalid(where, f"'{where}' may hold parts of type 'text' only.")
        texts.append(_read_unicode(part["text"], where))
    return "".join(texts)


def _read_sampling(body: dict[str, Any]) -> dict[str, Any]:
    """What shapes the answer, under the engine's names, without what the client left out."""
    newer = _read_integer(body, "max_completion_tokens", 1, MAX_TOKENS_MAX)
    older = _read_integer(body, "max_tokens", 1, MAX_TOKENS_MAX)
    sampling = {
        "max_tokens": newer if newer is not None else older,
        "temperature": _read_number(body, "temperature", 0, 2),
        "top_p": _read_number(body, "top_p", 0, 1),
        "presence_penalty": _read_number(body, "presence_penalty", -2, 2),
        "frequency_penalty": _read_number(body, "frequency_penalty", -2, 2),
        "seed": _read_integer(body, "seed", 0, SEED_MAX),
        "stop": _read_stop(body.get("stop")),
        "response_format": _read_response_format(body.get("response_format")),
    }
    return {name: value for name, value in sampling.items() if value is not None}


def _read_stop(value: Any) -> list[str] | None:
    if value is None:
        return None
    sequences = [value] if isinstance(value, str) else value
    if not isinstance(sequences, list) or not all(isinstance(each, str) and each for each in sequences):
        invalid("stop", "'stop' must be a string or a list of strings, none of them empty.")
    if len(sequences) > STOP_SEQUENCES_MAX:
        invalid("stop", f"'stop' may hold at most {STOP_SEQUENCES_MAX} sequences.")
    return [_read_unicode(each, "stop") for each in sequences]


def _read_response_format(value: Any) -> dict[str, Any] | None:
    if value is None or value == {"type": "text"}:
        return None
    if not isinstance(value, dict) or value.get("type") not in ("json_object", "json_schema"):
        invalid("response_format", "'response_format.type' must be text, json_object or json_schema.")
    return value


def _read_flag(body: dict[str, Any], name: str, param: str | None = None) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        invalid(param or name, f"'{param or name}' must be true or false.")
    return bool(value)


def _read_integer(body: dict[str, Any], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        invalid(name, f"'{name}' must be a whole number from {least} to {most}.")
    return value


def _read_number(body: dict[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not least <= value <= most:
        invalid(name, f"'{name}' must be a number from {least} to {most}.")
    return value
