"""Grounded answers end to end, by quoting and by synthesis."""

from __future__ import annotations

import pytest
from conftest import ALICE, World

from shared.intelligence import AnswerRequest, Delta, Final, Sources

HANDBOOK = """# Handbook

## Working time

The week has 38 hours. Where the work allows it, you may work from home up to two days a week.

## Notice

| Years of service | Notice |
| --- | --- |
| up to 2 | 1 month |
| more than 2 | 2 months |

## Gifts

You may accept a gift worth up to EUR 40, such as a book. Ask Dr. Reyes in Hall No. 2 about others.
"""


def asking(world: World, question: str, model: str = "quoter") -> AnswerRequest:
    return AnswerRequest((world.name,), [{"role": "user", "content": question}], model=model)


async def test_quotes_the_sentence_that_answers(world: World) -> None:
    await world.collection()
    chunks = await world.add("handbook.md", HANDBOOK)
    answer = await world.answers.answer(ALICE, asking(world, "How many days a week may I work from home?"))
    assert answer.found
    assert "up to two days a week. [1]" in answer.text
    first = answer.citations[0]
    assert first.chunk in {chunk.id for chunk in chunks}
    assert HANDBOOK[first.start : first.end] == first.quote


async def test_says_so_when_the_documents_do_not_answer(world: World) -> None:
    await world.collection()
    await world.add("handbook.md", HANDBOOK)
    answer = await world.answers.answer(ALICE, asking(world, "What is the capital of Mongolia?"))
    assert not answer.found
    assert answer.citations == ()
    assert answer.text == "Not found in the documents."
