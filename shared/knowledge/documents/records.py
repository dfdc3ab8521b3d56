"""The record of a document: what was accepted, which version is visible, and what became of it.

Every accepted upload or deletion of a document takes the next ``version`` number of that document. The
record names the ``visible`` version, the only one that retrieval may show; it moves forward alone. A job
that finds its document taken over by a newer one has been superseded and changes nothing of it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidName
from shared.jobs import iso
from shared.knowledge.index.protocol import document_key
from shared.quotas import Usage

if TYPE_CHECKING:
    from shared.storage import Row

# Blob names hold at most 1,024 characters (Azure Storage); the id is part of one in the inbox.
ID_MAX_CHARACTERS = 900


class DocumentState(StrEnum):
    ACCEPTED = "accepted"
    INDEXED = "indexed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETED = "deleted"


def check_id(document: str) -> str:
    """``document`` in Unicode form C, if it can name a document; raises `InvalidName` otherwise."""
    name = unicodedata.normalize("NFC", document)
    parts = name.split("/")
    if (
        not name.strip()
        or len(name) > ID_MAX_CHARACTERS
        or any(part in ("", ".", "..") for part in parts)
        or "\\" in name
        or any(unicodedata.category(character) in ("Cc", "Cs", "Cf", "Zl", "Zp") for character in name)
    ):
        raise InvalidName(
            f"A document is named by a path of at most {ID_MAX_CHARACTERS} characters, without empty, '.' "
            "or '..' parts, backslashes and control characters.",
            parameter="document",
        )
    return name


@dataclass(frozen=True, slots=True)
class Upload:
    """One accepted upload as a manifest lists it; ``content`` is the claim to its bytes.

    ``inbox`` names a blob in the inbox, ``url`` an address, whose bytes have yet to be brought; ``sha256``
    and ``content`` are empty until then. ``tries`` counts how often the address was asked in vain. ``base``
    is the version that was the document's newest when the content was given or read; None where nobody
    looked. ``event`` is when a blob was written or a message sent, 0 for a request (UTC seconds).
    """

    id: str
    sha256: str
    size: int
    media: str
    title: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    readers: tuple[str, ...] | None = None
    inbox: str = ""
    content: str = ""
    url: str = ""
    tries: int = 0
    owner: str = ""
    base: int | None = 0
    event: float = 0.0

    @property
    def is_awaited(self) -> bool:
        """Whether its bytes have yet to be brought."""
        return bool(self.inbox or self.url)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Upload:
        readers = data["readers"]
        return cls(
            **{
                **data,
                "tags": tuple(data["tags"]),
                "readers": None if readers is None else tuple(readers),
            }
        )


@dataclass(frozen=True, slots=True)
class Document:
    """The record of one document. Sizes in bytes, times in UTC seconds since 1970.

    ``tombstone`` is the version of the last deletion, 0 where there was none: no version below it may
    ever be seen again, whatever was put since. ``attempt`` is that of the job: each attempt takes a version
    of its own, so that what a stopped one writes late never meets what the next one has written.

    ``visible_sha256`` is that of the bytes which the visible version was made from.

    ``layouts`` names the layouts that the visible version lies in, with the number of its chunks in each.

    The record owns content by claims: the bytes of the newest upload and of the visible version, and the
    texts of the visible version and of the one before it, so that an answer given just before a change
    still shows its source. ``dropped`` are claims that it owned before; their content is being removed.
    """

    tenant: str
    collection: str
    id: str
    version: int = 0
    visible: int = 0
    tombstone: int = 0
    state: DocumentState = DocumentState.ACCEPTED
    job: str = ""
    attempt: int = 1
    upload: Upload = field(default_factory=lambda: Upload("", "", 0, ""))
    visible_digest: str = ""
    visible_sha256: str = ""
    layouts: Mapping[int, int] = field(default_factory=dict)
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    error: Mapping[str, Any] | None = None
    accepted: float = 0.0
    finished: float | None = None
    visible_content: str = ""
    texts: Mapping[int, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    etag: str = ""

    @property
    def key(self) -> str:
        return document_key(self.tenant, self.collection, self.id)

    @property
    def freshness_seconds(self) -> float | None:
        """From its event or request until it could be found; None while it cannot, or nothing was new."""
        if self.state is not DocumentState.INDEXED or self.visible != self.version or self.finished is None:
            return None
        return max(0.0, self.finished - (self.upload.event or self.accepted))

    def has_overtaken(self, version: int) -> bool:
        """Whether a later version is visible, or the document was deleted after this version."""
        return self.visible > version or self.tombstone > version

    @property
    def claims(self) -> set[str]:
        """The content that the record owns."""
        return {self.upload.content, self.visible_content, *self.texts.values()} - {""}

    def dropping(self, claims: Iterable[str]) -> Document:
        """The record with those of ``claims`` noted for removal that it does not own."""
        return replace(self, dropped=tuple(sorted({*self.dropped, *claims} - self.claims - {""})))

    @property
    def usage(self) -> Usage:
        """What the document counts for in the tenant's quotas."""
        if self.state is DocumentState.DELETED:
            return Usage()
        return Usage(documents=1, bytes=self.upload.size)

    def to_row(self) -> Row:
        row: Row = {
            "PartitionKey": f"{self.tenant}:{self.collection}",
            "RowKey": self.key,
            "id": self.id,
            "version": self.version,
            "visible": self.visible,
            "tombstone": self.tombstone,
            "state": self.state.value,
            "job": self.job,
            "attempt": self.attempt,
            "upload": json.dumps(self.upload.to_dict(), ensure_ascii=False),
            "visible_digest": self.visible_digest,
            "visible_sha256": self.visible_sha256,
            "layouts": json.dumps({str(layout): chunks for layout, chunks in self.layouts.items()}),
            "pages": self.pages,
            "pages_without_text": json.dumps(self.pages_without_text[:500]),
            "accepted": self.accepted,
            "visible_content": self.visible_content,
            "texts": json.dumps({str(version): claim for version, claim in self.texts.items()}),
        }
        if self.dropped:
            row["dropped"] = json.dumps(self.dropped)
        if self.error is not None:
            row["error"] = json.dumps(dict(self.error))
        if self.finished is not None:
            row["finished"] = self.finished
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Document:
        tenant, _, collection = row["PartitionKey"].partition(":")
        return cls(
            tenant=tenant,
            collection=collection,
            id=row["id"],
            version=row["version"],
            visible=row["visible"],
            tombstone=row["tombstone"],
            state=DocumentState(row["state"]),
            job=row["job"],
            attempt=row["attempt"],
            upload=Upload.from_dict(json.loads(row["upload"])),
            visible_digest=row["visible_digest"],
            visible_sha256=row.get("visible_sha256", ""),
            layouts={int(layout): chunks for layout, chunks in json.loads(row["layouts"]).items()},
            pages=row["pages"],
            pages_without_text=tuple(json.loads(row["pages_without_text"])),
            error=json.loads(row["error"]) if row.get("error") else None,
            accepted=row["accepted"],
            finished=row.get("finished"),
            visible_content=row["visible_content"],
            texts={int(version): claim for version, claim in json.loads(row["texts"]).items()},
            dropped=tuple(json.loads(row.get("dropped", "[]"))),
            etag=row.get("etag", ""),
        )

    def to_document(self, layout: int) -> dict[str, Any]:
        """The document as the API shows it, where ``layout`` is the one that serves."""
        return {
            "id": self.id,
            "collection": self.collection,
            "state": self.state.value,
            "version": self.version,
            "visible_version": self.visible or None,
            "visible_sha256": self.visible_sha256 or None,
            "title": self.upload.title or self.id.rpartition("/")[2],
            "media_type": self.upload.media,
            "size": self.upload.size,
            "sha256": self.upload.sha256,
            "source": self.upload.source,
            "tags": list(self.upload.tags),
            "chunks": self.layouts.get(layout, 0),
            "pages": self.pages,
            "pages_without_text": list(self.pages_without_text),
            "error": dict(self.error) if self.error else None,
            "job": self.job,
            "accepted": iso(self.accepted),
            "finished": iso(self.finished),
            "freshness_seconds": None if (fresh := self.freshness_seconds) is None else round(fresh, 3),
        }


@dataclass(frozen=True, slots=True)
class Stamp:
    """The state of a collection's content. ``changed`` is the time of the last change, by its writer's clock.

    ``own_lists`` says that documents have had access lists of their own, beside the collection's.
    """

    value: str
    changed: float
    own_lists: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """The records of documents after an acceptance, and the names of those that something newer overtook."""

    records: Mapping[str, Document]
    overtaken: frozenset[str]
