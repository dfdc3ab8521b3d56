"""Attacks in PDF."""

from __future__ import annotations

import random
import zlib

from bench.hostile_files.files import MIB, attack


def pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        trailer,
        start,
    )
    return bytes(out)


CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
ONE_PAGE = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"


def form(resources: bytes) -> bytes:
    """What makes a stream a form."""
    return b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<<%s>>" % resources


def page(resources: bytes, contents: int = 4, box: bytes = b"[0 0 612 792]") -> bytes:
    return b"<</Type/Page/Parent 2 0 R/MediaBox%s/Contents %d 0 R/Resources<<%s>>>>" % (
        box,
        contents,
        resources,
    )


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d%s>>stream\n" % (len(content), entries) + content + b"\nendstream"


def page_pdf(content: bytes, filters: bytes = b"", box: bytes = b"[0 0 612 792]") -> bytes:
    return pdf(
        [
            CATALOG,
            ONE_PAGE,
            page(b"/Font<</F 5 0 R>>", box=box),
            stream(content, filters),
            FONT,
        ]
    )


HELLO = b"BT /F 12 Tf 72 700 Td (Hello) Tj ET "


@attack("stream-bomb.pdf")
def _stream_bomb() -> bytes:
    packed = zlib.compress(bytes(500 * MIB), 9)
    return page_pdf(packed, b"/Filter/FlateDecode")


@attack("stream-bomb-twice-packed.pdf")
def _nested_stream_bomb() -> bytes:
    packed = zlib.compress(zlib.compress(bytes(900 * MIB), 9), 9)
    return page_pdf(packed, b"/Filter[/FlateDecode/FlateDecode]")


@attack("glyphs.pdf")
def _glyphs() -> bytes:
    return page_pdf(
        zlib.compress(b"BT /F 1 Tf " + b"(abcdefgh) Tj " * 400_000 + b"ET", 9), b"/Filter/FlateDecode"
    )


@attack("scattered-glyphs.pdf")
def _scattered() -> bytes:
    chance = random.Random(5)
    shown = b"".join(
        b"BT /F 8 Tf %d %d Td (a) Tj ET " % (chance.randrange(600), chance.randrange(780))
        for _ in range(60_000)
    )
    return page_pdf(zlib.compress(shown), b"/Filter/FlateDecode")


@attack("drawings.pdf")
def _drawings() -> bytes:
    return page_pdf(zlib.compress(HELLO + b"0 0 m 9 9 l S " * 2_000_000, 9), b"/Filter/FlateDecode")


@attack("own-parent.pdf")
def _page_cycle() -> bytes:
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Parent 2 0 R/Count 9>>"])


@attack("page-count.pdf")
def _page_count() -> bytes:
    return pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 2147483647>>"])


@attack("shared-page.pdf")
def _shared_page() -> bytes:
    kids = b"3 0 R " * 9_000
    content = HELLO * 20
    return pdf(
        [
            CATALOG,
            b"<</Type/Pages/Kids[" + kids + b"]/Count 9000>>",
            page(b"/Font<</F 5 0 R>>"),
            stream(content),
            FONT,
        ]
    )


@attack("outline-cycle.pdf")
def _outline_cycle() -> bytes:
    return pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R/Outlines 6 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            page(b"/Font<</F 5 0 R>>"),
            stream(HELLO),
            FONT,
            b"<</First 7 0 R/Last 7 0 R/Count 1>>",
            b"<</Title(Hello)/Parent 6 0 R/Next 7 0 R/First 7 0 R/Dest[3 0 R/Fit]>>",
        ]
    )


@attack("form-calls-itself.pdf")
def _form_cycle() -> bytes:
    return pdf(
        [
            CATALOG,
            ONE_PAGE,
            page(b"/XObject<</X 4 0 R>>"),
            stream(b"/X Do /X Do ", form(b"/XObject<</X 4 0 R>>")),
        ]
    )


@attack("forms-within-forms.pdf")
def _form_doubling() -> bytes:
    """Thirty forms, each of which shows the next one twice: 2^30 words if they are all drawn."""
    forms = []
    for number in range(30):
        resources = b"/Font<</F 4 0 R>>/XObject<</X %d 0 R>>" % (number + 6)
        forms.append(stream(b"/X Do /X Do" if number < 29 else HELLO, form(resources)))
    return pdf(
        [
            CATALOG,
            ONE_PAGE,
            page(b"/XObject<</X 5 0 R>>", contents=5),
            FONT,
            *forms,
        ]
    )


@attack("deep-arrays.pdf")
def _deep_arrays() -> bytes:
    return pdf(
        [b"<</Type/Catalog/Pages 2 0 R/A " + b"[" * 200_000 + b">>", b"<</Type/Pages/Kids[]/Count 0>>"]
    )


@attack("xref-loop.pdf")
def _xref_loop() -> bytes:
    content = bytearray(page_pdf(HELLO))
    at = content.rfind(b"xref\n0")
    return bytes(content).replace(b"/Root 1 0 R", b"/Root 1 0 R/Prev %d" % at)


@attack("script.pdf")
def _script() -> bytes:
    action = b"/OpenAction<</S/JavaScript/JS(while(true){})>>"
    return page_pdf(HELLO).replace(b"<</Type/Catalog", b"<</Type/Catalog" + action)


@attack("huge-page.pdf")
def _huge_page() -> bytes:
    return page_pdf(HELLO, box=b"[0 0 1e30 1e30]")


@attack("image-only.pdf")
def _image_only() -> bytes:
    return page_pdf(b"q 600 0 0 700 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q")
