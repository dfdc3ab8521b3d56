"""What the steps tell of documents: how they are prepared, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import GroundworkError
from shared.jobs import STATUS_ERRORS, State
from shared.knowledge.documents import Document, Upload
from shared.knowledge.ingestion.entries import Placement, placements_from


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document in one job; its ``code`` says why it failed.

    ``freshness_seconds`` is the time from its event or request until it could be found.
    """

    id: str
    state: str
    version: int = 0
    chunks: int = 0
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    code: str = ""
    message: str = ""
    retryable: bool = False
    freshness_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        fresh = self.freshness_seconds
        shown = {"freshness_seconds": None if fresh is None else round(fresh, 3)}
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | shown

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        return cls(**{**data, "pages_without_text": tuple(data["pages_without_text"])})

    @classmethod
    def failed(cls, document: str, error: GroundworkError, version: int = 0) -> Outcome:
        return cls(
            document,
            "failed",
            version,
            code=error.code,
            message=error.detail,
            retryable=error.retryable,
        )

    @property
    def good(self) -> bool:
        return self.state in ("indexed", "unchanged", "superseded")


@dataclass(slots=True)
class Summary:
    """What became of all documents of an attempt; ``cancelled`` where it was before there were any."""

    cancelled: bool = False
    total: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.total += 1
        self.counts[outcome.state] = self.counts.get(outcome.state, 0) + 1
        if outcome.state == "failed" and len(self.errors) < STATUS_ERRORS:
            self.errors.append(
                {
                    "item": outcome.id,
                    "code": outcome.code,
                    "message": outcome.message,
                    "retryable": outcome.retryable,
                }
            )

    @property
    def state(self) -> State:
        """The state that the job ends in."""
        failed = self.counts.get("failed")
        if self.cancelled or self.counts.get("cancelled"):
            return State.CANCELLED
        if not failed:
            return State.SUCCEEDED
        return State.FAILED if failed == self.total else State.PARTIAL


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """One document of a shard, read and chunked: what its settlement has to know of it.

    ``text`` is the claim to its text, ``placements`` tell where its chunks lie, by the number of the layout.
    """

    upload: Upload
    version: int
    digest: str = ""
    text: str = ""
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    placements: Mapping[int, Placement] = field(default_factory=dict)

    def failure(self, layout: int, failed: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """The error that keeps the document out of a layout, if one of its batches is among ``failed``."""
        batches = self.placements[layout].batches
        return next((failed[batch] for batch in batches if batch in failed), None)

    def outcome(self, layout: int, failed: Mapping[int, Mapping[str, Any]]) -> Outcome:
        """What becomes of the document if ``layout`` decides."""
        if error := self.failure(layout, failed):
            return Outcome(
                self.upload.id,
                "failed",
                self.version,
                code=error["code"],
                message=error["message"],
                retryable=error["retryable"],
            )
        return Outcome(
            self.upload.id,
            "indexed",
            self.version,
            self.placements[layout].chunks,
            self.pages,
            self.pages_without_text,
        )

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "upload": self.upload.to_dict(),
            "placements": {str(layout): each.to_list() for layout, each in self.placements.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PreparedDocument:
        return cls(
            **{
                **data,
                "upload": Upload.from_dict(data["upload"]),
                "pages_without_text": tuple(data["pages_without_text"]),
                "placements": placements_from(data["placements"]),
            }
        )


@dataclass(frozen=True, slots=True)
class PreparedShard:
    """A shard after its preparation: documents to make visible, and those that had their end already.

    ``records`` are those of its documents as the preparation has read them; None where that is not known.
    ``left`` are versions of preparations before this one, by document: their chunks may be in the index.
    """

    documents: tuple[PreparedDocument, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    records: tuple[Document, ...] | None = None
    left: Mapping[str, int] = field(default_factory=dict)

    @property
    def embedded(self) -> dict[str, int]:
        """All versions of which chunks may be in the index, by document."""
        return {**self.left, **{document.upload.id: document.version for document in self.documents}}
