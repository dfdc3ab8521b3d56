"""The text of a document's version as it was read, kept to show a citation where it stands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.knowledge.chunking import Chunk
    from shared.knowledge.parsing import ParsedDocument


@dataclass(frozen=True, slots=True)
class VersionText:
    """``document`` as the parser gave it, ``chunks`` as spans of its text, ``readers`` as it was uploaded.

    The record tells of the last upload alone; the text of an earlier one has its own access list.
    """

    document: dict[str, Any]
    chunks: list[list[int]]
    readers: tuple[str, ...] | None

    @classmethod
    def of(
        cls, document: ParsedDocument, chunks: Sequence[Chunk], readers: tuple[str, ...] | None
    ) -> VersionText:
        return cls(document.to_dict(), [[chunk.start, chunk.end] for chunk in chunks], readers)

    def to_bytes(self) -> bytes:
        kept = {"document": self.document, "chunks": self.chunks, "readers": self.readers}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> VersionText:
        kept = json.loads(data)
        readers = kept["readers"]
        return cls(kept["document"], kept["chunks"], None if readers is None else tuple(readers))
