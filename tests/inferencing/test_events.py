import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.inferencing.events import MAX_EVENT_BYTES, EventDecoder


def test_comments_names_and_blank_lines_are_passed_over() -> None:
    body = b": keep-alive\n\nevent: x\nid: 1\ndata: one\n\n\n\ndata:two\r\n\r\ndata: a\ndata: b\n\n"
    assert EventDecoder().feed(body) == [b"one", b"two", b"a\nb"]


def test_an_unfinished_event_is_kept_back() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: on") == []
    assert decoder.feed(b"e\n") == []
    assert decoder.feed(b"\n") == [b"one"]


@given(st.lists(st.text(max_size=20), max_size=10), st.lists(st.integers(1, 9), min_size=1))
def test_where_the_body_is_cut_makes_no_difference(texts: list[str], sizes: list[int]) -> None:
    events = [json.dumps(text).encode() for text in texts]
    body = b"".join(b"data: " + event + b"\n\n" for event in events)
    decoder, decoded, turn = EventDecoder(), [], 0
    while body:
        size = sizes[turn % len(sizes)]
        decoded += decoder.feed(body[:size])
        body, turn = body[size:], turn + 1
    assert decoded == events


def test_an_endless_event_is_refused() -> None:
    decoder = EventDecoder()
    decoder.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 6))
    with pytest.raises(ValueError, match="limit"):
        decoder.feed(b"x")
