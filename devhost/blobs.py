"""Blob triggers: scans a container and runs its function once per version (ETag) of each matching blob.

A receipt per blob is kept in SQLite, so a restart neither forgets nor repeats. Five failed tries make the
blob poison: a message that names it goes to `webjobs-blobtrigger-poison`. `source=EventGrid` triggers are
scanned for too: there is no Event Grid on a laptop.
"""

import asyncio
import json
import logging
import math
import time
from typing import Any

from azure.functions.meta import Datum

from devhost import failpoints
from devhost.bindings import Bindings, encode_message, send_message
from devhost.connections import Connections
from devhost.errors import AppLoadError
from devhost.expressions import PathPattern
from devhost.invocation import Invoker
from devhost.listing import ContainerListing
from devhost.plans import Plan
from devhost.settings import BlobOptions
from devhost.state import ListenerState, Receipt

log = logging.getLogger(__name__)

POISON_QUEUE = "webjobs-blobtrigger-poison"
# A scan costs the storage server more than us and grows with the container (0.1 ms of CPU a blob). When
# nothing changes the pause grows from the first to the second figure, or to twice what a scan costs for a
# large container: a third of one core at the very most, and a new blob still waits for little longer than
# one scan. On a busy machine a scan takes several times what it costs: the fastest of late tells that.
MIN_PAUSE_SECONDS = 0.25
MAX_IDLE_PAUSE_SECONDS = 0.75
IDLE_PAUSE_PER_SCAN_SECOND = 2.0
LONGEST_PAUSE_SECONDS = 5.0
COST_GROWTH_PER_SCAN = 1.1
OUTAGE_RETRY_SECONDS = 1.0
# Between tries of a failing blob, doubled each time: 0.2, 0.4, 0.8, 1.6 s.
FIRST_RETRY_SECONDS = 0.2


