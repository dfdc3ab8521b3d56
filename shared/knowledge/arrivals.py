"""Arrivals that no event told of: blobs of an inbox that have neither become a document nor been refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import InvalidName
from shared.jobs import derived_id
from shared.knowledge.documents import check_id
from shared.storage import INBOX, TRANSACTION_ENTITIES

if TYPE_CHECKING:
    from shared.jobs import Jobs
    from shared.knowledge.documents import Documents
    from shared.storage import BlobInfo, Storage

# An event takes seconds, with all tries of a poison blob and a busy queue less than an hour.
SETTLE_SECONDS = 3600.0
# Looked for once a day, and found the day after at the latest. Jobs, which tell what was refused, are kept
# longer.
WINDOW_SECONDS = 2 * 86_400.0
# Storage tells when a blob was written in whole seconds.
WRITTEN_WITHIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """A blob of the inbox, and the document that it is to be."""

    document: str
    blob: str


def arrival_job(blob: str, etag: str) -> str:
    """The id of the job for one version of a blob in the inbox."""
    return derived_id("blob", blob, _quoted(etag))


def refusal_job(blob: str, etag: str) -> str:
    """The id of the failed job for a blob that was refused; ``etag`` is empty where it was gone by then."""
    return derived_id("refused", "blob", blob, _quoted(etag) if etag else "")


def _quoted(etag: str) -> str:
    """A listing gives ETags without the quotation marks that a download has."""
    return f'"{etag.strip(chr(34))}"'


async def lost_arrivals(
    storage: Storage, documents: Documents, jobs: Jobs, tenant: str, collection: str, now: float
) -> list[Arrived]:
    """The blobs of a collection's inbox, of the last two days, of which nothing has come."""
    root = f"{tenant}/{collection}/"
    lost: list[Arrived] = []
    page: list[BlobInfo] = []
    async for blob in storage.list_blobs(INBOX, root):
        if SETTLE_SECONDS <= now - blob.written < WINDOW_SECONDS:
            page.append(blob)
        if len(page) == TRANSACTION_ENTITIES:
            lost += await _lost_of(page, documents, jobs, tenant, collection)
            page = []
    return lost + await _lost_of(page, documents, jobs, tenant, collection)


async def _lost_of(
    blobs: Sequence[BlobInfo], documents: Documents, jobs: Jobs, tenant: str, collection: str
) -> list[Arrived]:
    names: dict[str, str] = {}
    for blob in blobs:
        try:
            names[blob.name] = check_id(blob.name.removeprefix(f"{tenant}/{collection}/"))
        except InvalidName:
            names[blob.name] = ""
    records = await documents.find_all(tenant, collection, filter(None, names.values()))
    lost = []
    for blob in blobs:
        record = records.get(names[blob.name])
        came_later = record is not None and record.accepted >= blob.written + WRITTEN_WITHIN_SECONDS
        if not names[blob.name] or came_later:
            continue
        ids = (arrival_job(blob.name, blob.etag), refusal_job(blob.name, blob.etag))
        if not any([await jobs.find(tenant, job) for job in ids]):
            lost.append(Arrived(names[blob.name], blob.name))
    return lost
