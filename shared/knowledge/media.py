"""Which kind of document some bytes are: by signature first, then name, then declared type."""

from __future__ import annotations

import re
from enum import StrEnum

from shared.errors import UnsupportedMediaType

HEAD_BYTES = 4096
"""How much of a document `detect` wants to see: a PDF header may stand anywhere in the first 1,024 bytes
(ISO 32000-1, annex H.3.4.1), and the first entry names of an Office package need a little more."""


class Media(StrEnum):
    MARKDOWN = "text/markdown"
    TEXT = "text/plain"
    HTML = "text/html"
    PDF = "application/pdf"
    DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
    XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    CSV = "text/csv"
    JSON = "application/json"
    JSONL = "application/jsonl"
    EMAIL = "message/rfc822"


OFFICE = frozenset({Media.DOCX, Media.PPTX, Media.XLSX})

_EXTENSIONS = {
    "md": Media.MARKDOWN,
    "markdown": Media.MARKDOWN,
    "txt": Media.TEXT,
    "text": Media.TEXT,
    "log": Media.TEXT,
    "html": Media.HTML,
    "htm": Media.HTML,
    "xhtml": Media.HTML,
    "pdf": Media.PDF,
    "docx": Media.DOCX,
    "docm": Media.DOCX,
    "pptx": Media.PPTX,
    "pptm": Media.PPTX,
    "xlsx": Media.XLSX,
    "xlsm": Media.XLSX,
    "csv": Media.CSV,
    "tsv": Media.CSV,
    "json": Media.JSON,
    "jsonl": Media.JSONL,
    "ndjson": Media.JSONL,
    "eml": Media.EMAIL,
}

_CONTENT_TYPES = {media.value: media for media in Media} | {
    "text/x-markdown": Media.MARKDOWN,
    "application/xhtml+xml": Media.HTML,
    "application/x-pdf": Media.PDF,
    "application/csv": Media.CSV,
    "text/tab-separated-values": Media.CSV,
    "text/json": Media.JSON,
    "application/x-ndjson": Media.JSONL,
    "application/ndjson": Media.JSONL,
    "application/json-lines": Media.JSONL,
}

# What a client sends when it does not know: `curl --data-binary` declares a form, browsers a byte stream.
_GENERIC_CONTENT_TYPES = frozenset(
    {
        "",
        "*/*",
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/unknown",
    }
)

# Signatures no text starts with (https://www.garykessler.net/library/file_sigs.html).
_REFUSED_SIGNATURES = (
    b"\x7fELF",
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"GIF87a",
    b"GIF89a",
    b"\x1f\x8b\x08",
    b"BZh91AY&SY",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf'\x1c",
    b"Rar!\x1a\x07",
    b"(\xb5/\xfd",
    b"\xca\xfe\xba\xbe",
    b"\xcf\xfa\xed\xfe",
    b"\xce\xfa\xed\xfe",
    b"\x00asm",
    b"SQLite format 3\x00",
    b"II*\x00",
    b"MM\x00*",
    b"OggS\x00",
    b"ID3\x03",
    b"ID3\x04",
    b"{\\rtf",
    b"%!PS",
    b"Cr24",
)
_ZIP, _EMPTY_ZIP = b"PK\x03\x04", b"PK\x05\x06"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_UTF16_OR_32_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,500}?-->\s*)?<(?:!doctype\s+html|html\b)", re.I | re.S
)


def detect(name: str | None, content_type: str | None, head: bytes) -> Media:
    """Return the kind of document, or raise `UnsupportedMediaType`.

    ``head`` is the first `HEAD_BYTES` of the content. A signature in it wins over the name, and a known
    extension wins over the declared type, because clients guess the latter from their own registry.
    """
    declared = _declared(name, content_type)
    signed = _signed(head, declared)
    if signed is not None:
        return signed
    if declared is Media.PDF or (declared is not None and declared in OFFICE):
        return declared  # without its signature it is damaged, which the parser reports
    if _is_binary(head):
        raise UnsupportedMediaType("The content is binary and of no supported type.")
    if declared is not None:
        return declared
    if _extension(name) or _bare(content_type) not in _GENERIC_CONTENT_TYPES:
        raise UnsupportedMediaType(_supported())
    return Media.HTML if _HTML_START.match(head) else Media.TEXT


def _declared(name: str | None, content_type: str | None) -> Media | None:
    return _EXTENSIONS.get(_extension(name)) or _CONTENT_TYPES.get(_bare(content_type))


def _extension(name: str | None) -> str:
    last = re.split(r"[/\\]", name or "")[-1]
    stem, dot, extension = last.rpartition(".")
    return extension.casefold() if dot and stem and re.fullmatch(r"[A-Za-z0-9]{1,8}", extension) else ""


def _bare(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().casefold()


def _signed(head: bytes, declared: Media | None) -> Media | None:
    """What the first bytes prove the content to be; raises where they prove an unsupported type."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    if start.startswith(b"%PDF-") or (declared is Media.PDF and b"%PDF-" in head[:1024]):
        return Media.PDF
    if head.startswith((_ZIP, _EMPTY_ZIP)):
        return _office_package(head, declared)
    if head.startswith(_OLE):
        # The container of encrypted Office files, and of the binary formats before 2007.
        if declared is not None and declared in OFFICE:
            return declared
        raise UnsupportedMediaType(_supported())
    executable = head.startswith(b"MZ") and b"\x00" in head
    if executable or head.startswith(_REFUSED_SIGNATURES) or head[4:8] == b"ftyp":
        raise UnsupportedMediaType("The content is of another type than its name says, and not supported.")
    return None


def _office_package(head: bytes, declared: Media | None) -> Media:
    for folder, media in ((b"word/", Media.DOCX), (b"ppt/", Media.PPTX), (b"xl/", Media.XLSX)):
        if folder in head:
            return media
    if declared is not None and declared in OFFICE:
        return declared
    if b"[Content_Types].xml" in head:
        return Media.DOCX  # an Office package of some kind: its reader looks inside
    raise UnsupportedMediaType("A ZIP archive is not a supported type of document.")


def _is_binary(head: bytes) -> bool:
    """Whether NUL bytes stand where no UTF-16 or UTF-32 text would have them."""
    if b"\x00" not in head or head.startswith(_UTF16_OR_32_BOMS):
        return False
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) // 2 or 1
    looks_utf16 = max(even, odd) / half > 0.3 and min(even, odd) / half < 0.05
    return not looks_utf16 and head.count(0) > len(head) // 100


def _supported() -> str:
    return "Supported are Markdown, text, HTML, PDF, docx, pptx, xlsx, csv, json, jsonl and eml."
