"""The service's HTTP API as methods."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any
from urllib.parse import quote

from client.errors import ApiError, StreamInterrupted
from client.events import ServerEvent, parse_events
from client.jobs import Jobs, job_status
from client.models import (
    Answer,
    AnswerDelta,
    AnswerDone,
    AnswerEvent,
    AnswerSources,
    Collection,
    Document,
    DocumentText,
    Hit,
    JobStatus,
    NewDocument,
    SearchResult,
)
from client.transport import MAX_TRIES, Query, Transport

# A read that yields nothing for this long has failed; a model may think for a while before it writes.
TIMEOUT_SECONDS = 120.0
# One request of inline documents: base64 makes 16 MiB to 22, and the service takes 32 MiB of JSON.
BATCH_BYTES = 16 * 1024 * 1024
# Five shards of a job, filled.
BATCH_DOCUMENTS = 495

Question = str | Sequence[Mapping[str, str]]


class Groundwork:
    """A Groundwork service at ``base_url``, called with ``api_key``.

    Every method raises `ApiError` with the service's stable code, or `ConnectionFailed`. Refusals (429
    and 503) are retried as the service's Retry-After says, within ``max_tries``.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_tries: int = MAX_TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(
            base_url, api_key, timeout_seconds=timeout_seconds, max_tries=max_tries, sleep=sleep
        )
        self.base_url = self._transport.base_url
        self.jobs = Jobs(self._transport, sleep)

    def __enter__(self) -> Groundwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Groundwork({self.base_url!r})"

    def close(self) -> None:
        """Close kept connections; the object stays usable."""
        self._transport.close()

    # --- who and where ---

    def me(self) -> dict[str, Any]:
        """Who the key stands for: tenant, user, groups, roles."""
        return self._transport.call("GET", "/api/me").json()

    def collections(self) -> list[Collection]:
        """The collections that the caller may read."""
        return [
            Collection.from_dict(item)
            for item in self._transport.call("GET", "/api/collections").json()["items"]
        ]

    def collection(self, name: str) -> Collection:
        return Collection.from_dict(self._transport.call("GET", _collection(name)).json())

    def put_collection(
        self,
        name: str,
        *,
        description: str | None = None,
        readers: Sequence[str] | None = None,
        embedding_model: str | None = None,
    ) -> Collection:
        """Make the collection, or change the settings that are given."""
        settings = {
            "description": description,
            "readers": None if readers is None else list(readers),
            "embedding_model": embedding_model,
        }
        body = {key: value for key, value in settings.items() if value is not None}
        return Collection.from_dict(self._transport.call("PUT", _collection(name), body=body).json())

    def delete_collection(self, name: str) -> JobStatus:
        """Remove the collection and all of its documents."""
        return job_status(self._transport.call("DELETE", _collection(name)))

    # --- documents ---

    def put_document(
        self,
        collection: str,
        document: str,
        content: bytes | str,
        *,
        content_type: str = "application/octet-stream",
        title: str = "",
        source: str = "",
        tags: Sequence[str] = (),
    ) -> JobStatus:
        """Hand over one document of any supported type; the job makes it searchable."""
        reply = self._transport.call(
            "PUT",
            _document(collection, document),
            query={"title": title, "source": source, "tag": list(tags)},
            body=content.encode() if isinstance(content, str) else content,
            content_type=content_type,
        )
        return job_status(reply)

    def ingest(self, collection: str, documents: Iterable[NewDocument]) -> list[JobStatus]:
        """Hand over many documents in as few requests as their sizes allow; one job for each request.

        Content is read when its request is made, so any number of files fits into memory.
        """
        return [self._ingest(collection, batch) for batch in _batches(documents)]

    def _ingest(self, collection: str, batch: list[NewDocument]) -> JobStatus:
        if len(batch) == 1 and batch[0].size > BATCH_BYTES and batch[0].readers is None:
            one = batch[0]
            return self.put_document(
                collection,
                one.id,
                one.read(),
                content_type=one.content_type or "application/octet-stream",
                title=one.title,
                source=one.source,
                tags=one.tags,
            )
        reply = self._transport.call(
            "POST",
            f"{_collection(collection)}/ingestions",
            body={"documents": [_inline(document) for document in batch]},
            headers={"Idempotency-Key": secrets.token_hex(16)},
            idempotent=True,
        )
        return job_status(reply)

    def document(self, collection: str, document: str) -> Document:
        return Document.from_dict(self._transport.call("GET", _document(collection, document)).json())

    def document_text(self, collection: str, document: str, *, version: int | None = None) -> DocumentText:
        """The text that was read from the document, for showing a citation in its place."""
        query: Query = {"view": "text", "version": version}
        reply = self._transport.call("GET", _document(collection, document), query=query)
        return DocumentText.from_dict(reply.json())

    def documents(self, collection: str) -> Iterator[Document]:
        """The records of all documents, page by page."""
        after = None
        while True:
            path = f"{_collection(collection)}/documents"
            page = self._transport.call("GET", path, query={"after": after}).json()
            yield from map(Document.from_dict, page["items"])
            after = page.get("next")
            if not after:
                return

    def delete_document(self, collection: str, document: str) -> JobStatus:
        """Remove the document; it is invisible from now on, the job clears what it leaves."""
        return job_status(self._transport.call("DELETE", _document(collection, document)))

    # --- questions ---

    def search(
        self,
        collection: str,
        query: str,
        *,
        top: int | None = None,
        skip: int | None = None,
        filter: Mapping[str, Any] | None = None,
        facets: Sequence[str] | None = None,
        count: bool | None = None,
        mode: str | None = None,
    ) -> SearchResult:
        """The passages that fit ``query`` best."""
        options: dict[str, Any] = {
            "top": top,
            "skip": skip,
            "filter": filter,
            "facets": facets,
            "count": count,
            "mode": mode,
        }
        body = {"query": query} | {key: value for key, value in options.items() if value is not None}
        reply = self._transport.call("POST", f"{_collection(collection)}/search", body=body, idempotent=True)
        return SearchResult.from_dict(reply.json())

    def ask(
        self,
        question: Question,
        collections: Sequence[str],
        *,
        top: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Answer:
        """An answer from the documents, whole. ``question`` is a text or a list of chat messages."""
        body = _chat(question, collections, top, filter)
        return Answer.from_dict(self._transport.call("POST", "/api/chat", body=body).json())

    def ask_stream(
        self,
        question: Question,
        collections: Sequence[str],
        *,
        top: int | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Iterator[AnswerEvent]:
        """The answer as it is written: `AnswerSources`, `AnswerDelta`s, `AnswerDone` as the last.

        Raises `ApiError` if the service ends the stream with an error, and `StreamInterrupted` if the
        stream ends with neither.
        """
        body = _chat(question, collections, top, filter) | {"stream": True}
        with closing(self._transport.stream("POST", "/api/chat", body=body)) as parts:
            for event in parse_events(parts):
                known = _answer_event(event)
                if known is not None:
                    yield known
                if isinstance(known, AnswerDone):
                    return
        raise StreamInterrupted("The answer ended before it was complete.")

    def ask_later(
        self, question: Question, collections: Sequence[str], *, top: int | None = None
    ) -> JobStatus:
        """Have the question answered by a job; `answer` gives what it found."""
        body = _chat(question, collections, top, None)
        return job_status(
            self._transport.call("POST", "/api/chat", body=body, headers={"Prefer": "respond-async"})
        )

    def answer(self, job: str) -> Answer:
        """The answer that a job of `ask_later` has found."""
        return Answer.from_dict(self._transport.call("GET", f"/api/jobs/{quote(job, safe='')}/result").json())


def _collection(name: str) -> str:
    return f"/api/collections/{quote(name, safe='')}"


def _document(collection: str, document: str) -> str:
    return f"{_collection(collection)}/documents/{quote(document)}"


def _inline(document: NewDocument) -> dict[str, Any]:
    member: dict[str, Any] = {
        "id": document.id,
        "content_base64": base64.b64encode(document.read()).decode(),
        "content_type": document.content_type,
        "title": document.title,
        "source": document.source,
        "tags": list(document.tags),
    }
    member = {key: value for key, value in member.items() if value or key in ("id", "content_base64")}
    return member if document.readers is None else member | {"readers": list(document.readers)}


def _batches(documents: Iterable[NewDocument]) -> Iterator[list[NewDocument]]:
    """``documents`` in order, cut so that each list stays within one request's limits."""
    batch: list[NewDocument] = []
    size = 0
    for document in documents:
        if batch and (len(batch) == BATCH_DOCUMENTS or size + document.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += document.size
    if batch:
        yield batch


def _chat(
    question: Question, collections: Sequence[str], top: int | None, filter: Mapping[str, Any] | None
) -> dict[str, Any]:
    if isinstance(collections, str):
        raise TypeError("collections is a list of names, not one text.")
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    body: dict[str, Any] = {
        "collections": list(collections),
        "messages": messages,
        "top": top,
        "filter": filter,
    }
    return {key: value for key, value in body.items() if value is not None}


def _answer_event(event: ServerEvent) -> AnswerEvent | None:
    """The event as an object, None if it is of a later version; raises `ApiError` for ``error``."""
    if event.name == "sources":
        return AnswerSources(tuple(Hit.from_dict(passage) for passage in event.json()["passages"]))
    if event.name == "delta":
        return AnswerDelta(event.json()["text"])
    if event.name == "done":
        return AnswerDone(Answer.from_dict(event.json()))
    if event.name == "error":
        raise ApiError.from_problem(event.json())
    return None
