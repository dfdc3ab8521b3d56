"""Conversations: the turns that a question comes with, and the question as it stands without them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from shared.errors import InvalidParameter

Conversation = Sequence[Mapping[str, str]]

ROLES = ("user", "assistant", "system")
# Turns that go along with a question; what lies further back seldom matters to it.
TURNS_MAX = 12
# A question of at most this many words may lean on the one before it.
SHORT_WORDS = 4
# Words that point back to something said before.
_POINTERS = re.compile(
    r"\b(?:it|its|they|them|their|this|that|these|those|he|she|his|her|him|one|ones|there|then|same|other|"
    r"former|latter)\b|^(?:and|what about|how about|why|but|or)\b",
    re.IGNORECASE,
)


def checked(messages: Sequence[Mapping[str, str]]) -> Conversation:
    """The last turns of the conversation; raises `InvalidParameter` unless the last one is a user's."""
    for message in messages:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise InvalidParameter(
                "Each message needs a role (user, assistant or system) and a content of text.",
                parameter="messages",
            )
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise InvalidParameter("The last message must be a user's question.", parameter="messages")
    return [{"role": turn["role"], "content": turn["content"]} for turn in messages[-TURNS_MAX:]]


def standalone(conversation: Conversation) -> str:
    """The last question, with the user's one before where it leans on that."""
    asked = [turn["content"].strip() for turn in conversation if turn["role"] == "user"]
    question = asked[-1]
    leans = len(question.split()) <= SHORT_WORDS or _POINTERS.search(question)
    return f"{asked[-2]} {question}" if leans and len(asked) > 1 else question
