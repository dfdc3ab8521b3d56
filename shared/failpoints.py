"""Named moments between two writes, at which a test ends or stops the process to see what is lost.

Passing one raises an audit event (PEP 578). Where no hook listens, and none does in Azure, that costs some
fifty nanoseconds and has no effect. The embedded host listens where its setting ``DEVHOST_FAIL_POINT``
names a point.
"""

from __future__ import annotations

import sys

EVENT = "groundwork.failpoint"

POINTS = (
    "accept.kept",  # bytes and manifest are written, no job tells of them
    "accept.announced",  # the job is there, its documents have no versions
    "accept.recorded",  # the documents have their versions, the plan is missing
    "start.created",  # the orchestration runs, the job still counts as not started
    "plan.laid_out",
    "prepare.read",  # batches are written, what the commit has to know is not
    "prepare.noted",
    "embed.embedded",  # the model has been paid for, the index has nothing
    "embed.uploaded",  # the index has the chunks, nobody knows
    "commit.decided",  # before the record names the new version
    "commit.flipped",  # the new version is visible, the old chunks are still there
    "commit.cleaned",  # the outcomes are not noted
    "commit.noted",
    "finish.ended",  # the job has ended, its batches are still there
    "reindex.named",  # ingestions write into the new layout, nothing of the old is in it
    "reindex.noted",  # a shard is in the new layout, its outcomes are not noted
    "reindex.swapped",  # the new layout serves, the job has not ended
    "delete.announced",  # the job is there, the document is still in sight
    "delete.marked",  # out of sight, nothing removed
    "delete.unindexed",  # chunks removed, bytes still there
)


def passed(point: str) -> None:
    """Tell whoever listens that the process is at ``point``, one of `POINTS`."""
    sys.audit(EVENT, point)
