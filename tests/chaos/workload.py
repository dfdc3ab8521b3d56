"""Writers that put, change and delete documents as good clients do, and readers that look all the while.

A writer repeats a request under the same Idempotency-Key until it is answered, whatever happens to the host
meanwhile: so it is known what was accepted and in which order.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any

from shared.config import StorageSettings
from shared.errors import StorageUnavailable
from shared.storage import INBOX, INGESTION_QUEUE, Storage, open_storage

from .documents import Line

READ_INTERVAL_SECONDS = 0.01
WRITE_INTERVAL_SECONDS = (0.0, 0.6)
EVENT_INTERVAL_SECONDS = (2.0, 6.0)
# Old messages alone are sent after so many: a reindexing takes in all documents, and should end in a life.
MESSAGES_MAX = 40
# No more is sent while so many wait.
WAITING_MESSAGES_MAX = 6
# Writers follow most of their jobs for so long before they go on, so that work comes as fast as it is done.
FOLLOWED_SHARE, FOLLOWED_SECONDS = 0.8, 30.0
RETRY_SECONDS = 0.1
# A stopped host does not answer: a client asks again, elsewhere, well before its lease is over.
CALL_SECONDS = 10.0
# Sizes of chunks that reindexings change between.
CHUNK_CHARACTERS = (300, 1000)
DOCUMENTS_PER_WRITER = 6
# A test's own patience: a request that nothing can answer for so long is a failure of the service.
ANSWER_SECONDS = 180.0


@dataclass
class Ledger:
    """What happened, over all writers and readers."""

    jobs: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, number: int = 1) -> None:
        with self.lock:
            self.counts[what] += number

    def fault(self, text: str) -> None:
        with self.lock:
            self.faults.append(text)

    def job(self, job: str) -> None:
        with self.lock:
            self.jobs.append(job)


@dataclass
class Service:
    """The service as a client sees it: requests that may fail because the host is gone."""

    url: str
    key: str
    ledger: Ledger

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
        """One request: status, parsed body, headers. Raises OSError or HTTPException."""
        address = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=CALL_SECONDS)
        try:
            sent = {"Authorization": f"Bearer {self.key}", **headers}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            data = response.read()
            return response.status, json.loads(data) if data else None, response.headers
        finally:
            connection.close()

    def insist(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        """Repeat a request until it is answered with something else than 'not now'."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            wait = RETRY_SECONDS
            try:
                status, document, answered = self.call(method, path, body, **headers)
            except (OSError, http.client.HTTPException, ValueError):
                self.ledger.count("unanswered requests")
            else:
                if status < 400:
                    return status, document
                retryable = isinstance(document, dict) and document.get("retryable")
                if not (retryable or (status == 409 and "retry_after" in document)):
                    return status, document
                self.ledger.count(f"answers {status}")
                if status in (429, 503) and "retry-after" not in answered:
                    self.ledger.fault(f"{method} answered {status} {document['code']} without Retry-After")
                wait = min(float(answered.get("retry-after", RETRY_SECONDS)), 2.0)
            if time.monotonic() > deadline:
                raise AssertionError(f"{method} {path} was not served for {ANSWER_SECONDS:.0f} s")
            time.sleep(wait)


