"""What is particular to the embedded index: its process, its lock, its durability, its compaction."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import Conflict, IndexUnavailable, InvalidParameter
from shared.knowledge.index import IndexedChunk, IndexSpec, SearchRequest
from shared.knowledge.index.embedded import _SERVE, EmbeddedIndex
from shared.knowledge.index.shard import SLICE_CHUNKS, VACUUM_MIN_CHUNKS

Make = Callable[..., IndexedChunk]
SPEC = IndexSpec("chunks", dimensions=4)
ANYONE = SearchRequest("acme", ("handbook",), ("tenant:*",), top=50)
PROJECT = Path(__file__).resolve().parents[2]

# Uploads documents of three slices without end and says which one is acknowledged.
WRITER = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/tests"]
from shared.knowledge.index import IndexSpec
from shared.knowledge.index.embedded import EmbeddedIndex
from knowledge_index.conftest import make_chunk

async def main():
    index = EmbeddedIndex(Path(sys.argv[1]), IndexSpec("chunks", 4))
    await index.ensure()
    print("shard", index.process_id, flush=True)
    number = 0
    while True:
        await index.upload([make_chunk(document=f"d{number}", ordinal=n) for n in range(150)])
        print("acknowledged", number, flush=True)
        number += 1

asyncio.run(main())
"""


def kill_while_writing(folder: Path, victim: str, after: int, delay_seconds: float) -> int:
    """Kill the host or its shard process some time after an acknowledgement; return the last one seen."""
    command = [sys.executable, "-c", WRITER, str(folder), str(PROJECT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as host:
        assert host.stdout is not None
        shard = int(host.stdout.readline().split()[1])
        last = -1
        for _ in range(after):
            last = int(host.stdout.readline().split()[1])
        try:
            host.wait(timeout=delay_seconds)
        except subprocess.TimeoutExpired:
            os.kill(shard if victim == "shard" else host.pid, signal.SIGKILL)
        for line in host.stdout:
            last = int(line.split()[1])
    return last


@pytest.mark.parametrize("victim", ["shard", "host"])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, victim: str) -> None:
    chance = random.Random(victim)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        last = await asyncio.to_thread(
            kill_while_writing, folder, victim, chance.randint(1, 4), chance.uniform(0, 0.08)
        )
        index = EmbeddedIndex(folder, SPEC)
        listed = {item.document: item.chunks for item in await index.document_versions("acme", "handbook")}
        assert [listed.get(f"d{number}") for number in range(last + 1)] == [150] * (last + 1)
        found = await index.search(
            replace(ANYONE, text="train tickets", vector=(1.0, 0.0, 0.0, 0.0), count=True)
        )
        assert found.count == sum(listed.values())
        assert len(found.hits) == 50
        await index.close()


async def test_a_second_process_is_told_who_is_in_the_way(tmp_path: Path, chunk: Make) -> None:
    first = EmbeddedIndex(tmp_path, SPEC)
    await first.upload([chunk()])
    second = EmbeddedIndex(tmp_path, SPEC, lock_wait_seconds=0.2)
    with pytest.raises(IndexUnavailable, match="Another process has the embedded index open"):
        await second.ensure()
    waiting = asyncio.create_task(
        EmbeddedIndex(tmp_path, SPEC, lock_wait_seconds=20).count("acme", "handbook")
    )
    await asyncio.sleep(0.5)
    await first.close()
    assert await waiting == 1


async def test_a_process_that_waits_for_the_index_changes_nothing_of_it(tmp_path: Path, chunk: Make) -> None:
    """The library cuts off what was half written when it opens a shard, and looks for its lock after that."""
    first = EmbeddedIndex(tmp_path, SPEC)
    await first.upload([chunk()])
    (mappings,) = (tmp_path / SPEC.name / "shard").glob("segments/*/mutable_id_tracker.mappings")
    with mappings.open("ab") as file:
        file.write(b"\x02half")
    being_written = mappings.read_bytes()
    with pytest.raises(IndexUnavailable):
        await EmbeddedIndex(tmp_path, SPEC, lock_wait_seconds=0.3).ensure()
    assert mappings.read_bytes() == being_written
    await first.close()


async def test_a_process_that_waits_for_the_index_ends_with_who_started_it(tmp_path: Path) -> None:
    first = EmbeddedIndex(tmp_path, SPEC)
    await first.ensure()
    command = [sys.executable, "-c", _SERVE, str(PROJECT), str(tmp_path / SPEC.name), "4", "600"]
    waiting = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting.wait(), 1.0)
    assert waiting.stdin is not None
    waiting.stdin.close()
    await asyncio.wait_for(waiting.communicate(), 60)
    assert waiting.returncode == 0
    await first.close()


