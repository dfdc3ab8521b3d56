"""A clock that can be set: what libfaketime tells the processes that were started with its environment.

Time of day alone is shifted, as when a machine's clock is set; intervals are measured by another clock.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOUR_SECONDS = 3600
# Where Debian's packages libfaketime and faketime, and a build from source, put it.
_LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1")


def library() -> str | None:
    """The library's file, or None where it is not installed."""
    found = [path for pattern in _LIBRARIES for path in glob.glob(pattern)]
    return found[0] if found else None


@dataclass
class Clock:
    """Set by writing ``file``, which the library reads at each look at the clock."""

    file: Path

    def __post_init__(self) -> None:
        self.set(0)

    def set(self, seconds: int) -> None:
        """Show the true time plus ``seconds`` from now on."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.replace(self.file)

    @property
    def environment(self) -> Mapping[str, str]:
        """For a process, and those that it starts."""
        return {
            "LD_PRELOAD": library() or "",
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
