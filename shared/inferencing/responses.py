"""The Responses API over chat completions: its request becomes a chat body, a chat's chunks its events.

Follows "Responses" in OpenAI's API reference. Nothing is stored, so what refers to an earlier response is
refused; so are tools that only OpenAI's own service can run.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from shared.errors import InvalidParameter, ModelFailed

Event = dict[str, Any]

# Members with the same name and meaning in both requests.
SHARED_MEMBERS = (
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_logprobs",
    "top_p",
    "user",
)
# What needs an earlier response or a stored prompt: there is no store for it.
STORED_MEMBERS = ("conversation", "previous_response_id", "prompt")
LOGPROBS = "message.output_text.logprobs"
INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


def chat_body(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion body that asks the same; raises `InvalidParameter` for what a chat cannot say."""
    for name in STORED_MEMBERS:
        if asked.get(name):
            raise InvalidParameter(f"{name!r} is not supported: responses are not stored.", parameter=name)
    body = {name: asked[name] for name in SHARED_MEMBERS if asked.get(name) is not None}
    body["messages"] = _messages(asked)
    if asked.get("max_output_tokens") is not None:
        body["max_completion_tokens"] = asked["max_output_tokens"]
    if asked.get("top_logprobs") or LOGPROBS in (asked.get("include") or ()):
        body["logprobs"] = True
    if effort := (asked.get("reasoning") or {}).get("effort"):
        body["reasoning_effort"] = effort
    text = asked.get("text") or {}
    if text.get("verbosity"):
        body["verbosity"] = text["verbosity"]
    if wanted := _response_format(text.get("format") or {"type": "text"}):
        body["response_format"] = wanted
    if asked.get("tools"):
        body["tools"] = [_nested_tool(tool, "tools") for tool in asked["tools"]]
    choice = asked.get("tool_choice")
    if choice is not None:
        body["tool_choice"] = choice if isinstance(choice, str) else _nested_tool(choice, "tool_choice")
    return body


