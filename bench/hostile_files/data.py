"""Attacks in csv and JSON."""

from __future__ import annotations

from bench.hostile_files.files import attack, repeated


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


repeated("deep.json", b"[", 5_000_000)
repeated("deep-objects.json", b'{"a":', 1_000_000, b"1")


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


attack("million-columns.csv")(lambda: b"a," * 1_000_000 + b"\n" + b"1," * 1_000_000 + b"\n")
attack("empty-columns.csv")(lambda: (b"," * 1_900_000 + b"\n") * 2)
attack("wide-names.csv")(lambda: b"n" * 1_000_000 + b",b\n" + b"1,2\n" * 700_000)
attack("rows.csv")(lambda: b"a,b\n" + b"1,2\n" * 900_000)
attack("separator-of-quotes.csv")(lambda: b'sep="\n' + b'a"b"c\n' * 1000)
attack("separator-of-nothing.csv")(lambda: b"sep=\r\r\na\rb\n")
attack("nulls.csv")(lambda: b"a,b\n" + (b"1," + b"x" * 400 + b"\x00\n") * 1000)
attack("all-separators.csv")(lambda: b",;\t|" * 400_000)
attack("returns.csv")(lambda: b"a,b\r" * 600_000)

attack("million-levels.json")(lambda: b'{"a":' * 500_000 + b"[" * 500_000 + b"]" * 500_000 + b"}" * 500_000)
attack("paths-of-paths.json")(
    lambda: (
        b"".join(b'{"%s":' % (b"k" * 12_000) for _ in range(200))
        + b"{"
        + b",".join(b'"%d":1' % n for n in range(80_000))
        + b"}" * 201
    )
)
attack("huge-numbers.json")(lambda: b"[" + b",".join(b"1" + b"0" * 4_999 for _ in range(700)) + b"]")
attack("no-numbers.json")(lambda: b"[NaN, -Infinity, Infinity, 1e400, -0.0, 1E+999999]")
attack("arrays-of-arrays.json")(lambda: b"[" + b"[1]," * 900_000 + b"[1]]")
attack("empty-records.json")(lambda: b"[" + b"{}," * 1_200_000 + b"{}]")
attack("long-key.json")(lambda: b'{"' + b"k" * 3_000_000 + b'": 1}')
attack("surrogate-keys.json")(
    lambda: b"{" + b",".join(b'"\\ud83d%d": "\\udcff"' % n for n in range(150_000)) + b"}"
)
attack("backslashes.json")(lambda: b'["' + b"\\\\" * 1_900_000)
attack("comments.json")(lambda: b"// a\n" * 300_000 + b"{}")
attack("two-values.json")(lambda: b"{}" * 500_000)
attack("byte-order-mark.json")(lambda: b"\xef\xbb\xbf" + b'{"a": 1}')
attack("utf16.json")(lambda: '{"größe": 1}'.encode("utf-16"))
attack("many-records.jsonl")(lambda: b"1\n" * 1_900_000)
attack("deep-records.jsonl")(lambda: (b"[" * 200 + b"]" * 200 + b"\n") * 9_000)
attack("separators-within.jsonl")(lambda: b'{"a": "\xe2\x80\xa8\xc2\x85"}\n' * 100_000)
