"""The log of the host: what becomes of functions when it cannot be written."""

from __future__ import annotations

import errno
import io
import logging

from devhost.invocation import Invocation
from devhost.logs import _success_writer


class Disk(io.StringIO):
    """A file that takes so many lines, and is full then."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._room = lines

    def write(self, line: str) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._room -= 1
        return super().write(line)


def test_a_function_succeeds_though_its_line_cannot_be_written():
    disk, results = Disk(lines=1), logging.getLogger("test.results")
    results.setLevel(logging.INFO)
    succeeded = _success_writer(logging.StreamHandler(disk), results, lambda record, _: record.getMessage())
    for _ in range(2):
        succeeded(Invocation("search"))
    assert disk.getvalue() == "function_succeeded\n"
