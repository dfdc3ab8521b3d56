"""Office Open XML packages: checked as a ZIP archive before any reader sees them."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib

from shared.errors import CorruptDocument, DocumentTooComplex, PasswordProtected
from shared.knowledge.parsing.limits import ParseLimits

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_STREAM = "EncryptedPackage".encode("utf-16-le")  # [MS-OFFCRYPTO] 1.3.3
_END_RECORD = struct.Struct("<4s4H2LH")  # APPNOTE.TXT 4.3.16
_CENTRAL_HEADER_BYTES = 46  # APPNOTE.TXT 4.3.12, without name, extra field and comment

# Small entries may expand by any ratio, as in Apache POI (ZipSecureFile's grace entry size).
_RATIO_GRACE_BYTES = 100 * 1024
_BLOCK_BYTES = 64 * 1024

_DOCTYPES = tuple("<!DOCTYPE".encode(encoding) for encoding in ("ascii", "utf-16-le", "utf-16-be"))
_XML_STARTS = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe<\x00", b"\xfe\xff\x00<", b"<\x00", b"\x00<")
_XML_ENCODING = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([^\"']{0,40})")


class Package:
    """The XML parts of an Office document, expanded within the limits.

    Raises `PasswordProtected`, `DocumentTooComplex` (a bomb) or `CorruptDocument`. Readers get `repacked`,
    a new archive of the verified parts: its sizes cannot lie, and it holds nothing the check has not seen.
    """

    def __init__(self, content: bytes, limits: ParseLimits) -> None:
        if content.startswith(_OLE):
            if _ENCRYPTED_STREAM in content:
                raise PasswordProtected()
            raise CorruptDocument("The content is an Office document of before 2007 or damaged.")
        _check_directory(content, limits)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                self.parts, self.media = _expand(archive, limits)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
            raise CorruptDocument("The Office package is damaged.") from error
        for data in self.parts.values():
            _check_xml(data)

    def repacked(self) -> io.BytesIO:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self.parts.items():
                archive.writestr(name, data)
            for name in self.media:
                archive.writestr(name, b"")
        target.seek(0)
        return target


def _check_directory(content: bytes, limits: ParseLimits) -> None:
    """Refuse a directory of too many entries before it is read into memory."""
    at = content.rfind(b"PK\x05\x06", max(0, len(content) - 65_557))
    if at < 0 or at + _END_RECORD.size > len(content):
        raise CorruptDocument("The Office package is cut off.")
    _, _, _, _, entries, size, _, _ = _END_RECORD.unpack_from(content, at)
    most = max(entries, min(size, len(content)) // (_CENTRAL_HEADER_BYTES + 64))
    if most > limits.archive_entries:
        raise DocumentTooComplex("The package has too many entries.", limit=limits.archive_entries)


def _expand(archive: zipfile.ZipFile, limits: ParseLimits) -> tuple[dict[str, bytes], list[str]]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    names = {entry.filename for entry in entries}
    if len(names) != len(entries):
        raise CorruptDocument("The package has two entries of one name.")
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise PasswordProtected()
    _check_sizes([(entry.file_size, entry.compress_size) for entry in entries], limits)
    parts: dict[str, bytes] = {}
    media: list[str] = []
    remaining = limits.expanded_bytes
    for entry in entries:
        if entry.filename.lower().endswith((".xml", ".rels", ".vml")):
            parts[entry.filename] = data = _read(archive, entry, remaining, limits)
            remaining -= len(data)
        else:
            media.append(entry.filename)
    return parts, media


def _check_sizes(sizes: list[tuple[int, int]], limits: ParseLimits) -> None:
    if len(sizes) > limits.archive_entries:
        raise DocumentTooComplex("The package has too many entries.", limit=limits.archive_entries)
    if sum(expanded for expanded, _ in sizes) > limits.expanded_bytes:
        raise DocumentTooComplex("The package expands to too much.", limit=limits.expanded_bytes)
    for expanded, compressed in sizes:
        if expanded > _RATIO_GRACE_BYTES and expanded > limits.expansion_ratio * max(compressed, 1):
            raise DocumentTooComplex("The package is compressed too much.", limit=limits.expansion_ratio)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, remaining: int, limits: ParseLimits) -> bytes:
    """Read one entry, counting what really comes out of it: its declared size is a claim."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise CorruptDocument("The package is compressed in a way Office does not use.")
    blocks = []
    with archive.open(entry) as stream:
        while block := stream.read(_BLOCK_BYTES):
            remaining -= len(block)
            if remaining < 0:
                raise DocumentTooComplex("The package expands to too much.", limit=limits.expanded_bytes)
            blocks.append(block)
    return b"".join(blocks)


def _check_xml(data: bytes) -> None:
    """Refuse document types, hence entities, and encodings in which one could hide (ECMA-376-2, 8.1.2.2)."""
    start = data[:512].lstrip()
    if start and not start.startswith(_XML_STARTS):
        raise CorruptDocument("A part of the package is not XML.")
    encoding = _XML_ENCODING.match(start.removeprefix(b"\xef\xbb\xbf"))
    if encoding and encoding[1].lower() not in (b"utf-8", b"utf8", b"utf-16", b"us-ascii", b"ascii"):
        raise CorruptDocument("A part of the package has an encoding Office does not use.")
    if any(doctype in data for doctype in _DOCTYPES):
        raise CorruptDocument("A part of the package declares a document type.")
