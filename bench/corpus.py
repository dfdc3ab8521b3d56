"""Real documents for benchmarks: the Markdown files of a folder that a checkout may have beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("GROUNDWORK_BENCH_DATA", ROOT.parent / "shared" / "data"))
SECTION_CHARS = (300, 900)


def markdown_files() -> list[Path]:
    """The corpus's Markdown files; exits with a word where there are none."""
    files = sorted((DATA / "well-architected").rglob("*.md"))
    if not files:
        raise SystemExit(f"This benchmark reads Markdown documents from {DATA}, and there are none.")
    return files


def short_documents(count: int) -> list[str]:
    """``count`` distinct documents of about one chunk each, cut from the corpus at its headings."""
    least, most = SECTION_CHARS
    sections: list[str] = []
    for file in markdown_files():
        for section in re.split(r"\n(?=#{1,4} )", file.read_text(errors="replace")):
            text = section.strip()[:most]
            if len(text) >= least:
                sections.append(text)
    return [f"# Note {i}\n\n{sections[i % len(sections)]}" for i in range(count)]


def real_documents(count: int) -> list[str]:
    """``count`` whole files, drawn evenly from the corpus."""
    files = markdown_files()
    step = max(1, len(files) // count)
    return [file.read_text(errors="replace") for file in files[::step][:count]]
