"""Layouts: how a collection is cut and embedded, and which of these ways its searches use.

    building ──── caught up, good enough ────> serving <──── rollback ──── kept
        └──── cancelled, given up ────> retired <──── its time is over ──────┘

A collection has one serving layout. A reindexing builds another beside it; every document that comes in
meanwhile goes into both. When the new one serves, the old one is kept for a named time, and still gets every
document, so that a rollback needs nothing but a change of the collection's row. A retired layout is neither
written nor read; its chunks are removed a little later, when no search can be reading them any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from shared.jobs import iso
from shared.knowledge.index import FIRST_LAYOUT

# The catalogue's name for the embedding model of collections that name none.
EMBEDDING_MODEL = "embedding"
# Cutting aims at this many characters: a paragraph or two, which MiniLM's 256 tokens hold whole.
CHUNK_CHARACTERS = 1000
# The bounds of what a caller may ask for; smaller pieces lose their sense, larger ones few models see whole.
MIN_CHUNK_CHARACTERS, MAX_CHUNK_CHARACTERS = 64, 20_000


class LayoutState(StrEnum):
    BUILDING = "building"
    SERVING = "serving"
    KEPT = "kept"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which a collection is cut and embedded; times are UTC seconds since 1970.

    ``model_version`` is what the embedding model was when the layout was made. ``job`` is the reindexing
    that builds it. ``since`` is when its state began, ``until`` when a kept one is retired. ``incomplete`` is
    the code of an error that kept a document out of it: it cannot serve then.
    """

    number: int = FIRST_LAYOUT
    embedding_model: str = EMBEDDING_MODEL
    model_version: str = ""
    chunk_characters: int = CHUNK_CHARACTERS
    state: LayoutState = LayoutState.SERVING
    job: str = ""
    since: float = 0.0
    until: float | None = None
    incomplete: str = ""

    @property
    def live(self) -> bool:
        """Whether every document that becomes visible has to lie in it."""
        return self.state is not LayoutState.RETIRED and not self.incomplete

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layout:
        return cls(**{**data, "state": LayoutState(data["state"])})

    def to_document(self) -> dict[str, Any]:
        """The layout as the API shows it."""
        document: dict[str, Any] = {
            "layout": self.number,
            "state": self.state.value,
            "embedding_model": self.embedding_model,
            "model_version": self.model_version,
            "chunk_characters": self.chunk_characters,
            "since": iso(self.since),
        }
        if self.until is not None:
            document["until"] = iso(self.until)
        if self.incomplete:
            document["incomplete"] = self.incomplete
        return document
