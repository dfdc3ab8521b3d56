"""Blobs, queues and tables of one storage account.

The same code talks to Azure with a managed identity and to Azurite with a connection string. Containers,
queues and tables are made at their first use. The clients' own retries are off: a failed call becomes
`StorageUnavailable` and the one retry loop above decides. Conflicts are told apart from faults:
`Changed` means that the row is not what was read, `Exists` that it is there already.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from shared.errors import NotFound, StorageUnavailable
from shared.tables import ANY, Change, Refused, Row, Tables, literal

if TYPE_CHECKING:
    from shared.config import StorageSettings

RAW, PARSED, JOBS, INBOX, FILES = "raw", "parsed", "jobs", "inbox", "files"
GOLDEN = "golden"
INGESTION_QUEUE = "ingestion-requests"
# Where the host puts messages and blobs whose tries are used up.
INGESTION_POISON_QUEUE = f"{INGESTION_QUEUE}-poison"
BLOB_POISON_QUEUE = "webjobs-blobtrigger-poison"

# Azure Tables: an entity group transaction holds at most 100 entities of one partition.
TRANSACTION_ENTITIES = 100
# Azure Tables looks through the whole partition for a filter of alternatives, and finds a row by its keys at
# once: what people wait for, such as the records of a search, is read row by row. Ingestion, which reads
# a hundred at a time, asks for fewer answers instead.
POINT_READS = 64
# In place of an ETag: the row may be there or not, and as it likes. It is merged with, or replaced.
WHATEVER = "*"
REPLACED = "replaced"
# Azure Tables: a filter holds at most 15 comparisons, and one of them is the partition's.
FILTER_ROWS = 14
# A call that has not been answered by then is a fault of the network; blobs of 50 MiB pass in less.
CALL_TIMEOUT_SECONDS = 60
# Blobs written or read at a time by one step. Memory bounds it: a pack or a large document each.
CALLS_IN_FLIGHT = 8
# What is held of a large blob while it is read or written as a stream.
STREAM_BYTES = 1024 * 1024
# More deletions at a time than connections would wait for one beyond the connection timeout.
DELETES_IN_FLIGHT = 32

# Keys of rows sort upwards, so a list of the newest counts down from here (milliseconds, year 2286).
_LAST_MILLISECOND = 9_999_999_999_999

_NOT_MADE_YET = ("ContainerNotFound", "QueueNotFound")

T = TypeVar("T")


async def in_turns(calls: Iterable[Awaitable[T]]) -> list[T]:
    """The values of some calls to storage, a few of which run at a time; the first error ends the waiting."""
    gate = asyncio.Semaphore(CALLS_IN_FLIGHT)

    async def one(call: Awaitable[T]) -> T:
        async with gate:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


class Changed(Exception):
    """A conditional write found another version of the row or blob than the one it had read."""


class Exists(Exception):
    """An insert found a row or blob with that name."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob's name, size in bytes, ETag, content type and when it was written (UTC seconds since 1970)."""

    name: str
    size: int
    etag: str
    content_type: str | None
    written: float


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob's whole content, its ETag and content type, and when it was written (UTC seconds since 1970)."""

    data: bytes
    etag: str
    content_type: str | None
    written: float


