"""A job, its states and kinds, and the ticket that its steps carry."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shared.storage import newest_first

if TYPE_CHECKING:
    from shared.storage import Row


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


class Kind(StrEnum):
    INGESTION = "ingestion"
    DELETION = "deletion"
    ANSWER = "answer"
    REINDEXING = "reindexing"
    RECONCILIATION = "reconciliation"
    ERASURE = "erasure"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What an orchestration and its activities know of their job: a claim check, never content."""

    tenant: str
    job: str
    attempt: int = 1

    @property
    def instance(self) -> str:
        """The id of the orchestration that runs this attempt."""
        return f"{self.job}-{self.attempt}"

    @property
    def prefix(self) -> str:
        """Where this attempt's blobs lie in the container of jobs."""
        return f"{self.tenant}/{self.job}/{self.attempt}"

    def to_dict(self) -> dict[str, Any]:
        return {"tenant": self.tenant, "job": self.job, "attempt": self.attempt}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ticket:
        return cls(data["tenant"], data["job"], data["attempt"])


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its row tells it; times are UTC seconds since 1970.

    ``generation`` is that of its collection: a later one of the same name is none of this job's business.
    """

    tenant: str
    id: str
    kind: Kind
    state: State
    title: str
    collection: str
    owner: str
    attempt: int
    created: float
    updated: float
    started: float | None = None
    cancel_requested: bool = False
    total: int | None = None
    counts: Mapping[str, int] | None = None
    errors: tuple[Mapping[str, Any], ...] = ()
    generation: str = ""
    etag: str = ""

    @property
    def ticket(self) -> Ticket:
        return Ticket(self.tenant, self.id, self.attempt)

    def to_row(self) -> Row:
        row: Row = {
            "PartitionKey": self.tenant,
            "RowKey": f"job:{self.id}",
            "kind": self.kind.value,
            "state": self.state.value,
            "title": self.title,
            "collection": self.collection,
            "generation": self.generation,
            "owner": self.owner,
            "attempt": self.attempt,
            "created": self.created,
            "updated": self.updated,
            "cancel_requested": self.cancel_requested,
            "counts": json.dumps(dict(self.counts or {})),
            "errors": json.dumps([dict(error) for error in self.errors]),
        }
        if self.started is not None:
            row["started"] = self.started
        if self.total is not None:
            row["total"] = self.total
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Job:
        return cls(
            tenant=row["PartitionKey"],
            id=row["RowKey"].rpartition(":")[2],
            kind=Kind(row["kind"]),
            state=State(row["state"]),
            title=row["title"],
            collection=row["collection"],
            generation=row["generation"],
            owner=row["owner"],
            attempt=row["attempt"],
            created=row["created"],
            updated=row["updated"],
            started=row.get("started"),
            cancel_requested=row["cancel_requested"],
            total=row.get("total"),
            counts=json.loads(row["counts"]),
            errors=tuple(json.loads(row["errors"])),
            etag=row.get("etag", ""),
        )

    @property
    def list_key(self) -> str:
        return f"list:{newest_first(self.created)}:{self.id}"


def new_id() -> str:
    """A job id that cannot be guessed: 128 random bits."""
    return secrets.token_hex(16)


def derived_id(*parts: str) -> str:
    """The id of the job for one event: the same event always has the same job."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
