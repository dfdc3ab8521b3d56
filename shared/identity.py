"""Who calls: the principal behind a request, and the API keys that prove it.

A key reads ``gw_{id}_{secret}``. Only the SHA-256 of the whole key is stored: the secret has 256 random
bits, so a slow hash would add cost and no safety. A key that is malformed, unknown, expired or revoked is
answered alike.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.errors import Forbidden, InvalidName, Unauthenticated

if TYPE_CHECKING:
    from shared.storage import Row, Storage

TABLE = "keys"
NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
KEY_PATTERN = re.compile(r"gw_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
# A revoked key may go on for this long in a process that has just seen it.
KEY_CACHE_SECONDS = 15.0
KEY_CACHE_ENTRIES = 10_000


class Role(StrEnum):
    """What a principal may do within its tenant. ``PLATFORM`` alone may act on other tenants' keys."""

    READER = "reader"
    CONTRIBUTOR = "contributor"
    OPERATOR = "operator"
    PROMPT_EDITOR = "prompt-editor"
    ADMINISTRATOR = "administrator"
    PLATFORM = "platform"


_INCLUDES: dict[Role, frozenset[Role]] = {
    Role.READER: frozenset({Role.READER}),
    Role.CONTRIBUTOR: frozenset({Role.READER, Role.CONTRIBUTOR}),
    Role.OPERATOR: frozenset({Role.READER, Role.OPERATOR}),
    Role.PROMPT_EDITOR: frozenset({Role.READER, Role.PROMPT_EDITOR}),
    Role.ADMINISTRATOR: frozenset(Role) - {Role.PLATFORM},
    Role.PLATFORM: frozenset(Role),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller: one tenant, one user, its groups and roles."""

    tenant: str
    user: str
    groups: tuple[str, ...] = ()
    roles: tuple[Role, ...] = (Role.READER,)

    @property
    def readers(self) -> tuple[str, ...]:
        """The names under which access lists may know the caller, the tenant's own among them."""
        return ("tenant:*", f"user:{self.user}", *(f"group:{group}" for group in self.groups))

    def may(self, role: Role) -> bool:
        """Whether one of the caller's roles includes ``role``."""
        return any(role in _INCLUDES[own] for own in self.roles)

    def require(self, role: Role) -> None:
        """Raise `Forbidden` unless the caller has ``role``."""
        if not self.may(role):
            raise Forbidden(f"This needs the role {role.value!r}.")


def check_name(kind: str, name: str) -> str:
    """``name`` itself, if it can name a tenant or collection; raises `InvalidName` otherwise."""
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidName(
            f"A {kind} is named with 1 to 63 lower-case letters, digits and inner hyphens.", parameter=kind
        )
    return name


def check_readers(readers: Iterable[str]) -> None:
    """Raise `InvalidName` where a name of an access list can be no one's."""
    for reader in readers:
        kind, _, who = reader.partition(":")
        named = kind in ("tenant", "user", "group") and who and who.isprintable()
        if not named or (kind == "tenant" and who != "*"):
            raise InvalidName("A reader is 'tenant:*', 'user:NAME' or 'group:NAME'.", parameter="readers")


def digest(key: str) -> str:
    """The form in which a key is stored: SHA-256 in hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """A fresh key: 64 bits to find it by, 256 bits to prove it."""
    return f"gw_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


class Keys:
    """The API keys of all tenants."""

    def __init__(self, storage: Storage, bootstrap_sha256: str | None = None) -> None:
        """``bootstrap_sha256`` is the digest of a key that administers before any other exists."""
        self._storage = storage
        self._bootstrap = bootstrap_sha256
        self._known: dict[str, tuple[float, Principal]] = {}

    async def resolve(self, key: str | None) -> Principal:
        """The principal that ``key`` proves; raises `Unauthenticated`."""
        match = KEY_PATTERN.fullmatch(key or "")
        if key is None or match is None:
            raise Unauthenticated("Give an API key as 'Authorization: Bearer …' or 'api-key: …'.")
        offered = digest(key)
        if self._bootstrap and hmac.compare_digest(offered, self._bootstrap):
            return Principal("default", "administrator", roles=(Role.PLATFORM,))
        cached = self._known.get(offered)
        if cached and cached[0] > time.monotonic():
            return cached[1]
        row = await self._storage.get_row(TABLE, "key", match[1])
        if row is None or not hmac.compare_digest(offered, row["sha256"]) or _expired(row):
            raise Unauthenticated("The API key is not valid.")
        principal = _principal(row)
        if len(self._known) >= KEY_CACHE_ENTRIES:
            self._known.clear()
        self._known[offered] = (time.monotonic() + min(KEY_CACHE_SECONDS, _seconds_left(row)), principal)
        return principal

    async def issue(self, principal: Principal, *, expires_seconds: float | None = None) -> str:
        """Make a key for ``principal`` and give it back, the only time that it can be read."""
        check_name("tenant", principal.tenant)
        key = new_key()
        row: Row = {
            "PartitionKey": "key",
            "RowKey": key.split("_", 2)[1],
            "sha256": digest(key),
            "tenant": principal.tenant,
            "user": principal.user,
            "groups": json.dumps(principal.groups, ensure_ascii=False),
            "roles": json.dumps(principal.roles),
        }
        if expires_seconds is not None:
            row["expires"] = time.time() + expires_seconds
        await self._storage.insert_row(TABLE, row)
        return key


def _expired(row: Row) -> bool:
    return _seconds_left(row) <= 0


def _seconds_left(row: Row) -> float:
    return float(row["expires"]) - time.time() if "expires" in row else math.inf


def _principal(row: Row) -> Principal:
    return Principal(
        tenant=row["tenant"],
        user=row["user"],
        groups=tuple(json.loads(row["groups"])),
        roles=tuple(Role(role) for role in json.loads(row["roles"])),
    )
