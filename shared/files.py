"""Files that callers hand over and get back: their bytes in blocks of one blob, a record in a table.

A file is its owner's alone. It has two rows in its tenant's partition of the table ``files``, its record and
its line in the list of newest files, and one in the partition of what expires, from which a timer removes
what is over. A file that a batch reads cannot be deleted until the batch has ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, Hidden, InvalidRequest, NotFound, PayloadTooLarge
from shared.storage import FILES, Changed, key_part, newest_first

if TYPE_CHECKING:
    from shared.identity import Principal
    from shared.storage import Row, Storage

TABLE = "files"
EXPIRIES = "_expiries"
# The largest input of a batch ("Batch API", OpenAI).
MAX_FILE_BYTES = 200 * 1024 * 1024
# Held of an upload before it is staged; Azure takes up to 50,000 blocks, so 200 GB would fit.
BLOCK_BYTES = 4 * 1024 * 1024
# Files of batches expire after 30 days unless told otherwise; an hour to 30 days ("Files", OpenAI).
DEFAULT_EXPIRY_SECONDS = 30 * 24 * 3600
LEAST_EXPIRY_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class File:
    """A file as its record tells it; times are UTC seconds since 1970.

    ``collections`` are those that the credential which made it was limited to, None for all.
    """

    tenant: str
    id: str
    owner: str
    name: str
    purpose: str
    size: int
    created: float
    expires: float
    collections: tuple[str, ...] | None = None

    @property
    def blob(self) -> str:
        return blob_name(self.tenant, self.id)

    def to_row(self) -> Row:
        return {
            "PartitionKey": self.tenant,
            "RowKey": f"file:{self.id}",
            "owner": self.owner,
            "name": self.name,
            "purpose": self.purpose,
            "size": self.size,
            "created": self.created,
            "expires": self.expires,
            "collections": json.dumps(self.collections),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> File:
        limits = json.loads(row["collections"])
        return cls(
            tenant=row["PartitionKey"],
            id=row["RowKey"].rpartition(":")[2],
            owner=row["owner"],
            name=row["name"],
            purpose=row["purpose"],
            size=row["size"],
            created=row["created"],
            expires=row["expires"],
            collections=None if limits is None else tuple(limits),
        )

    @property
    def list_key(self) -> str:
        return f"{_list_prefix(self.owner)}{newest_first(self.created)}:{self.id}"

    @property
    def expiry_key(self) -> str:
        return f"{int(self.expires * 1000):013d}:{self.tenant}:{self.id}"


def may_have(principal: Principal, owner: str, collections: tuple[str, ...] | None) -> bool:
    """Whether a thing is the caller's and made with a credential that reached no further than this one."""
    if owner != principal.user:
        return False
    if principal.collections is None:
        return True
    return collections is not None and all(map(principal.reaches, collections))


def blob_name(tenant: str, file: str) -> str:
    return f"{tenant}/{file}"


def _list_prefix(owner: str) -> str:
    return f"list:{key_part(owner)}:"


