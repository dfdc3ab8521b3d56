"""Who calls, and what the caller may do: principals, roles, names of access lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.errors import Forbidden, InvalidName

NAME_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


# The tenant of the first administrator: what names no tenant is shown to its operators.
OPERATORS_TENANT = "default"


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
    """The caller: one tenant, one user, its groups and roles.

    ``collections`` are those that the credential is limited to, None for all of the tenant's.
    ``credential`` names what proved the caller (``key:ID``, ``token:APPLICATION``), for the audit trail.
    """

    tenant: str
    user: str
    groups: tuple[str, ...] = ()
    roles: tuple[Role, ...] = (Role.READER,)
    collections: tuple[str, ...] | None = None
    credential: str = field(default="", compare=False)

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

    def reaches(self, collection: str) -> bool:
        """Whether the credential is good for ``collection``; its access list is another question."""
        return self.collections is None or collection in self.collections

    def to_dict(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "user": self.user,
            "groups": list(self.groups),
            "roles": [role.value for role in self.roles],
            "collections": None if self.collections is None else list(self.collections),
            "credential": self.credential,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Principal:
        limits = data["collections"]
        return cls(
            data["tenant"],
            data["user"],
            tuple(data["groups"]),
            tuple(Role(role) for role in data["roles"]),
            None if limits is None else tuple(limits),
            data["credential"],
        )


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
