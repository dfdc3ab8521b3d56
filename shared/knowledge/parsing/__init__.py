"""Reading documents: bytes of a known media type in, one normalised text with its structure out.

`parse` works in this process and believes its input to be harmless; `ParserPool` runs it in bounded
subprocesses, which is how untrusted documents are read, and which have no use for the pool themselves.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from shared.errors import (
    CorruptDocument,
    DocumentError,
    DocumentTooComplex,
    EmptyDocument,
    ParseMemoryExceeded,
    PasswordProtected,
)
from shared.knowledge.media import OFFICE, Media
from shared.knowledge.parsing.document import Heading, Page, ParsedDocument
from shared.knowledge.parsing.limits import DEFAULT_LIMITS, ParseLimits

if TYPE_CHECKING:
    from shared.knowledge.parsing.pool import ParserPool, Prepared

__all__ = [
    "DEFAULT_LIMITS",
    "Heading",
    "Page",
    "ParseLimits",
    "ParsedDocument",
    "ParserPool",
    "Prepared",
    "parse",
]

_READERS = {
    Media.MARKDOWN: "text",
    Media.TEXT: "text",
    Media.HTML: "markup",
    Media.PDF: "pdf",
    Media.CSV: "tables",
    Media.JSON: "data",
    Media.JSONL: "data",
    Media.EMAIL: "mail",
} | dict.fromkeys(OFFICE, "office")


# A character that a reader would see: no white space, no mark of direction, joining or breaking.
_SEEN = re.compile(r"[^\s\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")


def __getattr__(name: str) -> Any:
    if name not in ("ParserPool", "Prepared"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.pool"), name)


def parse(
    content: bytes, media: Media, name: str | None = None, limits: ParseLimits = DEFAULT_LIMITS
) -> ParsedDocument:
    """Return the text and structure of a document, or raise a `DocumentError`.

    ``name`` gives the title where the document has none. Never raises anything else than a `DocumentError`
    for any bytes; time and memory are bounded by `ParserPool` alone.
    """
    if len(content) > limits.input_bytes:
        raise DocumentTooComplex("The document is larger than what is read.", limit=limits.input_bytes)
    if not content.strip(b"\0 \t\r\n"):
        raise EmptyDocument()
    reader = import_module(f"{__name__}.{_READERS[media]}")
    try:
        document = reader.read(content, limits, media)
    except DocumentError:
        raise
    except RecursionError:
        raise DocumentTooComplex("The document's structure is nested too deeply.") from None
    except MemoryError:
        raise ParseMemoryExceeded() from None
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        raise _damaged(error) from None
    if not _SEEN.search(document.text):
        raise EmptyDocument()
    return document if document.title else document.titled(_stem(name))


def _damaged(error: BaseException) -> DocumentError:
    """Libraries fail in many ways on damaged input. Their messages may quote it, so only the type is told."""
    kind = type(error).__name__
    if kind == "PasswordError":
        return PasswordProtected()
    return CorruptDocument(f"The document cannot be read ({kind}).")


def _stem(name: str | None) -> str:
    """The last part of a path, without its extension."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    return last.rsplit(".", 1)[0]
