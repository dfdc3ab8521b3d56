"""What the steps tell of documents: how they are prepared, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import GroundworkError
from shared.knowledge.documents import Upload


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document in one job; its ``code`` says why it failed."""

    id: str
    state: str
    version: int = 0
    chunks: int = 0
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    code: str = ""
    message: str = ""
    retryable: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """One document of a shard, read and chunked: what its settlement has to know of it.

    ``text`` is the claim to its text, ``batches`` are those that its chunks lie in.
    """

    upload: Upload
    version: int
    digest: str
    text: str
    chunks: int
    pages: int
    pages_without_text: tuple[int, ...]
    batches: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {
            "upload": self.upload.to_dict()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PreparedDocument:
        return cls(
            **{
                **data,
                "upload": Upload.from_dict(data["upload"]),
                "pages_without_text": tuple(data["pages_without_text"]),
                "batches": tuple(data["batches"]),
            }
        )


@dataclass(frozen=True, slots=True)
class PreparedShard:
    """A shard after its preparation: documents to make visible, and those that had their end already."""

    documents: tuple[PreparedDocument, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
