"""Whom a step works for: its job and collection, looked up when it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import Cancelled, InvalidName, NotFound

if TYPE_CHECKING:
    from shared.jobs import Job, Jobs, Ticket
    from shared.knowledge.collections import Collection, Collections


@dataclass(frozen=True, slots=True)
class Assignment:
    """The job and the collection that a step works for, as they are when it begins."""

    job: Job
    collection: Collection
    cancelled: bool

    def stop_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled


class Assignments:
    """Tells the steps whom they work for."""

    def __init__(self, jobs: Jobs, collections: Collections) -> None:
        self._jobs = jobs
        self._collections = collections

    async def stands(self, ticket: Ticket) -> bool:
        """Whether the attempt goes on: it has not ended, no other follows it, its collection is there."""
        try:
            job = (await self.of(ticket)).job
        except NotFound:
            return False
        return job.attempt == ticket.attempt and not job.state.final

    async def of(self, ticket: Ticket) -> Assignment:
        """The ticket's job; `NotFound` once its collection is deleted, also where its name is used again."""
        return await self.for_job(ticket, await self._jobs.get(ticket.tenant, ticket.job))

    async def for_job(self, ticket: Ticket, job: Job) -> Assignment:
        """As `of`, with the job as it was just read."""
        try:
            collection = await self._collections.get(ticket.tenant, job.collection)
        except InvalidName:
            # An event that was refused may have named none, or what is no name.
            raise NotFound("collection", job.collection) from None
        if collection.generation != job.generation:
            raise NotFound("collection", job.collection)
        return Assignment(job, collection, job.cancel_requested or job.attempt != ticket.attempt)
