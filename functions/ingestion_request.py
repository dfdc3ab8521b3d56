"""What an ingestion is asked for with: the same by HTTP and in a message."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import Field

from functions.collections import MAX_READERS, Reader
from functions.http import Model
from shared.errors import InvalidRequest
from shared.knowledge.documents import check_id
from shared.knowledge.ingestion import Incoming
from shared.outgoing import URL_MAX_CHARACTERS

# One request carries at most this many documents; larger sets go by blobs or several requests.
MAX_INLINE_DOCUMENTS = 1000
MAX_TAGS = 32
MAX_TAG_CHARACTERS = 200
Tag = Annotated[str, Field(max_length=MAX_TAG_CHARACTERS)]


class InlineDocument(Model):
    """One document of a request: as text, in base64, or by the address to fetch it from."""

    id: str = Field(max_length=1000)
    content: str | None = None
    content_base64: str | None = None
    url: str | None = Field(None, min_length=1, max_length=URL_MAX_CHARACTERS)
    content_type: str | None = Field(None, max_length=200)
    title: str = Field("", max_length=500)
    source: str = Field("", max_length=500)
    tags: tuple[Tag, ...] = Field((), max_length=MAX_TAGS)
    readers: tuple[Reader, ...] | None = Field(None, max_length=MAX_READERS)

    def incoming(self) -> Incoming:
        if [self.content, self.content_base64, self.url].count(None) != 2:
            raise InvalidRequest(
                f"The document {self.id!r} needs one of 'content', 'content_base64' and 'url'."
            )
        try:
            content = (
                self.content.encode()
                if self.content is not None
                else base64.b64decode(self.content_base64 or "", validate=True)
            )
        except (binascii.Error, ValueError):
            raise InvalidRequest(f"'content_base64' of the document {self.id!r} is not base64.") from None
        return Incoming(
            id=self.id,
            content=content,
            content_type=self.content_type,
            title=self.title,
            source=self.source,
            tags=self.tags,
            readers=self.readers,
            url=self.url or "",
        )


class IngestionRequest(Model):
    """Many documents: given here, or the blobs of the collection's inbox under a prefix."""

    documents: tuple[InlineDocument, ...] | None = Field(None, max_length=MAX_INLINE_DOCUMENTS)
    inbox_prefix: str | None = Field(None, max_length=900)

    def incoming(self) -> list[Incoming]:
        """The documents given here; raises `InvalidRequest` where there is none or one comes twice."""
        documents = [document.incoming() for document in self.documents or ()]
        if not documents:
            raise InvalidRequest("'documents' is empty.")
        seen: set[str] = set()
        for document in documents:
            name = check_id(document.id)
            if name in seen:
                raise InvalidRequest(f"The document {name!r} is given twice.")
            seen.add(name)
        return documents
