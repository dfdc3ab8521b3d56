"""What an activity's failure is as data."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from functions.activities import activity
from shared.errors import NotFound

Run = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Registered:
    """A blueprint that gives back what it is to register."""

    def activity_trigger(self, *, input_name: str) -> Callable[[Run], Run]:
        return lambda run: run


@pytest.mark.parametrize(
    ("raised", "code", "retryable"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "host_fault", True),
        (KeyError("a defect"), "internal_error", False),
        (NotFound("job"), "not_found", False),
    ],
    ids=["full disk", "defect", "typed"],
)
async def test_what_passes_by_itself_is_tried_again(raised: Exception, code: str, retryable: bool):
    async def work(payload: dict[str, Any]) -> None:
        raise raised

    outcome = await activity(Registered())(work)({})  # pyright: ignore[reportArgumentType]
    assert (outcome["error"]["code"], outcome["error"]["retryable"]) == (code, retryable)
    assert "space" not in outcome["error"]["message"]
