"""What is loaded into Azurite changes how things are found, removed and written, not the results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laptop.environment import AZURITE, ensure_azurite

THINGS = 3000


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("lookups")
    node, *preload, _ = ensure_azurite(Path(sys.executable))
    (folder / "node_modules").symlink_to(next(p for p in AZURITE.parents if p.name == "node_modules"))
    script = shutil.copy(Path(__file__).with_name("azurite_lookups.js"), folder)
    command = [node, *preload, str(script), str(THINGS)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(run.stdout)


def test_one_thing_is_found_without_reading_through_the_others(told: dict[str, Any]):
    assert told["found"]["value"] == 1401
    assert told["absent"]["value"] is None
    assert told["ofOtherContainer"]["value"] is None
    assert told["chained"]["value"] == [1401]
    for lookup in ("found", "absent", "ofOtherContainer", "chained"):
        assert told[lookup]["comparisons"] < 20


def test_other_queries_find_what_they_found(told: dict[str, Any]):
    assert told["operators"] == len([n for n in range(THINGS // 2) if f"n{n}" > "n98"])
    assert told["all"] == [THINGS, THINGS]


def test_to_remove_few_or_none_builds_no_index_anew(told: dict[str, Any]):
    for removal in ("nothingRemoved", "noneRemoved", "oneRemoved", "fewRemoved"):
        assert told[removal]["rebuilds"] == 0
    assert told["manyRemoved"]["rebuilds"] > 0
    assert told["oneRemoved"]["value"] is None
    assert told["fewRemoved"]["value"] == told["manyRemoved"]["value"] == 0
    assert told["left"] == [THINGS - 23, THINGS // 2 - 12, 1603]


def test_messages_are_found_by_their_times_without_reading_through_the_others(told: dict[str, Any]):
    assert [each["value"] for each in told["expired"]] == [[], [0], [0, 1, 2]]
    assert all(each["comparisons"] < 20 for each in told["expired"])
    assert told["visible"] == [0, THINGS // 10, THINGS]
    assert told["visibleAfter"] == [THINGS // 10 - 16, THINGS - 16, THINGS]


def test_what_took_time_to_write_is_written_again_later_and_at_the_end_in_any_case(told: dict[str, Any]):
    assert not told["clean"]
    assert told["again"] == [False, False, True]
    assert told["kept"] == THINGS - 21
