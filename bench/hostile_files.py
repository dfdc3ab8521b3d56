"""Files made to hang, crash or exhaust whoever reads them, and real ones damaged by chance.

Every file is made here from a seed: the same number always gives the same files. `ATTACKS` are built by
hand, a function each; `damaged` breaks documents of all types in the ways that disks and networks do.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLES = Path(__file__).resolve().parent.parent / "samples" / "documents"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file's name, which tells its type, and its bytes."""

    name: str
    content: bytes


Attack = Callable[[], bytes]
ATTACKS: dict[str, Attack] = {}


def attack(name: str) -> Callable[[Attack], Attack]:
    """Register a file under a name that ends in its extension."""

    def register(make: Attack) -> Attack:
        ATTACKS[name] = make
        return make

    return register


def attacks() -> Iterator[HostileFile]:
    """Every file that is built by hand, one after another: some are large."""
    for name, make in ATTACKS.items():
        yield HostileFile(name, make())


def damaged(count: int, seed: int, extra: tuple[Path, ...] = ()) -> Iterator[HostileFile]:
    """``count`` documents of the samples, and of ``extra``, each damaged in one of the `_DAMAGES`."""
    paths = [*sorted(path for path in SAMPLES.rglob("*") if path.is_file()), *extra]
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")
        path = paths[number % len(paths)]
        damage = chance.choice(_DAMAGES)
        content = damage(bytearray(path.read_bytes()), chance)
        yield HostileFile(f"{damage.__name__.strip('_')}-{number}{path.suffix}", bytes(content))


# --- damage ---


def _cut(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randrange(1, len(content))]


def _beheaded(content: bytearray, chance: random.Random) -> bytearray:
    return content[chance.randrange(1, min(2048, len(content))) :]


def _flipped(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 3, 30, 300))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def _zeroed(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    length = min(len(content) - at, chance.choice((1, 64, 4096)))
    content[at : at + length] = bytes(length)
    return content


def _doubled(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    return content[:at] + content[: chance.randrange(1, len(content))] + content[at:]


def _shuffled(content: bytearray, chance: random.Random) -> bytearray:
    size = chance.choice((16, 512, 4096))
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    chance.shuffle(blocks)
    return bytearray(b"".join(blocks))


def _number_changed(content: bytearray, chance: random.Random) -> bytearray:
    """Lengths, counts and offsets are what readers trust: one group of digits becomes another number."""
    digits = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if digits:
        at = chance.choice(digits)
        content[at : at + 1] = chance.choice((b"0", b"-1", b"4294967295", b"99999999999999999999"))
    return content


def _inserted(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(content))
    piece = chance.choice(
        (b"\x00" * 64, b"\xff\xfe", b"<" * 1000, b"(" * 1000, b"\xed\xa0\x80", b"]]>", b"--")
    )
    return content[:at] + piece + content[at:]


_DAMAGES = (_cut, _beheaded, _flipped, _zeroed, _doubled, _shuffled, _number_changed, _inserted)

# --- nothing, and text ---


@attack("nothing.md")
def _nothing() -> bytes:
    return b""


@attack("zeros.txt")
def _zeros() -> bytes:
    return bytes(MIB)


@attack("white.md")
def _white() -> bytes:
    return b" \t\r\n" * 250_000


@attack("one-line-of-200-mb.txt")
def _long_line() -> bytes:
    return b"word " * (40 * MIB)


@attack("one-line-of-100-mb.csv")
def _long_row() -> bytes:
    return b"a," * (50 * MIB)


@attack("one-word.txt")
def _one_word() -> bytes:
    return b"x" * 3_900_000


@attack("line-ends.txt")
def _line_ends() -> bytes:
    return b"a\n" + b"\n" * 3_900_000 + b"b"


@attack("utf16.txt")
def _utf16() -> bytes:
    return "Zürich, 東京, 🦩".encode("utf-16")


@attack("utf16-cut-in-a-character.txt")
def _utf16_cut() -> bytes:
    return "flamingo 🦩".encode("utf-16")[:-1]


@attack("utf16-lone-surrogates.txt")
def _surrogates() -> bytes:
    return b"\xff\xfe" + b"a\x00" + b"\x00\xd8" * 10_000 + b"b\x00"


@attack("utf8-surrogates.md")
def _utf8_surrogates() -> bytes:
    return b"# Title \xed\xa0\x80\xed\xb0\x80\n\ntext \xf8\x88\x80\x80\x80 \xc0\xaf"


@attack("marks-on-a-letter.txt")
def _zalgo() -> bytes:
    return ("a" + "\u0301\u0323" * 400_000).encode()


@attack("directions.md")
def _directions() -> bytes:
    return ("\u202e\u2066\u2067" * 100_000 + "text").encode()


@attack("invisible.txt")
def _invisible() -> bytes:
    return ("\u200b\ufeff\u00ad" * 300_000).encode()


# --- Markdown ---


def _repeated(name: str, piece: bytes, times: int, end: bytes = b"") -> None:
    ATTACKS[name] = lambda: piece * times + end


_repeated("open-brackets.md", b"[", 500_000)
_repeated("open-images.md", b"![", 300_000)
_repeated("links-within-links.md", b"[a](", 200_000)
_repeated("emphasis.md", b"*a _b ", 300_000)
_repeated("quotes-within-quotes.md", b"> ", 500_000, b"text")
_repeated("backticks.md", b"`a``b```", 200_000)
_repeated("fences.md", b"```\n~~~\n", 200_000)
_repeated("headings.md", b"# a\n", 300_000)
_repeated("lists.md", b" " * 50 + b"- a\n", 50_000)
_repeated("references.md", b"[a]: b\n[a]\n", 150_000)
_repeated("entities.md", b"&amp;&#x110000;&#0;", 150_000)


@attack("wide-table.md")
def _wide_table() -> bytes:
    return b"|a" * 20_000 + b"|\n" + b"|-" * 20_000 + b"|\n" + (b"|1" * 20_000 + b"|\n") * 40


@attack("nested-list.md")
def _nested_list() -> bytes:
    return b"".join(b" " * depth + b"- a\n" for depth in range(1500))


@attack("front-matter-bomb.md")
def _front_matter() -> bytes:
    aliases = b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 20))
    return b"---\na0: &a0 lol\n" + aliases + b"---\n# Title\n\ntext"


