"""Who hands the lines of an attempt in: one run of the step at a time, and one batch counts.

A row of the attempt is claimed before anything is handed in, and claimed anew right before the batch is
made; whoever finds another's claim waits, and takes it over when nothing has moved meanwhile. No clock is
compared with another's. A run that was held up past that writes too late: the row names the batch of the
other one, its own is cancelled.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from shared.errors import ModelsUnavailable, StorageUnavailable
from shared.jobs import PROGRESS_TABLE, Ticket
from shared.storage import Changed, Exists

if TYPE_CHECKING:
    from shared.storage import Storage

ROW = "submission"
# What a run may take from its last claim to the answer of the service, and what another waits before it
# takes over: a request for a batch is answered within a second or two.
CREATE_SECONDS = 8.0
TAKE_OVER_SECONDS = 10.0


class Submission:
    """The claim of one run of the step."""

    def __init__(self, storage: Storage, ticket: Ticket) -> None:
        self._storage = storage
        self._instance = ticket.instance
        self._holder = secrets.token_hex(8)
        self._etag = ""
        self.is_asked = False

    async def claim(self) -> str:
        """The batch that was handed in, or nothing where this run is to do it.

        Raises `ModelsUnavailable` where another run is at it.
        """
        row = await self._read()
        if row is None:
            with suppress(Exists):
                await self._storage.insert_row(PROGRESS_TABLE, self._row())
        elif not row["batch"]:
            if row["holder"]:
                await asyncio.sleep(TAKE_OVER_SECONDS)
            with suppress(Changed):
                await self._storage.replace_row(PROGRESS_TABLE, self._row(), row["etag"])
        return await self._claimed()

    async def renew(self) -> None:
        """Right before the batch is made. Raises `ModelsUnavailable` where another run has taken over."""
        with suppress(Changed):
            await self._storage.replace_row(PROGRESS_TABLE, self._row(), self._etag)
        if await self._claimed():
            raise _occupied()
        self.is_asked = True

    async def decide(self, batch: str) -> str:
        """Name the batch that was made: the one that counts, which may be another's or not be known yet."""
        try:
            await self._storage.replace_row(PROGRESS_TABLE, self._row(batch), self._etag)
        except Changed:
            row = await self._read()
            return row["batch"] if row else ""
        return batch

    async def release(self) -> None:
        """Leave it to the next run, without a wait."""
        if self._etag:
            with suppress(Changed, StorageUnavailable):
                await self._storage.replace_row(PROGRESS_TABLE, {**self._row(), "holder": ""}, self._etag)

    async def _claimed(self) -> str:
        row = await self._read()
        if row is not None and row["batch"]:
            return row["batch"]
        if row is None or row["holder"] != self._holder:
            raise _occupied()
        self._etag = row["etag"]
        return ""

    async def _read(self) -> dict[str, str] | None:
        return await self._storage.get_row(PROGRESS_TABLE, self._instance, ROW)

    def _row(self, batch: str = "") -> dict[str, str]:
        key = {"PartitionKey": self._instance, "RowKey": ROW}
        return {**key, "holder": self._holder, "batch": batch}


def _occupied() -> ModelsUnavailable:
    return ModelsUnavailable("Another run of this step hands the lines in.", retry_after=TAKE_OVER_SECONDS)
