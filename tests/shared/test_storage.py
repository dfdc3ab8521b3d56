"""Blobs, tables and queues over a real storage server."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from laptop.stack import free_port
from shared.config import StorageSettings
from shared.errors import StorageUnavailable
from shared.storage import JOBS, Changed, Exists, Storage, open_storage


@pytest.fixture
def place() -> str:
    """A partition and prefix of the test's own."""
    return f"test-{uuid.uuid4().hex}"


# --- blobs ---


async def test_a_blob_is_read_as_it_was_written_last(storage: Storage, place: str):
    await storage.put_blob(JOBS, f"{place}/a", b"one", content_type="text/plain")
    await storage.put_blob(JOBS, f"{place}/a", b"two", content_type="text/html")
    assert await storage.get_blob(JOBS, f"{place}/a") == b"two"
    info = await storage.blob_info(JOBS, f"{place}/a")
    assert info is not None
    assert (info.size, info.content_type) == (3, "text/html")


async def test_an_empty_blob_is_not_an_absent_one(storage: Storage, place: str):
    await storage.put_blob(JOBS, f"{place}/a", b"")
    assert await storage.get_blob(JOBS, f"{place}/a") == b""
    assert await storage.get_blob(JOBS, f"{place}/b") is None
    assert await storage.blob_info(JOBS, f"{place}/b") is None
    assert await storage.delete_blob(JOBS, f"{place}/a") is True
    assert await storage.delete_blob(JOBS, f"{place}/a") is False


async def test_a_container_and_a_table_that_are_not_there_hold_nothing_and_are_made_by_a_write(
    storage: Storage,
):
    name = f"x{uuid.uuid4().hex}"
    assert await storage.get_blob(name, "a") is None
    assert [blob async for blob in storage.list_blobs(name, "")] == []
    assert await storage.get_row(name, "p", "r") is None
    assert await storage.get_rows(name, "p", ["r"]) == {}
    assert [row async for row in storage.query_rows(name, "p")] == []
    await storage.delete_row(name, "p", "r")
    await asyncio.gather(*(storage.put_blob(name, f"{n}", b"a") for n in range(4)))
    await asyncio.gather(*(storage.put_row(name, {"PartitionKey": "p", "RowKey": f"{n}"}) for n in range(4)))
    assert len([blob async for blob in storage.list_blobs(name, "")]) == 4
    assert len([row async for row in storage.query_rows(name, "p")]) == 4


async def test_blobs_are_listed_and_deleted_by_prefix_alone(storage: Storage, place: str):
    for name in ("a/1", "a/2", "ab/3", "é/4"):
        await storage.put_blob(JOBS, f"{place}/{name}", b"x")
    names = [blob.name.removeprefix(f"{place}/") async for blob in storage.list_blobs(JOBS, f"{place}/a/")]
    assert names == ["a/1", "a/2"]
    assert await storage.delete_blobs(JOBS, f"{place}/a/") == 2
    left = [blob.name.removeprefix(f"{place}/") async for blob in storage.list_blobs(JOBS, f"{place}/")]
    assert left == ["ab/3", "é/4"]


async def test_only_blobs_that_are_still_as_listed_are_deleted(storage: Storage, place: str):
    for name in "abc":
        await storage.put_blob(JOBS, f"{place}/{name}", b"old")
    listed = [blob async for blob in storage.list_blobs(JOBS, place)]
    await storage.put_blob(JOBS, f"{place}/b", b"old")  # the same bytes, written again
    await storage.delete_blob(JOBS, f"{place}/c")
    assert await storage.delete_listed(JOBS, listed) == 1
    assert [blob.name[-1] async for blob in storage.list_blobs(JOBS, place)] == ["b"]


async def test_more_blobs_than_connections_are_deleted(storage: Storage, place: str):
    await asyncio.gather(*(storage.put_blob(JOBS, f"{place}/{n}", b"x") for n in range(150)))
    assert await storage.delete_blobs(JOBS, place) == 150


# --- tables ---


def row(place: str, key: str, **values: object) -> dict[str, object]:
    return {"PartitionKey": place, "RowKey": key, **values}


async def test_a_row_keeps_the_types_of_its_values(storage: Storage, place: str):
    values = {"text": "é\n'", "whole": 2**31 - 1, "real": 1700000000.123456, "flag": True, "none": ""}
    await storage.insert_row("jobs", row(place, "a", **values))
    found = await storage.get_row("jobs", place, "a")
    assert found is not None
    assert {name: found[name] for name in values} == values
    assert found["etag"]


async def test_an_insert_finds_a_row_that_is_there(storage: Storage, place: str):
    await storage.insert_row("jobs", row(place, "a", n=1))
    with pytest.raises(Exists):
        await storage.insert_row("jobs", row(place, "a", n=2))
    found = await storage.get_row("jobs", place, "a")
    assert found is not None
    assert found["n"] == 1