# --- HTML ---

_repeated("deep.html", b"<div>", 1_000_000, b"text")
_repeated("tables-within-tables.html", b"<table><tr><td>", 100_000, b"text")
_repeated("formatting.html", b"<b><i><p>", 100_000, b"text")
_repeated("open-comments.html", b"<!--", 500_000)
_repeated("open-tags.html", b"<a ", 500_000)
_repeated("selects.html", b"<select><option>", 200_000, b"text")
_repeated("formats-reopened.html", b"<a><b><font><nobr></p>", 60_000, b"text")
_repeated("cdata.html", b"<svg><![CDATA[", 100_000)
_repeated("scripts.html", b"<script></script>", 200_000, b"text")


@attack("attributes.html")
def _attributes() -> bytes:
    return b"<p " + b" ".join(b'a%d="%d"' % (n, n) for n in range(300_000)) + b">text</p>"


@attack("long-attribute.html")
def _long_attribute() -> bytes:
    return b"<img src='data:image/png;base64," + b"A" * (30 * MIB) + b"'><p>text</p>"


@attack("column-span.html")
def _column_span() -> bytes:
    return b"<table>" + b"<tr><td colspan=1000000 rowspan=65534>text</td></tr>" * 200 + b"</table>"


@attack("entities.html")
def _html_entities() -> bytes:
    return b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><p>&e;' + b"&nGtv;" * 300_000


# --- csv, JSON, mail ---


@attack("columns.csv")
def _columns() -> bytes:
    return b",".join(b"column%d" % n for n in range(20_000)) + b"\n" + (b"1," * 20_000 + b"\n") * 100


@attack("unclosed-quote.csv")
def _unclosed_quote() -> bytes:
    return b'a,b\n"' + b"x,y\n" * 900_000


@attack("quotes.csv")
def _quotes() -> bytes:
    return b"a,b\n" + b'"",""""""\n' * 300_000


@attack("formulas.csv")
def _formulas() -> bytes:
    return b"name,value\n=cmd|'/c calc'!A0,@SUM(1)\n+1,-2\n"