class Writer(threading.Thread):
    """Owns some documents of a collection, and changes them until it is stopped."""

    def __init__(self, number: int, service: Service, collection: str, seed: int) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self.lines = [Line(f"w{number}/{n}.txt", seed) for n in range(DOCUMENTS_PER_WRITER)]
        self._service, self._collection, self._number = service, collection, number
        self._random = Random(f"{seed}/writer/{number}")
        self._stopping = threading.Event()
        self._keys = 0
        self._path = f"/api/collections/{collection}"

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._act()
                time.sleep(self._random.uniform(*WRITE_INTERVAL_SECONDS))
        except Exception as error:
            self._service.ledger.fault(f"writer {self._number}: {type(error).__name__}: {error}")

    def _act(self) -> None:
        line = self._random.choice(self.lines)
        act = self._random.random()
        if act < 0.45 or not line.serial:
            self._put(line, line.write())
        elif act < 0.60 and not line.deleted_last:
            self._put(line, line.again(), twice=True)
        elif act < 0.80:
            self._ingest(self._random.sample(self.lines, 3))
        elif not line.deleted_last:
            self._remove(line)

    def _put(self, line: Line, text: str, *, twice: bool = False) -> None:
        status, job = self._accepted("PUT", self._document(line), text.encode(), "text/plain", twice=twice)
        self._expect(status == 202, f"put {line.name}", status, job)
        self._service.ledger.count("puts")

    def _ingest(self, lines: list[Line]) -> None:
        documents = [{"id": line.name, "content": line.write()} for line in lines]
        body = json.dumps({"documents": documents}).encode()
        status, job = self._accepted("POST", f"{self._path}/ingestions", body, "application/json")
        self._expect(status == 202, "ingest", status, job)
        self._service.ledger.count("puts", len(lines))

    def _remove(self, line: Line) -> None:
        line.deletion_begins()
        status, job = self._accepted("DELETE", self._document(line), None, "text/plain")
        self._expect(status == 202, f"delete {line.name}", status, job)
        line.deletion_accepted()
        self._service.ledger.count("deletions")

    def _accepted(
        self, method: str, path: str, body: bytes | None, media: str, *, twice: bool = False
    ) -> tuple[int, Any]:
        """Send a request until it is answered; ``twice`` sends it two times at once, as one and the same."""
        self._keys += 1
        headers = {"Idempotency-Key": f"{self.name}-{self._keys}", "Content-Type": media}
        requests = [(method, path, body)] * (2 if twice else 1)
        with ThreadPoolExecutor(len(requests)) as pool:
            answers = [*pool.map(lambda request: self._service.insist(*request, **headers), requests)]
        accepted = {document["id"] for status, document in answers if status == 202}
        for job in accepted:
            self._service.ledger.job(job)
        if len(accepted) > 1:
            self._service.ledger.fault(f"doubled: one request of {path} has the jobs {sorted(accepted)}")
        if accepted and self._random.random() < FOLLOWED_SHARE:
            self._follow(accepted.pop())
        return answers[0]

    def _follow(self, job: str) -> None:
        deadline = time.monotonic() + FOLLOWED_SECONDS
        while not self._stopping.wait(0.3) and time.monotonic() < deadline:
            _, status = self._service.insist("GET", f"/api/jobs/{job}")
            if status["state"] not in ("queued", "running"):
                return

    def _document(self, line: Line) -> str:
        return f"{self._path}/documents/{urllib.parse.quote(line.name)}"

    def _expect(self, good: bool, what: str, status: int, document: Any) -> None:
        if not good:
            self._service.ledger.fault(f"{what}: answered {status} {document}")


class EventWriter(threading.Thread):
    """Writes blobs into the inbox and messages onto the queue, some of them twice and out of order.

    Storage takes them, so they are accepted whether a host is there or not; where it has no room, what was
    refused is written again.
    """

    def __init__(self, storage: str, tenant: str, collection: str, seed: int, ledger: Ledger) -> None:
        super().__init__(name="events", daemon=True)
        self.lines = [Line(f"blob/{n}.txt", seed) for n in range(4)]
        self._connection, self._tenant, self._collection = storage, tenant, collection
        self._seed, self._ledger = seed, ledger
        self._random = Random(f"{seed}/events")
        self._stopping = threading.Event()
        self._sent: list[dict[str, Any]] = []

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            asyncio.run(self._write())
        except Exception as error:
            self._ledger.fault(f"event writer: {type(error).__name__}: {error}")

    async def _write(self) -> None:
        async with open_storage(StorageSettings(connection_string=self._connection)) as storage:
            while not self._stopping.is_set():
                await self._drop(storage)
                if self.waiting < WAITING_MESSAGES_MAX:
                    await self._send(storage)
                await asyncio.sleep(self._random.uniform(*EVENT_INTERVAL_SECONDS))

    def send_again(self) -> None:
        """Write each blob and send each message once more as they were, the messages twice."""

        async def send() -> None:
            async with open_storage(StorageSettings(connection_string=self._connection)) as storage:
                for line in self.lines:
                    if line.name.startswith("blob/") and line.serial:
                        name = f"{self._tenant}/{self._collection}/{line.name}"
                        await storage.put_blob(INBOX, name, line.again().encode(), content_type="text/plain")
                for message in self._sent * 2:
                    await storage.send(INGESTION_QUEUE, json.dumps(message))

        asyncio.run(send())

    @property
    def waiting(self) -> int:
        """How many messages are in the queue, hidden ones too; many while it does not say."""
        from azure.core.exceptions import AzureError, ResourceNotFoundError
        from azure.storage.queue import QueueClient

        with QueueClient.from_connection_string(self._connection, INGESTION_QUEUE) as queue:
            try:
                return queue.get_queue_properties().approximate_message_count or 0
            except ResourceNotFoundError:
                return 0
            except AzureError:
                return WAITING_MESSAGES_MAX

    async def _drop(self, storage: Storage) -> None:
        line = self._random.choice(self.lines[:4])
        name = f"{self._tenant}/{self._collection}/{line.name}"
        text = line.write().encode()
        await self._insist(lambda: storage.put_blob(INBOX, name, text, content_type="text/plain"))
        self._ledger.count("blobs")

    async def _send(self, storage: Storage) -> None:
        """Two messages, each for a document of its own, and with luck an old one again before them."""
        fresh = []
        for _ in range(2 if len(self._sent) < MESSAGES_MAX else 0):
            line = Line(f"queue/{len(self._sent) + len(fresh)}.txt", self._seed)
            self.lines.append(line)
            documents = [{"id": line.name, "content": line.write()}]
            head = {"tenant": self._tenant, "collection": self._collection, "id": line.name}
            fresh.append({**head, "documents": documents})
        self._sent += fresh
        messages = [*fresh, *self._random.choices(self._sent, k=self._random.randint(0, 2))]
        self._random.shuffle(messages)
        for message in messages:
            await self._insist(lambda message=message: storage.send(INGESTION_QUEUE, json.dumps(message)))
        self._ledger.count("messages", len(messages))

    async def _insist(self, write: Callable[[], Awaitable[Any]]) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                await write()
                return
            except StorageUnavailable:
                self._ledger.count("events refused by storage")
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)


