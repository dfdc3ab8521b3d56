"""Answers, whole and streamed."""

from __future__ import annotations

import pytest
from contract_service import Scripted, Service, events, problem

from client import AnswerDelta, AnswerDone, AnswerSources, ApiError, Groundwork, StreamInterrupted

ANSWER = {
    "id": "ans1",
    "text": "Trains are booked early, für 日本 too [1].",
    "found": True,
    "strategy": "quote",
    "citations": [
        {"number": 1, "document": "travel.md", "page": 2, "quote": "book early", "headings": ["Travel"]}
    ],
    "timings_ms": {"retrieve": 12},
}
STREAM = events(
    ("sources", {"passages": [{"number": 1, "document": "travel.md", "text": "book early"}]}),
    ("delta", {"text": "Trains are booked early, für 日本 "}),
    ("later_version", {"x": 1}),
    ("delta", {"text": "too [1]."}),
    ("done", ANSWER),
)


def test_a_whole_answer_has_citations(service: Service, groundwork: Groundwork) -> None:
    service.on("POST /api/chat", Scripted(body=ANSWER))
    answer = groundwork.ask("When?", ["a", "b"], top=4)
    assert service.seen[0].json() == {
        "collections": ["a", "b"],
        "messages": [{"role": "user", "content": "When?"}],
        "top": 4,
    }
    assert answer.found
    assert (answer.citations[0].document, answer.citations[0].page) == ("travel.md", 2)


@pytest.mark.parametrize("width", [1, 3, 10_000])
def test_a_streamed_answer_arrives_however_the_network_cuts_it(
    service: Service, groundwork: Groundwork, width: int
) -> None:
    parts = [STREAM[i : i + width] for i in range(0, len(STREAM), width)]
    service.on("POST /api/chat", Scripted(parts=parts))
    sources, first, second, done = groundwork.ask_stream("When?", ["a"])
    assert service.seen[0].json()["stream"] is True
    assert isinstance(sources, AnswerSources)
    assert sources.passages[0].number == 1
    assert isinstance(first, AnswerDelta)
    assert isinstance(second, AnswerDelta)
    assert isinstance(done, AnswerDone)
    assert first.text + second.text == done.answer.text == ANSWER["text"]


def test_a_stream_that_ends_with_an_error_raises_it(service: Service, groundwork: Groundwork) -> None:
    error = problem(502, "stream_interrupted", "The model stopped.", retryable=True).body
    service.on("POST /api/chat", Scripted(parts=[events(("delta", {"text": "Tra"}), ("error", error))]))
    stream = groundwork.ask_stream("When?", ["a"])
    assert next(stream) == AnswerDelta("Tra")
    with pytest.raises(ApiError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.status, caught.value.retryable) == (
        "stream_interrupted",
        502,
        True,
    )


@pytest.mark.parametrize("drop", [True, False])
def test_a_stream_that_just_ends_is_not_taken_for_an_answer(
    service: Service, groundwork: Groundwork, drop: bool
) -> None:
    service.on("POST /api/chat", Scripted(parts=[events(("delta", {"text": "Tra"}))], drop=drop))
    with pytest.raises(StreamInterrupted):
        list(groundwork.ask_stream("When?", ["a"]))
    assert len(service.seen) == 1


def test_a_stream_that_is_refused_is_asked_for_again(
    service: Service, groundwork: Groundwork, waits: list[float]
) -> None:
    service.on("POST /api/chat", problem(503, "models_unavailable", retry_after=2), Scripted(parts=[STREAM]))
    assert isinstance(list(groundwork.ask_stream("When?", ["a"]))[-1], AnswerDone)
    assert waits == [2]


def test_a_question_for_later_becomes_a_job(service: Service, groundwork: Groundwork) -> None:
    service.on("POST /api/chat", Scripted(202, {"id": "j", "state": "queued", "kind": "answer"}))
    service.on("GET /api/jobs/j/result", Scripted(body=ANSWER))
    job = groundwork.ask_later("When?", ["a"])
    assert service.seen[0].headers["prefer"] == "respond-async"
    assert groundwork.answer(job.id).text == ANSWER["text"]