async def test_a_shard_process_that_dies_is_started_again(tmp_path: Path, chunk: Make) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    await index.upload([chunk()])
    assert index.process_id is not None
    os.kill(index.process_id, signal.SIGSTOP)
    in_flight = asyncio.create_task(index.count("acme", "handbook"))
    await asyncio.sleep(0.1)
    os.kill(index.process_id, signal.SIGKILL)
    with pytest.raises(IndexUnavailable) as caught:
        await in_flight
    assert caught.value.retryable
    assert await index.count("acme", "handbook") == 1
    await index.close()


async def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    await index.ensure()
    await index.close()
    await index.close()
    with pytest.raises(IndexUnavailable, match="closed"):
        await index.count("acme", "handbook")


async def test_closing_finishes_what_is_under_way(tmp_path: Path, chunk: Make) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    await index.ensure()
    upload = asyncio.create_task(index.upload([chunk(ordinal=n) for n in range(SLICE_CHUNKS * 3 + 1)]))
    await asyncio.sleep(0.01)
    await index.close()
    await upload
    again = EmbeddedIndex(tmp_path, SPEC)
    assert await again.count("acme", "handbook") == SLICE_CHUNKS * 3 + 1
    await again.close()


async def test_other_dimensions_than_the_index_has_are_refused(tmp_path: Path, chunk: Make) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    with pytest.raises(InvalidParameter, match="3 dimensions"):
        await index.upload([chunk(vector=(1.0, 0.0, 0.0))])
    with pytest.raises(InvalidParameter, match="5 dimensions"):
        await index.search(replace(ANYONE, vector=(1.0, 0.0, 0.0, 0.0, 0.0)))
    await index.close()
    with pytest.raises(Conflict, match="dimensions"):
        await EmbeddedIndex(tmp_path, IndexSpec("chunks", dimensions=8)).ensure()


async def test_searches_pass_a_long_upload(tmp_path: Path, chunk: Make) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    await index.upload([chunk(document="first.md")])
    upload = asyncio.create_task(index.upload([chunk(ordinal=n) for n in range(3000)]))
    answered = 0
    while not upload.done():
        result = await index.search(replace(ANYONE, text="tickets", vector=(1.0, 0.0, 0.0, 0.0)))
        assert result.hits
        answered += not upload.done()
    assert answered >= 5
    assert await index.count("acme", "handbook") == 3001
    await index.close()


async def test_deleted_chunks_leave_the_disk_when_the_index_is_opened_again(
    tmp_path: Path, chunk: Make
) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    many = VACUUM_MIN_CHUNKS + 500
    await index.upload([chunk(version=1, ordinal=n, text=f"{n} old words " * 50) for n in range(many)])
    await index.upload([chunk(version=2, ordinal=n) for n in range(100)])
    await index.delete_document("acme", "handbook", "travel.md")
    await index.upload([chunk(version=3, ordinal=n) for n in range(100)])
    digest = await index.digest("acme", "handbook")
    assert index.process_id is not None
    await index.close()
    grown = segment_bytes(tmp_path)
    index = EmbeddedIndex(tmp_path, SPEC)
    assert await index.digest("acme", "handbook") == digest
    assert (await index.search(replace(ANYONE, text="tickets", count=True))).count == 100
    await index.close()
    assert segment_bytes(tmp_path) < grown / 2  # a quarter when rewritten, 98% when merely reopened


def segment_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.glob("**/segments/**/*") if file.is_file())


async def test_the_shard_process_ends_with_its_host(tmp_path: Path) -> None:
    last = await asyncio.to_thread(kill_while_writing, tmp_path, "host", 1, 0.0)
    assert last >= 0
    index = EmbeddedIndex(tmp_path, SPEC)  # waits for the lock of the process left behind
    assert await index.count("acme", "handbook") >= 150
    await index.close()


async def test_one_index_serves_several_event_loops(tmp_path: Path, chunk: Make) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    await index.upload([chunk()])
    counts = await asyncio.gather(
        *(asyncio.to_thread(asyncio.run, index.count("acme", "handbook")) for _ in range(4))
    )
    assert counts == [1, 1, 1, 1]
    await index.close()


async def test_words_are_found_by_their_stem_in_other_languages_and_scripts(
    tmp_path: Path, chunk: Make
) -> None:
    index = EmbeddedIndex(tmp_path, SPEC)
    texts = [
        "The committee has approved new bicycles for commuting.",
        "Der Ausschuss genehmigt Dienstreisen ins Ausland.",
        "出張の申請は上司の承認が必要です。",
        "Комитет одобряет командировки.",
    ]
    await index.upload([chunk(ordinal=n, text=text, title="", headings=()) for n, text in enumerate(texts)])

    async def first(text: str) -> int:
        return (await index.search(replace(ANYONE, text=text))).hits[0].chunk.ordinal

    assert await first("what did the committee say about a bicycle") == 0
    assert await first("Was ist mit Dienstreisen?") == 1
    assert await first("出張の承認") == 2
    assert await first("командировки") == 3
    assert (await index.search(replace(ANYONE, text="what is the"))).hits == ()
    await index.close()
