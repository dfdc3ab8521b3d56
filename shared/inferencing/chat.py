"""Chat completion bodies: checked against the model's limits before anything is sent, read after."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidParameter, PromptTooLong

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


async def check_prompt(model: Model, body: Mapping[str, Any]) -> int:
    """An estimate of the tokens that the call will use at most, for rates.

    Raises ``PromptTooLong`` with the exact count where prompt and completion exceed the context, and
    ``InvalidParameter`` for messages or limits that are none. Counts only where the cap may be reached.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidParameter("'messages' must be a list that is not empty.", parameter="messages")
    completion_tokens = completion_limit(model, body)
    limit = model.context_tokens - (completion_tokens or 0)
    characters = sum(map(len, chat_texts(body)))
    at_most = characters * MOST_TOKENS_PER_CHARACTER + MOST_TOKENS_AROUND_MESSAGE * (len(messages) + 1)
    if at_most > limit and model.tokenizer is not None:
        tokens = await _count(model.tokenizer, body, characters)
        if tokens > limit:
            detail = f"The prompt has {tokens} tokens; the limit is {limit}."
            raise PromptTooLong(detail, tokens=tokens, limit=limit)
    return characters // CHARACTERS_PER_TOKEN + (completion_tokens or 0)


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