_repeated("deep.json", b"[", 5_000_000)
_repeated("deep-objects.json", b'{"a":', 1_000_000, b"1")


@attack("long-number.json")
def _long_number() -> bytes:
    return b"[" + b"9" * 1_000_000 + b", 1e999999999, -0, NaN, Infinity]"


@attack("many-numbers.json")
def _many_numbers() -> bytes:
    return b"[" + b"1.5," * 3_500_000 + b"1]"


@attack("same-names.json")
def _same_names() -> bytes:
    return b"{" + b'"a":1,' * 800_000 + b'"a":2}'


@attack("escapes.json")
def _escapes() -> bytes:
    return b'["' + b"\\ud800" * 300_000 + b'", "\\u0000"]'


@attack("long-paths.json")
def _long_paths() -> bytes:
    key = b"k" * 10_000
    return b"{" + b",".join(b'"%s%d":{"%s":%d}' % (key, n, key, n) for n in range(150)) + b"}"


@attack("bad-lines.jsonl")
def _bad_lines() -> bytes:
    return b'{"a": 1}\n{"a": \n' * 200_000


@attack("parts-within-parts.eml")
def _nested_parts() -> bytes:
    head = b"Subject: x\n"
    for level in range(5_000):
        head += b"Content-Type: multipart/mixed; boundary=B%d\n\n--B%d\n" % (level, level)
    return head + b"Content-Type: text/plain\n\ntext\n"


@attack("messages-within-messages.eml")
def _nested_messages() -> bytes:
    return b"Subject: x\nContent-Type: message/rfc822\n\n" * 3_000 + b"text"


@attack("many-parts.eml")
def _many_parts() -> bytes:
    return (
        b"Subject: x\nContent-Type: multipart/mixed; boundary=B\n\n"
        + b"--B\nContent-Type: text/plain\n\nt\n" * 60_000
        + b"--B--\n"
    )


@attack("many-headers.eml")
def _many_headers() -> bytes:
    return b"Subject: =?utf-8?q?" + b"=41" * 200_000 + b"?=\n" + b"X-A: " + b"b\n c" * 200_000 + b"\n\ntext"


@attack("encodings.eml")
def _encodings() -> bytes:
    return (
        b"Subject: =?no-such-charset?b?////?=\nContent-Type: text/plain; charset=rot13\n"
        b"Content-Transfer-Encoding: base64\n\n" + b"!" * 400_000
    )


@attack("addresses.eml")
def _addresses() -> bytes:
    return (
        b"To: " + b"(" * 100_000 + b'"' * 100_000 + b"\nFrom: " + b"<a@b>," * 50_000 + b"\nSubject: x\n\ntext"
    )


# --- Office packages ---

