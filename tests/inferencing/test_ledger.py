"""Usage as many processes count it: nothing lost, nothing counted twice, no write for each call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.errors import StorageUnavailable
from shared.inferencing import CallContext, CallRecord, Usage
from shared.inferencing.ledger import FLUSH_SECONDS, ROW_CHARACTERS, Line, UsageLedger
from shared.inferencing.usage_report import summed

from .virtual_time import run


class TableInMemory:
    """The two methods of `Storage` that the ledger uses; ``down`` makes it refuse."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes = 0
        self.down = False

    async def put_row(self, table: str, row: dict[str, Any]) -> None:
        await asyncio.sleep(0.01)
        if self.down:
            raise StorageUnavailable
        self.writes += 1
        self.rows[row["PartitionKey"], row["RowKey"]] = row

    async def query_rows(
        self, table: str, partition: str, *, first: str = "", last: str = "~"
    ) -> AsyncIterator[dict[str, Any]]:
        for (tenant, key), row in sorted(self.rows.items()):
            if tenant == partition and first <= key < last:
                yield row


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def record(user: str = "ada", tenant: str = "contoso", outcome: str = "ok", **more: Any) -> CallRecord:
    return CallRecord(
        call=CallContext(tenant=tenant, user=user, purpose="answer", prompt_version=more.pop("prompt", "v1")),
        model=more.pop("model", "chat"),
        kind="chat",
        model_version="1",
        deployment="a",
        outcome=outcome,
        usage=Usage(100, 10, 5),
        estimated_cost=0.25,
        upstream_calls=1,
        seconds=1.0,
        seconds_to_first_token=None,
    )


def ledger(table: TableInMemory, clock: Clock | None = None) -> UsageLedger:
    return UsageLedger(table, clock=clock or Clock())  # type: ignore[arg-type]


async def told(book: UsageLedger, tenant: str = "contoso", *by: str) -> list[dict[str, Any]]:
    return await summed(book.lines(tenant, 0, 10**8 - 2), by)


def test_calls_are_written_together_once_every_few_seconds() -> None:
    async def scenario() -> None:
        table = TableInMemory()
        book = ledger(table)
        for _ in range(1000):
            book.record(record())
        await asyncio.sleep(FLUSH_SECONDS + 1)
        assert table.writes == 1
        assert (await told(ledger(table)))[0]["calls"] == 1000
        await asyncio.sleep(60)
        assert table.writes == 1

    run(scenario())


def test_a_killed_process_loses_no_more_than_what_it_counted_last() -> None:
    async def scenario() -> None:
        table = TableInMemory()
        killed = ledger(table)
        killed.record(record())
        await asyncio.sleep(FLUSH_SECONDS + 0.1)
        killed.record(record())
        await asyncio.sleep(FLUSH_SECONDS - 0.2)
        # It dies here; whoever asks finds the first call, and its next life does not overwrite that.
        again = ledger(table)
        again.record(record())
        await asyncio.sleep(FLUSH_SECONDS + 0.1)
        assert (await told(ledger(table)))[0]["calls"] >= 2

    run(scenario())


async def test_processes_never_lose_each_others_counts() -> None:
    table = TableInMemory()
    books = [ledger(table) for _ in range(10)]

    async def work(book: UsageLedger) -> None:
        for _ in range(5):
            book.record(record())
            await book.flush()

    await asyncio.gather(*(work(book) for book in books))
    assert (await told(ledger(table)))[0]["calls"] == 50
    # A process that asks counts its own once, whether they are written or not.
    books[0].record(record())
    assert (await told(books[0]))[0]["calls"] == 51
    await books[0].flush()
    assert (await told(books[0]))[0]["calls"] == 51


async def test_writing_again_changes_nothing() -> None:
    table = TableInMemory()
    book = ledger(table)
    book.record(record())
    await book.flush()
    before = {key: dict(row) for key, row in table.rows.items()}
    await book.flush()
    assert table.rows == before


async def test_what_storage_did_not_take_is_written_later() -> None:
    table = TableInMemory()
    book = ledger(table)
    book.record(record())
    table.down = True
    with pytest.raises(StorageUnavailable):
        await book.flush()
    book.record(record())
    table.down = False
    await book.flush()
    assert (await told(ledger(table)))[0]["calls"] == 2


async def test_an_hour_that_is_over_is_kept_once_and_a_clock_set_back_does_not_touch_it() -> None:
    table, clock = TableInMemory(), Clock()
    book = ledger(table, clock)
    book.record(record())
    clock.now += 3600
    book.record(record())
    await book.flush()
    clock.now -= 3600
    book.record(record())
    await book.flush()
    hours = await told(ledger(table), "contoso", "hour")
    assert [row["calls"] for row in hours] == [1, 2]


async def test_usage_is_told_apart_by_everything_it_is_counted_for() -> None:
    table = TableInMemory()
    book = ledger(table)
    for one in (
        record(),
        record(user="bob"),
        record(model="other"),
        record(prompt="v2"),
        record(outcome="rate_limited"),
        record(outcome="model_failed"),
        record(tenant="fabrikam"),
    ):
        book.record(one)
    await book.flush()
    rows = await told(ledger(table), "contoso", "user", "model", "prompt_version")
    assert [(row["user"], row["model"], row["prompt_version"], row["calls"]) for row in rows] == [
        ("ada", "chat", "v1", 3),
        ("ada", "chat", "v2", 1),
        ("ada", "other", "v1", 1),
        ("bob", "chat", "v1", 1),
    ]
    (all_of_it,) = await told(ledger(table))
    assert (all_of_it["refused"], all_of_it["failed"]) == (1, 1)
    assert (all_of_it["prompt_tokens"], all_of_it["estimated_cost"]) == (600, 1.5)
    assert (await told(ledger(table), "fabrikam"))[0]["calls"] == 1


async def test_many_users_take_several_rows_that_a_table_can_hold() -> None:
    table = TableInMemory()
    book = ledger(table)
    for number in range(500):
        book.record(record(user=f"{number}-" + "ü" * 190))
    await book.flush()
    assert len(table.rows) > 1
    assert all(len(row["entries"]) <= ROW_CHARACTERS for row in table.rows.values())
    assert len(await told(ledger(table), "contoso", "user")) == 500


async def test_only_the_hours_asked_for_are_summed() -> None:
    table, clock = TableInMemory(), Clock()
    book = ledger(table, clock)
    first = int(clock.now // 3600)
    for _ in range(4):
        book.record(record())
        await book.flush()
        clock.now += 3600
    lines: list[Line] = [line async for line in ledger(table).lines("contoso", first + 1, first + 2)]
    assert [line.hour for line in lines] == [first + 1, first + 2]