async def test_a_replacement_needs_the_row_as_it_was_read(storage: Storage, place: str):
    await storage.put_row("jobs", row(place, "a", n=1))
    read = await storage.get_row("jobs", place, "a")
    assert read is not None
    await storage.replace_row("jobs", row(place, "a", n=2), read["etag"])
    with pytest.raises(Changed):
        await storage.replace_row("jobs", row(place, "a", n=3), read["etag"])
    await storage.delete_row("jobs", place, "a")
    with pytest.raises(Changed):
        await storage.replace_row("jobs", row(place, "a", n=4), read["etag"])


async def test_a_merge_keeps_what_it_does_not_name_and_a_put_does_not(storage: Storage, place: str):
    await storage.merge_row("jobs", row(place, "a", n=1))
    await storage.merge_row("jobs", row(place, "a", m=2))
    merged = await storage.get_row("jobs", place, "a")
    assert merged is not None
    assert (merged["n"], merged["m"]) == (1, 2)
    await storage.put_row("jobs", row(place, "a", m=3))
    replaced = await storage.get_row("jobs", place, "a")
    assert replaced is not None
    assert "n" not in replaced


async def test_a_swap_writes_all_or_nothing(storage: Storage, place: str):
    await storage.put_row("jobs", row(place, "a", n=1))
    read = await storage.get_row("jobs", place, "a")
    assert read is not None
    await storage.swap_rows("jobs", [(row(place, "a", n=2), read["etag"]), (row(place, "b", n=2), None)])
    for stale in (
        [(row(place, "c", n=3), None), (row(place, "a", n=3), read["etag"])],  # changed since
        [(row(place, "c", n=3), None), (row(place, "b", n=3), None)],  # there already
        [(row(place, "c", n=3), None), (row(place, "d", n=3), read["etag"])],  # not there
    ):
        with pytest.raises(Changed):
            await storage.swap_rows("jobs", stale)
    rows = {found["RowKey"]: found["n"] async for found in storage.query_rows("jobs", place)}
    assert rows == {"a": 2, "b": 2}


async def test_one_of_many_writers_of_a_row_wins_each_time(storage: Storage, place: str):
    await storage.put_row("jobs", row(place, "a", n=0))

    async def increment() -> None:
        while True:
            read = await storage.get_row("jobs", place, "a")
            assert read is not None
            try:
                await storage.replace_row("jobs", row(place, "a", n=read["n"] + 1), read["etag"])
            except Changed:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(8)))
    found = await storage.get_row("jobs", place, "a")
    assert found is not None
    assert found["n"] == 8


@pytest.mark.parametrize("count", [1, 14, 62, 63, 230])
async def test_rows_are_read_by_their_keys_however_many(storage: Storage, place: str, count: int):
    await storage.put_rows("jobs", [row(place, f"k{n:03d}", n=n) for n in range(count)])
    keys = [f"k{n:03d}" for n in range(count)]
    found = await storage.get_rows("jobs", place, [*keys, *keys, "absent", "' or RowKey ne '"])
    assert {key: value["n"] for key, value in found.items()} == {key: n for n, key in enumerate(keys)}
    assert all(value["etag"] for value in found.values())
    assert await storage.get_rows("jobs", place, []) == {}


async def test_a_query_gives_a_range_of_keys_in_order_across_pages(storage: Storage, place: str):
    await storage.put_rows("jobs", [row(place, f"k{n:04d}", n=n) for n in range(1100)])
    every = [found["n"] async for found in storage.query_rows("jobs", place)]
    assert every == list(range(1100))
    some = [found["n"] async for found in storage.query_rows("jobs", place, first="k0010", last="k0013")]
    assert some == [10, 11, 12]
    limited = [found["n"] async for found in storage.query_rows("jobs", place, first="k1000", limit=2)]
    assert limited == [1000, 1001]
    other = [found async for found in storage.query_rows("jobs", f"{place}' or PartitionKey ne '")]
    assert other == []


# --- faults ---


async def test_storage_that_does_not_answer_is_told_as_such_and_may_be_tried_again():
    port = free_port()
    ends = ";".join(f"{kind}Endpoint=http://127.0.0.1:{port}/a" for kind in ("Blob", "Queue", "Table"))
    settings = StorageSettings(connection_string=f"AccountName=a;AccountKey=YQ==;{ends};")
    async with open_storage(settings) as storage:
        for attempt in (
            storage.get_blob(JOBS, "a"),
            storage.put_blob(JOBS, "a", b""),
            storage.get_row("jobs", "p", "r"),
            storage.get_rows("jobs", "p", ["r"]),
            storage.put_row("jobs", {"PartitionKey": "p", "RowKey": "r"}),
            storage.swap_rows("jobs", [({"PartitionKey": "p", "RowKey": "r"}, None)]),
            storage.delete_row("jobs", "p", "r"),
            storage.send("queue", "message"),
        ):
            with pytest.raises(StorageUnavailable) as caught:
                await attempt
            assert caught.value.retryable
            assert "127.0.0.1" not in caught.value.detail