_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/word/document.xml" ContentType="{_WORD}"/></Types>'
)
_RELATIONS = (
    '<?xml version="1.0"?>'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Target="word/document.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)
_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_PARAGRAPH = "<w:p><w:r><w:t>text</w:t></w:r></w:p>"


def _docx(body: str, doctype: str = "", extra: dict[str, bytes] | None = None) -> bytes:
    document = f'<?xml version="1.0"?>{doctype}<w:document {_W}><w:body>{body}</w:body></w:document>'
    return _zip(
        {
            "[Content_Types].xml": _TYPES.encode(),
            "_rels/.rels": _RELATIONS.encode(),
            "word/document.xml": document.encode(),
            **(extra or {}),
        }
    )


def _zip(parts: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return target.getvalue()


@attack("spaces.docx")
def _spaces() -> bytes:
    return _docx(_PARAGRAPH + " " * (250 * MIB))


@attack("image-bomb.docx")
def _image_bomb() -> bytes:
    return _docx(_PARAGRAPH, extra={"word/media/image1.png": bytes(400 * MIB)})


@attack("entries.docx")
def _entries() -> bytes:
    return _docx(_PARAGRAPH, extra={f"word/media/{n}.xml": b"<a/>" for n in range(60_000)})


@attack("laughs.docx")
def _laughs() -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    return _docx("<w:p><w:r><w:t>&e11;</w:t></w:r></w:p>", f'<!DOCTYPE w [<!ENTITY e0 "lol">{entities}]>')


@attack("external-entity.docx")
def _external_entity() -> bytes:
    doctype = (
        '<!DOCTYPE w [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"><!ENTITY b SYSTEM "file:///etc/passwd">%a;]>'
    )
    return _docx("<w:p><w:r><w:t>&b;</w:t></w:r></w:p>", doctype)


@attack("deep.docx")
def _deep_docx() -> bytes:
    return _docx("<w:tbl><w:tr><w:tc>" * 20_000 + _PARAGRAPH + "</w:tc></w:tr></w:tbl>" * 20_000)


@attack("deep-runs.docx")
def _deep_runs() -> bytes:
    return _docx("<w:p>" + "<w:ins><w:smartTag>" * 30_000 + "</w:smartTag></w:ins>" * 30_000 + "</w:p>")


@attack("paragraphs.docx")
def _paragraphs() -> bytes:
    return _docx("<w:p><w:r><w:t>a</w:t></w:r></w:p>" * 900_000)


@attack("lists.docx")
def _lists() -> bytes:
    item = '<w:p><w:pPr><w:numPr><w:ilvl w:val="%d"/><w:numId w:val="1"/></w:numPr></w:pPr>%s</w:p>'
    return _docx("".join(item % (n % 9, "<w:r><w:t>a</w:t></w:r>") for n in range(60_000)))


@attack("own-parent.docx")
def _style_cycle() -> bytes:
    styles = (
        f'<w:styles {_W}><w:style w:type="paragraph" w:styleId="A"><w:name w:val="a"/><w:basedOn w:val="A"/>'
        "</w:style></w:styles>"
    )
    body = '<w:p><w:pPr><w:pStyle w:val="A"/></w:pPr><w:r><w:t>text</w:t></w:r></w:p>'
    return _docx(body, extra={"word/styles.xml": styles.encode()})


@attack("traversal.docx")
def _traversal() -> bytes:
    return _docx(
        _PARAGRAPH, extra={"../../../../tmp/evil.xml": b"<a/>", "/etc/passwd": b"x", "C:\\x.xml": b"<a/>"}
    )


@attack("overlapping.docx")
def _overlapping() -> bytes:
    """Every entry of the directory points at the same compressed bytes."""
    body = zlib.compress(b"<a>" + b" " * (20 * MIB) + b"</a>", 9)[2:-4]
    crc, size = zlib.crc32(b"<a>" + b" " * (20 * MIB) + b"</a>"), 20 * MIB + 7
    local = (
        struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 0, crc, len(body), size, 5, 0) + b"a.xml" + body
    )
    directory = b"".join(
        struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, crc, len(body), size, 9, 0, 0, 0, 0, 0, 0
        )
        + b"word/%04d" % n
        for n in range(5_000)
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 5_000, 5_000, len(directory), len(local), 0)
    return local + directory + end


@attack("zip-in-zip.docx")
def _zip_in_zip() -> bytes:
    inner = _docx(_PARAGRAPH)
    for _ in range(50):
        inner = _docx(_PARAGRAPH, extra={"word/embeddings/inner.docx": inner})
    return inner


@attack("html-in-a-package.docx")
def _html_in_docx() -> bytes:
    return _docx('<w:altChunk r:id="h"/>' + _PARAGRAPH, extra={"word/a.html": b"<script>alert(1)</script>"})


def _xlsx(sheet: str, extra: dict[str, bytes] | None = None) -> bytes:
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    return _zip(
        {
            "[Content_Types].xml": (
                '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
                '<Default Extension="rels" '
                'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
                f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
                f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
                f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}.sharedStrings+xml"/></Types>'
            ).encode(),
            "_rels/.rels": _RELATIONS.replace("word/document.xml", "xl/workbook.xml").encode(),
            "xl/workbook.xml": (
                f'<workbook {main} xmlns:r="{relation}"><sheets>'
                '<sheet name="A" sheetId="1" r:id="r1"/></sheets></workbook>'
            ).encode(),
            "xl/_rels/workbook.xml.rels": (
                '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
                f'<Relationship Id="r1" Type="{relation}/worksheet" Target="worksheets/sheet1.xml"/>'
                f'<Relationship Id="r2" Type="{relation}/sharedStrings" Target="sharedStrings.xml"/>'
                "</Relationships>"
            ).encode(),
            "xl/worksheets/sheet1.xml": f"<worksheet {main}>{sheet}</worksheet>".encode(),
            **(extra or {}),
        }
    )


