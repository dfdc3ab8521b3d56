"""What the service says, as frozen objects; members that this version does not know are passed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

FINAL_STATES = frozenset({"succeeded", "partial", "failed", "cancelled"})


def _known(kind: type[T], data: Mapping[str, Any]) -> dict[str, Any]:
    """The members of ``data`` that ``kind`` has; lists become tuples, null leaves the default."""
    names = {member.name for member in fields(kind)}  # pyright: ignore[reportArgumentType]
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in data.items()
        if name in names and value is not None
    }


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to ingest. ``content`` is its bytes, its text, or the path of a file to read when sent."""

    id: str
    content: bytes | str | Path
    content_type: str = ""
    title: str = ""
    source: str = ""
    tags: Sequence[str] = ()
    readers: Sequence[str] | None = None

    @property
    def size(self) -> int:
        """The content's length in bytes."""
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return len(self.content.encode() if isinstance(self.content, str) else self.content)

    def read(self) -> bytes:
        """The content itself."""
        if isinstance(self.content, Path):
            return self.content.read_bytes()
        return self.content.encode() if isinstance(self.content, str) else self.content


@dataclass(frozen=True, slots=True)
class Collection:
    name: str
    description: str = ""
    embedding_model: str = ""
    readers: tuple[str, ...] = ()
    created: str = ""
    updated: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Collection:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class JobError:
    """Why one item of a job failed; ``item`` is a document's id, or empty for the job itself."""

    item: str = ""
    code: str = ""
    message: str = ""
    retryable: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobError:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class Document:
    """A document's record: its newest version's state and, as ``visible_version``, what searches see."""

    id: str
    collection: str = ""
    state: str = ""
    version: int = 0
    visible_version: int | None = None
    title: str = ""
    media_type: str = ""
    size: int = 0
    sha256: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    chunks: int = 0
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    error: JobError | None = None
    job: str = ""
    accepted: str = ""
    finished: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Document:
        members = _known(cls, data)
        if "error" in members:
            members["error"] = JobError.from_dict(members["error"])
        return cls(**members)


@dataclass(frozen=True, slots=True)
class DocumentText:
    """A version's extracted text; citations' ``start`` and ``end`` are offsets into ``text``."""

    id: str
    version: int = 0
    title: str = ""
    text: str = ""
    pages: tuple[Mapping[str, Any], ...] = ()
    headings: tuple[Any, ...] = ()
    chunks: tuple[Sequence[int], ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DocumentText:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    done: int = 0
    total: int | None = None
    unit: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stage:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: ``rate`` is units a second, ``eta_seconds`` what remains; None while unknown."""

    done: int = 0
    total: int | None = None
    unit: str = ""
    stages: tuple[Stage, ...] = ()
    rate: float | None = None
    eta_seconds: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Progress:
        members = _known(cls, data)
        members["stages"] = tuple(Stage.from_dict(stage) for stage in members.get("stages", ()))
        return cls(**members)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's status document; ``retry_after`` is the service's wish for the time between two looks."""

    id: str
    kind: str = ""
    state: str = ""
    title: str = ""
    collection: str = ""
    attempt: int = 1
    created: str = ""
    updated: str = ""
    cancel_requested: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[JobError, ...] = ()
    progress: Progress | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], retry_after: float | None = None) -> JobStatus:
        members = _known(cls, data)
        members["errors"] = tuple(JobError.from_dict(error) for error in members.get("errors", ()))
        if "progress" in members:
            members["progress"] = Progress.from_dict(members["progress"])
        members["retry_after"] = retry_after
        return cls(**members)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one document in an ingestion; ``code`` and ``message`` say why it failed."""

    id: str
    state: str = ""
    version: int = 0
    chunks: int = 0
    pages: int = 0
    pages_without_text: tuple[int, ...] = ()
    code: str = ""
    message: str = ""
    retryable: bool = False
    freshness_seconds: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found; ``number`` is its citation number where an answer was made of it."""

    document: str
    collection: str = ""
    version: int = 0
    title: str = ""
    headings: tuple[str, ...] = ()
    page: int | None = None
    page_end: int | None = None
    start: int = 0
    end: int = 0
    text: str = ""
    media_type: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()
    updated: str = ""
    score: float = 0.0
    number: int | None = None
    sha256: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Hit:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class SearchResult:
    hits: tuple[Hit, ...] = ()
    count: int | None = None
    facets: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchResult:
        members = _known(cls, data)
        members["hits"] = tuple(Hit.from_dict(hit) for hit in members.get("hits", ()))
        return cls(**members)


@dataclass(frozen=True, slots=True)
class Citation:
    """What ``[number]`` in an answer stands for: a span of one version of a document."""

    number: int
    document: str = ""
    collection: str = ""
    title: str = ""
    version: int = 0
    page: int | None = None
    page_end: int | None = None
    start: int = 0
    end: int = 0
    quote: str = ""
    headings: tuple[str, ...] = ()
    score: float = 0.0
    sha256: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Citation:
        return cls(**_known(cls, data))


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer from the documents; ``found`` is False when they do not hold one.

    ``grounded`` is False where a model's text rests on nothing that was retrieved: do not trust it.
    ``withheld`` says where passages stand that were left out because they read like orders to the model.
    ``timings_ms`` are milliseconds by step.
    """

    text: str
    found: bool = False
    grounded: bool = True
    id: str = ""
    strategy: str = ""
    citations: tuple[Citation, ...] = ()
    model: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    withheld: tuple[Mapping[str, Any], ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Answer:
        members = _known(cls, data)
        members["withheld"] = tuple(members.get("withheld", ()))
        members["citations"] = tuple(Citation.from_dict(one) for one in members.get("citations", ()))
        return cls(**members)


@dataclass(frozen=True, slots=True)
class AnswerSources:
    """The passages that the answer will be made of; the first event of a stream."""

    passages: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerDone:
    """The whole answer with its citations; the last event of a stream."""

    answer: Answer


AnswerEvent = AnswerSources | AnswerDelta | AnswerDone
