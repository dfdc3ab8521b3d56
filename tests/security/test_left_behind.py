"""After everything else that the shared stack did in this run: what it left in logs, histories and tables.

`tests/conftest.py` puts this module last. What callers confided is remembered as they sent it
(`running_stack.confide`), so the whole run is what is looked through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_stack import API_KEY, CONFIDED, GIVEN_AWAY, RunningStack

pytestmark = pytest.mark.security("LLM02", "API8")

# The first part of every signed token, {"alg": …, and the secret of a webhook.
CREDENTIALS = re.compile(rb"eyJhbGciOi[\w-]+\.eyJ[\w-]+\.|whsec_[A-Za-z0-9+/]{20}")
OWN = "A lighthouse keeper confides that the lamp is polished with marmalade."


@pytest.fixture(scope="module")
def confided(stack: RunningStack) -> list[bytes]:
    """What was confided in this run, and one thing more: there is always something to look for."""
    tenant = stack.new_tenant()
    key = stack.key_for(tenant)
    stack.call("PUT", "/api/collections/lamp", {}, key=key)
    body = {"documents": [{"id": "lamp.txt", "content": OWN}]}
    _, job = stack.call("POST", "/api/collections/lamp/ingestions", body, key=key)
    stack.finished(job["id"], key=key)
    asked = {"collections": ["lamp"], "messages": [{"role": "user", "content": OWN}]}
    stack.call("POST", "/api/chat", asked, key=key)
    assert OWN in CONFIDED
    return [each.encode() for each in CONFIDED]


def test_no_log_and_no_history_of_the_run_holds_what_was_confided(
    stack: RunningStack, confided: list[bytes]
) -> None:
    files = list(_files(stack.stack.folder / "logs", stack.stack.folder / "devhost"))
    assert {"host.log", "azurite.log"} <= {file.name for file in files}
    assert any(file.suffix in (".db", ".sqlite", ".sqlite3") for file in files), files
    for file in files:
        _check(file.name, file.read_bytes(), confided)


def test_no_row_of_the_run_holds_what_was_confided(stack: RunningStack, confided: list[bytes]) -> None:
    tables = stack.rows_of_all_tables()
    assert all(tables[name] for name in ("jobs", "documents", "audit", "keys"))
    for name, rows in tables.items():
        _check(name, "\n".join(rows).encode("utf-8", "surrogatepass"), confided)


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def _check(name: str, data: bytes, confided: list[bytes]) -> None:
    for pattern in (GIVEN_AWAY, API_KEY, CREDENTIALS):
        found = pattern.search(data)
        assert found is None, (name, data[max(0, found.start() - 300) : found.end()])
    for text in confided:
        at = data.find(text)
        assert at < 0, (name, data[max(0, at - 300) : at + 100])