@attack("far-cells.xlsx")
def _far_cells() -> bytes:
    return _xlsx(
        '<dimension ref="A1:XFD1048576"/><sheetData><row r="1"><c r="A1"><v>1</v></c></row>'
        '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    )


@attack("rows.xlsx")
def _rows() -> bytes:
    row = "".join(f'<c r="{column}1" t="inlineStr"><is><t>ab</t></is></c>' for column in "ABCDEFGH")
    return _xlsx("<sheetData>" + f"<row>{row}</row>" * 200_000 + "</sheetData>")


@attack("shared-strings.xlsx")
def _shared_strings() -> bytes:
    strings = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" count="1"><si><t>'
    cells = "".join(f'<row r="{n}"><c r="A{n}" t="s"><v>0</v></c></row>' for n in range(1, 60_000))
    extra = {"xl/sharedStrings.xml": strings + b"long text " * 2_000 + b"</t></si></sst>"}
    return _xlsx(f"<sheetData>{cells}</sheetData>", extra)


@attack("bad-cells.xlsx")
def _bad_cells() -> bytes:
    return _xlsx(
        '<sheetData><row r="0"><c r="A0"><v>1</v></c><c r="ZZZZZZ1"><v>x</v></c><c t="s"><v>-1</v></c>'
        '<c t="d"><v>99999-99-99</v></c><c r="A99999999999"><v>1</v></c></row></sheetData>'
    )


@attack("merged.xlsx")
def _merged() -> bytes:
    merged = '<mergeCell ref="A1:XFD1048576"/>' * 50_000
    return _xlsx(
        f'<sheetData><row r="1"><c r="A1"><v>1</v></c></row></sheetData><mergeCells>{merged}</mergeCells>'
    )


@attack("not-a-deck.pptx")
def _not_a_deck() -> bytes:
    return _zip({"[Content_Types].xml": b"<Types/>", "ppt/presentation.xml": b"<p>" * 100_000})


# --- PDF ---


def _pdf(objects: list[bytes], trailer: bytes = b"") -> bytes:
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


_CATALOG = b"<</Type/Catalog/Pages 2 0 R>>"
_ONE_PAGE = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
_FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"


_FORM = b"/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Resources<<%s>>"


def _page(resources: bytes, contents: int = 4, box: bytes = b"[0 0 612 792]") -> bytes:
    return b"<</Type/Page/Parent 2 0 R/MediaBox%s/Contents %d 0 R/Resources<<%s>>>>" % (
        box,
        contents,
        resources,
    )


def _stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d%s>>stream\n" % (len(content), entries) + content + b"\nendstream"


def _page_pdf(content: bytes, filters: bytes = b"", box: bytes = b"[0 0 612 792]") -> bytes:
    return _pdf(
        [
            _CATALOG,
            _ONE_PAGE,
            _page(b"/Font<</F 5 0 R>>", box=box),
            _stream(content, filters),
            _FONT,
        ]
    )


_HELLO = b"BT /F 12 Tf 72 700 Td (Hello) Tj ET "


@attack("stream-bomb.pdf")
def _stream_bomb() -> bytes:
    packed = zlib.compress(bytes(500 * MIB), 9)
    return _page_pdf(packed, b"/Filter/FlateDecode")


@attack("stream-bomb-twice-packed.pdf")
def _nested_stream_bomb() -> bytes:
    packed = zlib.compress(zlib.compress(bytes(900 * MIB), 9), 9)
    return _page_pdf(packed, b"/Filter[/FlateDecode/FlateDecode]")


@attack("glyphs.pdf")
def _glyphs() -> bytes:
    return _page_pdf(
        zlib.compress(b"BT /F 1 Tf " + b"(abcdefgh) Tj " * 400_000 + b"ET", 9), b"/Filter/FlateDecode"
    )


@attack("scattered-glyphs.pdf")
def _scattered() -> bytes:
    chance = random.Random(5)
    shown = b"".join(
        b"BT /F 8 Tf %d %d Td (a) Tj ET " % (chance.randrange(600), chance.randrange(780))
        for _ in range(60_000)
    )
    return _page_pdf(zlib.compress(shown), b"/Filter/FlateDecode")


@attack("drawings.pdf")
def _drawings() -> bytes:
    return _page_pdf(zlib.compress(_HELLO + b"0 0 m 9 9 l S " * 2_000_000, 9), b"/Filter/FlateDecode")


@attack("own-parent.pdf")
def _page_cycle() -> bytes:
    return _pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Parent 2 0 R/Count 9>>"])


@attack("page-count.pdf")
def _page_count() -> bytes:
    return _pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 2147483647>>"])


@attack("shared-page.pdf")
def _shared_page() -> bytes:
    kids = b"3 0 R " * 9_000
    content = _HELLO * 20
    return _pdf(
        [
            _CATALOG,
            b"<</Type/Pages/Kids[" + kids + b"]/Count 9000>>",
            _page(b"/Font<</F 5 0 R>>"),
            _stream(content),
            _FONT,
        ]
    )


@attack("outline-cycle.pdf")
def _outline_cycle() -> bytes:
    return _pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R/Outlines 6 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            _page(b"/Font<</F 5 0 R>>"),
            _stream(_HELLO),
            _FONT,
            b"<</First 7 0 R/Last 7 0 R/Count 1>>",
            b"<</Title(Hello)/Parent 6 0 R/Next 7 0 R/First 7 0 R/Dest[3 0 R/Fit]>>",
        ]
    )


