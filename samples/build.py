"""Build the binary samples: `python -m samples.build` writes `samples/documents` from `samples/sources`.

A source is named after the document it becomes: `sources/hr/employee-handbook-2025.pdf.md` is
`documents/hr/employee-handbook-2025.pdf`. The text formats need no building:
they are kept where they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from samples.writers.outline import Outline, read_outline
from samples.writers.pdf import write_pdf
from samples.writers.slides import write_pptx
from samples.writers.word import write_docx
from samples.writers.workbook import write_xlsx

ROOT = Path(__file__).parent
DOCUMENTS = ROOT / "documents"
SOURCES = ROOT / "sources"

_WRITERS: dict[str, Callable[[Outline], bytes]] = {
    ".pdf": write_pdf,
    ".docx": write_docx,
    ".pptx": write_pptx,
    ".xlsx": write_xlsx,
}


def built_documents() -> Iterator[tuple[PurePosixPath, bytes]]:
    """Each binary document's path under `documents/` and its bytes, in the order of their paths."""
    for path in sorted(SOURCES.rglob("*.md")):
        target = PurePosixPath(path.relative_to(SOURCES).as_posix()).with_suffix("")
        yield target, _WRITERS[target.suffix](read_outline(path.read_text("utf-8")))


def main() -> None:
    for name, content in built_documents():
        target = DOCUMENTS / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        print(f"{len(content):>8,}  {name}")


if __name__ == "__main__":
    main()
