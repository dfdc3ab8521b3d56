"""A tenant of the shared stack as the tests of the edge see it: over HTTP, and in storage behind it."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from running_stack import API_KEY, GIVEN_AWAY, confide

from shared.config import StorageSettings
from shared.knowledge.documents import FIRST_KEY
from shared.storage import JOBS, PARSED, RAW, Storage, open_storage

T = TypeVar("T")

MAKES_KEY = re.compile(r"/api/keys(/\w+/rotate)?")
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "retryable", "correlation_id"}


@dataclass(frozen=True)
class Answer:
    """One response; ``json`` is None where the body is no JSON."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass
class Tenant:
    """A tenant with one key; ``stack`` is the `RunningStack` of tests/conftest.py."""

    stack: Any
    name: str
    key: str

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request with the path exactly as it is given: no client normalises it on the way."""
        return call(self.stack.url, method, path, body, key=self.key if key == "" else key, headers=headers)

    def collection(self, name: str = "", **settings: Any) -> str:
        """A new collection; its name."""
        name = name or f"c-{uuid.uuid4().hex[:8]}"
        answer = self.call("PUT", f"/api/collections/{name}", settings)
        assert answer.status == 201, answer.body
        return name

    def put(self, collection: str, document: str, content: bytes | str, **query: str) -> dict[str, Any]:
        """Put a document and wait for its job; the job's status."""
        answer = self.send(collection, document, content, **query)
        assert answer.status == 202, answer.body
        return self.finished(answer.json["id"])

    def send(self, collection: str, document: str, content: bytes | str, **query: str) -> Answer:
        data = content.encode() if isinstance(content, str) else content
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        path = f"/api/collections/{collection}/documents/{urllib.parse.quote(document)}{asked}"
        return self.call("PUT", path, data, headers={"Content-Type": "application/octet-stream"})

    def ingest(self, collection: str, documents: list[dict[str, Any]], **headers: str) -> dict[str, Any]:
        """Ingest documents in one request and wait for the job; its status."""
        path = f"/api/collections/{collection}/ingestions"
        answer = self.call("POST", path, {"documents": documents}, headers=headers)
        assert answer.status == 202, answer.body
        return self.finished(answer.json["id"])

    def finished(self, job: str) -> dict[str, Any]:
        return self.stack.finished(job, key=self.key)

    def record(self, collection: str, document: str, *, key: str = "", **query: str) -> Answer:
        asked = f"?{urllib.parse.urlencode(query)}" if query else ""
        path = f"/api/collections/{collection}/documents/{urllib.parse.quote(document)}{asked}"
        return self.call("GET", path, key=key)

    def search(self, collection: str, query: str, *, key: str = "", **body: Any) -> dict[str, Any]:
        path = f"/api/collections/{collection}/search"
        answer = self.call("POST", path, {"query": query, **body}, key=key)
        assert answer.status == 200, answer.body
        return answer.json

    def found(self, collection: str, query: str, *, key: str = "", **body: Any) -> list[str]:
        """The documents that a search finds, best first."""
        return [hit["document"] for hit in self.search(collection, query, key=key, **body)["hits"]]

    def chunks(self, collection: str) -> list[tuple[str, int, int, str]]:
        """Every chunk that can be seen: document, version, offset, text."""
        seen: list[tuple[str, int, int, str]] = []
        while True:
            page = self.search(collection, " ", top=50, skip=len(seen))["hits"]
            seen += [(hit["document"], hit["version"], hit["start"], hit["text"]) for hit in page]
            if len(page) < 50:
                return seen

    def jobs(self) -> list[dict[str, Any]]:
        return self.call("GET", "/api/jobs?limit=200").json["items"]

    def other(self, user: str, *, groups: tuple[str, ...] = (), roles: tuple[str, ...] = ("reader",)) -> str:
        """A key of another user of the same tenant."""
        return self.stack.key_for(self.name, user=user, groups=groups, roles=roles)

    def stored(self) -> dict[str, list[str]]:
        """All that storage holds of this tenant: blobs, jobs, records, collections."""

        async def read(storage: Storage) -> dict[str, list[str]]:
            held: dict[str, list[str]] = {}
            for container in (RAW, PARSED, JOBS):
                held[container] = [blob.name async for blob in storage.list_blobs(container, f"{self.name}/")]
            for table in ("jobs", "collections"):
                held[f"table {table}"] = [row["RowKey"] async for row in storage.query_rows(table, self.name)]
            held["documents"] = [
                f"{row['id']} {row['version']} {row['state']}"
                for name in held["table collections"]
                async for row in storage.query_rows("documents", f"{self.name}:{name}", first=FIRST_KEY)
            ]
            return held

        return in_storage(self.stack.storage, read)


def in_storage(connection: str, work: Callable[[Storage], Awaitable[T]]) -> T:
    """Do some work in the stack's storage account."""

    async def run() -> T:
        async with open_storage(StorageSettings(connection_string=connection)) as storage:
            return await work(storage)

    return asyncio.run(run())


def call(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    *,
    key: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request, with nothing added but the key and the length of the body."""
    confide(body)
    address = urllib.parse.urlsplit(url)
    sent = {**(headers or {})}
    if key is not None:
        sent["Authorization"] = f"Bearer {key}"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, found, response.read())
    finally:
        connection.close()
    check_nothing_is_given_away(answer, may_hold_key=bool(MAKES_KEY.fullmatch(path)))
    return answer


def check_nothing_is_given_away(answer: Answer, *, may_hold_key: bool) -> None:
    """No response, whatever was asked, tells of Durable's own addresses, of storage keys or of API keys."""
    for text in (answer.body, *(value.encode() for value in answer.headers.values())):
        assert not GIVEN_AWAY.search(text), text[:500]
        assert may_hold_key or not API_KEY.search(text), text[:500]


def check_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """The answer is problem details with this status and code; the document."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.headers["content-type"].startswith("application/problem+json")
    document = answer.json
    assert document.keys() >= PROBLEM_MEMBERS
    assert (document["status"], document["code"]) == (status, code), document
    assert document["correlation_id"] == answer.headers["x-correlation-id"]
    return document


def server_sent_events(answer: Answer) -> Iterator[tuple[str, Any]]:
    """The events of a finished stream: name and JSON body."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    for block in answer.body.decode().split("\n\n"):
        parts = (line.partition(": ") for line in block.splitlines() if not line.startswith(":"))
        lines = {name: value for name, _, value in parts}
        if lines:
            yield lines["event"], json.loads(lines["data"])