@attack("form-calls-itself.pdf")
def _form_cycle() -> bytes:
    return _pdf(
        [
            _CATALOG,
            _ONE_PAGE,
            _page(b"/XObject<</X 4 0 R>>"),
            _stream(b"/X Do /X Do ", _FORM % b"/XObject<</X 4 0 R>>"),
        ]
    )


@attack("forms-within-forms.pdf")
def _form_doubling() -> bytes:
    """Thirty forms, each of which shows the next one twice: 2^30 words if they are all drawn."""
    forms = []
    for number in range(30):
        resources = b"/Font<</F 4 0 R>>/XObject<</X %d 0 R>>" % (number + 6)
        forms.append(_stream(b"/X Do /X Do" if number < 29 else _HELLO, _FORM % resources))
    return _pdf(
        [
            _CATALOG,
            _ONE_PAGE,
            _page(b"/XObject<</X 5 0 R>>", contents=5),
            _FONT,
            *forms,
        ]
    )


@attack("deep-arrays.pdf")
def _deep_arrays() -> bytes:
    return _pdf(
        [b"<</Type/Catalog/Pages 2 0 R/A " + b"[" * 200_000 + b">>", b"<</Type/Pages/Kids[]/Count 0>>"]
    )


@attack("xref-loop.pdf")
def _xref_loop() -> bytes:
    content = bytearray(_page_pdf(_HELLO))
    at = content.rfind(b"xref\n0")
    return bytes(content).replace(b"/Root 1 0 R", b"/Root 1 0 R/Prev %d" % at)


@attack("script.pdf")
def _script() -> bytes:
    action = b"/OpenAction<</S/JavaScript/JS(while(true){})>>"
    return _page_pdf(_HELLO).replace(b"<</Type/Catalog", b"<</Type/Catalog" + action)


@attack("huge-page.pdf")
def _huge_page() -> bytes:
    return _page_pdf(_HELLO, box=b"[0 0 1e30 1e30]")


@attack("image-only.pdf")
def _image_only() -> bytes:
    return _page_pdf(b"q 600 0 0 700 0 0 cm BI /W 1 /H 1 /CS /G /BPC 8 ID \x80 EI Q")


# --- neither one thing nor the other ---


@attack("pdf-and-zip.pdf")
def _pdf_and_zip() -> bytes:
    return _page_pdf(_HELLO) + _docx(_PARAGRAPH)


@attack("zip-and-pdf.docx")
def _zip_and_pdf() -> bytes:
    return _docx(_PARAGRAPH) + _page_pdf(_HELLO)


@attack("html-as.pdf")
def _html_as_pdf() -> bytes:
    return b"<html><script>alert(1)</script>%PDF-1.7 %%EOF</html>"


@attack("pdf-as.md")
def _pdf_as_markdown() -> bytes:
    return _page_pdf(_HELLO)


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
