"""Grounded answers: retrieved passages, quoted or put into words, with citations that can be checked."""

from shared.intelligence.answers import (
    Answer,
    AnswerEvent,
    AnswerRequest,
    Answers,
    Delta,
    Final,
    Sources,
)
from shared.intelligence.citations import Citation

__all__ = [
    "Answer",
    "AnswerEvent",
    "AnswerRequest",
    "Answers",
    "Citation",
    "Delta",
    "Final",
    "Sources",
]
