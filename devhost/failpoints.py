"""Ends or stops the host at a named moment, for tests of what a crash or a long pause leaves behind.

The setting ``DEVHOST_FAIL_POINT`` reads ``POINT[:PASSES[:ACTION]]``: at the given pass of the point (the
first by default) the process kills itself, or stops until it gets SIGCONT. The app names its own points
through the same audit event; without the setting nothing listens.
"""

import os
import re
import signal
import sys
from typing import Any

from devhost.errors import SettingsError

SETTING = "DEVHOST_FAIL_POINT"
EVENT = "groundwork.failpoint"
POINTS = (
    "queue.handled",  # the function has run, the message is still in the queue
    "blob.handled",  # the function has run, the receipt is not written
    "activity.done",  # the activity has run, its completion is not committed
    "step.replayed",  # the orchestrator has gone on, nothing of that is committed
    "step.committed",  # committed, and nobody in this process has been told
)
_FORM = re.compile(r"([a-z]+\.[a-z_]+)(?::([1-9]\d*))?(?::(kill|stop))?")


def passed(point: str) -> None:
    """Tell whoever listens that the host is at ``point``, one of `POINTS`."""
    sys.audit(EVENT, point)


def arm(text: str) -> None:
    """Listen for the point that ``text`` names. Raises SettingsError for text of another form."""
    form = _FORM.fullmatch(text)
    if form is None or not hasattr(signal, "SIGKILL"):
        raise SettingsError(f"{SETTING} must read POINT[:PASSES[:kill|stop]] (not on Windows), not {text!r}")
    wanted, left = form[1], int(form[2] or 1)
    number = signal.SIGSTOP if form[3] == "stop" else signal.SIGKILL

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == EVENT and arguments[0] == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    sys.addaudithook(listen)
