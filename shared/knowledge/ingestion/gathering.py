"""Gathering: what did not come with the request is brought in: blobs of the inbox, documents by URL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from shared.errors import Contended, GroundworkError, NotFound, PayloadTooLarge, SourceUnavailable
from shared.knowledge.ingestion.acceptance import Incoming
from shared.knowledge.ingestion.outcomes import Outcome
from shared.knowledge.media import HEAD_BYTES, detect
from shared.quotas import Hold
from shared.storage import INBOX

if TYPE_CHECKING:
    from shared.jobs import Ticket
    from shared.knowledge.collections import Collection
    from shared.knowledge.documents import Documents, Upload
    from shared.knowledge.ingestion.acceptance import Acceptance
    from shared.knowledge.ingestion.shards import Shards
    from shared.outgoing import Outgoing
    from shared.storage import Storage

# Blobs of the inbox read at a time.
READS_IN_FLIGHT = 8
# Addresses asked at a time by one process, since each may give a document of the largest size.
FETCHES_IN_FLIGHT = 4
# How often an address that does not answer is asked before its document has failed; waits lie between.
FETCH_TRIES = 5


class Gathering:
    """Brings in what a shard's documents are made of."""

    def __init__(
        self,
        *,
        storage: Storage,
        documents: Documents,
        shards: Shards,
        acceptance: Acceptance,
        outgoing: Outgoing,
        max_document_bytes: int,
    ) -> None:
        self._storage = storage
        self._documents = documents
        self._shards = shards
        self._acceptance = acceptance
        self._outgoing = outgoing
        self._max_document_bytes = max_document_bytes
        self._fetches = asyncio.Semaphore(FETCHES_IN_FLIGHT)

    async def gather(
        self, ticket: Ticket, collection: Collection, number: int
    ) -> tuple[list[Upload], list[Outcome]]:
        """The uploads of a shard with the claims to their bytes, and the outcomes of those that were refused.

        What has come is in the shard's manifest, so that a repetition asks for the rest alone. Raises
        `SourceUnavailable`, with the longest wait that was asked for, while an address may yet answer, and
        `Contended` where blobs were overtaken while they were read.
        """
        uploads = await self._shards.manifest(ticket, number)
        kept = [upload for upload in uploads if not upload.is_awaited]
        if len(kept) == len(uploads):
            return uploads, []
        # Before the blobs: a record that is still as it was then tells that nothing newer was accepted.
        inbox = {upload.id: upload for upload in uploads if upload.inbox}
        contents: dict[str, bytes] = {}
        copied: list[Upload] = []
        outcomes: list[Outcome] = []
        left: list[Upload] = []
        waits: list[float] = []
        gate = asyncio.Semaphore(READS_IN_FLIGHT)
        names = [upload.id for upload in uploads if upload.is_awaited]
        records = await self._documents.find_all(ticket.tenant, collection.name, names)
        hold = Hold()

        async def keep(some: list[Upload], bytes_of: dict[str, bytes]) -> None:
            kept.extend(await self._acceptance.keep(ticket, collection.name, number, some, bytes_of))

        async def bring(upload: Upload) -> None:
            try:
                async with self._fetches if upload.url else gate:
                    incoming = await self._read(upload)
                    record = records.get(upload.id)
                    base = upload.base if upload.url else record.version if record else 0
                    checked = replace(self._acceptance.check(incoming), owner=upload.owner, base=base)
                    room = await self._documents.hold(ticket.tenant, [checked], records, ticket.job)
                    hold.left += room.left
                    if upload.url:  # of unknown size until now: not held until the rest of the shard has come
                        await keep([checked], {checked.sha256: incoming.content})
                    else:
                        contents[checked.sha256] = incoming.content
                        copied.append(checked)
            except SourceUnavailable as error:
                left.append(replace(upload, tries=upload.tries + 1))
                if left[-1].tries < FETCH_TRIES:
                    waits.append(error.retry_after or 0)
                else:
                    outcomes.append(Outcome.failed(upload.id, error))
            except GroundworkError as error:
                if error.retryable:
                    raise
                left.append(upload)
                outcomes.append(Outcome.failed(upload.id, error))

        try:
            await asyncio.gather(*(bring(upload) for upload in uploads if upload.is_awaited))
            await keep(copied, contents)
            accepted = await self._documents.accept(
                ticket.tenant,
                collection.name,
                kept,
                ticket.job,
                attempt=ticket.attempt,
                guarded=True,
                hold=hold,
            )
        finally:
            await self._documents.release(ticket.tenant, hold)
        again = [upload for name, upload in inbox.items() if name in accepted.overtaken]
        kept = [upload for upload in kept if upload.id not in {one.id for one in again}]
        left += again
        await self._shards.put_manifest(ticket, number, kept + left)
        if again:
            raise Contended("Blobs of the inbox are being changed.", retry_after=1)
        if waits:
            raise SourceUnavailable("Addresses of documents do not answer yet.", retry_after=max(waits))
        return kept, outcomes

    async def _read(self, upload: Upload) -> Incoming:
        if upload.url:
            fetched = await self._outgoing.fetch(
                upload.url,
                limit=self._max_document_bytes,
                examine=lambda declared, head: detect(upload.id, upload.media or declared, head[:HEAD_BYTES]),
            )
            content, media = fetched.content, upload.media or fetched.content_type
        else:
            content, media = await self._inbox_content(upload), upload.media
        return Incoming(upload.id, content, media, upload.title, upload.source, upload.tags, upload.readers)

    async def _inbox_content(self, upload: Upload) -> bytes:
        if upload.size > self._max_document_bytes:
            raise PayloadTooLarge(
                f"The document has {upload.size} bytes; the limit is {self._max_document_bytes}."
            )
        content = await self._storage.get_blob(INBOX, upload.inbox)
        if content is None:
            raise NotFound("blob", upload.inbox)
        return content
