"""Erasure: all that a tenant holds of one user, or from one source, removed for good, with a receipt.

A job goes through what may hold something, then looks through it all again. The receipt says what was removed
and what the second look found, and has a digest over itself. It holds no name: whoever asked gets a nonce,
and SHA-256 over the nonce and the name is in the receipt, so that who knows both can show what it is about.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from shared.errors import Cancelled, Conflict, NotFound
from shared.jobs import Job, Kind, State, Ticket, iso
from shared.knowledge.documents import Document
from shared.storage import INBOX, JOBS

if TYPE_CHECKING:
    from shared.files import Files
    from shared.inferencing.batches.records import BatchRecords
    from shared.inferencing.ledger import UsageLedger
    from shared.jobs import Jobs
    from shared.keys import Key, Keys
    from shared.knowledge.collections import Collection, Collections
    from shared.knowledge.content import ContentStore
    from shared.knowledge.documents import Documents
    from shared.knowledge.indexes import Indexes
    from shared.storage import Storage
    from shared.webhooks import Webhooks

RECEIPTS = "receipts"
# A document costs a handful of calls: a minute or so for these.
PAGE_DOCUMENTS = 500
# What a receipt counts: removed, or of usage and webhooks, given a pseudonym.
REMOVED = ("documents", "arrivals", "jobs", "batches", "files", "keys", "usage", "webhooks")


class Caches(Protocol):
    """The caches of this process, and how long any process keeps what it has in one."""

    @property
    def seconds(self) -> float: ...

    def clear(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose, or whence: exactly one of the two is named."""

    user: str = ""
    source: str = ""

    def owns_document(self, record: Document) -> bool:
        upload = record.upload
        return upload.owner == self.user if self.user else upload.source == self.source

    def digest(self, nonce: str) -> str:
        """What a receipt shows of it."""
        named = f"{nonce}\0{'user' if self.user else 'source'}\0{self.user or self.source}"
        return hashlib.sha256(named.encode()).hexdigest()


