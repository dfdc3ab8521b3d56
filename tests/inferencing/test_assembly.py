import json

from shared.inferencing.assembly import Assembly


def chunk(delta: dict, finish_reason: str | None = None, index: int = 0, **more: object) -> dict:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **more}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def assembled(*chunks: dict) -> dict:
    assembly = Assembly()
    for each in chunks:
        assembly.add(each)
    return assembly.completion


def test_texts_are_joined_and_the_usage_of_the_last_chunk_is_kept() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    completion = assembled(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Whole"}),
        chunk({"content": " answer.", "reasoning_content": "thought"}),
        chunk({"reasoning_content": " twice"}),
        chunk({"citations": [1]}, "stop"),
        {"id": "c", "choices": [], "usage": usage},
    )
    assert completion["object"] == "chat.completion"
    assert completion["usage"] == usage
    (choice,) = completion["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Whole answer.",
        "reasoning_content": "thought twice",
        "citations": [1],
    }


def test_calls_of_tools_are_put_together_by_their_index() -> None:
    first = {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": ""}}
    second = {"index": 1, "id": "b", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    completion = assembled(
        chunk({"role": "assistant", "content": None, "tool_calls": [first]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
        chunk({"tool_calls": [second]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}),
        chunk({}, "tool_calls"),
    )
    message = completion["choices"][0]["message"]
    assert message["content"] is None
    assert [call["id"] for call in message["tool_calls"]] == ["a", "b"]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Oslo"}
    assert message["tool_calls"][1]["function"] == {"name": "clock", "arguments": "{}"}


def test_several_choices_stay_apart_with_their_log_probabilities() -> None:
    completion = assembled(
        chunk({"content": "b"}, index=1, logprobs={"content": [{"token": "b"}]}),
        chunk({"content": "a"}, index=0),
        chunk({"content": "b"}, "length", index=1, logprobs={"content": [{"token": "b"}]}),
        chunk({}, "stop", index=0),
    )
    assert [choice["message"]["content"] for choice in completion["choices"]] == ["a", "bb"]
    assert [choice["finish_reason"] for choice in completion["choices"]] == ["stop", "length"]
    assert len(completion["choices"][1]["logprobs"]["content"]) == 2
    assert completion["choices"][0]["logprobs"] is None
