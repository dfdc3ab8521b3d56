"""A whole chat completion from the chunks of its stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Assembly:
    """Puts a completion together: call `add` for each chunk; `completion` is what has come by then.

    Texts of the same member are joined, calls of tools by their index; anything else is taken as it came
    last. So a stream without end in sight can become the one body that a request without ``stream`` gets.
    """

    def __init__(self) -> None:
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        self._head.update((name, value) for name, value in chunk.items() if name != "choices")
        for given in chunk.get("choices") or ():
            choice = self._choices.setdefault(given.get("index", 0), _new_choice(given.get("index", 0)))
            _merge(choice["message"], given.get("delta") or {})
            choice["finish_reason"] = given.get("finish_reason") or choice["finish_reason"]
            if logprobs := given.get("logprobs"):
                choice["logprobs"] = choice["logprobs"] or {}
                for name, entries in logprobs.items():
                    choice["logprobs"][name] = [*(choice["logprobs"].get(name) or []), *(entries or [])]

    @property
    def completion(self) -> dict[str, Any]:
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**self._head, "object": "chat.completion", "choices": choices}


def _new_choice(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _merge(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            _merge_calls(message.setdefault("tool_calls", []), value or ())
        elif name == "role":
            message["role"] = value or message["role"]
        elif isinstance(value, str) and isinstance(message.get(name), str):
            message[name] += value
        elif value is not None:
            message[name] = value


def _merge_calls(calls: list[dict[str, Any]], pieces: Any) -> None:
    for position, piece in enumerate(pieces):
        index = piece.get("index", position)
        while len(calls) <= index:
            calls.append({"function": {"name": "", "arguments": ""}})
        call = calls[index]
        call.update((name, piece[name]) for name in ("id", "type") if piece.get(name))
        function = piece.get("function") or {}
        call["function"]["name"] = function.get("name") or call["function"]["name"]
        call["function"]["arguments"] += function.get("arguments") or ""
