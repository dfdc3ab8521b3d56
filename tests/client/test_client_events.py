"""Reading server-sent events from bytes that are cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.events import MAX_EVENT_CHARACTERS, ServerEvent, parse_events

STREAM = 'event: delta\ndata: {"text":"Köln — 日本 🌧"}\n\n: beat\n\nevent: done\ndata: {}\n\n'.encode()
EVENTS = [ServerEvent("delta", '{"text":"Köln — 日本 🌧"}'), ServerEvent("done", "{}")]


def test_a_stream_cut_at_every_byte_gives_the_same_events() -> None:
    for cut in range(len(STREAM) + 1):
        assert list(parse_events([STREAM[:cut], STREAM[cut:]])) == EVENTS


def test_a_stream_of_single_bytes_gives_the_same_events() -> None:
    assert list(parse_events(STREAM[i : i + 1] for i in range(len(STREAM)))) == EVENTS


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("width", [1, 2, 7, 1000])
def test_each_kind_of_line_ending_ends_a_line(ending: str, width: int) -> None:
    data = STREAM.decode().replace("\n", ending).encode()
    assert list(parse_events(data[i : i + width] for i in range(0, len(data), width))) == EVENTS


def test_several_data_lines_are_joined_by_line_feeds() -> None:
    assert list(parse_events([b"data: one\ndata:two\ndata:  three\n\n"])) == [
        ServerEvent("message", "one\ntwo\n three")
    ]


def test_an_unfinished_event_is_dropped() -> None:
    assert list(parse_events([b"data: whole\n\nevent: done\ndata: half"])) == [
        ServerEvent("message", "whole")
    ]


def test_an_event_without_data_is_none() -> None:
    assert list(parse_events([b"event: delta\n\ndata: x\n\n"])) == [ServerEvent("message", "x")]


def test_a_byte_order_mark_is_no_part_of_the_first_field() -> None:
    assert list(parse_events([b"\xef\xbb", b"\xbfdata: x\n\n"])) == [ServerEvent("message", "x")]


def test_a_line_without_end_is_refused_and_one_within_the_limit_is_read() -> None:
    megabyte = b"x" * (1 << 20)
    fitting = [b"data: ", *[megabyte] * (MAX_EVENT_CHARACTERS // len(megabyte) - 1), b"\n\n"]
    assert len(next(parse_events(fitting)).data) == MAX_EVENT_CHARACTERS - len(megabyte)
    with pytest.raises(ValueError, match="longer than"):
        list(parse_events([b"data: ", *[megabyte] * (MAX_EVENT_CHARACTERS // len(megabyte))]))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_any_text_survives_any_cuts(texts: list[str], cuts: list[int]) -> None:
    data = "".join(f"data: {text}\n\n" for text in texts).encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[start:end] for start, end in pairwise(edges)]
    assert [event.data for event in parse_events(parts)] == texts
