"""Short documents are read together, and none pays for its company."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import pytest

from shared.errors import CorruptDocument, EmptyDocument, ParseTimeout
from shared.knowledge.chunking import ChunkBudget
from shared.knowledge.media import Media
from shared.knowledge.parsing import DEFAULT_LIMITS, ParserPool
from shared.knowledge.parsing.short import DOCUMENTS_TOGETHER, SHORT_BYTES, Answer, ShortDocuments, is_short
from tests.knowledge import fixtures

BUDGET = ChunkBudget(fixtures.tokenizer(), max_tokens=200)


class Reader:
    """Reads in place of a worker; fails as ``failing`` says for the request it is given."""

    def __init__(self, failing: dict[int, Exception] | None = None) -> None:
        self.sizes: list[int] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._failing = failing or {}

    async def ask(self, request: dict[str, Any], content: bytes) -> Answer:
        size = len(request.get("together", "1"))
        self.sizes.append(size)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if size in self._failing:
            raise self._failing[size]
        if "together" not in request:
            return {"name": request["name"]}, content
        headers = [{"name": each["name"], "bytes": each["bytes"]} for each in request["together"]]
        return {"together": headers}, content


def request(name: str, budget: ChunkBudget = BUDGET) -> dict[str, Any]:
    return {"name": name, "media": "text/plain", "title": None, "budget": asdict(budget)}


async def read(documents: ShortDocuments, number: int) -> list[Answer]:
    names = [str(each) for each in range(number)]
    return await asyncio.gather(*(documents.read(request(name), name.encode() * 3) for name in names))


@pytest.mark.parametrize(("number", "sizes"), [(1, [1]), (DOCUMENTS_TOGETHER, [25]), (26, [25, 1])])
async def test_what_comes_in_one_moment_goes_together(number: int, sizes: list[int]):
    reader = Reader()
    answers = await read(ShortDocuments(reader.ask), number)
    assert [(header["name"], payload.decode()) for header, payload in answers] == [
        (str(each), str(each) * 3) for each in range(number)
    ]
    assert reader.sizes == sizes


async def test_documents_cut_to_other_sizes_go_apart():
    reader = Reader()
    documents = ShortDocuments(reader.ask)
    budgets = (BUDGET, replace(BUDGET, max_tokens=100), BUDGET)
    await asyncio.gather(*(documents.read(request("a", budget), b"x") for budget in budgets))
    assert sorted(reader.sizes) == [1, 2]


@pytest.mark.parametrize("fault", [ParseTimeout(), CorruptDocument(), OSError()])
async def test_what_befalls_a_group_is_told_of_none(fault: Exception):
    reader = Reader({3: fault})
    answers = await read(ShortDocuments(reader.ask), 3)
    assert [header["name"] for header, _ in answers] == ["0", "1", "2"]
    assert reader.sizes == [3, 1, 1, 1]


async def test_what_befalls_a_document_alone_is_its_own():
    reader = Reader({3: CorruptDocument(), 1: ParseTimeout()})
    documents = ShortDocuments(reader.ask)
    results = await asyncio.gather(
        *(documents.read(request(str(n)), b"x") for n in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [ParseTimeout] * 3


async def test_a_groups_work_ends_with_its_last_caller():
    reader = Reader()
    reader.gate.clear()
    documents = ShortDocuments(reader.ask)
    callers = [asyncio.create_task(documents.read(request(str(n)), b"x")) for n in range(2)]
    await asyncio.sleep(0.01)
    callers[0].cancel()
    await asyncio.sleep(0.01)
    assert reader.cancelled == 0
    callers[1].cancel()
    await asyncio.sleep(0.01)
    assert reader.cancelled == 1


async def test_only_short_plain_texts_are_read_in_company():
    assert is_short(Media.MARKDOWN, b"x" * SHORT_BYTES)
    assert not is_short(Media.MARKDOWN, b"x" * (SHORT_BYTES + 1))
    assert not is_short(Media.PDF, b"x")


async def test_each_document_of_a_group_has_its_own_end():
    pool = ParserPool(workers=1, limits=replace(DEFAULT_LIMITS, seconds=30.0))
    contents = [b"# One\n\nText", b"", "# Größe\n\nMehr".encode(), b"\xff\xfe\x00"]
    try:
        results = await asyncio.gather(
            *(
                pool.prepare(content, Media.MARKDOWN, name=f"{n}.md", budget=BUDGET)
                for n, content in enumerate(contents)
            ),
            return_exceptions=True,
        )
        alone = [
            (
                await asyncio.gather(
                    pool.prepare(content, Media.MARKDOWN, name=f"{n}.md", budget=BUDGET),
                    return_exceptions=True,
                )
            )[0]
            for n, content in enumerate(contents)
        ]
    finally:
        await pool.close()
    assert isinstance(results[1], EmptyDocument)
    for together, single in zip(results, alone, strict=True):
        assert type(together) is type(single)
        if not isinstance(single, BaseException):
            assert together == single
