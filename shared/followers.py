"""Followers: how many may watch jobs live at a time, and how often each is told.

Every follower of a job's events holds a connection and has the job looked up again and again. Their number
is bounded, for a tenant and for the process; the looks of all together are too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import RateLimited

# The embedded host serves 1,000 requests at a time (maxOutstandingRequests in host.json): the rest is for
# those that end.
PROCESS_FOLLOWERS_MAX = 300
TENANT_FOLLOWERS_MAX = 100
# Between two looks at a running job: quick to the eye, cheap for the table.
LOOK_SECONDS = 0.5
# Each look reads three rows or so.
LOOKS_PER_SECOND = 100
RETRY_SECONDS = 5.0


class Followers:
    """The followers of one process."""

    def __init__(self) -> None:
        self._of: Counter[str] = Counter()

    @property
    def look_seconds(self) -> float:
        """How long a follower waits between two looks, so that all together do not look too often."""
        return max(LOOK_SECONDS, self._of.total() / LOOKS_PER_SECOND)

    def check_room(self, tenant: str) -> None:
        """Raise `RateLimited` where one more is too many."""
        for limit, present in (
            (TENANT_FOLLOWERS_MAX, self._of[tenant]),
            (PROCESS_FOLLOWERS_MAX, self._of.total()),
        ):
            if present >= limit:
                raise RateLimited(
                    f"{present} event streams of jobs are open, of {limit}.",
                    retry_after=RETRY_SECONDS,
                    limit=limit,
                )

    @contextmanager
    def one_more(self, tenant: str) -> Iterator[None]:
        """One follower of the tenant's, for as long as the block takes."""
        self._of[tenant] += 1
        try:
            yield
        finally:
            self._of[tenant] -= 1
            if not self._of[tenant]:
                del self._of[tenant]
