"""Groundwork's Python client: documents in, jobs followed, questions answered with citations.

    from client import Groundwork, NewDocument

    groundwork = Groundwork("http://127.0.0.1:7071", api_key)
    job = groundwork.put_document("handbook", "travel.md", b"# Travel ...")
    groundwork.jobs.wait(job.id)
    print(groundwork.ask("How do I book a train?", ["handbook"]).text)

It needs nothing but the standard library. `python -m client --help` is the command line.
"""

from client.api import Groundwork
from client.errors import ApiError, ConnectionFailed, GroundworkClientError, JobTimeout, StreamInterrupted
from client.jobs import Jobs
from client.models import (
    Answer,
    AnswerDelta,
    AnswerDone,
    AnswerEvent,
    AnswerSources,
    Citation,
    Collection,
    Document,
    DocumentText,
    Hit,
    JobError,
    JobStatus,
    NewDocument,
    Outcome,
    Progress,
    SearchResult,
    Stage,
)

__all__ = [
    "Answer",
    "AnswerDelta",
    "AnswerDone",
    "AnswerEvent",
    "AnswerSources",
    "ApiError",
    "Citation",
    "Collection",
    "ConnectionFailed",
    "Document",
    "DocumentText",
    "Groundwork",
    "GroundworkClientError",
    "Hit",
    "JobError",
    "JobStatus",
    "JobTimeout",
    "Jobs",
    "NewDocument",
    "Outcome",
    "Progress",
    "SearchResult",
    "Stage",
    "StreamInterrupted",
]