def _response_format(wanted: Any) -> dict[str, Any] | None:
    if not isinstance(wanted, Mapping):
        raise InvalidParameter("'text.format' must be an object.", parameter="text.format")
    if wanted.get("type") == "text":
        return None
    if wanted.get("type") != "json_schema":
        return dict(wanted)
    schema = {name: value for name, value in wanted.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _nested_tool(tool: Any, where: str) -> dict[str, Any]:
    """A function as the chat API has it: one level deeper."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        raise InvalidParameter("Only tools of the type 'function' are supported.", parameter=where)
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": function}


def _messages(asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    given = asked.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not isinstance(items, list) or not items:
        raise InvalidParameter("'input' must be a text or a list that is not empty.", parameter="input")
    messages: list[dict[str, Any]] = []
    if asked.get("instructions"):
        messages.append({"role": "system", "content": asked["instructions"]})
    for index, item in enumerate(items):
        _add_item(messages, item, f"input[{index}]")
    return messages


def _add_item(messages: list[dict[str, Any]], item: Any, where: str) -> None:
    kind = item.get("type", "message") if isinstance(item, Mapping) else None
    if kind == "message":
        messages.append({"role": item.get("role"), "content": _content(item.get("content"), where)})
    elif kind == "function_call":
        called = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": called}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _content(item.get("output"), where)
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind != "reasoning":  # a model's own thoughts have no place in a chat
        raise InvalidParameter(f"{where} is of a type that is not supported.", parameter=where)


def _content(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidParameter(f"{where} needs a text or a list of parts.", parameter=where)
    parts = [_part(part, where) for part in content]
    if parts and all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)  # servers of small models take plain text only
    return parts


def _part(part: Any, where: str) -> dict[str, Any]:
    fields = part if isinstance(part, Mapping) else {}
    match fields:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(refusal)}:
            return {"type": "refusal", "refusal": refusal}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url, "detail": fields.get("detail") or "auto"}}
        case {"type": "input_file", "file_data": str(data)}:
            return {"type": "file", "file": {"file_data": data, "filename": fields.get("filename")}}
    raise InvalidParameter(f"{where} holds a part of a type that is not supported.", parameter=where)


class ResponseWriter:
    """Writes one response from the chunks of a chat completion, as events in OpenAI's order.

    Call `begin`, then `add` for each chunk, then `end`; `response` is what has been written by then.
    A message's text is one output item, each call of a function another.
    """

    def __init__(self, asked: Mapping[str, Any], model: str) -> None:
        self._sequence = 0
        self._open: _Message | _FunctionCall | None = None
        self._reason: str | None = None
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.get("instructions"),
            "max_output_tokens": asked.get("max_output_tokens"),
            "metadata": asked.get("metadata") or {},
            "model": model,
            "output": [],
            "parallel_tool_calls": asked.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "reasoning": asked.get("reasoning") or {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.get("temperature"),
            "text": asked.get("text") or {"format": {"type": "text"}},
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "top_logprobs": asked.get("top_logprobs") or 0,
            "top_p": asked.get("top_p"),
            "truncation": "disabled",
            "usage": None,
            "user": asked.get("user"),
        }

    def begin(self) -> list[Event]:
        """The events before any output."""
        started = [self._whole("response.created"), self._whole("response.in_progress")]
        return self._numbered(started)

    def add(self, chunk: Mapping[str, Any]) -> list[Event]:
        """The events that a chunk gives rise to. Raises `ModelFailed` for calls that come interleaved."""
        if usage := chunk.get("usage"):
            self.response["usage"] = _usage(usage)
        events: list[Event] = []
        for choice in chunk.get("choices") or ():
            events += self._delta(choice.get("delta") or {}, choice.get("logprobs") or {})
            self._reason = choice.get("finish_reason") or self._reason
        return self._numbered(events)

    def end(self) -> list[Event]:
        """The events that finish the response."""
        reason = INCOMPLETE_REASONS.get(self._reason or "")
        status = "incomplete" if reason else "completed"
        events = list(self._close(status))
        self.response["status"] = status
        self.response["incomplete_details"] = {"reason": reason} if reason else None
        return self._numbered([*events, self._whole(f"response.{status}")])

    def failed(self, error: Mapping[str, Any]) -> Event:
        """The event that ends a response which broke off; ``error`` in OpenAI's shape."""
        named = {name: error.get(name) for name in ("code", "message", "param")}
        return self._numbered([{"type": "error", **named, "error": dict(error)}])[0]

    def _whole(self, kind: str) -> Event:
        return {"type": kind, "response": {**self.response, "output": list(self.response["output"])}}

    def _numbered(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self._sequence
            self._sequence += 1
        return events

    def _delta(self, delta: Mapping[str, Any], logprobs: Mapping[str, Any]) -> Iterator[Event]:
        for kind, name in (("output_text", "content"), ("refusal", "refusal")):
            if isinstance(text := delta.get(name), str) and text:
                message, opening = self._message()
                yield from opening
                yield from message.write(kind, text, logprobs.get(name) or [])
        if delta.get("annotations") or "citations" in delta:
            message, opening = self._message()
            yield from opening
            yield from message.annotate(delta)
        for position, call in enumerate(delta.get("tool_calls") or ()):
            yield from self._call(call.get("index", position), call)

    def _message(self) -> tuple[_Message, list[Event]]:
        if isinstance(self._open, _Message):
            return self._open, []
        closing = list(self._close("completed"))
        self._open = message = _Message(len(self.response["output"]))
        return message, [*closing, self._opened(message)]

    def _call(self, index: int, fields: Mapping[str, Any]) -> Iterator[Event]:
        call = self._open
        if not isinstance(call, _FunctionCall) or not call.goes_on(index, fields):
            function = fields.get("function") or {}
            if not function.get("name"):
                raise ModelFailed("The model's function calls came interleaved.")
            yield from self._close("completed")
            self._open = call = _FunctionCall(len(self.response["output"]), index, fields)
            yield self._opened(call)
        yield from call.write((fields.get("function") or {}).get("arguments") or "")

    def _opened(self, item: _Message | _FunctionCall) -> Event:
        self.response["output"].append(item.item)
        return _on(item, "response.output_item.added", item=_copy(item.item))

    def _close(self, status: str) -> Iterator[Event]:
        item, self._open = self._open, None
        if item is not None:
            yield from item.finish()
            item.item["status"] = status
            yield _on(item, "response.output_item.done", item=_copy(item.item))


class _Message:
    """The output item of what the model says."""

    def __init__(self, output_index: int) -> None:
        self.output_index = output_index
        self.item: dict[str, Any] = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }

    def write(self, kind: str, text: str, logprobs: list[Any]) -> Iterator[Event]:
        yield from self._switch_to(kind)
        part = self.item["content"][-1]
        more: dict[str, Any] = {}
        if kind == "output_text":
            part["text"] += text
            part["logprobs"] += logprobs
            more["logprobs"] = logprobs
        else:
            part["refusal"] += text
        yield self._on(f"response.{kind}.delta", delta=text, **more)

    def annotate(self, delta: Mapping[str, Any]) -> Iterator[Event]:
        """Citations of the text: OpenAI's annotations, and members of ours for the item as a whole."""
        yield from self._switch_to("output_text")
        part = self.item["content"][-1]
        for annotation in delta.get("annotations") or ():
            # A chat nests what a response has flat.
            kind = annotation.get("type", "")
            flat = {"type": kind, **(annotation.get(kind) or {})}
            part["annotations"].append(flat)
            number = len(part["annotations"]) - 1
            yield self._on("response.output_text.annotation.added", annotation=flat, annotation_index=number)
        told = ("citations", "found", "grounded")
        self.item.update({name: delta[name] for name in told if name in delta})

    def finish(self) -> Iterator[Event]:
        if not self.item["content"]:
            return
        part = self.item["content"][-1]
        if part["type"] == "output_text":
            yield self._on("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        else:
            yield self._on("response.refusal.done", refusal=part["refusal"])
        yield self._on("response.content_part.done", part=_copy(part))

    def _switch_to(self, kind: str) -> Iterator[Event]:
        if self.item["content"] and self.item["content"][-1]["type"] == kind:
            return
        yield from self.finish()
        text = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        part = text if kind == "output_text" else {"type": "refusal", "refusal": ""}
        self.item["content"].append(part)
        yield self._on("response.content_part.added", part=_copy(part))

    def _on(self, kind: str, **fields: Any) -> Event:
        return _on(self, kind, item_id=self.item["id"], content_index=len(self.item["content"]) - 1, **fields)


class _FunctionCall:
    """The output item of one call of a function."""

    def __init__(self, output_index: int, index: int, fields: Mapping[str, Any]) -> None:
        self.output_index = output_index
        self.index = index
        self.item: dict[str, Any] = {
            "id": f"fc_{uuid.uuid4().hex}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": fields.get("id") or f"call_{uuid.uuid4().hex}",
            "name": fields["function"]["name"],
            "arguments": "",
        }

    def goes_on(self, index: int, fields: Mapping[str, Any]) -> bool:
        """Whether a piece belongs to this call; some servers give every call the index 0."""
        return index == self.index and fields.get("id") in (None, "", self.item["call_id"])

    def write(self, arguments: str) -> Iterator[Event]:
        if arguments:
            self.item["arguments"] += arguments
            yield self._on("response.function_call_arguments.delta", delta=arguments)

    def finish(self) -> Iterator[Event]:
        arguments, name = self.item["arguments"], self.item["name"]
        yield self._on("response.function_call_arguments.done", arguments=arguments, name=name)

    def _on(self, kind: str, **fields: Any) -> Event:
        return _on(self, kind, item_id=self.item["id"], **fields)


def _on(output: _Message | _FunctionCall, kind: str, **fields: Any) -> Event:
    return {"type": kind, "output_index": output.output_index, **fields}


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    """A part or an item as it is now: an event must not change when the item goes on."""
    return json.loads(json.dumps(value))


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    given, taken = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    read, thought = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": read.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": taken,
        "output_tokens_details": {"reasoning_tokens": thought.get("reasoning_tokens") or 0},
        "total_tokens": usage.get("total_tokens") or given + taken,
    }


def whole_response(asked: Mapping[str, Any], model: str, completion: Mapping[str, Any]) -> dict[str, Any]:
    """The response that says what ``completion`` does."""
    writer = ResponseWriter(asked, model)
    choices = [{**choice, "delta": choice["message"]} for choice in completion["choices"]]
    writer.add({"choices": choices, "usage": completion.get("usage")})
    writer.end()
    return writer.response