class Writing:
    """The bytes of a file on their way in: a block at a time, never whole."""

    def __init__(self, storage: Storage, tenant: str, file: str, limit: int = MAX_FILE_BYTES) -> None:
        self._storage = storage
        self._name = blob_name(tenant, file)
        self._limit = limit
        self._held = bytearray()
        self._blocks: list[str] = []
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Take more bytes; raises `PayloadTooLarge`."""
        self.size += len(data)
        if self.size > self._limit:
            raise PayloadTooLarge(f"The file has more than {self._limit} bytes.", limit=self._limit)
        self._held += data
        if len(self._held) >= BLOCK_BYTES:
            await self._stage()

    async def close(self) -> None:
        """Put the file together; raises `InvalidRequest` where it is empty."""
        if self.size == 0:
            raise InvalidRequest("The file is empty.", parameter="file")
        if self._held:
            await self._stage()
        await self._storage.commit_blocks(
            FILES, self._name, self._blocks, content_type="application/octet-stream"
        )

    async def _stage(self) -> None:
        data, place = bytes(self._held), len(self._blocks)
        self._blocks.append(await self._storage.stage_block(FILES, self._name, data, place))
        self._held.clear()


class Files:
    """The files of all tenants."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def writing(self, tenant: str, file: str) -> Writing:
        """A way in for the bytes of a new file."""
        return Writing(self._storage, tenant, file)

    async def register(self, file: File) -> File:
        """Make a file known whose bytes are there; one with its id is replaced and keeps its place."""
        await self._storage.put_row(TABLE, {"PartitionKey": EXPIRIES, "RowKey": file.expiry_key})
        record = await self._storage.get_row(TABLE, file.tenant, f"file:{file.id}")
        if record:
            file = replace(file, created=record["created"])
        line = await self._storage.get_row(TABLE, file.tenant, file.list_key) if record else None
        try:
            await self._storage.swap_rows(
                TABLE,
                [
                    (file.to_row(), record["etag"] if record else None),
                    ({**file.to_row(), "RowKey": file.list_key}, line["etag"] if line else None),
                ],
            )
        except Changed:
            raise Conflict(f"The file {file.id!r} is being changed by others.") from None
        return file

    async def find(self, tenant: str, file: str) -> File | None:
        """The file, whoever owns it; None where there is none or its time is over."""
        if not file.replace("-", "").isalnum() or not file.isascii():
            return None
        row = await self._storage.get_row(TABLE, tenant, f"file:{file}")
        found = File.from_row(row) if row else None
        return found if found is not None and found.expires > time.time() else None

    async def get(self, principal: Principal, file: str) -> File:
        """The caller's file; `NotFound` for any other."""
        found = await self.find(principal.tenant, file)
        if found is None:
            raise NotFound("file", file[:64])
        if not may_have(principal, found.owner, found.collections):
            raise Hidden("file", file[:64])
        return found

    async def newest(
        self, principal: Principal, *, after: str = "", limit: int, purpose: str = ""
    ) -> tuple[list[File], bool]:
        """The caller's files, newest first, after the one named; and whether there are more."""
        prefix = _list_prefix(principal.user)
        first = f"{(await self.get(principal, after)).list_key};" if after else prefix
        found: list[File] = []
        now = time.time()
        async for row in self._storage.query_rows(
            TABLE, principal.tenant, first=first, last=f"{prefix[:-1]};"
        ):
            file = File.from_row(row)
            if file.expires <= now or not may_have(principal, file.owner, file.collections):
                continue
            if purpose and file.purpose != purpose:
                continue
            if len(found) == limit:
                return found, True
            found.append(file)
        return found, False

    async def of_user(self, tenant: str, user: str) -> AsyncIterator[File]:
        """All files of a user, expired ones too."""
        prefix = _list_prefix(user)
        async for row in self._storage.query_rows(TABLE, tenant, first=prefix, last=f"{prefix[:-1]};"):
            yield File.from_row(row)

    def read(self, file: File, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The file's bytes from ``start`` up to but without ``end``, as a stream."""
        return self._storage.read_blob(FILES, file.blob, start, file.size if end is None else end)

    async def delete(self, file: File) -> None:
        """Remove a file; raises `Conflict` while a batch reads it."""
        uses = self._storage.query_rows(TABLE, file.tenant, first=f"use:{file.id}:", last=f"use:{file.id};")
        async for row in uses:
            if row["until"] > time.time():
                batch = row["RowKey"].rpartition(":")[2]
                raise Conflict(f"The file is the input of batch_{batch}, which has not ended.")
        await self._storage.delete_row(TABLE, file.tenant, f"file:{file.id}")
        await self._storage.delete_row(TABLE, file.tenant, file.list_key)
        await self._storage.delete_blob(FILES, file.blob)
        await self._storage.delete_row(TABLE, EXPIRIES, file.expiry_key)

    async def remove_expired(self) -> int:
        """Remove the files whose time is over; their number."""
        removed = 0
        async for row in self._storage.query_rows(TABLE, EXPIRIES, last=f"{int(time.time() * 1000):013d}"):
            _, tenant, name = row["RowKey"].split(":", 2)
            record = await self._storage.get_row(TABLE, tenant, f"file:{name}")
            if record is None:
                await self._storage.delete_blob(FILES, blob_name(tenant, name))
            elif (file := File.from_row(record)).expires <= time.time():
                try:
                    await self.delete(file)
                except Conflict:
                    continue  # once the batch has ended
                removed += 1
            await self._storage.delete_row(TABLE, EXPIRIES, row["RowKey"])
        return removed

    # --- use by batches ---

    async def hold(self, tenant: str, file: str, job: str, until: float) -> None:
        """Keep the file from being deleted while ``job`` reads it, ``until`` then at the latest."""
        row: Row = {"PartitionKey": tenant, "RowKey": f"use:{file}:{job}", "until": until}
        await self._storage.put_row(TABLE, row)

    async def let_go(self, tenant: str, file: str, job: str) -> None:
        await self._storage.delete_row(TABLE, tenant, f"use:{file}:{job}")