class Storage:
    """One storage account. Safe for concurrent use within one event loop."""

    def __init__(self, settings: StorageSettings, credential: Callable[[], Any] | None = None) -> None:
        """``credential`` makes an asynchronous token credential; needed where there is no key."""
        self._settings = settings
        self._make_credential = credential
        self._credential: Any = None
        self._services: dict[str, Any] = {}
        self._table_client: Tables | None = None

    # --- blobs ---

    async def put_blob(
        self, container: str, name: str, data: bytes, *, content_type: str = "application/octet-stream"
    ) -> None:
        """Write a whole blob, replacing one that is there."""
        await self._upload(container, name, data, content_type, overwrite=True)

    async def insert_blob(
        self, container: str, name: str, data: bytes, *, content_type: str = "application/octet-stream"
    ) -> None:
        """Write a whole blob; raises `Exists` where there is one of that name."""
        from azure.core.exceptions import ResourceExistsError

        try:
            await self._upload(container, name, data, content_type, overwrite=False)
        except ResourceExistsError:
            raise Exists from None

    async def replace_blob(
        self,
        container: str,
        name: str,
        data: bytes,
        etag: str,
        *,
        content_type: str = "application/octet-stream",
    ) -> None:
        """Replace a blob if it still has ``etag``; raises `Changed` otherwise."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError, ResourceNotFoundError

        unchanged = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        try:
            await self._upload(container, name, data, content_type, overwrite=True, **unchanged)
        except (ResourceModifiedError, ResourceNotFoundError):
            raise Changed from None

    async def _upload(
        self, container: str, name: str, data: bytes, content_type: str, **conditions: Any
    ) -> None:
        from azure.storage.blob import ContentSettings

        async def write() -> None:
            await self._blob(container, name).upload_blob(
                data,
                content_settings=ContentSettings(content_type=content_type),
                max_concurrency=1,
                **conditions,
            )

        await self._made_at_first_use(write, lambda: self._blobs().create_container(container))

    async def get_blob(self, container: str, name: str) -> bytes | None:
        """A blob's whole content, or None where there is none."""
        blob = await self.get_tagged_blob(container, name)
        return None if blob is None else blob.data

    async def get_tagged_blob(self, container: str, name: str) -> Blob | None:
        """A blob's whole content with its ETag, or None where there is none."""
        with _missing_is_none() as found, _faults_typed():
            downloader = await self._blob(container, name).download_blob(max_concurrency=1)
            about = downloader.properties
            data = await downloader.readall()
            written = about.last_modified.timestamp()
            found.append(Blob(data, about.etag, about.content_settings.content_type, written))
        return found[0] if found else None

    async def read_blob(self, container: str, name: str, start: int, end: int) -> AsyncIterator[bytes]:
        """A blob's bytes from ``start`` up to but without ``end``, a mebibyte at a time.

        Raises `NotFound` where the blob is gone.
        """
        for first in range(start, end, STREAM_BYTES):
            with _missing_is_none() as found, _faults_typed():
                downloader = await self._blob(container, name).download_blob(
                    offset=first, length=min(STREAM_BYTES, end - first), max_concurrency=1
                )
                found.append(await downloader.readall())
            if not found:
                raise NotFound("blob")
            yield found[0]

    async def stage_block(self, container: str, name: str, data: bytes, place: int = 0) -> str:
        """Lay a block beside a blob, out of sight until it is committed; its id.

        The id follows from the content: to stage the same block again changes nothing. Blocks that may be
        alike are told apart by their place. What is not committed within a week is gone ("Put Block", Azure
        Storage).
        """
        block = hashlib.blake2b(data, digest_size=16, salt=place.to_bytes(16, "big")).hexdigest()
        await self._made_at_first_use(
            lambda: self._blob(container, name).stage_block(block, data, len(data)),
            lambda: self._blobs().create_container(container),
        )
        return block

    async def commit_blocks(
        self,
        container: str,
        name: str,
        blocks: Iterable[str],
        *,
        content_type: str,
        replaces: str | None = None,
    ) -> None:
        """Make a blob of these blocks, which have been staged or are in it already; others are dropped.

        ``replaces`` is the ETag that the blob must have, empty where there must be none yet; raises
        `Changed` otherwise.
        """
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError
        from azure.storage.blob import BlobBlock, ContentSettings

        condition: dict[str, Any] = {}
        if replaces:
            condition = {"etag": replaces, "match_condition": MatchConditions.IfNotModified}
        elif replaces is not None:
            condition = {"match_condition": MatchConditions.IfMissing}

        async def commit() -> None:
            await self._blob(container, name).commit_block_list(
                [BlobBlock(block) for block in blocks],
                content_settings=ContentSettings(content_type=content_type),
                **condition,
            )

        try:
            await self._made_at_first_use(commit, lambda: self._blobs().create_container(container))
        except (ResourceExistsError, ResourceModifiedError):
            raise Changed from None

    async def blob_info(self, container: str, name: str) -> BlobInfo | None:
        """A blob's properties, or None where there is none."""
        with _missing_is_none() as found, _faults_typed():
            found.append(await self._blob(container, name).get_blob_properties())
        if not found:
            return None
        return _info(found[0])

    async def list_blobs(self, container: str, prefix: str) -> AsyncIterator[BlobInfo]:
        """The blobs whose names begin with ``prefix``, in the order of their names."""
        with _missing_is_none(), _faults_typed():
            listing = self._blobs().get_container_client(container).list_blobs(name_starts_with=prefix)
            async for blob in listing:
                yield _info(blob)

    async def delete_blob(self, container: str, name: str) -> bool:
        """Delete a blob; False where there was none."""
        with _missing_is_none() as found, _faults_typed():
            await self._blob(container, name).delete_blob(delete_snapshots="include")
            found.append(True)
        return bool(found)

    async def delete_unchanged(self, container: str, name: str, etag: str) -> None:
        """Delete a blob if it still has ``etag``; raises `Changed` otherwise. Absent ones are fine."""
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceModifiedError

        # A listing gives ETags without the quotation marks that a condition needs.
        condition = {
            "etag": f'"{etag.strip(chr(34))}"',
            "match_condition": MatchConditions.IfNotModified,
        }
        try:
            with _missing_is_none(), _faults_typed():
                await self._blob(container, name).delete_blob(delete_snapshots="include", **condition)
        except ResourceModifiedError:
            raise Changed from None

    async def delete_listed(self, container: str, blobs: Iterable[BlobInfo]) -> int:
        """Delete blobs that are still as they were listed, not those written since; their number."""
        gate = asyncio.Semaphore(DELETES_IN_FLIGHT)

        async def delete(blob: BlobInfo) -> bool:
            async with gate:
                try:
                    await self.delete_unchanged(container, blob.name, blob.etag)
                except Changed:
                    return False
                return True

        return sum(await asyncio.gather(*(delete(blob) for blob in blobs)))

    async def delete_blobs(self, container: str, prefix: str) -> int:
        """Delete the blobs whose names begin with ``prefix``; their number."""
        return await self.delete_listed(
            container, [blob async for blob in self.list_blobs(container, prefix)]
        )

    # --- tables ---

    async def get_row(self, table: str, partition: str, row: str) -> Row | None:
        """One row, or None; its ETag lies under ``"etag"``."""
        return await self._tables().get(table, partition, row)

    async def get_rows(self, table: str, partition: str, rows: Iterable[str]) -> dict[str, Row]:
        """Several rows of one partition by their keys; absent ones are left out."""
        keys = list(dict.fromkeys(rows))
        if len(keys) <= POINT_READS:
            read_one = await asyncio.gather(*(self.get_row(table, partition, key) for key in keys))
            return {row["RowKey"]: row for row in read_one if row is not None}
        found: dict[str, Row] = {}

        async def read(some: list[str]) -> None:
            any_of = " or ".join(f"RowKey eq {literal(key)}" for key in some)
            async for row in self._tables().query(table, f"{_in_partition(partition)} and ({any_of})"):
                found[row["RowKey"]] = row

        groups = [keys[start : start + FILTER_ROWS] for start in range(0, len(keys), FILTER_ROWS)]
        await asyncio.gather(*(read(group) for group in groups))
        return found

    async def query_rows(
        self,
        table: str,
        partition: str,
        *,
        first: str = "",
        last: str = "",
        select: list[str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Row]:
        """Rows of a partition in the order of their keys, from ``first`` up to but without ``last``."""
        condition = " and ".join([_in_partition(partition), *_between(first, last)])
        page = min(limit, 1000) if limit else None
        count = 0
        async for row in self._tables().query(table, condition, select=select or (), page=page):
            yield row
            count += 1
            if limit and count >= limit:
                return

    async def scan_rows(
        self, table: str, *, first: str = "", last: str = "", select: list[str] | None = None
    ) -> AsyncIterator[Row]:
        """Rows of every partition whose keys lie from ``first`` up to but without ``last``.

        The service reads the whole table for it: only what runs seldom may ask this.
        """
        condition = " and ".join(_between(first, last))
        async for row in self._tables().query(table, condition, select=select or ()):
            yield row

    async def delete_partition(self, table: str, partition: str) -> int:
        """Delete every row of a partition, 100 in a transaction; their number."""
        keys = [
            {"PartitionKey": partition, "RowKey": row["RowKey"]}
            async for row in self.query_rows(table, partition, select=["PartitionKey", "RowKey"])
        ]
        for start in range(0, len(keys), TRANSACTION_ENTITIES):
            await self._change(
                table, [Change("DELETE", key, ANY) for key in keys[start : start + TRANSACTION_ENTITIES]]
            )
        return len(keys)

    async def insert_row(self, table: str, row: Row) -> None:
        """Insert a row; raises `Exists` where there is one with its keys."""
        try:
            await self._tables().insert(table, row)
        except Refused as refused:
            if refused.status != 409:
                raise
            raise Exists from None

    async def merge_row(self, table: str, row: Row) -> None:
        """Insert a row, or set the given properties of the one that is there."""
        await self._tables().merge(table, row)

    async def put_row(self, table: str, row: Row) -> None:
        """Insert a row or replace the one that is there."""
        await self._tables().put(table, row)

    async def replace_row(self, table: str, row: Row, etag: str) -> None:
        """Replace a row if it still has ``etag``; raises `Changed` otherwise."""
        try:
            await self._tables().put(table, row, etag)
        except Refused as refused:
            if refused.status not in (404, 412):
                raise
            raise Changed from None

    async def delete_row(self, table: str, partition: str, row: str) -> None:
        """Delete a row, whatever its version; absent ones are fine."""
        await self._tables().delete(table, partition, row)

    async def put_rows(self, table: str, rows: Iterable[Row]) -> None:
        """Insert or replace rows of one partition, 100 in a transaction."""
        pending = list(rows)
        for start in range(0, len(pending), TRANSACTION_ENTITIES):
            await self._change(
                table, [Change("PUT", row) for row in pending[start : start + TRANSACTION_ENTITIES]]
            )

    async def swap_rows(self, table: str, rows: Iterable[tuple[Row, str | None]]) -> list[str]:
        """Write up to 100 rows of one partition, all or none; their ETags.

        Each comes with the ETag it was read with, or None where it must be new; raises `Changed` where
        one is not as it was read. With `WHATEVER` its properties are set in whatever is there, with
        `REPLACED` it takes the place of that.
        """
        changes: list[Change] = []
        for row, etag in rows:
            if etag is None:
                changes.append(Change("POST", row))
            elif etag in (WHATEVER, REPLACED):
                changes.append(Change("PATCH" if etag == WHATEVER else "PUT", row))
            else:
                changes.append(Change("PUT", row, etag))
        return await self._change(table, changes)

    async def _change(self, table: str, changes: list[Change]) -> list[str]:
        try:
            return await self._tables().change(table, changes)
        except Refused as refused:
            if refused.status in (404, 409, 412):
                raise Changed from None
            raise

    # --- queues ---

    async def send(self, queue: str, message: str) -> None:
        """Put a message on a queue, as plain text."""
        client = self._queues().get_queue_client(queue)
        await self._made_at_first_use(
            lambda: client.send_message(message), lambda: self._queues().create_queue(queue)
        )

    async def close(self) -> None:
        """Close all connections."""
        for service in self._services.values():
            await service.close()
        if self._credential is not None:
            await self._credential.close()
        self._services.clear()
        if self._table_client is not None:
            await self._table_client.close()
            self._table_client = None

    # --- clients ---

    def _service(self, kind: str, client: Any, endpoint: str | None) -> Any:
        if kind not in self._services:
            from azure.core.pipeline.transport import AioHttpTransport

            options: dict[str, Any] = {
                # Looking for proxies and a netrc file cost a tenth of the host's time in ingestion.
                "transport": AioHttpTransport(use_env_settings=False),
                "retry_total": 0,
                "connection_timeout": 10,
                "read_timeout": CALL_TIMEOUT_SECONDS,
            }
            if self._settings.connection_string:
                self._services[kind] = client.from_connection_string(
                    self._settings.connection_string, **options
                )
            else:
                self._services[kind] = client(endpoint, credential=self._own_credential(), **options)
        return self._services[kind]

    def _blobs(self) -> Any:
        from azure.storage.blob.aio import BlobServiceClient

        return self._service("blobs", BlobServiceClient, self._settings.blob_endpoint)

    def _queues(self) -> Any:
        from azure.storage.queue.aio import QueueServiceClient

        return self._service("queues", QueueServiceClient, self._settings.queue_endpoint)

    def _blob(self, container: str, name: str) -> Any:
        return self._blobs().get_blob_client(container, name)

    def _tables(self) -> Tables:
        if self._table_client is None:
            self._table_client = Tables(
                self._settings, self._own_credential, call_timeout_seconds=CALL_TIMEOUT_SECONDS
            )
        return self._table_client

    def _own_credential(self) -> Any:
        if self._credential is None and self._make_credential is not None:
            self._credential = self._make_credential()
        return self._credential

    async def _made_at_first_use(
        self, write: Callable[[], Awaitable[T]], create: Callable[[], Awaitable[Any]]
    ) -> T:
        """Write; where the container, queue or table is not there yet, make it and write again."""
        from azure.core.exceptions import HttpResponseError, ResourceExistsError

        with _faults_typed():
            try:
                return await write()
            except HttpResponseError as error:
                if getattr(error, "error_code", None) not in _NOT_MADE_YET:
                    raise
            with contextlib.suppress(ResourceExistsError):  # another process was faster
                await create()
            return await write()


def _info(blob: Any) -> BlobInfo:
    content_type = blob.content_settings.content_type
    return BlobInfo(blob.name, blob.size, blob.etag, content_type, blob.last_modified.timestamp())


def newest_first(moment: float) -> str:
    """A part of a key by which later moments come before earlier ones."""
    return f"{_LAST_MILLISECOND - int(moment * 1000):013d}"


def key_part(name: str) -> str:
    """A part of a key that stands for a name, which may hold what a key must not."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _in_partition(partition: str) -> str:
    return f"PartitionKey eq {literal(partition)}"


def _between(first: str, last: str) -> list[str]:
    return [f"RowKey {comparison} {literal(key)}" for comparison, key in (("ge", first), ("lt", last)) if key]


class _missing_is_none:
    """``with _missing_is_none() as found``: the list stays empty where the thing is not there."""

    def __enter__(self) -> list[Any]:
        return []

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        from azure.core.exceptions import ResourceNotFoundError

        return isinstance(error, ResourceNotFoundError)


class _faults_typed:
    """Turns a fault of the network or of the service into `StorageUnavailable`.

    Answers that the caller has to tell apart (not found, exists, changed) pass through.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from azure.core.exceptions import (
            AzureError,
            HttpResponseError,
            ResourceExistsError,
            ResourceModifiedError,
            ResourceNotFoundError,
        )

        passed = (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError)
        if not isinstance(error, AzureError) or isinstance(error, passed):
            return
        status = error.status_code if isinstance(error, HttpResponseError) else None
        if status is not None and status < 500 and status not in (408, 429):
            return
        retry_after = None
        response = getattr(error, "response", None)
        if response is not None:
            value = response.headers.get("Retry-After", "")
            retry_after = float(value) if value.isdigit() else None
        raise StorageUnavailable("Storage did not answer.", retry_after=retry_after) from error


@contextlib.asynccontextmanager
async def open_storage(settings: StorageSettings) -> AsyncIterator[Storage]:
    """A `Storage` that is closed at the end of the block; for scripts and tests."""
    storage = Storage(settings)
    try:
        yield storage
    finally:
        await storage.close()
