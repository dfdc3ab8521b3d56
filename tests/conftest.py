"""One stack for the whole run: Azurite, the model host and the embedded Functions host, as users run them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import security_table
from openid_issuer import OpenIdIssuer
from running_stack import RunningStack

from laptop.stack import Stack
from shared.config import StorageSettings
from shared.storage import Storage, open_storage


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The whole stack, started once for all tests that use it."""
    openid = OpenIdIssuer()
    # The sweeps offer thousands of wrong credentials from one address.
    settings = {
        **openid.settings,
        "GROUNDWORK_FAILED_SIGN_INS": "1000000",
        # Servers of tests listen there; the address of this machine itself stays forbidden.
        "GROUNDWORK_OUTGOING_NETWORKS": "127.0.0.2/32",
    }
    own = Stack(python=Path(sys.executable), folder=tmp_path_factory.mktemp("stack"), settings=settings)
    own.start()
    try:
        yield RunningStack(own, openid)
    finally:
        own.stop()
        openid.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--security", action="store_true", help="run the security tests and print their table")
    parser.addoption(
        "--mutations", action="store_true", help="also take each check away and see its tests fail (minutes)"
    )


@pytest.fixture
async def storage(stack: RunningStack) -> AsyncIterator[Storage]:
    """Storage of the shared stack, in an event loop of the test's own."""
    async with open_storage(StorageSettings(connection_string=stack.storage)) as opened:
        yield opened


# First, because xdist reads the groups in the same hook. xdist 3.8 finds none at all from pytest 9.2 on:
# each process of a parallel run then starts servers of its own.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share servers run in one process of a parallel run, so that each server starts once."""
    security_table.select(config, items)
    items.sort(key=lambda item: item.path.name == "test_left_behind.py")
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        area = item.path.relative_to(Path(__file__).parent).parts[0]
        if "stack" in fixtures:
            item.add_marker(pytest.mark.stack)
            item.add_marker(pytest.mark.xdist_group("stack"))
        else:
            item.add_marker(pytest.mark.xdist_group(area))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--security"):
        found = (each for group in terminalreporter.stats.values() for each in group)
        reports = [each for each in found if isinstance(each, pytest.TestReport)]
        terminalreporter.write_line("")
        for line in security_table.lines(reports):
            terminalreporter.write_line(line)
