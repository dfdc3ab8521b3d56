"""Batches as their records tell them: what each asks. What it does is its job's business."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.errors import Hidden, NotFound
from shared.files import may_have
from shared.identity import Principal
from shared.jobs import State
from shared.storage import Changed, key_part, newest_first

if TYPE_CHECKING:
    from shared.jobs import Job
    from shared.storage import Row, Storage

TABLE = "batches"
PREFIX = "batch_"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch asks, and when its phases began; times are UTC seconds since 1970, 0 for never.

    ``ended`` is how the last attempt ended: completed, expired or cancelled; empty until then.
    """

    job: str
    principal: Principal
    endpoint: str
    input_file: str
    window: str
    created: float
    expires: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    output_expiry_seconds: int = 0
    in_progress: float = 0.0
    finalizing: float = 0.0
    cancelling: float = 0.0
    ended: str = ""
    output_file: str = ""
    errors_file: str = ""

    @property
    def id(self) -> str:
        return f"{PREFIX}{self.job}"

    @property
    def list_key(self) -> str:
        return f"{_list_prefix(self.principal.user)}{newest_first(self.created)}:{self.job}"

    def to_row(self) -> Row:
        who = self.principal
        row = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("principal", "metadata", "job")
        }
        return row | {
            "PartitionKey": who.tenant,
            "RowKey": f"batch:{self.job}",
            "principal": json.dumps(who.to_dict(), ensure_ascii=False),
            "metadata": json.dumps(dict(self.metadata), ensure_ascii=False),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Batch:
        plain = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        principal = Principal.from_dict(json.loads(row["principal"]))
        metadata = json.loads(row["metadata"])
        job = row["RowKey"].rpartition(":")[2]
        return cls(**{**plain, "principal": principal, "metadata": metadata, "job": job})

    def status(self, job: Job) -> str:
        """The state of the batch in OpenAI's words."""
        if job.state is State.QUEUED:
            return "validating"
        if job.state is State.RUNNING:
            if job.cancel_requested:
                return "cancelling"
            if self.finalizing:
                return "finalizing"
            return "in_progress" if self.in_progress else "validating"
        if job.state is State.CANCELLED:
            return "cancelled"
        return self.ended or "failed"


def _may_have(principal: Principal, batch: Batch) -> bool:
    return may_have(principal, batch.principal.user, batch.principal.collections)


def _list_prefix(user: str) -> str:
    return f"list:{key_part(user)}:"


class BatchRecords:
    """The records of all batches."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def add(self, batch: Batch) -> Batch:
        """Keep a new batch; the record that is there where there is one."""
        row = batch.to_row()
        line = {"PartitionKey": row["PartitionKey"], "RowKey": batch.list_key}
        try:
            await self._storage.swap_rows(TABLE, [(row, None), (line, None)])
        except Changed:
            return await self.read(batch.principal.tenant, batch.job)
        return batch

    async def read(self, tenant: str, job: str) -> Batch:
        row = await self._storage.get_row(TABLE, tenant, f"batch:{job}")
        if row is None:
            raise NotFound("batch", f"{PREFIX}{job}")
        return Batch.from_row(row)

    async def get(self, principal: Principal, name: str) -> Batch:
        """The caller's batch of that id; `NotFound` for any other."""
        job = name.removeprefix(PREFIX)
        if job.isalnum() and job.isascii() and name.startswith(PREFIX):
            row = await self._storage.get_row(TABLE, principal.tenant, f"batch:{job}")
            if row:
                batch = Batch.from_row(row)
                if not _may_have(principal, batch):
                    raise Hidden("batch", name[:64])
                return batch
        raise NotFound("batch", name[:64])

    async def note(self, batch: Batch, **changes: Any) -> None:
        """Set some of a batch's own members."""
        key = {"PartitionKey": batch.principal.tenant, "RowKey": f"batch:{batch.job}"}
        await self._storage.merge_row(TABLE, {**key, **changes})

    async def note_cancelling(self, batch: Batch) -> None:
        if not batch.cancelling:
            await self.note(batch, cancelling=time.time())

    async def newest(self, principal: Principal, *, after: str = "", limit: int) -> tuple[list[Batch], bool]:
        """The caller's batches, newest first, after the one named; and whether there are more."""
        prefix = _list_prefix(principal.user)
        first = f"{(await self.get(principal, after)).list_key};" if after else prefix
        rows = self._storage.query_rows(
            TABLE, principal.tenant, first=first, last=f"{prefix[:-1]};", limit=limit + 1
        )
        names = [row["RowKey"].rpartition(":")[2] async for row in rows]
        found = await self._storage.get_rows(
            TABLE, principal.tenant, [f"batch:{name}" for name in names[:limit]]
        )
        batches = [Batch.from_row(found[f"batch:{name}"]) for name in names[:limit]]
        return [batch for batch in batches if _may_have(principal, batch)], len(names) > limit

    async def of_user(self, tenant: str, user: str) -> AsyncIterator[str]:
        """The jobs of all batches of a user."""
        prefix = _list_prefix(user)
        async for row in self._storage.query_rows(TABLE, tenant, first=prefix, last=f"{prefix[:-1]};"):
            yield row["RowKey"].rpartition(":")[2]

    async def remove(self, tenant: str, job: str) -> None:
        """Forget the batch of a job; its record goes last."""
        row = await self._storage.get_row(TABLE, tenant, f"batch:{job}")
        if row is not None:
            await self._storage.delete_row(TABLE, tenant, Batch.from_row(row).list_key)
            await self._storage.delete_row(TABLE, tenant, f"batch:{job}")
