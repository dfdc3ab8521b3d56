"""Followers of jobs: bounded for a tenant and for the process."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from shared.errors import RateLimited
from shared.followers import (
    LOOK_SECONDS,
    LOOKS_PER_SECOND,
    PROCESS_FOLLOWERS_MAX,
    TENANT_FOLLOWERS_MAX,
    Followers,
)

pytestmark = pytest.mark.security("API4")


def test_a_tenant_has_so_many_followers_and_not_one_more() -> None:
    followers = Followers()
    with ExitStack() as open_streams:
        for _ in range(TENANT_FOLLOWERS_MAX):
            followers.check_room("a")
            open_streams.enter_context(followers.one_more("a"))
        with pytest.raises(RateLimited) as caught:
            followers.check_room("a")
        assert caught.value.retry_after
        followers.check_room("b")
    followers.check_room("a")


def test_so_has_the_process() -> None:
    followers = Followers()
    with ExitStack() as open_streams:
        for number in range(PROCESS_FOLLOWERS_MAX):
            followers.check_room(f"t{number}")
            open_streams.enter_context(followers.one_more(f"t{number}"))
        with pytest.raises(RateLimited):
            followers.check_room("another")


def test_all_together_look_no_more_often_than_the_table_bears() -> None:
    followers = Followers()
    assert followers.look_seconds == LOOK_SECONDS
    with ExitStack() as open_streams:
        for number in range(PROCESS_FOLLOWERS_MAX):
            open_streams.enter_context(followers.one_more(f"t{number}"))
        assert PROCESS_FOLLOWERS_MAX / followers.look_seconds <= LOOKS_PER_SECOND
