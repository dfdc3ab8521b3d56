"""Writing behind: what changes all the time in memory is written once in a while, by one task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("groundwork.write_behind")


class WriteBehind:
    """Calls ``write`` some seconds after a change, once for all changes until then.

    What was changed within ``seconds`` before a process dies is lost; nothing runs while nothing changes.
    ``write`` is called again after as long where it fails, so it must keep what it could not write.
    """

    def __init__(self, write: Callable[[], Awaitable[None]], seconds: float) -> None:
        self._write = write
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        self._pending = False

    def changed(self) -> None:
        """There is something to write. Must be called in the event loop."""
        self._pending = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._pending:
                await asyncio.sleep(self._seconds)
                self._pending = False
                try:
                    await self._write()
                except Exception as error:  # nobody waits for this task; it tries again
                    log.warning("write_behind_failed", extra={"error": type(error).__name__})
                    self._pending = True
        finally:
            self._task = None

    async def close(self) -> None:
        """Write what is pending, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._pending:
            self._pending = False
            await self._write()
