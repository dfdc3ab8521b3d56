"""Chat completion bodies: checked against the model's limits before anything is sent, read after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidParameter, PromptTooLong
from shared.limits import UNLIMITED, Limits, lower

from .calls import Usage
from .catalogue import Capability, Model
from .tokens import chat_texts, count_chat_tokens, load_tokenizer, tokenizer_if_loaded

# UTF-8 needs at most four bytes a character, and no token covers less than one byte.
MOST_TOKENS_PER_CHARACTER = 4
# Generous for roles, wrapping and special tokens of a message; only decides whether counting is needed.
MOST_TOKENS_AROUND_MESSAGE = 16
# English prose in OpenAI's encodings ("What are tokens and how to count them"): for rates, not for caps.
CHARACTERS_PER_TOKEN = 4
# Counting this much takes tens of milliseconds with the slower tokenizers: too long for the event loop.
COUNT_IN_THREAD_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True)
class ChatDemand:
    """A body that keeps to its limits, and the tokens that it may use.

    ``prompt_tokens`` are counted where a limit may be reached, and estimated elsewhere.
    """

    body: Mapping[str, Any]
    prompt_tokens: int
    completion_tokens: int | None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + (self.completion_tokens or 0)


async def check_chat(
    model: Model, body: Mapping[str, Any], limits: Limits = UNLIMITED, *, exact: bool = False
) -> ChatDemand:
    """``body`` checked against the model and the tenant's limits, with the limit of its answer filled in.

    Raises ``PromptTooLong`` with the exact count and the limit, and ``InvalidParameter`` for messages or
    limits that are none. Counts only where a limit may be reached, or where ``exact`` asks for it. Where
    the catalogue names no tokenizer the service guards the context, and estimates stand for counts.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidParameter("'messages' must be a list that is not empty.", parameter="messages")
    completion = completion_limit(model, body)
    if completion is not None and limits.completion_tokens is not None:
        _check_completion(completion, limits.completion_tokens)
    characters = sum(map(len, chat_texts(body)))
    own = lower(limits.prompt_tokens, lower(model.max_prompt_tokens, _rest(limits, completion)))
    context = model.context_tokens - (completion or 0)
    at_most = characters * MOST_TOKENS_PER_CHARACTER + MOST_TOKENS_AROUND_MESSAGE * (len(messages) + 1)
    doubtful = at_most > (context if own is None else min(context, own))
    unsaid = completion is None and limits.request_tokens is not None
    tokens, counted = characters // CHARACTERS_PER_TOKEN, False
    if model.tokenizer is not None and (doubtful or unsaid or exact):
        tokens, counted = await _count(model.tokenizer, body, characters), True
    limit = own if not counted else context if own is None else min(context, own)
    if limit is not None and tokens > limit:
        detail = f"The prompt has {tokens} tokens; the limit is {limit:.0f}."
        raise PromptTooLong(detail, tokens=tokens, limit=int(limit))
    if completion is None:
        allowed = lower(limits.completion_tokens, None if not unsaid else _rest(limits, tokens))
        if allowed is not None and allowed < model.max_output_tokens:
            completion = max(1, int(allowed))
            body = {**body, "max_completion_tokens": completion}
    return ChatDemand(body, tokens, completion)


def _rest(limits: Limits, used: float | None) -> float | None:
    """What is left of a whole request's tokens; an answer takes one at least."""
    return None if limits.request_tokens is None else limits.request_tokens - (used or 1)


def _check_completion(asked: int, limit: float) -> None:
    if asked > limit:
        detail = f"The completion may have {limit:.0f} tokens; {asked} were asked for."
        raise InvalidParameter(detail, parameter="max_completion_tokens", limit=int(limit))


def completion_limit(model: Model, body: Mapping[str, Any]) -> int | None:
    """The completion tokens that the body asks for at most; None where it leaves that to the model."""
    for key in ("max_completion_tokens", "max_tokens"):
        value = body.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= model.max_output_tokens:
            detail = f"{key!r} must be a whole number from 1 to {model.max_output_tokens}."
            raise InvalidParameter(detail, parameter=key, limit=model.max_output_tokens)
        return value
    return None


# The member of a body that asks for each capability.
ASKING_MEMBER = {
    Capability.TOOLS: "tools",
    Capability.JSON_SCHEMA: "response_format",
    Capability.IMAGES: "messages",
    Capability.AUDIO: "messages",
}


def needed_capabilities(body: Mapping[str, Any]) -> frozenset[Capability]:
    """What a deployment must be able to do to answer the body."""
    needed = {Capability.TOOLS} if body.get("tools") or body.get("functions") else set()
    wanted = body.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
        needed.add(Capability.JSON_SCHEMA)
    if body.get("audio"):
        needed.add(Capability.AUDIO)
    for message in body["messages"]:
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind == "image_url":
                needed.add(Capability.IMAGES)
            elif kind == "input_audio":
                needed.add(Capability.AUDIO)
    return frozenset(needed)


def read_completion(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer itself. Raises where it is not a completion."""
    if not answer["choices"] or not all(isinstance(choice["message"], dict) for choice in answer["choices"]):
        raise ValueError("a completion without a message")
    return answer


def estimate_usage(model: Model, body: Mapping[str, Any], completion: str) -> Usage:
    """Tokens of a call whose usage the service did not report."""
    characters = sum(map(len, chat_texts(body)))
    tokenizer = tokenizer_if_loaded(model.tokenizer) if model.tokenizer else None
    if tokenizer is None or characters > COUNT_IN_THREAD_CHARACTERS:
        if model.tokenizer:  # for the next call: loading takes too long to do it here
            asyncio.get_running_loop().run_in_executor(None, load_tokenizer, model.tokenizer)
        prompt_tokens, completion_tokens = (n // CHARACTERS_PER_TOKEN for n in (characters, len(completion)))
        return Usage(prompt_tokens, completion_tokens, estimated=True)
    return Usage(count_chat_tokens(tokenizer, body), tokenizer.count(completion), estimated=True)


async def _count(spec: str, body: Mapping[str, Any], characters: int) -> int:
    tokenizer = tokenizer_if_loaded(spec)
    if tokenizer is None or characters > COUNT_IN_THREAD_CHARACTERS:
        return await asyncio.to_thread(lambda: count_chat_tokens(load_tokenizer(spec), body))
    return count_chat_tokens(tokenizer, body)