class Erasure:
    """The steps of erasing over all stores that may hold something of a user or a source."""

    def __init__(
        self,
        *,
        storage: Storage,
        jobs: Jobs,
        collections: Collections,
        documents: Documents,
        content: ContentStore,
        indexes: Indexes,
        files: Files,
        keys: Keys,
        ledger: UsageLedger,
        batches: BatchRecords,
        webhooks: Webhooks,
        caches: Caches,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._collections = collections
        self._documents = documents
        self._content = content
        self._indexes = indexes
        self._files = files
        self._keys = keys
        self._ledger = ledger
        self._batches = batches
        self._webhooks = webhooks
        self._caches = caches

    async def accept(self, tenant: str, subject: Subject, *, job_id: str, owner: str) -> tuple[Job, str]:
        """Announce an erasure; its job, and the nonce of its receipt."""
        ticket = Ticket(tenant, job_id)
        if await self._jobs.fetch(ticket, "plan") is None:
            plan = {"user": subject.user, "source": subject.source, "nonce": secrets.token_hex(16)}
            await self._jobs.put(ticket, "plan", plan)
        subject, nonce = await self._plan(ticket)
        job = await self._jobs.create(
            tenant,
            Kind.ERASURE,
            job_id=job_id,
            title="Erase what is held of a user" if subject.user else "Erase what came from a source",
            collection="",
            owner=owner,
        )
        return job, nonce

    async def _plan(self, ticket: Ticket) -> tuple[Subject, str]:
        """Whom the first attempt was to erase; `NotFound` once that is done, for then nobody is named."""
        plan = await self._jobs.fetch(Ticket(ticket.tenant, ticket.job), "plan")
        if plan is None:
            raise NotFound("subject of the erasure", ticket.job)
        return Subject(plan["user"], plan["source"]), plan["nonce"]

    async def erase_documents(
        self, ticket: Ticket, number: int, collection: str, after: str
    ) -> dict[str, str] | None:
        """Erase the subject's documents of one page; where to go on, None at the end."""
        if await self._jobs.cancel_requested(ticket):
            raise Cancelled
        if number == 0:
            await self._jobs.begin(ticket)
        subject, _ = await self._plan(ticket)
        names = [each.name async for each in self._collections.list(ticket.tenant)]
        name = next((name for name in names if name >= collection), None)
        if name is None:
            return None
        within = await self._collections.get(ticket.tenant, name)
        seen = erased = arrivals = 0
        following = {"collection": f"{name}-", "after": ""}
        async for record in self._documents.every(
            ticket.tenant, name, after=after if name == collection else ""
        ):
            if seen == PAGE_DOCUMENTS:
                following = {"collection": name, "after": record.key}
                break
            seen += 1
            if subject.owns_document(record):
                erased += await self._erased(within, record, ticket.job)
                arrivals += await self._without_arrival(record)
        counts = {"documents": erased, "arrivals": arrivals, "published": erased}
        await self._jobs.report(ticket, f"page-{number:05d}", **counts)
        return following

    async def _erased(self, collection: Collection, record: Document, job: str) -> bool:
        """Erase a document with its record. False where it has changed meanwhile: then it is looked at again.

        It goes out of sight first. A job that is at work on it finds itself overtaken, and after that no
        record, and takes back what it wrote.
        """
        tenant, name = collection.tenant, collection.name
        await self._documents.mark_deleted(tenant, name, record.id, job, version=record.version)
        gone = await self._documents.find(tenant, name, record.id)
        if gone is None or not gone.tombstone or gone.version != gone.tombstone:
            return False
        for index in await self._indexes.all_of(collection):
            await index.delete_document(tenant, name, record.id)
        claims = {*record.claims, *record.dropped, *gone.claims, *gone.dropped}
        await self._content.remove(tenant, name, claims)
        await self._documents.remove(gone)
        return True

    async def _without_arrival(self, record: Document) -> int:
        """Remove the blob that a document was brought in by, if it lies in the inbox still."""
        own = f"{record.tenant}/{record.collection}/{record.id}"
        names = {record.upload.inbox, own if record.upload.source == INBOX else ""} - {""}
        removed = 0
        for name in names:
            if (blob := await self._storage.blob_info(INBOX, name)) is not None:
                removed += await self._storage.delete_listed(INBOX, [blob])
        return removed

    async def erase_traces(self, ticket: Ticket) -> None:
        """Erase what else there is: caches; of a user also jobs with their results, deliveries of their ends,
        batches, files, keys. Usage and webhooks lose the name."""
        self._caches.clear()
        subject, nonce = await self._plan(ticket)
        if not subject.user:
            return
        removed = {"jobs": 0, "batches": 0, "files": 0, "keys": 0}
        async for job in self._jobs_of(ticket, subject):
            if job.state.final:
                await self._webhooks.forget_job(job)
                await self._jobs.remove(job)
                removed["jobs"] += 1
            else:
                await self._jobs.request_cancel(job.tenant, job.id)
        for job_id in [job async for job in self._batches.of_user(ticket.tenant, subject.user)]:
            if await self._jobs.find(ticket.tenant, job_id) is None:
                await self._batches.remove(ticket.tenant, job_id)
                removed["batches"] += 1
        async for file in self._files.of_user(ticket.tenant, subject.user):
            await self._files.delete(file)
            removed["files"] += 1
        async for key in self._keys_of(ticket, subject):
            await self._keys.remove(key)
            removed["keys"] += 1
        # The sums stay right; who they were is no longer told, and the same name gives no other one twice.
        pseudonym = f"erased-{subject.digest(nonce)[:16]}"
        removed["usage"] = await self._ledger.rename_user(ticket.tenant, subject.user, pseudonym)
        removed["webhooks"] = await self._webhooks.rename_creator(ticket.tenant, subject.user, pseudonym)
        await self._jobs.report(ticket, "traces", **removed)

    async def finish(self, ticket: Ticket) -> None:
        """Look through everything again, write the receipt, and end the job."""
        subject, nonce = await self._plan(ticket)
        left = await self._left(ticket, subject)
        removed: dict[str, int] = dict.fromkeys(REMOVED, 0)
        for attempt in range(1, ticket.attempt + 1):
            sums = await self._jobs.progress(Ticket(ticket.tenant, ticket.job, attempt))
            removed = {name: count + sums.get(name, 0) for name, count in removed.items()}
        if any(left.values()):
            raise Conflict("Something came in or was at work meanwhile.", left=left)
        receipt: dict[str, Any] = {
            "id": ticket.job,
            "kind": "user" if subject.user else "source",
            "subject_digest": subject.digest(nonce),
            "removed": removed,
            "left": left,
            # This process has forgotten them; what another one keeps in memory ends by itself.
            "caches_ended": iso(time.time() + self._caches.seconds),
            "verified": iso(time.time()),
        }
        receipt["digest"] = receipt_digest(receipt)
        row = {"PartitionKey": ticket.tenant, "RowKey": ticket.job, "receipt": json.dumps(receipt)}
        await self._storage.put_row(RECEIPTS, row)
        await self._jobs.put(ticket, "result", {"receipt": receipt})
        await self._jobs.finish(ticket, State.SUCCEEDED, counts=removed)
        # The name goes last: until here, a retry needs it.
        await self._storage.delete_blobs(JOBS, f"{ticket.tenant}/{ticket.job}/1/plan")

    async def _left(self, ticket: Ticket, subject: Subject) -> dict[str, int]:
        left = {"documents": 0, "jobs": 0, "batches": 0, "files": 0, "keys": 0}
        async for collection in self._collections.list(ticket.tenant):
            async for record in self._documents.every(ticket.tenant, collection.name):
                left["documents"] += subject.owns_document(record)
        if subject.user:
            left["jobs"] = len([job async for job in self._jobs_of(ticket, subject)])
            left["batches"] = len([b async for b in self._batches.of_user(ticket.tenant, subject.user)])
            left["files"] = len([f async for f in self._files.of_user(ticket.tenant, subject.user)])
            left["keys"] = len([key async for key in self._keys_of(ticket, subject)])
        return left

    async def _jobs_of(self, ticket: Ticket, subject: Subject) -> AsyncIterator[Job]:
        async for job in self._jobs.every(ticket.tenant):
            if job.owner == subject.user and job.id != ticket.job:
                yield job

    async def _keys_of(self, ticket: Ticket, subject: Subject) -> AsyncIterator[Key]:
        async for key in self._keys.list(ticket.tenant):
            if key.principal.user == subject.user:
                yield key

    async def receipt(self, tenant: str, job_id: str) -> dict[str, Any]:
        """The receipt of an erasure that is done; `NotFound` where there is none."""
        row = await self._storage.get_row(RECEIPTS, tenant, job_id) if job_id.isalnum() else None
        if row is None:
            raise NotFound("receipt", job_id[:64])
        return json.loads(row["receipt"])


def receipt_digest(receipt: Mapping[str, Any]) -> str:
    """SHA-256 over a receipt without its digest, as JSON with sorted names and no white space."""
    told = {name: value for name, value in receipt.items() if name != "digest"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


__all__ = ["Erasure", "Subject", "receipt_digest"]
