"""The sample documents and the golden set: complete, true to each other, and built from their sources."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from samples.build import DOCUMENTS, ROOT, SOURCES, built_documents
from samples.writers.outline import Table, read_outline, runs

SUPPORTED = {".md", ".txt", ".html", ".pdf", ".docx", ".pptx", ".xlsx", ".csv", ".json", ".jsonl", ".eml"}
BINARY = {".pdf", ".docx", ".pptx", ".xlsx"}
# So that a clone of the repository and a demonstration on a laptop stay light.
FILE_BYTES = 200_000
TOTAL_BYTES = 2_000_000

PATHS = sorted(path for path in DOCUMENTS.rglob("*") if path.is_file())
NAMES = {path.relative_to(DOCUMENTS).as_posix() for path in PATHS}


def test_every_supported_type_has_documents():
    counts = Counter(path.suffix for path in PATHS)
    assert set(counts) == SUPPORTED
    assert sum(counts.values()) >= 32
    assert counts[".pdf"] >= 5


def test_each_file_and_the_whole_stay_small():
    sizes = {path.name: path.stat().st_size for path in PATHS}
    assert max(sizes.values()) < FILE_BYTES, max(sizes, key=lambda name: sizes[name])
    assert sum(sizes.values()) < TOTAL_BYTES


def test_rebuilding_gives_the_committed_bytes():
    built = {name.as_posix(): content for name, content in built_documents()}
    assert set(built) == {name for name in NAMES if Path(name).suffix in BINARY}
    changed = [name for name, content in built.items() if (DOCUMENTS / name).read_bytes() != content]
    assert changed == [], "run `python -m samples.build`, look at the documents, and commit them"


@pytest.mark.parametrize(
    "path", [p for p in PATHS if p.suffix in {".docx", ".pptx", ".xlsx"}], ids=lambda p: p.name
)
def test_a_package_depends_on_no_clock_and_no_compressor(path: Path):
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}


def test_text_documents_have_unix_line_ends_and_valid_utf8():
    for path in PATHS:
        if path.suffix not in BINARY:
            content = path.read_bytes()
            assert b"\r" not in content, path
            content.decode("utf-8")


def test_addresses_cannot_reach_anybody():
    """`.example` is reserved by RFC 2606: nobody can own such a domain."""
    texts = [
        path.read_text("utf-8") for path in (*PATHS, *SOURCES.rglob("*.md")) if path.suffix not in BINARY
    ]
    hosts = {host for text in texts for host in re.findall(r"@([\w-]+(?:\.[\w-]+)*)", text)}
    assert len(hosts) > 20
    assert {host.rpartition(".")[2] for host in hosts} == {"example"}


def test_the_readme_lists_every_document():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in sorted(NAMES) if f"`{name}`" not in readme] == []


def test_json_lines_are_one_object_each():
    for path in PATHS:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            assert len({tuple(row) for row in rows}) == 1, path


def test_an_outline_row_with_a_missing_cell_is_refused():
    source = "---\ntitle: T\n---\n| a | b |\n|---|---:|\n| 1 | {} |\n"
    table = read_outline(source.format("2")).blocks[0]
    assert table == Table(("a", "b"), (("1", "2"),), (False, True))
    with pytest.raises(ValueError, match="1 cells and its header 2"):
        read_outline(source.replace("| 1 | {} |", "| 1 |"))


def test_emphasis_is_cut_into_runs():
    assert [(run.text, run.bold, run.italic) for run in runs("a **b** and *c*")] == [
        ("a ", False, False),
        ("b", True, False),
        (" and ", False, False),
        ("c", False, True),
    ]
