"""Synthesis: a model puts the retrieved passages into words and cites them by number."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.errors import AnswerRefused
from shared.intelligence.citations import checked_marks

if TYPE_CHECKING:
    from shared.inferencing import Model
    from shared.intelligence.prompts import Prompt
    from shared.knowledge.retrieval import Passage

ABSENT = "NOT FOUND"
# What an answer may be long: several paragraphs; a caller may ask for more or less.
DEFAULT_MAX_TOKENS = 800
# Characters of a passage to one token, on the low side, so that the budget holds for dense text as well.
CHARACTERS_PER_TOKEN = 3
# The share of a model's context that passages may fill; rules, conversation and question need the rest.
PASSAGES_SHARE = 0.6
# The longest citation that is worth waiting for the end of, such as "[12, 13, 14]".
MARK_CHARACTERS_MAX = 24
# A line of the rules that is shorter may well stand in an honest answer.
CONFIDENTIAL_CHARACTERS_MIN = 40

_NUMBERED = re.compile(r"^(?:\d+\.|[-*])\s+")


def fitting(passages: Sequence[Passage], model: Model, max_tokens: int) -> Sequence[Passage]:
    """The best passages that fit the model's context together with an answer of ``max_tokens``."""
    budget = int((model.context_tokens - max_tokens) * PASSAGES_SHARE) * CHARACTERS_PER_TOKEN
    for number, passage in enumerate(passages):
        budget -= len(passage.chunk.text)
        if budget < 0:
            return passages[:number]
    return passages


def new_marker() -> str:
    """What stands around the passages of one answer, and before the rules: nobody but the model is told."""
    return f"=={secrets.token_hex(8)}=="


def messages(
    prompt: Prompt, passages: Sequence[Passage], conversation: Sequence[Mapping[str, str]], marker: str
) -> list[dict[str, Any]]:
    """The rules, each passage as a message of its own between markers it cannot know, the conversation."""
    sources = [
        {"role": "user", "content": f"Source [{number}]: {_origin(passage)}\n{marker}\n{text}\n{marker}"}
        for number, passage in enumerate(passages, 1)
        for text in (passage.chunk.text.replace(marker, ""),)
    ]
    rules = f"{marker}\n{prompt.text}"
    return [{"role": "system", "content": rules}, *sources, *(dict(turn) for turn in conversation)]


def confidential(prompt: Prompt, marker: str) -> tuple[str, ...]:
    """What no answer may hold: the marker, and the lines of the rules word for word."""
    lines = (_NUMBERED.sub("", line.strip()) for line in prompt.text.splitlines())
    return (marker, *(line for line in lines if len(line) >= CONFIDENTIAL_CHARACTERS_MIN))


def _origin(passage: Passage) -> str:
    chunk = passage.chunk
    parts = [chunk.title or chunk.document, *chunk.headings]
    return re.sub(r"\s+", " ", " > ".join(parts))[:300]


class CheckedText:
    """An answer's text as it arrives, held back only where something may be under way that is to be judged
    as a whole: a citation, ``NOT FOUND``, or what is ``confidential``.

    What ``add`` and ``end`` give, put together, is `text`: no delta has to be taken back. Both raise
    `AnswerRefused` before the first whole piece of what is confidential would be shown.
    """

    def __init__(self, passages: int, confidential: Sequence[str] = ()) -> None:
        self._passages = passages
        self._confidential = confidential
        self._held = ""
        self._decided = False
        self.absent = False
        self.text = ""
        self.cited: list[int] = []

    def add(self, delta: str) -> str:
        """What may be shown now."""
        self._held += delta
        if not self._decided:
            beginning = self._held.lstrip(" \n*\"'`[")
            if len(beginning) < len(ABSENT) and ABSENT.startswith(beginning):
                return ""
            self._decided = True
            self.absent = beginning.startswith(ABSENT)
        if self.absent:
            return ""
        if any(phrase in self._held for phrase in self._confidential):
            raise AnswerRefused("The model began to repeat its instructions; the answer was broken off.")
        opened = max(self._held.rfind("["), self._held.rfind("【"))
        closed = max(self._held.rfind("]"), self._held.rfind("】"))
        if opened > closed and len(self._held) - opened <= MARK_CHARACTERS_MAX:
            ready, self._held = self._held[:opened], self._held[opened:]
        else:
            ready, self._held = self._held, ""
        begun = self._begun(ready)
        ready, self._held = ready[:begun], ready[begun:] + self._held
        return self._checked(ready)

    def end(self) -> str:
        """The rest, when no more comes."""
        ready, self._held = self._held, ""
        self.absent = self.absent or not (self.text + ready).strip()
        return "" if self.absent else self._checked(ready)

    def _begun(self, ready: str) -> int:
        """Where the end of ``ready`` begins to be something confidential."""
        longest = max(map(len, self._confidential), default=0)
        for start in range(max(0, len(ready) - longest), len(ready)):
            if any(phrase.startswith(ready[start:]) for phrase in self._confidential):
                return start
        return len(ready)

    def _checked(self, ready: str) -> str:
        shown, numbers = checked_marks(ready, self._passages)
        self.cited += [number for number in numbers if number not in self.cited]
        self.text += shown
        return shown
