"""A chat's chunks become a response: the cases that the started stack's models do not give."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ModelFailed
from shared.inferencing.responses import ResponseWriter, whole_response


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def call(index: int, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments} if name else {"arguments": arguments}
    return {"tool_calls": [{"index": index, "id": call_id, "function": function}]}


def written(*chunks: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    writer = ResponseWriter({"input": "x"}, "chat")
    events = writer.begin()
    for each in chunks:
        events += writer.add(each)
    events += writer.end()
    return events, writer.response


@pytest.mark.parametrize(
    ("finish_reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_why_the_model_stopped_decides_how_the_response_ends(
    finish_reason: str, status: str, details: dict[str, str] | None
):
    events, response = written(chunk({"content": "a"}), chunk({}, finish_reason))
    assert events[-1]["type"] == f"response.{status}"
    assert (response["status"], response["incomplete_details"]) == (status, details)
    assert response["output"][0]["status"] == status


def test_a_refusal_is_a_part_of_its_own_after_the_text():
    events, response = written(chunk({"content": "Well,"}), chunk({"refusal": "no"}), chunk({}, "stop"))
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[3:-2] == [
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
    ]
    assert [event["content_index"] for event in events[3:-2]] == [0] * 4 + [1] * 4
    text, refusal = response["output"][0]["content"]
    assert (text["text"], refusal["refusal"]) == ("Well,", "no")


def test_events_keep_what_was_true_when_they_were_written():
    events, _ = written(chunk({"content": "a"}), chunk({"content": "b"}, "stop"))
    created, _, added, part, *_ = events
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])
    assert part["part"]["text"] == ""


def test_calls_that_all_have_the_index_0_are_told_apart_by_their_ids():
    _, response = written(
        chunk(call(0, "a", "f", '{"x":')), chunk(call(0, None, None, "1}")), chunk(call(0, "b", "f", "{}"))
    )
    found = [(item["call_id"], item["arguments"]) for item in response["output"]]
    assert found == [("a", '{"x":1}'), ("b", "{}")]


def test_interleaved_calls_are_a_failure_and_not_mixed_up():
    with pytest.raises(ModelFailed):
        written(
            chunk(call(0, "a", "f", "{")), chunk(call(1, "b", "f", "{}")), chunk(call(0, None, None, "}"))
        )


def test_an_answer_without_any_output_is_an_empty_response():
    answer = {"choices": [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]}
    response = whole_response({"input": "x"}, "chat", answer)
    assert (response["status"], response["output"]) == ("completed", [])
