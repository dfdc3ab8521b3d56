"""The records of all documents, in a table: each changed only where it is still as it was read."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from shared.errors import Contended, NotFound
from shared.knowledge.documents.records import Accepted, Document, DocumentState, Stamp, Upload
from shared.knowledge.index.protocol import document_key
from shared.quotas import Hold, Usage
from shared.storage import TRANSACTION_ENTITIES, WHATEVER, Changed

if TYPE_CHECKING:
    from shared.quotas import Quotas
    from shared.storage import Row, Storage

T = TypeVar("T")

TABLE = "documents"
# Writers of the same document meet seldom; more conflicts in a row mean a fault.
WRITE_TRIES = 10
PAGE_DOCUMENTS = 100
# Documents come again by the folder: where the first few are new, the others mostly are.
PROBED = 4
# The records of a transaction, which changes the content's stamp as well.
RECORDS_AT_ONCE = TRANSACTION_ENTITIES - 1
# One page of a table; the 95th percentile has ten documents above it.
FRESHNESS_SAMPLE = 200
# Lies beside the records of its collection, before the first of their keys.
STAMP_KEY = "!content"
FIRST_KEY = "0"


class Documents:
    """The records of all documents."""

    def __init__(self, storage: Storage, quotas: Quotas | None = None) -> None:
        """Documents and their bytes are counted in ``quotas`` where given."""
        self._storage = storage
        self._quotas = quotas

    async def find(self, tenant: str, collection: str, document: str) -> Document | None:
        key = document_key(tenant, collection, document)
        row = await self._storage.get_row(TABLE, f"{tenant}:{collection}", key)
        return Document.from_row(row) if row else None

    async def get(self, tenant: str, collection: str, document: str) -> Document:
        """The record; `NotFound` where there is none or the document was deleted."""
        record = await self.find(tenant, collection, document)
        if record is None or record.state is DocumentState.DELETED:
            raise NotFound("document", document)
        return record

    async def find_all(self, tenant: str, collection: str, ids: Iterable[str]) -> dict[str, Document]:
        """The records of the given documents by their ids; unknown ones are left out."""
        keys = [document_key(tenant, collection, document) for document in ids]
        rows = await self._storage.get_rows(TABLE, f"{tenant}:{collection}", keys)
        records = (Document.from_row(row) for row in rows.values())
        return {record.id: record for record in records}

    async def find_if_any(self, tenant: str, collection: str, ids: Sequence[str]) -> dict[str, Document]:
        """As `find_all`, but where the first of many are new, all are taken to be; an insert finds out."""
        first = await self.find_all(tenant, collection, ids[:PROBED])
        if not first or len(ids) <= PROBED:
            return first
        return first | await self.find_all(tenant, collection, ids[PROBED:])

    async def list(
        self, tenant: str, collection: str, *, after: str = "", limit: int = PAGE_DOCUMENTS
    ) -> tuple[list[Document], str | None]:
        """A page of documents in the order of their keys, and where the next page begins."""
        page: list[Document] = []
        async for record in self.every(tenant, collection, after=after):
            if record.state is DocumentState.DELETED:
                continue
            if len(page) == limit:
                return page, record.key
            page.append(record)
        return page, None

    async def freshness(self, tenant: str, collection: str) -> dict[str, Any]:
        """How long documents took until they could be found: median and 95th percentile of a sample.

        Keys are hashes, so the first records by key are a random sample of the collection.
        """
        sample, _ = await self.list(tenant, collection, limit=FRESHNESS_SAMPLE)
        seconds = sorted(fresh for each in sample if (fresh := each.freshness_seconds) is not None)
        if not seconds:
            return {"documents": 0, "p50_seconds": None, "p95_seconds": None}
        ranks = {"p50_seconds": 0.5, "p95_seconds": 0.95}
        shown = {name: round(seconds[int(share * (len(seconds) - 1))], 3) for name, share in ranks.items()}
        return {"documents": len(seconds), **shown}

    async def every(self, tenant: str, collection: str, *, after: str = "") -> AsyncIterator[Document]:
        """All records of a collection, deleted ones too."""
        async for row in self._storage.query_rows(TABLE, f"{tenant}:{collection}", first=after or FIRST_KEY):
            yield Document.from_row(row)

    async def stamp(self, tenant: str, collection: str) -> Stamp:
        """What the content is now: another stamp after every change of what may be found.

        Whoever read it before it looked at records and index knows what its findings belong to.
        """
        row = await self._storage.get_row(TABLE, f"{tenant}:{collection}", STAMP_KEY)
        if row is None:
            return Stamp("", 0.0, False)
        return Stamp(row["stamp"], row["changed"], row.get("own_lists", False))

    async def forget_stamp(self, tenant: str, collection: str) -> None:
        """Remove the stamp of a collection that is removed itself."""
        await self._storage.delete_row(TABLE, f"{tenant}:{collection}", STAMP_KEY)

    async def hold(
        self,
        tenant: str,
        uploads: Sequence[Upload],
        records: Mapping[str, Document],
        job: str,
        *,
        beside: Usage | None = None,
        refusable: bool = True,
    ) -> Hold:
        """Take room in the tenant's quotas for ``uploads`` before they are accepted; raises `QuotaExceeded`.

        ``records`` are those of the documents that are known to be there. Room for what comes ``beside``
        them is taken too, and refused only where that is ``refusable``.
        """
        beside = beside or Usage()
        added = sum((_added(upload, records.get(upload.id), job) for upload in uploads), Usage())
        hold = Hold(added + beside)
        if self._quotas is not None and hold.left:
            wanted = (hold.left, None) if refusable else (added, beside)
            await self._quotas.reserve(tenant, wanted[0], but=wanted[1])
        return hold

    async def release(self, tenant: str, hold: Hold) -> None:
        """Leave to others what is left of ``hold``."""
        left, hold.left = hold.left, Usage()
        if self._quotas is not None and left:
            await self._quotas.give_back(tenant, left)

    async def accept(
        self,
        tenant: str,
        collection: str,
        uploads: Sequence[Upload],
        job: str,
        *,
        hold: Hold | None = None,
        attempt: int = 1,
        guarded: bool = False,
        known: Mapping[str, Document] | None = None,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Accepted:
        """Give each upload the next version of its document, for an attempt of ``job`` to process.

        Doing so again for the same attempt changes nothing, so it may be repeated after a crash. When
        ``guarded``, an upload takes no version where its base is no longer the document's newest one:
        content that was read before something newer was accepted must not come after it. ``known`` are
        records that have just been read. What the tenant has more of is taken from ``hold`` where given.
        ``meanwhile`` is as in `change_all`.
        """
        overtaken: set[str] = set()

        def next_version(upload: Upload, record: Document | None) -> Document | None:
            base = record or Document(tenant, collection, upload.id)
            mine = base.version > 0 and base.job == job
            if mine and base.attempt >= attempt:
                return None
            if guarded and not mine and upload.base not in (None, base.version):
                overtaken.add(upload.id)
                return None
            if not upload.title and upload.sha256 == base.upload.sha256:
                # The title may come from the content, which is the same.
                upload = replace(upload, title=base.upload.title)
            accepted = replace(
                base,
                version=base.version + 1,
                state=DocumentState.ACCEPTED,
                job=job,
                attempt=attempt,
                upload=upload,
                error=None,
                accepted=time.time(),
                finished=None,
            )
            # What is still being worked on may yet become visible; its own job removes it if not.
            settled = base.state is not DocumentState.ACCEPTED
            return accepted.dropping(base.claims) if settled else accepted

        values = {upload.id: upload for upload in uploads}
        if known is None and not guarded:
            known = await self.find_if_any(tenant, collection, [*values])
        after = await self.change_all(
            tenant, collection, values, next_version, known=known, meanwhile=meanwhile, hold=hold
        )
        return Accepted(after, frozenset(overtaken))

    async def mark_deleted(
        self, tenant: str, collection: str, document: str, job: str, *, version: int
    ) -> None:
        """Take a document out of sight whose newest version is still ``version``.

        Its deletion is a version of its own and beats those before it.
        """

        def tombstone(_: None, record: Document | None) -> Document | None:
            if record is None or record.state is DocumentState.DELETED or record.version != version:
                return None
            return _deleted(record, job)

        await self.change_all(tenant, collection, {document: None}, tombstone)

    async def mark_all_deleted(self, tenant: str, collection: str, job: str) -> int:
        """Take all documents of a collection out of sight; how many there were.

        Their records stay: a collection of the same name goes on with their version numbers, so that no
        late writer of the deleted one can meet a version of the new one.
        """

        def tombstone(_: None, record: Document | None) -> Document | None:
            return None if record is None or record.state is DocumentState.DELETED else _deleted(record, job)

        names = [
            record.id
            async for record in self.every(tenant, collection)
            if record.state is not DocumentState.DELETED
        ]
        for start in range(0, len(names), RECORDS_AT_ONCE):
            batch = dict.fromkeys(names[start : start + RECORDS_AT_ONCE])
            await self.change_all(tenant, collection, batch, tombstone)
        return len(names)

    async def forget_dropped(self, tenant: str, collection: str, records: Iterable[Document]) -> None:
        """Note that the content which these records had dropped is gone."""

        def forget(gone: Sequence[str], record: Document | None) -> Document | None:
            if record is None or not {*gone} & {*record.dropped}:
                return None
            return replace(record, dropped=tuple(claim for claim in record.dropped if claim not in gone))

        gone = {record.id: record.dropped for record in records if record.dropped}
        await self.change_all(tenant, collection, gone, forget)

    async def change_all(
        self,
        tenant: str,
        collection: str,
        values: Mapping[str, T],
        change: Callable[[T, Document | None], Document | None],
        *,
        known: Mapping[str, Document] | None = None,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
        hold: Hold | None = None,
    ) -> dict[str, Document]:
        """Change the records of ``values`` by ``change(value, record)``; None leaves a record as it is.

        Each record is written only if it is still as it was read; otherwise it is read and changed anew.
        ``known`` are the records as the caller has read them, or believes them to be: the first try takes
        its word. ``meanwhile`` is awaited after each reading, before the changes. The content's
        stamp changes with them, in the same transactions. What the tenant has more of by then is taken from
        ``hold``, or counted. Gives the records as they are afterwards.
        """
        after: dict[str, Document] = {}
        pending = dict(values)
        for _ in range(WRITE_TRIES):
            records = known if known is not None else await self.find_all(tenant, collection, pending)
            known = None
            if meanwhile is not None:
                await meanwhile()
            writes: list[Document] = []
            for document, value in list(pending.items()):
                changed = change(value, records.get(document))
                if changed is not None:
                    writes.append(changed)
                    continue
                del pending[document]
                if document in records:
                    after[document] = records[document]
            for start in range(0, len(writes), RECORDS_AT_ONCE):
                batch = writes[start : start + RECORDS_AT_ONCE]
                rows = [(record.to_row(), record.etag or None) for record in batch]
                try:
                    etags = await self._storage.swap_rows(
                        TABLE, [*rows, (_stamp_row(tenant, collection, batch), WHATEVER)]
                    )
                except Changed:
                    continue
                await self._count(tenant, batch, records, hold)
                for record, etag in zip(batch, etags[:-1], strict=True):
                    del pending[record.id]
                    after[record.id] = replace(record, etag=etag)
            if not pending:
                return after
        raise Contended("The documents are being changed by others.", retry_after=1)

    async def _count(
        self, tenant: str, after: Sequence[Document], before: Mapping[str, Document], hold: Hold | None
    ) -> None:
        changes = (
            record.usage - (before[record.id].usage if record.id in before else Usage()) for record in after
        )
        more = sum(changes, Usage())
        if hold is not None:
            hold.left -= more
        elif self._quotas is not None and more:
            await self._quotas.give_back(tenant, Usage() - more)

    async def remove(self, record: Document) -> None:
        """Forget a record and its version numbers, as an erasure demands."""
        await self._storage.delete_row(TABLE, f"{record.tenant}:{record.collection}", record.key)


def _stamp_row(tenant: str, collection: str, records: Sequence[Document]) -> Row:
    row: Row = {
        "PartitionKey": f"{tenant}:{collection}",
        "RowKey": STAMP_KEY,
        "stamp": secrets.token_hex(12),
        "changed": time.time(),
    }
    if any(record.upload.readers is not None for record in records):
        row["own_lists"] = True  # it stays, since what is not set is not changed
    return row


def _added(upload: Upload, record: Document | None, job: str) -> Usage:
    """By how much a tenant has more, once ``job`` has put ``upload``."""
    if record is not None and record.job == job:
        return Usage()
    return Usage(documents=1, bytes=upload.size) - (record.usage if record is not None else Usage())


def _deleted(record: Document, job: str) -> Document:
    """A deleted document's record: its name, its version numbers, and the content that is to be removed."""
    tombstone = Document(
        record.tenant,
        record.collection,
        record.id,
        version=record.version + 1,
        tombstone=record.version + 1,
        state=DocumentState.DELETED,
        job=job,
        upload=Upload(record.id, "", 0, ""),
        accepted=time.time(),
        dropped=record.dropped,
        etag=record.etag,
    )
    return tombstone.dropping(record.claims)
