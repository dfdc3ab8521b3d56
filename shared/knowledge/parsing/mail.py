"""E-mail messages: the headers a reader sees, the best text body, and the names of attachments."""

from __future__ import annotations

import re
from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser

from shared.errors import CorruptDocument, DocumentTooComplex
from shared.knowledge.media import Media
from shared.knowledge.parsing.document import ParsedDocument, TextBuilder, markdown_headings, normalise
from shared.knowledge.parsing.limits import ParseLimits
from shared.knowledge.parsing.markup import markdown
from shared.knowledge.parsing.text import decode

_SHOWN_HEADERS = ("From", "To", "Cc", "Date")

# Real messages have a few kilobytes of headers; Exchange Online refuses more than 256 KB of them.
_HEADER_BYTES = 256 * 1024

_MULTIPART = re.compile(rb"^content-type:\s*multipart/", re.I | re.M)


def read(content: bytes, limits: ParseLimits, media: Media) -> ParsedDocument:
    head = content[: _HEADER_BYTES + 1].replace(b"\r\n", b"\n").lstrip(b"\n")
    if b"\n\n" not in head and len(content) > _HEADER_BYTES:
        raise DocumentTooComplex("The message's headers are too long.", limit=_HEADER_BYTES)
    if sum(1 for _ in _MULTIPART.finditer(content)) > limits.nesting_depth:
        # Before they are parsed: that takes time that grows with the square of the depth.
        raise DocumentTooComplex("The message has too many parts of parts.", limit=limits.nesting_depth)
    message = BytesParser(_class=EmailMessage, policy=policy.default).parsebytes(content.lstrip(b"\r\n"))
    if not message.keys():
        raise CorruptDocument("The message has no headers.")
    _check_depth(message, limits)
    subject = _header(message, "Subject")
    builder = TextBuilder(limits)
    builder.add(f"# {subject}" if subject else "")
    builder.add("\n".join(f"{name}: {value}" for name in _SHOWN_HEADERS if (value := _header(message, name))))
    builder.add(_body(message, limits))
    names = [part.get_filename() for part in message.walk() if part.get_filename()]
    builder.add("Attachments: " + ", ".join(" ".join(str(name).split()) for name in names) if names else "")
    text = builder.text()
    return ParsedDocument(text, subject or None, (), markdown_headings(text), (), media)


def _check_depth(message: Message, limits: ParseLimits) -> None:
    pending: list[tuple[Message, int]] = [(message, 0)]
    while pending:
        part, depth = pending.pop()
        if depth > limits.nesting_depth:
            raise DocumentTooComplex("The message's parts are nested too deeply.", limit=limits.nesting_depth)
        if part.is_multipart():
            pending += [(child, depth + 1) for child in part.get_payload() if isinstance(child, Message)]


def _header(message: Message, name: str) -> str:
    """A header decoded to one line; the raw form where it breaks the standard."""
    try:
        value = message.get(name, "")
    except Exception:  # the standard library's header parser fails on some malformed values
        value = next((raw for key, raw in message.raw_items() if key.lower() == name.lower()), "")
    return normalise(" ".join(str(value).split()))


def _body(message: EmailMessage, limits: ParseLimits) -> str:
    for kind in ("plain", "html"):
        part = message.get_body(preferencelist=(kind,))
        if part is None:
            continue
        payload = part.get_payload(decode=True)
        text = decode(payload if isinstance(payload, bytes) else b"", part.get_content_charset())
        if kind == "html":
            text = markdown(text, limits)[1]
        if text.strip():
            return text
    return ""
