"""The audit trail: who did what to which object, when, and whether it was allowed. Never any content.

Denials and administrative acts are in the table before the caller has the answer. Ordinary use of a role
is gathered and written a second later, so that it costs a request nothing; a killed process loses that
second of it. Nothing here changes or removes an entry.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidParameter, StorageUnavailable
from shared.jobs import iso
from shared.storage import newest_first

if TYPE_CHECKING:
    from shared.identity import Principal
    from shared.storage import Row, Storage

log = logging.getLogger("groundwork.audit")

TABLE = "audit"
# Ordinary entries wait for one another this long.
GATHER_SECONDS = 1.0
# What is kept while storage does not answer; the oldest go first, and the log tells how many.
GATHERED_MAX = 10_000
PAGE_ENTRIES = 100
OBJECT_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail. ``reason`` is the error's code where ``allowed`` is False."""

    tenant: str
    user: str
    roles: tuple[str, ...]
    credential: str
    action: str
    object: str
    allowed: bool
    correlation_id: str
    reason: str = ""
    at: float = field(default_factory=time.time)

    @classmethod
    def of(cls, who: Principal, action: str, object: str, correlation_id: str, reason: str = "") -> Entry:
        """What ``who`` did, or with a ``reason`` was not allowed to do."""
        return cls(
            tenant=who.tenant,
            user=who.user,
            roles=tuple(role.value for role in who.roles),
            credential=who.credential,
            action=action,
            object=object[:OBJECT_CHARACTERS],
            allowed=not reason,
            correlation_id=correlation_id,
            reason=reason,
        )

    def to_row(self) -> Row:
        return {
            "PartitionKey": self.tenant,
            "RowKey": f"{newest_first(self.at)}:{secrets.token_hex(8)}",
            "user": self.user,
            "roles": json.dumps(self.roles),
            "credential": self.credential,
            "action": self.action,
            "object": self.object,
            "allowed": self.allowed,
            "correlation_id": self.correlation_id,
            "reason": self.reason,
            "at": self.at,
        }


class Audit:
    """The audit trail of all tenants."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._gathered: list[Row] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, entry: Entry) -> None:
        """Add an entry; it is durable when this returns. Raises `StorageUnavailable`."""
        await self._storage.insert_row(TABLE, entry.to_row())

    def note(self, entry: Entry) -> None:
        """Add an entry soon, at no cost to the caller."""
        self._gathered.append(entry.to_row())
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_gathered())

    async def _write_gathered(self) -> None:
        while self._gathered:
            await asyncio.sleep(GATHER_SECONDS)
            rows, self._gathered = self._gathered, []
            try:
                for tenant in dict.fromkeys(row["PartitionKey"] for row in rows):
                    await self._storage.put_rows(
                        TABLE, [row for row in rows if row["PartitionKey"] == tenant]
                    )
            except StorageUnavailable:
                # Writing a row again that was written changes nothing: its key stays the same.
                kept = [*rows, *self._gathered][-GATHERED_MAX:]
                lost = len(rows) + len(self._gathered) - len(kept)
                self._gathered = kept
                log.warning("audit_not_written", extra={"waiting": len(kept), "lost": lost})

    async def page(
        self, tenant: str, *, after: str = "", limit: int = PAGE_ENTRIES, **wanted: str
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of a tenant's trail, newest first, and where the next one begins.

        ``wanted`` names properties and their values; a page may then hold fewer entries than ``limit``.
        """
        if after and not after.replace(":", "").isalnum():
            raise InvalidParameter("'after' is the 'next' of an earlier page.", parameter="after")
        rows = [row async for row in self._storage.query_rows(TABLE, tenant, first=after, limit=limit + 1)]
        following = rows[limit]["RowKey"] if len(rows) > limit else None
        documents = [_document(row) for row in rows[:limit]]
        return [
            document for document in documents if all(document[name] == wanted[name] for name in wanted)
        ], following


def _document(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": iso(row["at"]),
        "user": row["user"],
        "roles": json.loads(row["roles"]),
        "credential": row["credential"],
        "action": row["action"],
        "object": row["object"],
        "decision": "allowed" if row["allowed"] else "denied",
        "reason": row["reason"] or None,
        "correlation_id": row["correlation_id"],
    }
