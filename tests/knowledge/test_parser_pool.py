"""Reading in subprocesses: what a bad document may do to them, and what it may not do to the host."""

import asyncio
import errno
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from bench.hostile_files import ATTACKS
from shared.errors import (
    Cancelled,
    CorruptDocument,
    DocumentTooComplex,
    EmptyDocument,
    HostFault,
    InternalError,
    NoText,
    ParseMemoryExceeded,
    ParseTimeout,
)
from shared.knowledge.chunking import ChunkBudget, chunk
from shared.knowledge.media import Media
from shared.knowledge.parsing import DEFAULT_LIMITS, ParserPool, Prepared, parse
from shared.knowledge.parsing.pool import _Worker
from tests.knowledge import fixtures

BUDGET = ChunkBudget(fixtures.tokenizer(), max_tokens=200)
LIMITS = replace(DEFAULT_LIMITS, seconds=30.0)

# Putting marks of two classes in canonical order takes time that grows with the square of their number.
SLOW = ("a" + "\u0301\u0323" * 500_000).encode()
# Each number becomes an object of 50 bytes and more.
GREEDY = b"[" + b"1.5," * 3_500_000 + b"1]"


MakePool = Callable[..., ParserPool]


@pytest.fixture
async def make_pool() -> AsyncIterator[MakePool]:
    """Makes pools with other limits, and closes them."""
    pools: list[ParserPool] = []

    def make(workers: int = 1, idle_seconds: float = 60.0, **limits: Any) -> ParserPool:
        pools.append(ParserPool(workers=workers, limits=replace(LIMITS, **limits), idle_seconds=idle_seconds))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


@pytest.fixture
def pool(make_pool: MakePool) -> ParserPool:
    return make_pool(workers=2)


async def prepare(
    pool: ParserPool, content: bytes = b"# One\n\nText", media: Media = Media.MARKDOWN
) -> Prepared:
    return await pool.prepare(content, media, name="notes.md", budget=BUDGET)


def workers() -> list[psutil.Process]:
    """The living parser processes of this one."""
    found = []
    for child in psutil.Process().children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "parsing.worker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


async def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_document_comes_back_as_parsed_and_cut_in_process(pool: ParserPool) -> None:
    content = fixtures.pdf([["One. " * 80], [], ["Größe."]], outline={"One.": 0}, title="T")
    document = parse(content, Media.PDF, "x.pdf")
    prepared = await pool.prepare(content, Media.PDF, name="x.pdf", budget=BUDGET)
    assert prepared == Prepared(document, chunk(document, BUDGET))


async def test_a_title_given_by_the_caller_replaces_the_documents(pool: ParserPool) -> None:
    content = b"# One\n\n" + b"Text. " * 400
    prepared = await pool.prepare(
        content, Media.MARKDOWN, name="a.md", budget=BUDGET, title="Other\r\nname\x00"
    )
    assert prepared.document.title == "Other name"
    assert prepared.chunks[-1].context == "Other name > One"


async def test_what_is_wrong_with_a_document_comes_back_as_its_error(pool: ParserPool) -> None:
    with pytest.raises(EmptyDocument):
        await prepare(pool, b"")
    with pytest.raises(NoText) as failure:
        await prepare(pool, fixtures.pdf([[], []]), Media.PDF)
    assert failure.value.extra == {"pages": 2}
    assert len(workers()) == 1


async def test_a_document_that_is_too_large_never_reaches_a_worker(make_pool: MakePool) -> None:
    pool = make_pool(input_bytes=1_000)
    with pytest.raises(DocumentTooComplex):
        await prepare(pool, b"x" * 1_001)
    assert not workers()
    assert await prepare(pool, b"x" * 1_000)


async def test_a_wrong_tokenizer_is_not_the_documents_fault(pool: ParserPool) -> None:
    with pytest.raises(InternalError, match="no-such-thing"):
        await pool.prepare(
            b"text", Media.TEXT, name=None, budget=ChunkBudget("package:no-such-thing:tokenizer.json", 200)
        )


async def test_a_full_disk_is_not_the_documents_fault_and_passes(
    pool: ParserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "TemporaryFile", full)
        with pytest.raises(HostFault):
            await prepare(pool)
    assert await prepare(pool)


async def test_documents_share_a_bounded_number_of_workers(pool: ParserPool) -> None:
    assert not workers()
    prepared = await asyncio.gather(*(prepare(pool, b"# %d\n\nText" % number) for number in range(12)))
    assert [item.document.title for item in prepared] == [str(number) for number in range(12)]
    assert 1 <= len(workers()) <= 2


