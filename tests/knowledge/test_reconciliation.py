"""Reconciliation: what the stores tell differently is found, mended where safe, and spared while new."""

from __future__ import annotations

import time
from dataclasses import replace

from shared.jobs import Kind, State, Ticket, new_id
from shared.knowledge.arrivals import refusal_job
from shared.knowledge.documents import Document, DocumentState
from shared.knowledge.index import VersionRange
from shared.knowledge.reconciliation import Report
from shared.storage import INBOX, RAW
from tests.intelligence.world import World, chat_model, ranker, servers, world
from tests.knowledge.lifecycle import Lifecycle, lifecycle

__all__ = ["chat_model", "lifecycle", "ranker", "servers", "world"]

HOUR_SECONDS = 3600
TEXT = "The keeper winds the clock of the lighthouse on every Sunday. " * 20


async def reconciled(lifecycle: Lifecycle, *, hours_later: float) -> Report:
    """A whole reconciliation of the collection, as if it ran later."""
    now = time.time() + hours_later * HOUR_SECONDS
    name = lifecycle.world.name
    report, following = await lifecycle.reconciliation.documents_page(Ticket("acme", new_id()), name, "", now)
    assert following is None
    return report.merged(await lifecycle.reconciliation.content("acme", name, now))


async def test_a_collection_in_order_is_left_as_it_is(lifecycle: Lifecycle, world: World):
    await lifecycle.ingest(a=TEXT, b=TEXT)
    await lifecycle.ingest(a=f"{TEXT} Again.")
    index = await world.indexes.of("embedding")
    before = await index.digest("acme", world.name)
    report = await reconciled(lifecycle, hours_later=48)
    assert (report.documents, report.counts, report.repaired) == (2, {}, 0)
    assert await index.digest("acme", world.name) == before
    assert sorted(await lifecycle.texts()) == ["a.txt", "b.txt"]


async def test_chunks_that_no_record_shows_go_once_they_are_old(lifecycle: Lifecycle, world: World):
    await lifecycle.ingest(a=TEXT)
    stale = await world.add("a.txt", TEXT, version=7, visible=1)
    nobodys = await world.add("nobody.txt", TEXT)
    record = await world.documents.get("acme", world.name, "nobody.txt")
    await world.documents.remove(record)
    assert (await reconciled(lifecycle, hours_later=1)).counts.get("orphan_chunks") is None
    report = await reconciled(lifecycle, hours_later=7)
    assert report.counts["orphan_chunks"] == len(stale) + len(nobodys) == report.repaired
    index = await world.indexes.of("embedding")
    left = await index.document_versions("acme", world.name)
    assert [(each.document, each.version) for each in left] == [("a.txt", 1)]


async def test_chunks_of_a_version_that_is_being_made_are_spared(lifecycle: Lifecycle, world: World):
    ticket = (await lifecycle.accept(a=TEXT)).ticket
    await lifecycle.prepared(ticket)
    report = await reconciled(lifecycle, hours_later=48)
    assert report.counts == {}
    assert await lifecycle.ingestion.settlement.commit(ticket, 0, {})
    assert list(await lifecycle.texts()) == ["a.txt"]


async def test_a_visible_version_without_its_chunks_is_ingested_again(lifecycle: Lifecycle, world: World):
    await lifecycle.ingest(a=TEXT, b=TEXT)
    before = await lifecycle.texts()
    index = await world.indexes.of("embedding")
    lost = await index.delete_document("acme", world.name, "a.txt", VersionRange(only=1))
    report = await reconciled(lifecycle, hours_later=1)
    assert (report.counts, report.repaired) == ({"missing_chunks": lost}, lost)
    jobs, _ = await lifecycle.jobs.newest("acme")
    repair = next(job for job in jobs if job.collection == world.name and job.owner == "reconciliation")
    await lifecycle.prepared(repair.ticket)
    assert await lifecycle.ingestion.settlement.commit(repair.ticket, 0, {})
    assert await lifecycle.texts() == before
    assert (await reconciled(lifecycle, hours_later=7)).counts == {}


