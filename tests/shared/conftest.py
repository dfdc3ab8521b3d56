"""Storage of the shared stack, in an event loop of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.config import StorageSettings
from shared.storage import Storage, open_storage


@pytest.fixture
async def storage(stack) -> AsyncIterator[Storage]:
    async with open_storage(StorageSettings(connection_string=stack.storage)) as opened:
        yield opened
