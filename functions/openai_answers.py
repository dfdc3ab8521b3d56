"""The model id ``rag:{collection}``: grounded answers as chunks of a chat completion, with citations."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from functions.chat import MAX_MESSAGE_CHARACTERS
from functions.http import Call
from functions.services import services
from shared.errors import Hidden, InvalidName, InvalidParameter, NotFound, PromptTooLong
from shared.inferencing.caching import CacheMode
from shared.inferencing.chat import completion_limit

if TYPE_CHECKING:
    from shared.identity import Principal
    from shared.inferencing import JobAccount
    from shared.intelligence.answers import Answer, AnswerEvent, AnswerRequest

PREFIX = "rag:"
# What an answer from documents cannot honour; a client that relies on it must not be left in the belief.
UNSUPPORTED = ("audio", "functions", "logprobs", "response_format", "tools", "top_logprobs")
ROLES = {"developer": "system"}

_MARK = re.compile(r"\[(\d{1,3})\]")
# A quote ends its paragraph with its mark; brackets inside it are the document's own.
_MARK_OF_QUOTE = re.compile(r"\[(\d{1,3})\](?=\n\n|\Z)")


def model_object(collection: str, created: float) -> dict[str, Any]:
    """A collection in the list of models."""
    return model_entry(f"{PREFIX}{collection}", created)


def model_entry(name: str, created: float) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(created), "owned_by": "groundwork"}


async def collection_of(principal: Principal, model: str) -> Any:
    """The caller's collection that ``model`` names; `NotFound` for the model where there is none."""
    name = model.removeprefix(PREFIX)
    if not principal.reaches(name):
        raise Hidden("model", model)
    try:
        return await services().collections.get(principal.tenant, name)
    except (NotFound, InvalidName):
        raise NotFound("model", model) from None


def with_cache_mode(call: Call, model: str, chat: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """``chat`` with what the request's Cache-Control makes of the member ``cache`` of what was ``asked``.

    That member is for answers from documents alone.
    """
    if not model.startswith(PREFIX):
        return chat
    return {**chat, "cache": call.cache_mode(_cache_mode(asked)).value}


async def check(principal: Principal, model: str, body: Mapping[str, Any]) -> None:
    """Raise what `chunks` raises for a body or a model that is wrong."""
    request = _request((await collection_of(principal, model)).name, body)
    services().answers.check(principal, request)


async def chunks(
    principal: Principal,
    model: str,
    body: Mapping[str, Any],
    name: str,
    account: JobAccount | None = None,
) -> AsyncGenerator[dict[str, Any], None]:
    """The answer to a chat completion body as its chunks; the last one with a choice brings citations.

    The chunk after it has the usage alone. ``name`` tells this answer from others. Raises what
    `Answers.stream` raises, before the first chunk unless the model breaks off.
    """
    from shared.intelligence.answers import Delta, Final

    collection = await collection_of(principal, model)
    request = replace(_request(collection.name, body), job=account)
    head = {"id": f"chatcmpl-{name}", "object": "chat.completion.chunk"}
    head |= {"created": int(time.time()), "model": model}
    role: dict[str, Any] = {"role": "assistant"}
    stream = services().answers.stream(principal, request)
    async with aclosing(cast("AsyncGenerator[AnswerEvent, None]", stream)) as events:
        async for event in events:
            match event:
                case Delta(text):
                    yield {**head, "choices": [_choice({**role, "content": text}, None)]}
                    role = {}
                case Final(answer):
                    yield {
                        **head,
                        "choices": [
                            _choice(_conclusion(answer, services().settings.public_url or ""), "stop")
                        ],
                    }
                    yield {**head, "choices": [], "usage": _usage(answer)}


async def completion(
    principal: Principal,
    model: str,
    body: Mapping[str, Any],
    name: str,
    account: JobAccount | None = None,
) -> dict[str, Any]:
    """The answer to a chat completion body, whole."""
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    async for chunk in chunks(principal, model, body, name, account):
        whole |= chunk
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message |= {**delta, "content": message["content"] + delta.get("content", "")}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**whole, "object": "chat.completion", "choices": [choice]}


def _request(collection: str, body: Mapping[str, Any]) -> AnswerRequest:
    from shared.intelligence.answers import AnswerRequest

    for name in UNSUPPORTED:
        if body.get(name) and body[name] != {"type": "text"}:
            raise InvalidParameter(f"Answers from documents do not support {name!r}.", parameter=name)
    if body.get("n") not in (None, 1):
        raise InvalidParameter("Answers from documents come one at a time: 'n' must be 1.", parameter="n")
    messages = [_message(message, index) for index, message in enumerate(body["messages"])]
    request = AnswerRequest(
        (collection,),
        messages,
        session=body.get("prompt_cache_key"),
        cache=_cache_mode(body).policy,
    )
    model = services().catalogue.models.get(request.model)
    return request if model is None else replace(request, max_tokens=completion_limit(model, body))


def _cache_mode(body: Mapping[str, Any]) -> CacheMode:
    wanted = body.get("cache", CacheMode.EXACT)
    if wanted not in tuple(CacheMode):
        raise InvalidParameter(f"'cache' must be one of {', '.join(CacheMode)}.", parameter="cache")
    return CacheMode(wanted)


def _message(message: Mapping[str, Any], index: int) -> dict[str, str]:
    role, text = message.get("role"), _text(message.get("content"))
    where = f"messages[{index}]"
    if role not in ("system", "developer", "user", "assistant") or text is None:
        raise InvalidParameter(
            f"{where} needs a role (system, developer, user or assistant) and a content of text.",
            parameter=where,
        )
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise PromptTooLong(
            f"{where} has {len(text)} characters; the limit is {MAX_MESSAGE_CHARACTERS}.",
            parameter=where,
            characters=len(text),
            limit=MAX_MESSAGE_CHARACTERS,
        )
    return {"role": ROLES.get(role, role), "content": text}


def _text(content: Any) -> str | None:
    """The text of a message; None where it has parts of another type."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "".join(texts) if len(texts) == len(content) else None


def _choice(delta: Mapping[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _conclusion(answer: Answer, base_url: str) -> dict[str, Any]:
    """What a message says besides its text: OpenAI's annotations, and all that we know of the citations."""
    return {
        "annotations": url_citations(answer, base_url),
        "citations": [citation.to_dict() for citation in answer.citations],
        "found": answer.found,
        "grounded": answer.grounded,
        "withheld": [citation.place() for citation in answer.withheld],
        "cache": answer.cache,
    }


def url_citations(answer: Answer, base_url: str) -> list[dict[str, Any]]:
    """Where in the answer's text each citation's mark stands, and an address of what it cites."""
    cited = {citation.number: citation for citation in answer.citations}
    mark = _MARK_OF_QUOTE if answer.strategy == "quoting" else _MARK
    found: list[dict[str, Any]] = []
    for match in mark.finditer(answer.text):
        citation = cited.get(int(match[1]))
        if citation is None:
            continue
        document = f"{base_url}/api/collections/{citation.collection}/documents/{quote(citation.document)}"
        where = {
            "start_index": match.start(),
            "end_index": match.end(),
            "title": citation.title,
            "url": f"{document}?view=text&version={citation.version}",
        }
        found.append({"type": "url_citation", "url_citation": where})
    return found


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