class TestLimits:
    async def test_a_document_that_takes_too_long_fails_alone(self, make_pool: MakePool) -> None:
        pool = make_pool(seconds=3.0)
        await prepare(pool)
        (worker,) = workers()
        started = time.monotonic()
        slow, after = await asyncio.gather(
            prepare(pool, SLOW, Media.TEXT), prepare(pool), return_exceptions=True
        )
        assert isinstance(slow, ParseTimeout)
        assert isinstance(after, Prepared)
        assert time.monotonic() - started < 30
        assert not worker.is_running()

    @pytest.mark.parametrize(("start", "left"), [(0.9, 8.0), (3.0, 6.0), (30.0, 4.0)])
    async def test_a_slow_start_is_taken_from_the_documents_time_half_at_the_most(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, start: float, left: float
    ) -> None:
        allowed: list[float] = []
        watched, load, ahead = _Worker._watched, _Worker._load, [0.0]
        now = time.monotonic

        def slow_load(self: _Worker, tokenizer: str) -> Any:
            ahead[0] = start
            return load(self, tokenizer)

        def noting(self: _Worker, seconds: float) -> Any:
            allowed.append(seconds)
            return watched(self, seconds)

        pool = make_pool(seconds=8.0)
        await prepare(pool)
        monkeypatch.setattr(_Worker, "_load", slow_load)
        monkeypatch.setattr(_Worker, "_watched", noting)
        monkeypatch.setattr(time, "monotonic", lambda: now() + ahead[0])
        await prepare(pool)
        assert allowed == [pytest.approx(left, abs=0.5)]

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems watch the resident size by polling")
    async def test_a_document_that_takes_too_much_memory_fails_alone(self, make_pool: MakePool) -> None:
        pool = make_pool(memory_bytes=200 * 1024 * 1024, output_chars=10**8)
        with pytest.raises(ParseMemoryExceeded):
            await prepare(pool, GREEDY, Media.JSON)
        assert (await prepare(pool)).document.title == "One"

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems watch the resident size by polling")
    async def test_an_allocator_that_gives_up_is_told_from_a_crash(self, make_pool: MakePool) -> None:
        pool = make_pool(memory_bytes=200 * 1024 * 1024)
        cell = '<row r="{0}"><c r="I{0}"><v>1</v></c></row>'
        corners = cell.format(1).replace("I", "A") + cell.format(1_000_000)
        sheet = fixtures.xlsx({"A": f"<sheetData>{corners}</sheetData>"})
        with pytest.raises(ParseMemoryExceeded):
            await prepare(pool, sheet, Media.XLSX)

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems watch the resident size by polling")
    async def test_a_reader_that_aborts_without_a_word_for_want_of_memory_is_told_from_a_crash(
        self, make_pool: MakePool
    ) -> None:
        pool = make_pool(memory_bytes=300 * 1024 * 1024)
        bomb = ATTACKS["stream-bomb.pdf"]()
        with pytest.raises(ParseMemoryExceeded):
            await prepare(pool, bomb, Media.PDF)
        assert (await prepare(pool)).document.title == "One"

    @pytest.mark.skipif(sys.platform == "win32", reason="a signal tells how a process ended")
    @pytest.mark.parametrize(
        ("number", "error"),
        [("SIGSEGV", CorruptDocument), ("SIGABRT", CorruptDocument), ("SIGKILL", ParseMemoryExceeded)],
    )
    async def test_a_worker_that_dies_fails_its_document_alone(
        self, pool: ParserPool, number: str, error: type[Exception]
    ) -> None:
        await prepare(pool)
        (worker,) = workers()
        slow = asyncio.create_task(prepare(pool, SLOW, Media.TEXT))
        before = worker.cpu_times().user
        await eventually(lambda: worker.cpu_times().user > before + 0.2)
        worker.send_signal(getattr(signal, number))
        with pytest.raises(error):
            await slow
        assert (await prepare(pool)).document.title == "One"

    async def test_an_idle_worker_that_died_is_replaced_unnoticed(self, pool: ParserPool) -> None:
        await prepare(pool)
        (worker,) = workers()
        worker.kill()
        await eventually(lambda: worker not in workers())
        assert (await prepare(pool)).document.title == "One"


