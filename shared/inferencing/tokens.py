"""Exact token counts, offline: how long a text or a prompt is for a given model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

# OpenAI's chat format: every message is wrapped in three tokens, a name adds one, and the answer is
# primed with three (openai-cookbook, "How to count tokens with tiktoken").
TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_TO_PRIME_THE_ANSWER = 3

BPE_ENCODINGS = {"o200k": "o200k_base", "cl100k": "cl100k_base"}


class Tokenizer(Protocol):
    """Counts the tokens of a text as the model does, special tokens that wrap an input included."""

    def count(self, text: str) -> int: ...
    def count_many(self, texts: Sequence[str]) -> list[int]: ...


class BytePairTokenizer:
    """One of OpenAI's encodings. Text that looks like a special token is counted as plain text."""

    def __init__(self, encoding: str) -> None:
        # The public Encoding refuses texts of a million characters and builds a list of ids only to
        # have its length taken; the binding below it counts, and the package is pinned exactly.
        from bpe_openai._bindings import tokenizer_for_encoding

        self._count: Callable[[str], int] = tokenizer_for_encoding(encoding).count

    def count(self, text: str) -> int:
        try:
            return self._count(text)
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form; a question mark stands for it
            return self._count(text.encode("utf-8", "replace").decode("utf-8"))

    def count_many(self, texts: Sequence[str]) -> list[int]:
        return [self.count(text) for text in texts]


class FileTokenizer:
    """A ``tokenizer.json`` of the Hugging Face format, without the truncation it may be saved with."""

    # Bounds the memory of one call: an encoding is many times its text.
    _BATCH_TEXTS = 256

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str) -> int:
        return self.count_many([text])[0]

    def count_many(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = []
        for first in range(0, len(texts), self._BATCH_TEXTS):
            some = texts[first : first + self._BATCH_TEXTS]
            sane = [text.encode("utf-8", "replace").decode("utf-8") for text in some]
            counts += [len(encoding) for encoding in self._tokenizer.encode_batch_fast(sane)]
        return counts


_loaded: dict[str, Tokenizer] = {}
_loading = threading.Lock()


def load_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer that ``spec`` names; loaded once, which takes up to a second.

    ``o200k`` · ``cl100k`` · ``package:DIST:path/in/site-packages/tokenizer.json`` (a file of an installed
    distribution, which is not imported) · ``file:/absolute/tokenizer.json``.
    Raises ``ValueError`` for a spec of another form and ``FileNotFoundError`` for a file that is not there.
    """
    if spec not in _loaded:
        with _loading:
            if spec not in _loaded:
                _loaded[spec] = _load(spec)
    return _loaded[spec]


def tokenizer_if_loaded(spec: str) -> Tokenizer | None:
    """The tokenizer if no time is needed to get it."""
    return _loaded.get(spec)


def check_spec(spec: str) -> None:
    """Raise ``ValueError`` unless ``spec`` has one of the forms that ``load_tokenizer`` takes."""
    scheme, _, rest = spec.partition(":")
    distribution, _, path = rest.partition(":")
    valid = {"file": Path(rest).is_absolute(), "package": bool(distribution and path)}
    if spec not in BPE_ENCODINGS and not valid.get(scheme, False):
        raise ValueError(
            f"tokenizer {spec!r}: expected one of {', '.join(BPE_ENCODINGS)}, "
            "package:DISTRIBUTION:path/tokenizer.json or file:/absolute/tokenizer.json"
        )


def _load(spec: str) -> Tokenizer:
    check_spec(spec)
    if spec in BPE_ENCODINGS:
        return BytePairTokenizer(BPE_ENCODINGS[spec])
    scheme, _, rest = spec.partition(":")
    distribution, _, path = rest.partition(":")
    file = Path(rest) if scheme == "file" else _file_of_distribution(distribution, path)
    if not file.is_file():
        raise FileNotFoundError(f"tokenizer {spec!r}: there is no file {file}")
    return FileTokenizer(file)


def _file_of_distribution(name: str, path: str) -> Path:
    try:
        return Path(str(metadata.distribution(name).locate_file(path)))
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"tokenizer: the distribution {name!r} is not installed") from None


def count_chat_tokens(tokenizer: Tokenizer, body: Mapping[str, Any]) -> int:
    """Prompt tokens of a chat completion body: its messages, and its tools and schema as JSON.

    Exact for text in OpenAI's format. Images and audio are not counted here: their cost depends on the
    model, and the service refuses them itself.
    """
    messages = [message for message in body.get("messages") or () if isinstance(message, Mapping)]
    wrapping = TOKENS_TO_PRIME_THE_ANSWER + sum(
        TOKENS_PER_MESSAGE + (TOKENS_PER_NAME if message.get("name") else 0) for message in messages
    )
    return wrapping + sum(tokenizer.count_many(list(chat_texts(body))))


def chat_texts(body: Mapping[str, Any]) -> Iterable[str]:
    """Every text of a chat completion body that the model reads."""
    for message in body.get("messages") or ():
        if not isinstance(message, Mapping):
            continue
        yield from (message[key] for key in ("role", "name") if isinstance(message.get(key), str))
        yield from _content_texts(message.get("content"))
        if message.get("tool_calls"):
            yield json.dumps(message["tool_calls"], ensure_ascii=False)
    for key in ("tools", "functions", "response_format"):
        if body.get(key):
            yield json.dumps(body[key], ensure_ascii=False)


def _content_texts(content: Any) -> Iterable[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]
