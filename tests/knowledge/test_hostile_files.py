"""Hostile files through the pool as ingestion uses it: each ends with a type, and honest ones go on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench.hostile_files import ATTACKS, HostileFile, damaged
from shared.errors import GroundworkError, InternalError
from shared.knowledge.chunking import ChunkBudget
from shared.knowledge.media import HEAD_BYTES, Media, detect
from shared.knowledge.parsing import ParserPool
from tests.knowledge import fixtures

pytestmark = pytest.mark.security("API4", "LLM04", "LLM10")
BUDGET = ChunkBudget(fixtures.tokenizer(), max_tokens=200)

# What each of these must end as; the other attacks may be read or refused, as `bench hostile` shows.
REASONS = {
    "nothing.md": "empty_document",
    "white.md": "empty_document",
    "invisible.txt": "empty_document",
    "one-line-of-200-mb.txt": "document_too_complex",
    "one-line-of-100-mb.csv": "document_too_complex",
    "deep.html": "document_too_complex",
    "deep.json": "document_too_complex",
    "spaces.docx": "document_too_complex",
    "image-bomb.docx": "document_too_complex",
    "entries.docx": "document_too_complex",
    "overlapping.docx": "document_too_complex",
    "deep.docx": "document_too_complex",
    "far-cells.xlsx": "document_too_complex",
    "laughs.docx": "corrupt_document",
    "external-entity.docx": "corrupt_document",
    "own-parent.pdf": "corrupt_document",
    "page-count.pdf": "corrupt_document",
    "utf16-lone-surrogates.txt": "corrupt_document",
    "noise.pdf": "corrupt_document",
    "stream-bomb.pdf": "parse_memory_exceeded",
    "image-only.pdf": "no_text",
    "sizes-of-all.docx": "document_too_complex",
    "slide-many-times.pptx": "document_too_complex",
    "deep-groups.pptx": "document_too_complex",
    "two-of-one-name.docx": "corrupt_document",
    "method-lzma.docx": "corrupt_document",
    "offsets-beyond.docx": "corrupt_document",
    "encrypted-flag.docx": "password_protected",
    "presentation-as-slide.pptx": "corrupt_document",
    "laughs-in-utf7.docx": "corrupt_document",
    "laughs-in-ebcdic.docx": "corrupt_document",
    "object-stream-count.pdf": "corrupt_document",
    "object-stream-of-itself.pdf": "no_text",
    "table-of-all-numbers.pdf": "no_text",
    "deep-tree.pdf": "corrupt_document",
    "encryption-of-itself.pdf": "password_protected",
    **{name: "corrupt_document" for name in ATTACKS if name.startswith("laughs-in-part-")},
    "zeros.txt": "unsupported_media_type",
    "executable-as.txt": "unsupported_media_type",
    "picture-as.docx": "unsupported_media_type",
}
# Read as what they are, with what attacks in them left out or harmless.
READ = (
    "utf16.txt",
    "utf8-surrogates.md",
    "front-matter-bomb.md",
    "formulas.csv",
    "own-parent.docx",
    "traversal.docx",
    "own-relation.docx",
    "outside-relations.docx",
    "own-master.pptx",
    "outline-cycle.pdf",
    "names-of-itself.pdf",
    "glyph-shows-itself.pdf",
    "pattern-of-itself.pdf",
    "masks-of-itself.pdf",
    "huge-image-jbig2.pdf",
    "xref-loop.pdf",
    "script.pdf",
    "pdf-and-zip.pdf",
    "pdf-as.md",
)


@pytest.fixture(scope="module")
def pool() -> Iterator[ParserPool]:
    pool = ParserPool(workers=2)
    yield pool
    asyncio.run(pool.close())


async def ending(pool: ParserPool, file: HostileFile) -> str:
    """``read``, or the code of the error that tells why not."""
    try:
        media = detect(file.name, None, file.content[:HEAD_BYTES])
        prepared = await pool.prepare(file.content, media, name=file.name, budget=BUDGET)
    except InternalError:
        raise
    except GroundworkError as error:
        return error.code
    prepared.document.text.encode()
    return "read"


@pytest.mark.parametrize("name", REASONS)
async def test_an_attack_ends_with_its_reason_and_the_next_document_is_read(
    name: str, pool: ParserPool
) -> None:
    assert await ending(pool, HostileFile(name, ATTACKS[name]())) == REASONS[name]
    assert (await pool.prepare(b"All is well.", Media.TEXT, name="a.txt", budget=BUDGET)).document.text


@pytest.mark.parametrize("name", READ)
async def test_a_trap_that_a_reader_need_not_step_into_is_read(name: str, pool: ParserPool) -> None:
    assert await ending(pool, HostileFile(name, ATTACKS[name]())) == "read"


async def test_real_documents_damaged_by_chance_end_with_a_type(pool: ParserPool) -> None:
    endings = [await ending(pool, file) for file in damaged(150, seed=11)]
    assert {"read", "corrupt_document"} <= set(endings)