async def test_a_document_whose_job_has_ended_without_it_fails_for_all_to_see(
    lifecycle: Lifecycle, world: World
):
    job = await lifecycle.accept(a=TEXT)
    assert (await reconciled(lifecycle, hours_later=1)).counts == {}
    await lifecycle.jobs.finish(job.ticket, State.FAILED)
    report = await reconciled(lifecycle, hours_later=1)
    assert report.counts == {"stuck_documents": 1}
    record = await world.documents.get("acme", world.name, "a.txt")
    assert record.state is DocumentState.FAILED
    assert record.error is not None
    assert record.error["code"] == "job_ended"


async def test_content_that_no_record_owns_goes_once_its_job_has_ended(lifecycle: Lifecycle, world: World):
    ticket = await lifecycle.ingest(a=TEXT)
    await lifecycle.content.put("acme", world.name, RAW, f"{ticket.job}/00009", {"x": b"1", "y": b"2"})
    assert (await reconciled(lifecycle, hours_later=1)).counts == {}
    report = await reconciled(lifecycle, hours_later=25)
    assert report.counts == {"orphan_content": 2}
    assert (await reconciled(lifecycle, hours_later=25)).counts == {}
    assert list(await lifecycle.texts()) == ["a.txt"]

    def touched(_: None, record: Document | None) -> Document | None:
        return record and replace(record, visible_digest="")

    # What the record owns is all there: it can be ingested again from it.
    await world.documents.change_all("acme", world.name, {"a.txt": None}, touched)
    record = await world.documents.get("acme", world.name, "a.txt")
    assert len(await lifecycle.content.get("acme", world.name, record.claims)) == len(record.claims)


# --- events that were lost ---


async def dropped(world: World, document: str, data: bytes) -> str:
    blob = f"acme/{world.name}/{document}"
    await world.storage.put_blob(INBOX, blob, data)
    return blob


async def test_a_blob_of_the_inbox_that_no_event_told_of_is_ingested(lifecycle: Lifecycle, world: World):
    now = time.time()
    inbox = lifecycle.reconciliation.inbox
    blob = await dropped(world, "quay/a.txt", TEXT.encode())
    told = await dropped(world, "told.txt", TEXT.encode())
    await lifecycle.ingestion.acceptance.accept_arrival("acme", world.name, "told.txt", told)
    assert (await inbox("acme", world.name, now)).counts == {}  # its event may be on its way
    report = await inbox("acme", world.name, now + 2 * HOUR_SECONDS)
    assert (report.counts, report.repaired) == ({"lost_events": 1}, 1)
    record = await world.documents.get("acme", world.name, "quay/a.txt")
    again = await lifecycle.ingestion.acceptance.accept_arrival("acme", world.name, record.id, blob)
    assert again is not None
    assert again.id == record.job, "the event, should it come yet, would have another job"
    announced = [job async for job in lifecycle.jobs.announced_before(now + HOUR_SECONDS)]
    assert record.job in [job if isinstance(job, str) else job.id for job in announced]
    assert (await inbox("acme", world.name, now + 3 * HOUR_SECONDS)).counts == {}
    await dropped(world, "quay/a.txt", b"Other words on the lighthouse.")
    assert (await inbox("acme", world.name, now + 3 * HOUR_SECONDS)).counts == {"lost_events": 1}
    assert (await inbox("acme", world.name, now + 72 * HOUR_SECONDS)).counts == {}


async def test_a_blob_that_was_refused_deleted_or_cannot_be_taken_is_no_lost_document(
    lifecycle: Lifecycle, world: World
):
    later = time.time() + 2 * HOUR_SECONDS
    blob = await dropped(world, "refused.bin", b"\x00\x01")
    info = await world.storage.blob_info(INBOX, blob)
    assert info is not None
    unreadable = await lifecycle.reconciliation.inbox("acme", world.name, later)
    assert (unreadable.counts, unreadable.repaired) == ({"lost_events": 1}, 0)
    assert unreadable.examples[0]["code"] == "unsupported_media_type"
    await lifecycle.jobs.create(
        "acme",
        Kind.INGESTION,
        job_id=refusal_job(blob, info.etag),
        title="",
        collection=world.name,
        owner="event",
    )
    gone = await dropped(world, "gone.txt", TEXT.encode())
    await lifecycle.ingestion.acceptance.accept_arrival("acme", world.name, "gone.txt", gone)
    await world.documents.mark_deleted("acme", world.name, "gone.txt", new_id(), version=1)
    assert (await lifecycle.reconciliation.inbox("acme", world.name, later)).counts == {}
