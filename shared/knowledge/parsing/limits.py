"""The bounds of reading one document."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What reading one document may cost. Beyond any of these the outcome is a typed `DocumentError`."""

    seconds: float = 8.0
    """Wall time of one parse and its chunking. The bar is 10 s a file, starting a new worker included."""

    memory_bytes: int = 1024 * _MIB
    """Address space of a worker (resident size where the system cannot limit that). The bar is 1 GiB."""

    input_bytes: int = 128 * _MIB
    """Size of a document. Azure AI Search (S1) indexes blobs of up to 128 MB."""

    output_chars: int = 4_000_000
    """Characters of text taken from a document. Azure AI Search (S1) extracts 4 million from a blob."""

    pages: int = 10_000
    """Pages, slides or sheets. Five times what Azure AI Document Intelligence analyses (2,000)."""

    archive_entries: int = 10_000
    """Entries of an Office package. A deck of 1,000 slides with notes and images has about 6,000."""

    expansion_ratio: int = 200
    """Expanded to compressed bytes of an entry. Twice what Apache POI allows by default (100)."""

    expanded_bytes: int = 256 * _MIB
    """All entries of an Office package, expanded. An XML tree takes several times its text in memory."""

    sheet_cells: int = 10_000_000
    """Area that a sheet's cells span. The reader keeps 24 to 32 bytes for each, used or not."""

    nesting_depth: int = 256
    """Elements, values or message parts within each other. libxml2 allows 256 by default."""


DEFAULT_LIMITS = ParseLimits()