class Reindexer(threading.Thread):
    """Reindexes the collection again and again, and now and then takes the last one back."""

    def __init__(self, service: Service, collection: str, seed: int) -> None:
        super().__init__(name="reindexer", daemon=True)
        self._service, self._path = service, f"/api/collections/{collection}"
        self._random = Random(f"{seed}/reindexer")
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            number = 0
            while not self._stopping.wait(self._random.uniform(0.5, 2.0)):
                number += 1
                self._reindex(number)
                if self._random.random() < 0.3:
                    self._roll_back()
                self._retire()
        except Exception as error:
            self._service.ledger.fault(f"reindexer: {type(error).__name__}: {error}")

    def _reindex(self, number: int) -> None:
        wish = {"chunk_characters": CHUNK_CHARACTERS[number % 2], "keep_seconds": 3}
        key = {"Idempotency-Key": f"reindex-{number}", "Content-Type": "application/json"}
        status, job = self._service.insist("POST", f"{self._path}/reindex", json.dumps(wish).encode(), **key)
        if status != 202:
            self._service.ledger.fault(f"reindex: answered {status} {job}")
            return
        self._service.ledger.job(job["id"])
        self._service.ledger.count("reindexings")
        while not self._stopping.wait(0.5):
            _, job = self._service.insist("GET", f"/api/jobs/{job['id']}")
            if job["state"] not in ("queued", "running"):
                return

    def _roll_back(self) -> None:
        """Where no layout is kept any more, or it is incomplete, there is nothing to go back to."""
        headers = {"Content-Type": "application/json"}
        status, _ = self._service.insist("POST", f"{self._path}/rollback", b"{}", **headers)
        self._service.ledger.count("rollbacks" if status == 200 else "rollbacks refused")

    def _retire(self) -> None:
        """Give up all kept layouts but the newest; one may have gone, or serve again, meanwhile."""
        _, collection = self._service.insist("GET", self._path)
        kept = [layout["layout"] for layout in collection["layouts"] if layout["state"] == "kept"]
        for number in kept[:-1]:
            self._service.insist("DELETE", f"{self._path}/layouts/{number}")


class Reader(threading.Thread):
    """Asks for one document after another, and holds what it is shown against what must be true."""

    def __init__(self, service: Service, collection: str, lines: list[Line]) -> None:
        super().__init__(name="reader", daemon=True)
        self._service, self._lines = service, lines
        self._path = f"/api/collections/{collection}/search"
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            line = self._lines[number % len(self._lines)]
            number += 1
            self._look(line)
            time.sleep(READ_INTERVAL_SECONDS)

    def _look(self, line: Line) -> None:
        body = {"query": " ", "top": 50, "filter": {"field": "document", "eq": line.name}}
        before = line.snapshot()
        try:
            status, document, _ = self._service.call(
                "POST", self._path, json.dumps(body).encode(), **{"Content-Type": "application/json"}
            )
        except (OSError, http.client.HTTPException, ValueError):
            self._service.ledger.count("reads without a host")
            time.sleep(RETRY_SECONDS)
            return
        if status == 200:
            self._service.ledger.count("reads")
            for fault in line.faults(before, document["hits"]):
                self._service.ledger.fault(fault)
        elif document.get("retryable"):
            self._service.ledger.count(f"reads answered {status}")
        else:
            self._service.ledger.fault(f"a read was answered {status}: {document}")
