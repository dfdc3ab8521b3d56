"""The text of a document's version as it was read, kept to show a citation where it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.knowledge.documents import Upload

if TYPE_CHECKING:
    from shared.knowledge.chunking import Chunk
    from shared.knowledge.parsing import ParsedDocument


@dataclass(frozen=True, slots=True)
class VersionText:
    """``document`` as the parser gave it, ``chunks`` as spans of its text, ``upload`` as it was accepted.

    The record tells of the last upload alone; the text of an earlier one has its own title and access list.
    """

    document: dict[str, Any]
    chunks: list[list[int]]
    upload: Upload

    @classmethod
    def of(cls, document: ParsedDocument, chunks: Sequence[Chunk], upload: Upload) -> VersionText:
        return cls(document.to_dict(), [[chunk.start, chunk.end] for chunk in chunks], upload)

    @property
    def readers(self) -> tuple[str, ...] | None:
        return self.upload.readers

    def parsed(self) -> ParsedDocument:
        """The document as the parser gave it."""
        from shared.knowledge.parsing import ParsedDocument

        return ParsedDocument.from_dict(self.document)

    def to_bytes(self) -> bytes:
        kept = {"document": self.document, "chunks": self.chunks, "upload": self.upload.to_dict()}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> VersionText:
        kept = json.loads(data)
        return cls(kept["document"], kept["chunks"], Upload.from_dict(kept["upload"]))
