"""Files that are neither one thing nor the other."""

from __future__ import annotations

import json
import random

from bench.hostile_files.files import MIB, attack
from bench.hostile_files.office import PARAGRAPH, docx
from bench.hostile_files.pdf import HELLO, page_pdf


@attack("pdf-and-zip.pdf")
def _pdf_and_zip() -> bytes:
    return page_pdf(HELLO) + docx(PARAGRAPH)


@attack("zip-and-pdf.docx")
def _zip_and_pdf() -> bytes:
    return docx(PARAGRAPH) + page_pdf(HELLO)


@attack("html-as.pdf")
def _html_as_pdf() -> bytes:
    return b"<html><script>alert(1)</script>%PDF-1.7 %%EOF</html>"


@attack("pdf-as.md")
def _pdf_as_markdown() -> bytes:
    return page_pdf(HELLO)


@attack("executable-as.txt")
def _executable() -> bytes:
    return b"MZ\x90\x00" + bytes(4096)


@attack("picture-as.docx")
def _picture() -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(4096)


@attack("json-as.csv")
def _json_as_csv() -> bytes:
    return json.dumps([{"a": [1, 2, {"b": "c"}]}] * 1000).encode()


@attack("noise.pdf")
def _noise_pdf() -> bytes:
    return b"%PDF-1.7\n" + random.Random(1).randbytes(5 * MIB) + b"%%EOF"


@attack("noise.xlsx")
def _noise_xlsx() -> bytes:
    return b"PK\x03\x04" + random.Random(2).randbytes(5 * MIB)