class TestLifetime:
    async def test_cancelling_ends_the_work(self, pool: ParserPool) -> None:
        await prepare(pool)
        (worker,) = workers()
        slow = asyncio.create_task(prepare(pool, SLOW, Media.TEXT))
        await asyncio.sleep(0.3)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        await eventually(lambda: worker not in workers())
        assert (await prepare(pool)).document.title == "One"

    async def test_closing_ends_all_workers_and_the_work_on_its_way(self, make_pool: MakePool) -> None:
        pool = make_pool(workers=2)
        await prepare(pool)
        slow = asyncio.create_task(prepare(pool, SLOW, Media.TEXT))
        await asyncio.sleep(0.3)
        await pool.close()
        with pytest.raises((Cancelled, asyncio.CancelledError)):
            await slow
        assert not workers()

    async def test_idle_workers_go_and_come_back(self, make_pool: MakePool) -> None:
        pool = make_pool(idle_seconds=0.3)
        await prepare(pool)
        assert len(workers()) == 1
        await eventually(lambda: not workers())
        assert (await prepare(pool)).document.title == "One"

    async def test_a_worker_is_replaced_after_many_documents(self, make_pool: MakePool) -> None:
        pool = make_pool()
        await prepare(pool)
        (first,) = workers()
        for number in [25] * 199 + [23]:  # 4,998 more
            await asyncio.gather(*(prepare(pool, b"x", Media.TEXT) for _ in range(number)))
        assert workers() == [first]
        await prepare(pool, b"x", Media.TEXT)
        await prepare(pool, b"x", Media.TEXT)
        (second,) = workers()
        assert second != first

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process its size")
    async def test_a_worker_that_has_grown_is_replaced(self, make_pool: MakePool) -> None:
        small = make_pool(memory_bytes=100 * 1024 * 1024)  # a quarter of it is less than any Python takes
        for _ in range(2):
            await prepare(small)
            await eventually(lambda: not workers())

    def test_one_pool_serves_several_event_loops(self) -> None:
        pool = ParserPool(workers=1, limits=LIMITS)
        for _ in range(2):
            assert asyncio.run(prepare(pool)).document.title == "One"
        asyncio.run(pool.close())

    @pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
    @pytest.mark.parametrize("doing", ["idle", "busy"])
    async def test_workers_end_with_a_host_that_is_killed(self, doing: str) -> None:
        code = (
            "import asyncio, sys\n"
            "from tests.knowledge.test_parser_pool import *\n"
            "async def main():\n"
            "    pool = ParserPool(workers=1, limits=replace(LIMITS, seconds=1.0))\n"
            "    await prepare(pool)\n"
            "    print(workers()[0].pid, flush=True)\n"
            "    await prepare(pool, SLOW, Media.TEXT) if 'busy' in sys.argv else await asyncio.sleep(60)\n"
            "asyncio.run(main())\n"
        )
        host = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, doing, stdout=asyncio.subprocess.PIPE, cwd=os.getcwd()
        )
        assert host.stdout is not None
        worker = psutil.Process(int(await host.stdout.readline()))
        await asyncio.sleep(0.3)
        host.kill()
        await host.wait()
        await eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 60)


class TestIsolation:
    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    async def test_a_worker_inherits_no_environment_and_no_open_file(
        self, pool: ParserPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PLANTED_SECRET", "planted")
        inherited = os.open(__file__, os.O_RDONLY)
        os.set_inheritable(inherited, True)
        await prepare(pool)
        (worker,) = workers()
        os.close(inherited)
        assert "PLANTED_SECRET" not in worker.environ()
        assert not worker.open_files() or all(__file__ != item.path for item in worker.open_files())
        assert worker.net_connections() == []

    async def test_nothing_of_a_document_reaches_logs_or_streams(
        self, make_pool: MakePool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        pool = make_pool(seconds=2.0)
        with pytest.raises(CorruptDocument):
            await prepare(pool, b'{"confidential": ', Media.JSON)
        with pytest.raises(CorruptDocument):
            await prepare(pool, b"%PDF-1.7 confidential %%EOF", Media.PDF)
        with pytest.raises(ParseTimeout):
            await prepare(pool, b"confidential" + SLOW, Media.TEXT)
        ended = [record for record in caplog.records if record.message == "parser_worker_ended"]
        assert [record.__dict__["code"] for record in ended] == ["parse_timeout"]
        assert "confidential" not in caplog.text
        assert capfd.readouterr() == ("", "")
