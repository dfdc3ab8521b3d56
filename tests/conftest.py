"""One stack for the whole run: Azurite, the model host and the embedded Functions host, as users run them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_stack import RunningStack

from laptop.stack import Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole stack, started once for all tests that use it."""
    own = Stack(python=Path(sys.executable), folder=tmp_path_factory.mktemp("stack"))
    own.start()
    try:
        yield RunningStack(own)
    finally:
        own.stop()


# First, because xdist reads the groups in the same hook. xdist 3.8 finds none at all from pytest 9.2 on:
# each process of a parallel run then starts servers of its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share servers run in one process of a parallel run, so that each server starts once."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        area = item.path.relative_to(Path(__file__).parent).parts[0]
        if "stack" in fixtures:
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.xdist_group("stack"))
        else:
            item.add_marker(pytest.mark.xdist_group(area))
