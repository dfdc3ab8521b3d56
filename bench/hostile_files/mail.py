"""Attacks in e-mail."""

from __future__ import annotations

from bench.hostile_files.files import attack


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


def _message(headers: bytes, body: bytes = b"text") -> bytes:
    return b"From: a@example.com\nSubject: x\n" + headers + b"\n" + body


attack("continued-parameters.eml")(
    lambda: _message(
        b"Content-Disposition: attachment;"
        + b"".join(b"\n filename*%d=a;" % n for n in range(12_000))
        + b"\n"
    )
)
attack("encoded-words.eml")(lambda: b"Subject:" + b" =?utf-8?q?a?=" * 15_000 + b"\n\ntext")
attack("unfinished-words.eml")(lambda: b"Subject: " + b"=?utf-8?q?" * 22_000 + b"\n\ntext")
attack("groups.eml")(lambda: b"To: " + b"a:;" * 60_000 + b"\nSubject: x\n\ntext")
attack("comments-in-addresses.eml")(lambda: b"To: " + b"(a\\)" * 40_000 + b" a@b\nSubject: x\n\ntext")
attack("routes.eml")(lambda: b"To: <" + b"@a," * 40_000 + b":a@b>\nSubject: x\n\ntext")
attack("headers-of-a-part.eml")(
    lambda: _message(
        b"Content-Type: multipart/mixed; boundary=B\n",
        b"--B\n" + b"".join(b"X-%d: a\n" % n for n in range(400_000)) + b"\ntext\n--B--\n",
    )
)
attack("long-boundary.eml")(
    lambda: _message(
        b"Content-Type: multipart/mixed; boundary=" + b"b" * 200_000 + b"\n",
        (b"--" + b"b" * 199_999 + b"\n") * 100,
    )
)
attack("lines-like-boundaries.eml")(
    lambda: _message(b"Content-Type: multipart/mixed; boundary=B\n", b"--Bx\n--\n--A\n" * 300_000)
)
attack("attachments.eml")(
    lambda: _message(
        b"Content-Type: multipart/mixed; boundary=B\n",
        b"--B\nContent-Type: application/pdf; name=a.pdf\n\n%PDF\n" * 20_000 + b"--B--\n",
    )
)
attack("quoted-printable.eml")(
    lambda: _message(b"Content-Transfer-Encoding: quoted-printable\n", b"=\n=3D=ZZ=" * 300_000)
)
attack("base64-of-40-mb.eml")(
    lambda: _message(b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n", b"AAAA" * 10_000_000)
)
attack("uuencoded.eml")(
    lambda: _message(
        b"Content-Transfer-Encoding: x-uuencode\n", b"begin 666 a\n" + b"M" + b"`" * 60 + b"\n" * 300_000
    )
)
attack("html-of-divs.eml")(lambda: _message(b"Content-Type: text/html\n", b"<div>" * 500_000))
attack("charset-of-a-codec.eml")(
    lambda: _message(b'Content-Type: text/plain; charset="zip"\n', b"\xff\xfetext" * 1_000)
)
attack("messages-of-attachments.eml")(
    lambda: (
        b"".join(
            b"Subject: x\nContent-Type: multipart/mixed; boundary=B%d\n\n"
            b"--B%d\nContent-Type: message/rfc822\n\n" % (n, n)
            for n in range(120)
        )
        + b"Subject: y\n\ntext"
    )
)
attack("no-headers.eml")(lambda: b"\n" * 1_000_000)
attack("header-without-end.eml")(lambda: b"Subject: x\n" + b" folded\n" * 60_000)
attack("returns.eml")(lambda: b"Subject: x\r\r\r\nTo: a\r\r\n\r" * 20_000)
