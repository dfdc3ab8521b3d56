"""Lines, shards and ledgers of batches, without a stack."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from batch_files import jsonl, request
from hypothesis import given
from hypothesis import strategies as st

from shared.inferencing.batches.ledger import Ledger, Outcome, entries
from shared.inferencing.batches.lines import MAX_LINE_BYTES, LineSplitter, answered_line, parse_line
from shared.inferencing.batches.plans import (
    MAX_LINES,
    SHARD_BYTES,
    SHARD_LINES,
    Indexer,
    Plan,
    Shard,
    numbered_lines,
)
from shared.jobs import Ticket
from shared.storage import Exists, Storage

CHAT = "/v1/chat/completions"
TICKET = Ticket("t", "a" * 32)


def split(data: bytes, sizes: list[int]) -> list[tuple[int, int, bytes | None]]:
    splitter, found, position = LineSplitter(), [], 0
    for size in [*sizes, len(data)]:
        found += splitter.feed(data[position : position + size])
        position += size
    found += splitter.end()
    return [(line.start, line.end, line.data) for line in found]


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"\n")), st.lists(st.integers(0, 30)))
def test_lines_are_the_same_however_the_bytes_arrive(data: bytes, sizes: list[int]):
    found = split(data, sizes)
    assert found == split(data, [])
    assert b"".join(line or b"" for _, _, line in found) == data
    assert [data[start:end] for start, end, _ in found] == [line for _, _, line in found]


@pytest.mark.parametrize(("size", "kept"), [(MAX_LINE_BYTES, True), (MAX_LINE_BYTES + 1, False)])
def test_a_line_that_is_too_long_is_not_held(size: int, kept: bool):
    data = b"x" * (size - 1) + b"\n" + b"next\n"
    (_, end, first), (start, _, second) = split(data, [1000])
    assert ((first is not None), second) == (kept, b"next\n")
    assert end == start == size


def indexed(data: bytes) -> Indexer:
    indexer = Indexer(CHAT)
    for start in range(0, len(data), 1000):
        indexer.feed(data[start : start + 1000])
    indexer.end()
    return indexer


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 777):
        yield data[start : start + 777]


async def test_shards_cover_every_line_once_with_its_number():
    lines = [request(f"r-{n}") for n in range(2 * SHARD_LINES + 7)]
    data = jsonl([b"", *lines[:300], b"  ", *lines[300:]])
    shards = indexed(data).shards
    assert [shard.lines for shard in shards] == [SHARD_LINES, SHARD_LINES, 7]
    found = []
    for shard in shards:
        part = data[shard.start : shard.end]
        async for number, raw in numbered_lines(pieces(part), shard.start, shard.first_line):
            found.append((number, json.loads(raw.data or b"")["custom_id"]))
    assert found == [(n + 1, f"r-{n}") for n in range(len(lines))]


def test_a_shard_is_bounded_by_bytes_too():
    lines = [request(f"r-{n}", "x" * (SHARD_BYTES // 3)) for n in range(7)]
    assert [shard.lines for shard in indexed(jsonl(lines)).shards] == [2, 2, 2, 1]
    long = [request(f"r-{n}", "x" * (2 * SHARD_BYTES)) for n in range(2)]
    assert [shard.lines for shard in indexed(jsonl(long)).shards] == [1, 1]


@pytest.mark.parametrize(("lines", "full"), [(MAX_LINES, False), (MAX_LINES + 1, True)])
def test_an_input_has_at_most_fifty_thousand_lines(lines: int, full: bool):
    assert indexed(b"{}\n" * lines).is_full == full


def test_lines_of_the_same_custom_id_are_suspected_and_no_others():
    assert indexed(jsonl([request("a"), request("b")])).suspects() == set()
    assert len(indexed(jsonl([request("a"), request("b"), request("a")])).suspects()) == 1


def test_a_plan_comes_back_as_it_was_kept():
    plan = Plan(3, (Shard(0, 9, 1, 2, 1), Shard(9, 20, 3, 1)), ("chat",), 1, ("b1", "b2"), '"etag"')
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_an_answer_keeps_its_bytes_and_stays_on_one_line():
    body = b'{\n  "a": 1.50,\r\n  "b": "x\\ny"\n}'
    line = answered_line("j", 1, "id\n", 200, body)
    assert line.count(b"\n") == 1
    assert b'"a": 1.50' in line
    assert json.loads(line)["response"]["body"] == {"a": 1.5, "b": "x\ny"}


def test_a_url_may_leave_out_the_version_and_nothing_else():
    for url, fault in ((CHAT, None), ("/chat/completions", None), ("/v2/chat/completions", "url_mismatch")):
        line = parse_line(json.dumps({**request("a"), "url": url}).encode(), CHAT)
        assert (line.fault and line.fault.code) == fault


class Rows:
    """The part of a storage account that a ledger uses, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.blocks: dict[str, bytes] = {}

    async def insert_row(self, _: str, row: dict[str, Any]) -> None:
        if row["RowKey"] in self.rows:
            raise Exists
        self.rows[row["RowKey"]] = row

    async def query_rows(self, _: str, __: str, *, first: str, last: str) -> AsyncIterator[dict[str, Any]]:
        for key in sorted(self.rows):
            if first <= key < last:
                yield self.rows[key]

    async def stage_block(self, _: str, __: str, data: bytes) -> str:
        self.blocks[data.hex()] = data
        return data.hex()


def outcomes(*indices: int) -> list[Outcome]:
    return [Outcome(index, b"%d\n" % index, index % 2 == 0) for index in indices]


async def test_two_runs_of_a_shard_note_no_line_twice():
    rows = Rows()
    storage = cast("Storage", rows)
    first, second = (Ledger(storage, TICKET, 0, "out", "err") for _ in range(2))
    await first.append(outcomes(0, 1, 2))
    await second.append(outcomes(2, 3, 4))  # it has not read what the first has noted
    await first.append(outcomes(3, 5))
    await second.append(outcomes(0, 5))
    noted = [entry async for entry in entries(storage, TICKET)]
    blocks = [block for entry in noted for block in (entry.output, entry.errors) if block]
    kept = b"".join(rows.blocks[block] for block in blocks).split()
    assert sorted(kept) == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert sum(entry.answered.bit_count() + entry.failed.bit_count() for entry in noted) == 6
    fresh = Ledger(storage, TICKET, 0, "out", "err")
    await fresh.read()
    assert fresh.done == 0b111111


async def test_the_ledgers_of_other_shards_are_apart():
    storage = cast("Storage", Rows())
    await Ledger(storage, TICKET, 1, "out", "err").append(outcomes(0))
    other = Ledger(storage, TICKET, 2, "out", "err")
    await other.read()
    assert other.done == 0
