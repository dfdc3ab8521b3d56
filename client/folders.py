"""Files and folders as documents to ingest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from client.models import NewDocument


def documents_in(paths: Iterable[Path]) -> Iterator[NewDocument]:
    """The files in ``paths``, folders walked in name order; a document's id is its path in its folder.

    A file given by itself is named by its own name. Hidden files and folders are left out, and so are
    links that lead to a folder: they may lead in circles. Raises `FileNotFoundError`.
    """
    for path in paths:
        if path.is_dir():
            for file in _files(path):
                yield NewDocument(file.relative_to(path).as_posix(), file)
        elif path.is_file():
            yield NewDocument(path.name, path)
        else:
            raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _files(entry)
        elif entry.is_file():
            yield entry
