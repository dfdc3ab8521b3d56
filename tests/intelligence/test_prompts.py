"""Prompts are versioned files."""

from __future__ import annotations

import hashlib

from shared.intelligence import prompts
from shared.intelligence.synthesis import ABSENT


def test_a_prompt_is_known_by_its_version_and_its_words() -> None:
    prompt = prompts.load("answer")
    digest = hashlib.sha256(prompt.text.encode()).hexdigest()
    assert prompt.label == f"answer@{prompt.version}+{digest[:12]}"


def test_the_prompt_asks_for_the_line_that_is_looked_for() -> None:
    assert ABSENT in prompts.load("answer").text
