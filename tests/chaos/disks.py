"""Disks that can be filled: small file systems in memory, or else a limit on what a process may write.

The campaign mounts them in a mount namespace of its own, so that they are gone with its processes. Where
mounting is not permitted (containers without the capability), the size of the files that the host may write
is limited to nothing instead: writing fails for it, and for it alone, as appending does on a full disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import resource

DISK_BYTES = 512 * 1024 * 1024
BALLAST = "ballast"
_CLONE_NEWNS = 0x00020000  # linux/sched.h


def enter_namespace() -> bool:
    """Give this process mounts of its own; False where that is not permitted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False
    return _mount("--make-rprivate", "/")


def mount(folder: Path) -> bool:
    """Mount an empty file system of `DISK_BYTES` at ``folder``; False where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    return _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    """No byte is free on the disk of ``folder`` meanwhile."""
    ballast = folder / BALLAST
    try:
        with ballast.open("wb") as file:
            step = DISK_BYTES
            while step >= 1:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
                except OSError:
                    step //= 2
        yield
    finally:
        ballast.unlink(missing_ok=True)


def forbid_writing(pid: int) -> None:
    """The process can write to no file from now on; it can read, and use its connections."""
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))


def permit_writing(pid: int) -> None:
    """The process can write again what it could before; some have a limit of their own."""
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
