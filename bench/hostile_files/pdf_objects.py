"""Attacks in the objects of PDFs: their streams, tables, trees, fonts and filters."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from bench.hostile_files.files import MIB, attack
from bench.hostile_files.pdf import CATALOG, FONT, HELLO, ONE_PAGE, form, page, page_pdf, pdf, stream


def _flate(content: bytes, entries: bytes = b"") -> bytes:
    return stream(zlib.compress(content, 9), b"/Filter/FlateDecode" + entries)


def _one_page(resources: bytes, *others: bytes, content: bytes = HELLO, trailer: bytes = b"") -> bytes:
    """A page whose resources name ``others``, which are objects from 6 on; 5 is a font."""
    return pdf(
        [CATALOG, ONE_PAGE, page(b"/Font<</F 5 0 R>>" + resources), stream(content), FONT, *others], trailer
    )


def _in_object_stream(objects: dict[int, bytes], entries: bytes, size: bytes = b"9") -> bytes:
    """A PDF 1.5 whose objects lie in one compressed stream, and whose table is a stream as well."""
    head, body = b"", b""
    for number, content in objects.items():
        head += b"%d %d " % (number, len(body))
        body += content + b" "
    entries = entries or b"/N %d/First %d" % (len(objects), len(head))
    out = b"%PDF-1.5\n"
    at = len(out)
    out += b"7 0 obj\n" + _flate(head + body, b"/Type/ObjStm" + entries) + b"\nendobj\n"
    table_at = len(out)
    rows = b""
    for number in range(9):
        if number in objects:
            rows += b"\x02" + (7).to_bytes(4, "big") + bytes([[*objects].index(number)])
        elif number in (7, 8):
            rows += b"\x01" + (at if number == 7 else table_at).to_bytes(4, "big") + b"\0"
        else:
            rows += bytes(6)
    out += b"8 0 obj\n" + _flate(rows, b"/Type/XRef/W[1 4 1]/Root 1 0 R/Size " + size) + b"\nendobj\n"
    return out + b"startxref\n%d\n%%%%EOF\n" % table_at


_TREE = {1: CATALOG, 2: ONE_PAGE, 3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]>>"}
attack("object-stream.pdf")(lambda: _in_object_stream(_TREE, b""))
attack("object-stream-count.pdf")(lambda: _in_object_stream(_TREE, b"/N 2147483647/First 18"))
attack("object-stream-first.pdf")(lambda: _in_object_stream(_TREE, b"/N 3/First -2147483648"))
attack("object-stream-own-base.pdf")(lambda: _in_object_stream(_TREE, b"/N 3/First 18/Extends 7 0 R"))
attack("object-stream-bomb.pdf")(
    lambda: _in_object_stream({**_TREE, 4: b"(" + b"a" * (400 * MIB) + b")"}, b"")
)
attack("object-stream-of-itself.pdf")(lambda: _in_object_stream({**_TREE, 7: b"<</Length 7 0 R>>"}, b""))
attack("table-size.pdf")(lambda: _in_object_stream(_TREE, b"", b"2147483647"))
attack("table-of-all-numbers.pdf")(lambda: _in_object_stream(_TREE, b"", b"9/Index[0 2147483647]"))
attack("table-of-wide-rows.pdf")(
    lambda: page_pdf(HELLO).replace(b"/Root 1 0 R", b"/Root 1 0 R/XRefStm 9/W[2147483647 2147483647 1]")
)
attack("object-numbers.pdf")(lambda: page_pdf(HELLO).replace(b"xref\n0 6", b"xref\n4294967290 6"))
attack("length-of-itself.pdf")(lambda: page_pdf(HELLO).replace(b"/Length ", b"/Length 4 0 R/L "))
attack("length-beyond.pdf")(lambda: page_pdf(HELLO).replace(b"/Length ", b"/Length 99999999999/L "))
attack("length-negative.pdf")(lambda: page_pdf(HELLO).replace(b"/Length ", b"/Length -1/L "))
attack("updates.pdf")(
    lambda: page_pdf(HELLO) + b"1 0 obj\n<<>>\nendobj\nxref\n0 0\ntrailer\n<</Prev 9>>\n" * 30_000 + b"%%EOF"
)
attack("many-documents.pdf")(lambda: page_pdf(HELLO) * 3_000)
attack("many-objects.pdf")(lambda: _one_page(b"", *[b"null"] * 500_000))
attack("no-table.pdf")(lambda: page_pdf(HELLO).split(b"xref\n")[0] + b"1 0 obj <<" * 200_000 + b"%%EOF")
attack("deep-dictionaries.pdf")(lambda: pdf([b"<</A" * 200_000, b"null"]))
attack("open-strings.pdf")(lambda: pdf([CATALOG, ONE_PAGE, b"(" * 5_000_000]))
attack("long-name.pdf")(lambda: pdf([CATALOG, ONE_PAGE, page(b"/" + b"n" * 5_000_000 + b" 1")]))
attack("long-number.pdf")(
    lambda: pdf([CATALOG, b"<</Type/Pages/Kids[3 0 R]/Count " + b"9" * 1_000_000 + b">>"])
)

# --- the tree of pages ---


@attack("deep-tree.pdf")
def _deep_tree() -> bytes:
    levels = 20_000
    nodes = [b"<</Type/Pages/Kids[%d 0 R]/Count 1>>" % (number + 3) for number in range(levels)]
    return pdf([CATALOG, *nodes, b"<</Type/Page/MediaBox[0 0 9 9]>>"])


@attack("doubling-tree.pdf")
def _doubling_tree() -> bytes:
    """Thirty levels that each have the next one twice."""
    nodes = [b"<</Type/Pages/Kids[%d 0 R %d 0 R]/Count 9000>>" % (n + 3, n + 3) for n in range(30)]
    return pdf([CATALOG, *nodes, b"<</Type/Page/MediaBox[0 0 9 9]>>"])


attack("count-of-nine-thousand.pdf")(lambda: page_pdf(HELLO).replace(b"/Count 1>>", b"/Count 9999>>"))
attack("count-negative.pdf")(lambda: page_pdf(HELLO).replace(b"/Count 1>>", b"/Count -1>>"))
attack("kids-that-are-not.pdf")(lambda: page_pdf(HELLO).replace(b"[3 0 R]", b"[null 3 (a) [3 0 R] 99 0 R]"))
attack("page-is-the-catalog.pdf")(lambda: page_pdf(HELLO).replace(b"[3 0 R]", b"[1 0 R]"))
attack("inherited-from-itself.pdf")(
    lambda: page_pdf(HELLO).replace(b"/Parent 2 0 R/MediaBox[0 0 612 792]", b"/Parent 3 0 R")
)
attack("rotation.pdf")(lambda: page_pdf(HELLO).replace(b"/MediaBox", b"/Rotate 2147483647/MediaBox"))
attack("page-of-nothing.pdf")(lambda: page_pdf(HELLO, box=b"[5 5 5 5]"))
attack("page-inside-out.pdf")(lambda: page_pdf(HELLO, box=b"[612 792 -612 -792]"))
attack("page-not-a-number.pdf")(lambda: page_pdf(HELLO, box=b"[nan inf -1e999 (a)]"))

# --- contents ---

attack("content-many-times.pdf")(
    lambda: pdf(
        [
            CATALOG,
            ONE_PAGE,
            page(b"/Font<</F 5 0 R>>").replace(b"4 0 R", b"[" + b"4 0 R " * 200_000 + b"]"),
            stream(HELLO),
            FONT,
        ]
    )
)
for _name, _content in (
    ("states", b"q " * 1_000_000),
    ("states-closed", b"Q " * 1_000_000),
    ("operands", b"1 " * 2_000_000 + b"Tj"),
    ("marked", b"/A BMC " * 500_000),
    ("marked-lists", b"/A <</B<</C" * 100_000),
    ("clips", HELLO + b"0 0 9 9 re W n " * 300_000),
    ("curves", HELLO + b"0 0 m " + b"1 2 3 4 5 6 c " * 600_000 + b"S"),
    ("arrays", b"BT /F 9 Tf [" + b"(a) -9 " * 300_000 + b"] TJ ET"),
    ("strings", b"BT /F 9 Tf (" + b"a" * 2_000_000 + b") Tj ET"),
    ("open-text", b"BT " * 500_000),
    ("huge-sizes", b"BT /F 1e38 Tf 1e38 0 0 1e38 1e38 1e38 Tm (Hello) Tj ET " * 200),
    ("sizes-of-nothing", b"BT /F 0 Tf 0 0 0 0 0 0 Tm (Hello) Tj ET " * 2000),
    ("sizes-below-nothing", b"BT /F -12 Tf -1 0 0 -1 300 300 Tm (Hello) Tj ET " * 200),
    ("not-numbers", b"BT /F nan Tf inf 0 0 1e999 -1e999 nan Tm (Hello) Tj ET " * 200),
    ("spacing", b"BT /F 9 Tf 1e30 Tw 1e30 Tc 1e30 Tz -1e30 TL (a b) Tj T* ET " * 200),
    ("one-place", b"BT /F 9 Tf 9 9 Td (Hello) Tj ET " * 30_000),
    (
        "slanted",
        b"".join(b"BT /F 9 Tf .7 .%d -.%d .7 300 300 Tm (Hello) Tj ET " % (n, n) for n in range(9_000)),
    ),
    (
        "table",
        b"".join(b"BT /F 4 Tf %d %d Td (a1) Tj ET " % (n % 60 * 10, n // 60 * 5) for n in range(9_000)),
    ),
    ("ladder", b"".join(b"BT /F 4 Tf %d %d Td (a1) Tj ET " % (n % 600, n % 790) for n in range(20_000))),
    ("inline-image", b"BI /W 2147483647 /H 2147483647 /CS /RGB /BPC 16 ID \x80 EI " + HELLO),
    ("open-inline-image", b"BI /W 9 /H 9 ID " + b"\x80" * 2_000_000),
    ("inline-images", b"BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI " * 100_000 + HELLO),
):
    attack(f"{_name}.pdf")(
        lambda content=_content: page_pdf(zlib.compress(content, 9), b"/Filter/FlateDecode")
    )

# --- filters ---

for _name, _filters, _content in (
    ("filter-chain", b"/Filter[" + b"/ASCIIHexDecode" * 2_000 + b"]", b"41>"),
    ("flate-chain", b"/Filter[" + b"/FlateDecode" * 500 + b"]", zlib.compress(HELLO)),
    ("run-lengths", b"/Filter/RunLengthDecode", b"\x81a" * 2_000_000),
    ("lzw", b"/Filter/LZWDecode", b"\x80\x0b\x60\x50\x22\x0c\x0c\x85\x01" * 300_000),
    ("ascii85", b"/Filter/ASCII85Decode", b"z" * 30_000_000 + b"~>"),
    ("crypt", b"/Filter[/Crypt/FlateDecode]/DecodeParms[<</Name/No>>null]", zlib.compress(HELLO)),
    ("no-such-filter", b"/Filter/Nothing", HELLO),
    ("jbig2", b"/Filter/JBIG2Decode", b"\x00\x00\x00\x00\x30\x00\x01\xff\xff\xff\xff" + b"\x7f" * 8),
    ("jpx", b"/Filter/JPXDecode", b"\xff\x4f\xff\x51\x00\x2f\x00\x00" + b"\x7f" * 40),
    ("dct", b"/Filter/DCTDecode", b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x11" * 9),
    (
        "ccitt",
        b"/Filter/CCITTFaxDecode/DecodeParms<</K -1/Columns 2147483647/Rows 2147483647>>",
        b"\x7f" * 99,
    ),
    (
        "predictor",
        b"/Filter/FlateDecode/DecodeParms<</Predictor 15/Columns 2147483647/Colors 2147483647"
        b"/BitsPerComponent 16>>",
        zlib.compress(HELLO),
    ),
):
    attack(f"{_name}.pdf")(lambda filters=_filters, content=_content: page_pdf(content, filters))

_IMAGE = b"/Type/XObject/Subtype/Image/Width %d/Height %d/ColorSpace/DeviceRGB/BitsPerComponent 8"
for _name, _filters, _content in (
    ("huge-image-raw", b"", b"\x80" * 99),
    ("huge-image-flate", b"/Filter/FlateDecode", zlib.compress(bytes(100 * MIB), 9)),
    ("huge-image-jbig2", b"/Filter/JBIG2Decode/DecodeParms<</JBIG2Globals 6 0 R>>", b"\x7f" * 99),
    ("huge-image-jpx", b"/Filter/JPXDecode", b"\xff\x4f\xff\x51" + b"\x7f" * 99),
    (
        "huge-image-dct",
        b"/Filter/DCTDecode",
        b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + b"\x11" * 9,
    ),
    ("huge-image-ccitt", b"/Filter/CCITTFaxDecode/DecodeParms<</K -1/Columns 65535>>", b"\x7f" * 99),
):
    attack(f"{_name}.pdf")(
        lambda filters=_filters, content=_content: _one_page(
            b"/XObject<</X 6 0 R>>",
            stream(content, _IMAGE % (2147483647, 2147483647) + filters),
            content=b"q 9 0 0 9 0 0 cm /X Do Q " + HELLO,
        )
    )
attack("masks-of-itself.pdf")(
    lambda: _one_page(
        b"/XObject<</X 6 0 R>>",
        stream(b"\x80", _IMAGE % (1, 1) + b"/SMask 6 0 R/Mask 6 0 R"),
        content=b"/X Do " + HELLO,
    )
)

# --- fonts ---


def _with_font(font: bytes, *others: bytes, text: bytes = b"(Hello)") -> bytes:
    """A page in a font that is object 5; ``others`` are objects from 6 on."""
    show = b"BT /F 12 Tf 72 700 Td " + text + b" Tj ET"
    return pdf([CATALOG, ONE_PAGE, page(b"/Font<</F 5 0 R>>"), stream(show), font, *others])


_MAP = b"/CIDInit /ProcSet findresource begin begincmap %s endcmap"
attack("glyph-shows-itself.pdf")(
    lambda: _with_font(
        b"<</Type/Font/Subtype/Type3/FontBBox[0 0 9 9]/FontMatrix[1 0 0 1 0 0]/FirstChar 65/LastChar 66"
        b"/Widths[9 9]"
        b"/CharProcs<</a 6 0 R>>/Encoding<</Differences[65/a/a]>>/Resources<</Font<</F 5 0 R>>>>>>",
        stream(b"9 0 d0 BT /F 1 Tf (AAAA) Tj ET"),
        text=b"(AB)",
    )
)
_TYPE0 = (
    b"<</Type/Font/Subtype/Type0/BaseFont/A/Encoding/Identity-H/DescendantFonts[%d 0 R]/ToUnicode %d 0 R>>"
)
_CID = (
    b"<</Type/Font/Subtype/CIDFontType2/BaseFont/A/CIDSystemInfo<</Registry(A)/Ordering(B)/Supplement 0>>%s>>"
)
attack("own-descendant.pdf")(lambda: _with_font(_TYPE0 % (5, 5)))
attack("character-map.pdf")(
    lambda: _with_font(
        _TYPE0 % (6, 7),
        _CID % b"",
        _flate(_MAP % (b"1 beginbfrange <0000> <ffff> <0041> endbfrange " * 30_000)),
        text=b"<00410042>",
    )
)
attack("character-map-of-long-texts.pdf")(
    lambda: _with_font(
        _TYPE0 % (6, 7),
        _CID % b"",
        _flate(_MAP % (b"1 beginbfchar <0041> <" + b"0041" * 1_000_000 + b"> endbfchar")),
        text=b"<" + b"0041" * 1_000 + b">",
    )
)
attack("character-map-of-itself.pdf")(
    lambda: _with_font(
        _TYPE0 % (6, 7), _CID % b"", _flate(_MAP % b"/A usecmap", b"/UseCMap 7 0 R"), text=b"<0041>"
    )
)
attack("widths.pdf")(
    lambda: _with_font(
        _TYPE0 % (6, 7), _CID % (b"/W[" + b"0 65535 500 " * 100_000 + b"]"), _flate(b""), text=b"<0041>"
    )
)
attack("widths-of-all.pdf")(
    lambda: _with_font(FONT.replace(b">>", b"/FirstChar 0/LastChar 2147483647/Widths[1e38 -1e38 nan]>>"))
)
attack("differences.pdf")(
    lambda: _with_font(
        FONT.replace(b">>", b"/Encoding<</Differences[" + b"0/a-2147483648/b" * 100_000 + b"]>>>>")
    )
)
attack("font-file.pdf")(
    lambda: _with_font(
        FONT.replace(b"Type1", b"TrueType").replace(
            b">>", b"/FontDescriptor<</FontName/A/Flags 4/FontFile2 6 0 R>>>>"
        ),
        _flate(b"\0\1\0\0\xff\xff" + b"glyf" * 250_000),
    )
)
attack("font-file-bomb.pdf")(
    lambda: _with_font(
        FONT.replace(b">>", b"/FontDescriptor<</FontName/A/Flags 4/FontFile 6 0 R>>>>"),
        _flate(b"%!PS-AdobeFont-1.0\n" + b"{" * (50 * MIB)),
    )
)

# --- what pages refer to ---

attack("pattern-of-itself.pdf")(
    lambda: _one_page(
        b"/Pattern<</P 6 0 R>>",
        stream(
            b"/Pattern cs /P scn 0 0 9 9 re f",
            b"/Type/Pattern/PatternType 1/PaintType 1/TilingType 1/BBox[0 0 9 9]/XStep 1e-30/YStep 0"
            b"/Resources<</Pattern<</P 6 0 R>>>>",
        ),
        content=b"/Pattern cs /P scn 0 0 600 700 re f " + HELLO,
    )
)
attack("colours-of-itself.pdf")(
    lambda: _one_page(
        b"/ColorSpace<</C 6 0 R>>", b"[/Indexed 6 0 R 255 6 0 R]", content=b"/C cs 1 sc " + HELLO
    )
)
attack("function-of-itself.pdf")(
    lambda: _one_page(
        b"/Shading<</S<</ShadingType 2/ColorSpace/DeviceRGB/Coords[0 0 9 9]/Function 6 0 R>>>>",
        b"<</FunctionType 3/Domain[0 1]/Functions[6 0 R 6 0 R]/Bounds[.5]/Encode[0 1 0 1]>>",
        content=b"/S sh " + HELLO,
    )
)
attack("sampled-function.pdf")(
    lambda: _one_page(
        b"/Shading<</S<</ShadingType 1/ColorSpace/DeviceRGB/Function 6 0 R>>>>",
        stream(
            b"a",
            b"/FunctionType 0/Domain[0 1 0 1]/Range[0 1 0 1 0 1]"
            b"/Size[2147483647 2147483647]/BitsPerSample 32",
        ),
        content=b"/S sh " + HELLO,
    )
)
attack("state-of-itself.pdf")(
    lambda: _one_page(
        b"/ExtGState<</G 6 0 R>>",
        b"<</Type/ExtGState/SMask<</S/Luminosity/G 7 0 R>>>>",
        stream(b"/G gs 0 0 9 9 re f", form(b"/ExtGState<</G 6 0 R>>") + b"/Group<</S/Transparency>>"),
        content=b"/G gs " + HELLO,
    )
)
attack("annotations.pdf")(
    lambda: page_pdf(HELLO).replace(
        b"/Contents", b"/Annots[" + b"<</Subtype/Text/Contents(a)/Popup 3 0 R>>" * 30_000 + b"]/Contents"
    )
)


def outline_pdf(items: Iterable[bytes]) -> bytes:
    """A page whose outline begins with the sixth object."""
    root = b"<</Type/Catalog/Pages 2 0 R/Outlines 6 0 R>>"
    return pdf([root, ONE_PAGE, page(b"/Font<</F 5 0 R>>"), stream(HELLO), FONT, *items])


attack("outline-of-many.pdf")(
    lambda: outline_pdf(
        [
            b"<</First 7 0 R/Last 60006 0 R/Count 60000>>",
            *[
                b"<</Title(Hello)/Parent 6 0 R/Next %d 0 R/Dest[3 0 R/XYZ nan 1e38 0]>>" % (n + 8)
                for n in range(60_000)
            ],
        ]
    )
)
attack("outline-down.pdf")(
    lambda: outline_pdf(
        b"<</Title(Hello)/First %d 0 R/Last %d 0 R/Dest[3 0 R/Fit]>>" % (n + 7, n + 7) for n in range(60_000)
    )
)
attack("names-of-itself.pdf")(
    lambda: pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R/Names<</Dests 6 0 R>>/Outlines 7 0 R>>",
            ONE_PAGE,
            page(b"/Font<</F 5 0 R>>"),
            stream(HELLO),
            FONT,
            b"<</Kids[6 0 R 6 0 R]/Limits[(a)(z)]>>",
            b"<</First 8 0 R/Last 8 0 R/Count 1>>",
            b"<</Title(Hello)/Parent 7 0 R/Dest(m)>>",
        ]
    )
)
attack("long-title.pdf")(
    lambda: _one_page(b"", b"<</Title(" + b"a" * 5_000_000 + b")>>", trailer=b"/Info 6 0 R")
)
attack("title-of-surrogates.pdf")(
    lambda: _one_page(b"", b"<</Title<feffd800dc00d800>>>", trailer=b"/Info 6 0 R")
)
for _name, _encrypt in (
    ("encryption-version", b"/Filter/Standard/V 99/R 99/O(a)/U(b)/P -1"),
    ("encryption-length", b"/Filter/Standard/V 2/R 3/Length 2147483647/O(a)/U(b)/P -1"),
    ("encryption-of-itself", b"/Filter/Standard/V 4/R 4/CF 6 0 R/StmF/A/O 6 0 R/U 6 0 R/P 6 0 R"),
    ("encryption-handler", b"/Filter/Nobody/V 1"),
):
    attack(f"{_name}.pdf")(
        lambda encrypt=_encrypt: _one_page(b"", b"<<" + encrypt + b">>", trailer=b"/Encrypt 6 0 R/ID[(a)(b)]")
    )
