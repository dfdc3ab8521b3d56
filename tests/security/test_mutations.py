"""Every check has a test that misses it where it is taken away, shown in a copy of the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation

from shared.config import APP_ROOT

RUN_SECONDS = 280


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_what_a_mutation_takes_away_is_there_once(mutation: Mutation):
    assert (APP_ROOT / mutation.file).read_text().count(mutation.old) == 1
    for argument in mutation.tests:
        path, _, name = argument.partition("::")
        if path.endswith(".py"):
            assert name in (APP_ROOT / path).read_text()


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the tree as it is now, with what was installed for it."""
    root = tmp_path_factory.mktemp("mutated") / "tree"
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=APP_ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (APP_ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(APP_ROOT / name, root / name)
    (root / ".groundwork").mkdir()
    (root / ".groundwork" / "node").symlink_to(APP_ROOT / ".groundwork" / "node")
    yield root
    shutil.rmtree(root)


@pytest.mark.mutation
@pytest.mark.parametrize(
    "mutation",
    [pytest.param(each, id=each.name, marks=pytest.mark.security(*each.risks)) for each in MUTATIONS],
)
def test_a_check_that_is_taken_away_is_missed(copy: Path, mutation: Mutation):
    source = copy / mutation.file
    sound = source.read_text()
    assert _fails_unchanged(copy, mutation.tests) == 0, "the tests fail with the check in its place"
    source.write_text(sound.replace(mutation.old, mutation.new))
    try:
        assert _failed(copy, mutation.tests) > 0, "no test misses the check"
    finally:
        source.write_text(sound)


@cache
def _fails_unchanged(root: Path, tests: tuple[str, ...]) -> int:
    return _failed(root, tests)


def _failed(root: Path, tests: tuple[str, ...]) -> int:
    """How many of the mutation's tests fail; whatever else goes wrong is no answer."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=RUN_SECONDS)
    found = re.search(r"(?:(\d+) failed)?(?:, )?(?:(\d+) passed)?.*? in [\d.]+s", done.stdout)
    assert done.returncode in (0, 1), done.stdout[-3000:]
    assert found, done.stdout[-3000:]
    assert "error" not in done.stdout.splitlines()[-1], done.stdout[-3000:]
    assert found[1] or found[2], "no test ran"
    return int(found[1] or 0)
