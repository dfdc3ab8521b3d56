"""The checks of a campaign: each kind of fault is seen where it is, and none where there is none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from laptop.environment import ROOT
from shared import failpoints

from .campaign import POINTS, STOP_POINTS
from .documents import Line, makes_up, text_of
from .plan import FAULTS, STRAINED_SHARE, End, Strain, plan


def hits_of(text: str, version: int = 1, size: int = 400) -> list[dict[str, Any]]:
    starts = range(0, len(text), size)
    return [
        {"version": version, "start": at, "end": min(at + size, len(text)), "text": text[at : at + size]}
        for at in starts
    ]


@pytest.fixture
def line() -> Line:
    """A document of two writings, the first of which has been seen."""
    line = Line("a.txt", 1)
    first = line.write()
    assert line.faults(line.snapshot(), hits_of(first)) == []
    line.write()
    return line


def test_the_old_and_the_new_version_may_be_seen_until_the_new_one_was(line: Line):
    old, new = hits_of(line.texts[1]), hits_of(line.texts[2], version=2)
    before = line.snapshot()
    assert line.faults(before, old) == line.faults(before, new) == []
    assert line.faults(line.snapshot(), old) == ["a.txt: serial 1 is visible after serial 2"]


def test_both_versions_at_once_are_mixed(line: Line):
    mixed = hits_of(line.texts[1])[:1] + hits_of(line.texts[2], version=2)[1:]
    assert "mixed" in line.faults(line.snapshot(), mixed)[0]


@pytest.mark.parametrize(
    "change", [lambda hits: hits[1:], lambda hits: [*hits, hits[0]]], ids=("less", "twice")
)
def test_a_part_of_a_version_is_not_a_version(line: Line, change: Any):
    assert "not the whole" in line.faults(line.snapshot(), change(hits_of(line.texts[1])))[0]


def test_neither_version_is_a_loss_unless_the_document_is_being_deleted(line: Line):
    assert line.faults(line.snapshot(), []) == ["lost: nothing of a.txt is visible, and serial 1 was"]
    before = line.snapshot()
    line.deletion_begins()
    assert line.faults(before, []) == line.faults(line.snapshot(), []) == []
    line.deletion_accepted()
    assert line.faults(line.snapshot(), []) == []
    assert "after its deletion" in line.faults(line.snapshot(), hits_of(line.texts[2]))[0]


def test_text_that_is_covered_but_not_by_itself_is_not_made_up():
    text = text_of("a.txt", 1, 1)
    hits = hits_of(text)
    assert makes_up(hits, text)
    assert not makes_up([{**hits[0], "text": "x"}, *hits[1:]], text)


def test_one_seed_makes_one_plan_that_has_every_point_and_every_fault():
    lives = plan(7, 40, POINTS, FAULTS, STOP_POINTS)
    assert lives == plan(7, 40, POINTS, FAULTS, STOP_POINTS)
    assert lives != plan(8, 40, POINTS, FAULTS, STOP_POINTS)
    assert sorted(life.point for life in lives if life.end is End.POINT) == sorted(POINTS)
    ends = Counter(life.end for life in lives)
    assert (ends[End.KILL], ends[End.PAUSE]) == (40, 1)
    strains = Counter(life.strain for life in lives if life.strain)
    assert {*strains} == {*Strain} - {Strain.NONE}
    assert strains.total() == 40 * STRAINED_SHARE


def test_the_documentation_lists_every_fail_point_and_every_fault():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in (*POINTS, *FAULTS) if f"`{name}`" not in page] == []


def test_hosts_are_stopped_at_points_of_the_app():
    assert {*STOP_POINTS} <= {*failpoints.POINTS}
