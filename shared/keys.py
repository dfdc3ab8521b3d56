"""API keys: issued once, stored as a digest, limited, rotated, revoked.

A key reads ``gw_{id}_{secret}``. Only the SHA-256 of the whole key is stored: the secret has 256 random
bits, so a slow hash would add cost and no safety. A key that is malformed, unknown, expired or revoked is
answered alike; its id, which is no secret, leads to whom it was given and by whom.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shared.errors import Conflict, NotFound, StorageUnavailable, Unauthenticated
from shared.identity import OPERATORS_TENANT, Principal, Role, check_name
from shared.jobs import iso
from shared.storage import Changed

if TYPE_CHECKING:
    from shared.storage import Row, Storage

log = logging.getLogger("groundwork.keys")

TABLE = "keys"
PARTITION = "key"
KEY_PATTERN = re.compile(r"gw_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
# A revoked key may go on for this long in a process that has just seen it.
CACHE_SECONDS = 15.0
CACHE_ENTRIES = 10_000
# The last use is for finding keys that nobody needs: an hour is near enough, and one write an hour.
USE_SECONDS = 3600.0


class RefusedKey(Unauthenticated):
    """A key that exists was offered in vain; ``key`` says whose it is, ``reason`` what is wrong with it."""

    def __init__(self, key: Key, reason: str) -> None:
        super().__init__("The API key is not valid.")
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Key:
    """The record of a key: whom it stands for, and its life. Times are UTC seconds since 1970."""

    id: str
    principal: Principal
    label: str
    issued_by: str
    created: float
    sha256: str = field(repr=False)
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None
    replaced_by: str = ""
    etag: str = ""

    @property
    def state(self) -> str:
        if self.revoked is not None:
            return "revoked"
        return "active" if self.seconds_left() > 0 else "expired"

    def seconds_left(self) -> float:
        return math.inf if self.expires is None else self.expires - time.time()

    def to_row(self) -> Row:
        row: Row = {
            "PartitionKey": PARTITION,
            "RowKey": self.id,
            "sha256": self.sha256,
            "principal": json.dumps(self.principal.to_dict(), ensure_ascii=False),
            "label": self.label,
            "issued_by": self.issued_by,
            "created": self.created,
            "replaced_by": self.replaced_by,
        }
        times = {"expires": self.expires, "revoked": self.revoked, "last_used": self.last_used}
        return row | {name: moment for name, moment in times.items() if moment is not None}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Key:
        return cls(
            id=row["RowKey"],
            principal=Principal.from_dict(json.loads(row["principal"])),
            label=row["label"],
            issued_by=row["issued_by"],
            created=row["created"],
            sha256=row["sha256"],
            expires=row.get("expires"),
            revoked=row.get("revoked"),
            last_used=row.get("last_used"),
            replaced_by=row["replaced_by"],
            etag=row.get("etag", ""),
        )

    def to_document(self) -> dict[str, Any]:
        """The record as the API shows it; the key itself is not in it."""
        who = self.principal.to_dict()
        del who["credential"]
        return {
            "id": self.id,
            **who,
            "label": self.label,
            "state": self.state,
            "issued_by": self.issued_by,
            "created": iso(self.created),
            "expires": iso(self.expires),
            "revoked": iso(self.revoked),
            "last_used": iso(self.last_used),
            "replaced_by": self.replaced_by or None,
        }


def digest(key: str) -> str:
    """The form in which a key is stored: SHA-256 in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh key: 64 bits to find it by, 256 bits to prove it."""
    return f"gw_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


class Keys:
    """The API keys of all tenants. A line in each tenant's own partition lists what belongs to it."""

    def __init__(self, storage: Storage, bootstrap_sha256: str | None = None) -> None:
        """``bootstrap_sha256`` is the digest of a key that administers before any other exists."""
        self._storage = storage
        self._bootstrap = bootstrap_sha256
        self._known: dict[str, tuple[float, Principal]] = {}
        self._noting: set[asyncio.Task[None]] = set()

    async def resolve(self, key: str) -> Principal:
        """The principal that ``key`` proves; raises `Unauthenticated`, `RefusedKey` where it exists."""
        match = KEY_PATTERN.fullmatch(key)
        if match is None:
            raise Unauthenticated("The API key is not valid.")
        offered = digest(key)
        if self._bootstrap and hmac.compare_digest(offered, self._bootstrap):
            return Principal(
                OPERATORS_TENANT, "administrator", roles=(Role.PLATFORM,), credential="key:bootstrap"
            )
        cached = self._known.get(offered)
        if cached and cached[0] > time.monotonic():
            return cached[1]
        row = await self._storage.get_row(TABLE, PARTITION, match[1])
        if row is None:
            raise Unauthenticated("The API key is not valid.")
        found = Key.from_row(row)
        if not hmac.compare_digest(offered, found.sha256):
            raise RefusedKey(found, "wrong_secret")
        if found.state != "active":
            raise RefusedKey(found, found.state)
        principal = replace(found.principal, credential=f"key:{found.id}")
        if len(self._known) >= CACHE_ENTRIES:
            self._known.clear()
        self._known[offered] = (time.monotonic() + min(CACHE_SECONDS, found.seconds_left()), principal)
        if time.time() - (found.last_used or 0) > USE_SECONDS:
            self._note_use(found)
        return principal

    async def issue(
        self,
        principal: Principal,
        *,
        key: str = "",
        expires_seconds: float | None = None,
        label: str = "",
        issued_by: str = "",
    ) -> tuple[str, Key]:
        """Make a key for ``principal``: the key itself, which can be read this once, and its record."""
        check_name("tenant", principal.tenant)
        key = key or new_key()
        now = time.time()
        expires = None if expires_seconds is None else now + expires_seconds
        record = Key(key_id(key), principal, label, issued_by, now, digest(key), expires)
        # The list first: a line without a key is skipped, a key without its line could not be found.
        listed = {"PartitionKey": _list_of(principal.tenant), "RowKey": record.id}
        await self._storage.put_row(TABLE, listed)
        await self._storage.insert_row(TABLE, record.to_row())
        return key, record

    async def find(self, key: str) -> Key:
        """The record of the key with this id, of whatever tenant; `NotFound` where there is none."""
        row = await self._storage.get_row(TABLE, PARTITION, key) if key.isalnum() else None
        if row is None:
            raise NotFound("key", key[:64])
        return Key.from_row(row)

    async def list(self, tenant: str) -> AsyncIterator[Key]:
        """The tenant's keys in the order of their ids, those that have ended too."""
        ids = [row["RowKey"] async for row in self._storage.query_rows(TABLE, _list_of(tenant))]
        rows = await self._storage.get_rows(TABLE, PARTITION, ids)
        for key in sorted(rows):
            yield Key.from_row(rows[key])

    async def rotate(
        self, old: Key, *, key: str, expires_seconds: float, overlap_seconds: float, issued_by: str
    ) -> tuple[str, Key]:
        """Make ``key`` the successor of ``old``, which goes on for the overlap and not longer.

        `Conflict` where the old one has ended or has a successor.
        """
        old = await self.find(old.id)
        if old.state != "active" or old.replaced_by:
            raise Conflict("Only a key that is active and has not been replaced can be rotated.")
        made = await self.issue(
            old.principal,
            key=key,
            expires_seconds=expires_seconds,
            label=old.label,
            issued_by=issued_by,
        )
        ends = time.time() + min(overlap_seconds, old.seconds_left())
        succeeded = replace(old, expires=ends, replaced_by=made[1].id)
        try:
            await self._storage.replace_row(TABLE, succeeded.to_row(), old.etag)
        except Changed:
            await self.revoke(made[1])
            raise Conflict("The key is being changed by others.", retry_after=1) from None
        self._forget(old)
        return made

    async def revoke(self, key: Key) -> Key:
        """End a key now; other processes notice within `CACHE_SECONDS`."""
        if key.revoked is None:
            await self._set(key, "revoked")
        self._forget(key)
        return await self.find(key.id)

    async def remove(self, key: Key) -> None:
        """Forget a key altogether, also that there was one; other processes notice as at a revocation."""
        await self._storage.delete_row(TABLE, PARTITION, key.id)
        await self._storage.delete_row(TABLE, _list_of(key.principal.tenant), key.id)
        self._forget(key)

    async def _set(self, key: Key, moment: str) -> None:
        row = {"PartitionKey": PARTITION, "RowKey": key.id, moment: time.time()}
        await self._storage.merge_row(TABLE, row)

    def _forget(self, key: Key) -> None:
        self._known.pop(key.sha256, None)

    def _note_use(self, key: Key) -> None:
        """Write down that the key is in use, behind the request that used it."""

        async def note() -> None:
            try:
                await self._set(key, "last_used")
            except StorageUnavailable:
                log.warning("key_use_not_noted")

        task = asyncio.get_running_loop().create_task(note())
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)


def key_id(key: str) -> str:
    """The public part of a key, by which it is found."""
    return key.split("_", 2)[1]


def _list_of(tenant: str) -> str:
    # No tenant's name has a colon.
    return f"tenant:{tenant}"
