"""Zip packages whose bytes depend on their content alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

# The earliest time that a zip entry can hold (PKWARE APPNOTE 4.4.6).
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(parts: Mapping[str, bytes]) -> bytes:
    """A zip of the parts in their order, stored: deflate differs between builds of zlib."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix; the default depends on the machine that builds
            archive.writestr(entry, content)
    return buffer.getvalue()


def repack(package: bytes, *, without: frozenset[str] = frozenset()) -> bytes:
    """The same package with fixed times and no compression, less the parts named in ``without``."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        return pack({name: archive.read(name) for name in archive.namelist() if name not in without})