class BlobListener:
    """Feeds one function with the blobs of its container until it is stopped."""

    def __init__(
        self,
        plan: Plan,
        options: BlobOptions,
        connections: Connections,
        bindings: Bindings,
        invoker: Invoker,
        state: ListenerState,
        *,
        base64_messages: bool,
    ) -> None:
        trigger = plan.function.trigger
        path = bindings.resolve(trigger.path).strip("/")
        self._container, _, blob = path.partition("/")
        if "{" in self._container:
            raise AppLoadError(f"function {plan.name!r}: the container of {path!r} must not be a pattern")
        # A path without a blob name stands for every blob of the container.
        self._pattern = PathPattern(path if blob else f"{path}/{{name}}")
        self._plan, self._options, self._state = plan, options, state
        self._bindings, self._invoker = bindings, invoker
        self._base64_messages = base64_messages
        self._client = connections.blobs(trigger.connection).get_container_client(self._container)
        prefix = self._pattern.literal_prefix.removeprefix(f"{self._container}/")
        self._listing = ContainerListing(self._client, prefix)
        self._poison = connections.queues(trigger.connection).get_queue_client(POISON_QUEUE)
        self._receipts = state.receipts(plan.name, self._container)
        self._pending: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._known: set[str] = set()
        self.running: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Scan until cancelled; the blobs in `running` go on."""
        await self._create_container()
        workers = [asyncio.create_task(self._work()) for _ in range(self._options.max_degree_of_parallelism)]
        try:
            await self._scan_for_ever()
        finally:
            for worker in workers:
                worker.cancel()
            await self._listing.close()

    async def _create_container(self) -> None:
        from azure.core.exceptions import AzureError, ResourceExistsError

        while True:
            try:
                await self._client.create_container()
            except ResourceExistsError:
                return
            except AzureError as error:
                self._warn_unreachable(error)
                await asyncio.sleep(OUTAGE_RETRY_SECONDS)
            else:
                return

    async def _scan_for_ever(self) -> None:
        reachable, pause, cost_seconds = True, 0.0, math.inf
        while True:
            started = time.perf_counter()
            try:
                found = await self._scan()
            except Exception as error:
                if reachable:
                    self._warn_unreachable(error)
                reachable, pause = False, OUTAGE_RETRY_SECONDS
            else:
                reachable = True
                cost_seconds = min(time.perf_counter() - started, cost_seconds * COST_GROWTH_PER_SCAN)
                pause = self._next_pause(pause, found > 0, cost_seconds)
            await asyncio.sleep(pause)

    def _next_pause(self, pause: float, found: bool, cost_seconds: float) -> float:
        """Short after a scan that found something; else growing, and in proportion to what a scan costs."""
        if found:
            return max(MIN_PAUSE_SECONDS, cost_seconds)
        calm = min(max(MIN_PAUSE_SECONDS, pause * 1.5), MAX_IDLE_PAUSE_SECONDS)
        return min(max(calm, cost_seconds * IDLE_PAUSE_PER_SCAN_SECOND), LONGEST_PAUSE_SECONDS)

    async def _scan(self) -> int:
        """Queue every blob whose version has no final receipt yet; returns how many."""
        found, seen = 0, set()
        async for page in self._listing.pages():
            for name, etag in page:
                seen.add(name)
                if name in self._known:
                    continue  # queued or running; a newer version is found after that
                receipt = self._receipts.get(name)
                if receipt is not None and receipt.done and receipt.etag == etag:
                    continue
                if self._pattern.match(f"{self._container}/{name}") is None:
                    continue
                self._known.add(name)
                self._pending.put_nowait((name, etag))
                found += 1
        self._forget_deleted(seen)
        return found

    def _forget_deleted(self, seen: set[str]) -> None:
        gone = [name for name in self._receipts if name not in seen and name not in self._known]
        if gone:
            self._state.forget_receipts(self._plan.name, self._container, gone)
            for name in gone:
                del self._receipts[name]

    async def _work(self) -> None:
        while True:
            name, etag = await self._pending.get()
            task = asyncio.create_task(self._process(name, etag))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                # Storage failed, not the function: the next scan finds the blob again.
                self._known.discard(name)
                self._warn_unreachable(task.exception())

    async def _process(self, name: str, etag: str) -> None:
        """One try of one version of a blob."""
        blob = await self._download(name)
        if blob is None:
            self._known.discard(name)
            return
        content, properties = blob
        etag = properties.etag.strip('"')
        earlier = self._receipts.get(name)
        if earlier is not None and earlier.done and earlier.etag == etag:
            self._known.discard(name)
            return
        attempts = 1 + (earlier.attempts if earlier is not None and earlier.etag == etag else 0)
        # Counted before the try: a blob that kills the host must become poison too.
        self._save(name, Receipt(etag, attempts, done=False))
        succeeded = await self._run(name, content, properties)
        failpoints.passed("blob.handled")
        if succeeded:
            self._finish(name, Receipt(etag, attempts, done=True))
        elif attempts >= self._options.poison_blob_threshold:
            await self._move_to_poison(name, etag, attempts)
            self._finish(name, Receipt(etag, attempts, done=True))
        else:
            delay = FIRST_RETRY_SECONDS * 2 ** (attempts - 1)
            asyncio.get_running_loop().call_later(delay, self._pending.put_nowait, (name, etag))

    def _save(self, name: str, receipt: Receipt) -> None:
        self._receipts[name] = receipt
        self._state.save_receipt(self._plan.name, self._container, name, receipt)

    def _finish(self, name: str, receipt: Receipt) -> None:
        self._save(name, receipt)
        self._known.discard(name)

    async def _download(self, name: str) -> tuple[bytes, Any] | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            stream = await self._client.download_blob(name)
            return await stream.readall(), stream.properties
        except ResourceNotFoundError:
            return None

    async def _run(self, name: str, content: bytes, properties: Any) -> bool:
        path = f"{self._container}/{name}"
        values = self._pattern.match(path) or {}
        metadata = _metadata(path, f"{self._client.url}/{name}", properties)
        trigger_value = self._plan.trigger.decode(Datum(content, "bytes"), metadata)
        data = {**values, "blobTrigger": path, "uri": f"{self._client.url}/{name}"}
        try:
            await self._invoker.run(self._plan, trigger_value, data, self._bindings)
        except Exception:
            return False  # the invoker has logged it
        return True

    async def _move_to_poison(self, name: str, etag: str, attempts: int) -> None:
        """The message has the form that the storage extension writes (PoisonBlobMessage)."""
        message = {
            "Type": "BlockBlob",
            "FunctionId": f"Host.Functions.{self._plan.name}",
            "BlobType": "BlockBlob",
            "ContainerName": self._container,
            "BlobName": name,
            "ETag": f'"{etag}"',
        }
        await send_message(self._poison, encode_message(json.dumps(message).encode(), self._base64_messages))
        fields = {"container": self._container, "blob": name, "attempts": attempts}
        log.error("blob_poisoned", extra={"fields": fields})

    def _warn_unreachable(self, error: BaseException | None) -> None:
        detail = (str(error).splitlines() or [""])[0]
        fields = {"container": self._container, "error": type(error).__name__, "detail": detail}
        log.warning("blob_container_unreachable", extra={"fields": fields})


def _metadata(path: str, uri: str, properties: Any) -> dict[str, Datum]:
    """Trigger metadata under the names that the storage extension sends to the worker."""
    described = {
        "Length": properties.size,
        "ContentLength": properties.size,
        "ContentType": properties.content_settings.content_type,
        "ETag": properties.etag,
        "LastModified": properties.last_modified.isoformat(),
    }
    return {
        "BlobTrigger": Datum(path, "string"),
        "Uri": Datum(uri, "string"),
        "Properties": Datum(json.dumps(described), "json"),
        "Metadata": Datum(json.dumps(properties.metadata or {}), "json"),
    }
