"""Entries: chunks on their way into the index, as the embedding batches of a shard hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shared.knowledge.index import IndexedChunk, chunk_key
from shared.knowledge.index.protocol import to_payload

if TYPE_CHECKING:
    from shared.inferencing.catalogue import Model
    from shared.knowledge.chunking import Chunk, ChunkBudget
    from shared.knowledge.collections import Collection
    from shared.knowledge.documents import Upload
    from shared.knowledge.layouts import Layout

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placement:
    """A document's version in one layout: how many chunks it has there, in which embedding batches."""

    chunks: int
    batches: tuple[int, ...] = ()

    def to_list(self) -> list[Any]:
        return [self.chunks, list(self.batches)]

    @classmethod
    def from_list(cls, data: Sequence[Any]) -> Placement:
        return cls(data[0], tuple(data[1]))


def chunk_budget(model: Model, layout: Layout) -> ChunkBudget:
    """How large the chunks of a layout may be."""
    from shared.knowledge.chunking import ChunkBudget

    # The catalogue demands both of an embedding model.
    assert model.tokenizer is not None
    assert model.max_input_tokens is not None
    return ChunkBudget(model.tokenizer, model.max_input_tokens, layout.chunk_characters)


def entries_of(
    collection: Collection,
    layout: Layout,
    upload: Upload,
    version: int,
    readers: Sequence[str],
    chunks: Iterable[Chunk],
) -> list[Entry]:
    """The chunks of a version as a layout gets them, with what is to be embedded of each."""
    owner = (collection.tenant, collection.name, upload.id, version)
    return [
        {
            "input": chunk.embedding_text(),
            "tokens": chunk.tokens,
            "chunk": to_payload(
                IndexedChunk(
                    id=chunk_key(*owner, chunk.ordinal, layout.number),
                    tenant=collection.tenant,
                    collection=collection.name,
                    document=upload.id,
                    version=version,
                    ordinal=chunk.ordinal,
                    text=chunk.text,
                    title=upload.title,
                    headings=chunk.headings,
                    page=chunk.page,
                    page_end=chunk.page_end,
                    start=chunk.start,
                    end=chunk.end,
                    media_type=upload.media,
                    source=upload.source,
                    tags=upload.tags,
                    updated=datetime.now(UTC),
                    readers=tuple(readers),
                    layout=layout.number,
                )
            ),
        }
        for chunk in chunks
    ]


def packed(entries: Iterable[Entry], inputs: int) -> list[list[Entry]]:
    """Full batches over the chunks of many documents; like lengths together, so that little is padded."""
    ordered = sorted(entries, key=lambda entry: entry["tokens"])
    return [ordered[start : start + inputs] for start in range(0, len(ordered), inputs)]


def placements(batches: Sequence[Sequence[Entry]]) -> dict[str, dict[int, Placement]]:
    """Where the chunks of each document lie: by document and layout."""
    counts: dict[tuple[str, int], list[int]] = {}
    for number, batch in enumerate(batches):
        for entry in batch:
            counts.setdefault((entry["chunk"]["document"], entry["chunk"]["layout"]), []).append(number)
    found: dict[str, dict[int, Placement]] = {}
    for (document, layout), numbers in counts.items():
        found.setdefault(document, {})[layout] = Placement(len(numbers), tuple(sorted(set(numbers))))
    return found


def placements_from(data: Mapping[str, Any]) -> dict[int, Placement]:
    return {int(layout): Placement.from_list(placement) for layout, placement in data.items()}
