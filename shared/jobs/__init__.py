"""Jobs: the one contract of everything that takes long."""

from .job import Job, Kind, State, Ticket, derived_id, new_id
from .status import POLL_SECONDS, iso, status_document
from .store import PROGRESS_TABLE, STATUS_ERRORS, TABLE, Jobs

__all__ = [
    "POLL_SECONDS",
    "PROGRESS_TABLE",
    "STATUS_ERRORS",
    "TABLE",
    "Job",
    "Jobs",
    "Kind",
    "State",
    "Ticket",
    "derived_id",
    "iso",
    "new_id",
    "status_document",
]
