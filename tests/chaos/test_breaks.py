"""A product that loses, doubles, orphans or mixes documents is noticed: by each check, and by a campaign."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from laptop.environment import ROOT
from laptop.stack import Stack
from shared.knowledge.index import IndexSpec
from tests.intelligence.world import ALICE, World, chat_model, ranker, servers, world
from tests.knowledge.lifecycle import Lifecycle, lifecycle

from .breaks import BREAKS
from .documents import Line
from .invariants import Stores, check_documents

__all__ = ["chat_model", "lifecycle", "ranker", "servers", "world"]

CAMPAIGN_SECONDS = 500
# Lives enough for some documents to be written a second time.
KILLS = "15"


@pytest.fixture
def line(world: World) -> Line:
    """A document of the kind that `breaks.lost` loses."""
    return Line("w0/a.txt", 1)


async def written(lifecycle: Lifecycle, line: Line) -> None:
    """The next writing of a document, ingested; each batch of it embedded twice, as activities may be."""
    ticket = (await lifecycle.accept(**{line.name.removesuffix(".txt"): line.write()})).ticket
    await lifecycle.prepared(ticket)
    await lifecycle.ingestion.embedding.embed(ticket, 0, 0)
    assert await lifecycle.ingestion.settlement.commit(ticket, 0, {})
    await lifecycle.ingestion.settlement.finish(ticket)


async def faults(lifecycle: Lifecycle, servers: Stack, folder: Path, line: Line) -> list[str]:
    await lifecycle.world.indexes.close()  # it lets one in at a time
    stores = Stores(servers.storage, folder, "acme", lifecycle.world.name, IndexSpec("minilm", 384))
    return await asyncio.to_thread(check_documents, stores, [line])


async def test_nothing_is_found_where_nothing_is_broken(
    lifecycle: Lifecycle, servers: Stack, tmp_path: Path, line: Line
):
    for _ in range(2):
        await written(lifecycle, line)
    assert await faults(lifecycle, servers, tmp_path, line) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("lost", r"lost: w0/a\.txt is still accepted"),
        ("doubled", r"doubled: \('w0/a\.txt', 2, \d+\) is there \d+ times"),
        ("orphan", r"orphan: \d+ chunks of w0/a\.txt, version 1"),
    ],
)
async def test_what_a_broken_product_left_is_noticed(
    kind: str,
    said: str,
    lifecycle: Lifecycle,
    servers: Stack,
    tmp_path: Path,
    line: Line,
    monkeypatch: pytest.MonkeyPatch,
):
    BREAKS[kind](monkeypatch.setattr)
    for _ in range(2):
        await written(lifecycle, line)
    found = await faults(lifecycle, servers, tmp_path, line)
    assert any(re.match(said, fault) for fault in found), found


async def test_a_search_that_mixes_versions_is_noticed(
    lifecycle: Lifecycle, world: World, line: Line, monkeypatch: pytest.MonkeyPatch
):
    await written(lifecycle, line)
    await lifecycle.prepared((await lifecycle.accept(**{"w0/a": line.write()})).ticket)

    async def seen() -> list[str]:
        before = line.snapshot()
        found = await world.retrieval.search(ALICE, [world.name], " ", top=50)
        chunks = [passage.chunk for passage in found.passages]
        hits = [{"version": c.version, "start": c.start, "end": c.end, "text": c.text} for c in chunks]
        return line.faults(before, hits)

    assert await seen() == []
    BREAKS["mixed"](monkeypatch.setattr)
    assert [fault for fault in await seen() if "mixed versions" in fault]


@pytest.mark.mutation
@pytest.mark.timeout(CAMPAIGN_SECONDS + 60)
@pytest.mark.skipif(sys.platform != "linux", reason="hosts are forked, stopped and limited")
@pytest.mark.parametrize("kind", BREAKS)
def test_a_campaign_over_a_broken_product_fails(kind: str):
    command = [sys.executable, "-m", "tests.chaos.campaign", KILLS, "--seed", "5", "--fault", "none"]
    command += ["--point", "", "--broken", kind]
    campaign = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CAMPAIGN_SECONDS)
    assert campaign.returncode == 1, campaign.stdout + campaign.stderr[-3000:]
    found = re.search(rf"found: .*?(\d+) {kind}", campaign.stdout)
    assert found is not None
    assert int(found[1]) > 0, campaign.stdout
