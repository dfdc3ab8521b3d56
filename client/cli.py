"""The command line: ``python -m client COMMAND``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from client.api import Groundwork
from client.errors import ApiError, GroundworkClientError
from client.folders import documents_in
from client.models import (
    Answer,
    AnswerDelta,
    AnswerDone,
    Citation,
    JobStatus,
    NewDocument,
    Outcome,
)
from client.terminal import Terminal, plain

DEFAULT_URL = "http://127.0.0.1:7071"
# Good outcomes listed one by one before a count stands for the rest; failures are always listed.
OUTCOMES_SHOWN = 60
# Where several jobs of one ingestion end, the worst of their states is the ingestion's.
_BEST_FIRST = ("succeeded", "partial", "cancelled", "failed")


def main(arguments: Sequence[str], environment: Mapping[str, str], out: TextIO, errors: TextIO) -> int:
    """Run one command; the exit status is 0 when all went well, 1 when not, 2 for a wrong call."""
    parser = _parser()
    options = parser.parse_args(arguments)
    key = options.key or environment.get("GROUNDWORK_API_KEY", "")
    url = options.url or environment.get("GROUNDWORK_URL", "") or DEFAULT_URL
    if not key:
        print("No API key: give --key or set GROUNDWORK_API_KEY.", file=errors)
        return 2
    try:
        client = Groundwork(url, key)
    except ValueError as error:
        print(plain(str(error)), file=errors)
        return 2
    try:
        with client:
            return _run(options, client, Terminal(out))
    except ApiError as error:
        reference = f" [correlation id {error.correlation_id}]" if error.correlation_id else ""
        print(plain(f"error: {error}{reference}"), file=errors)
    except BrokenPipeError:
        raise
    except (GroundworkClientError, OSError) as error:
        print(plain(f"error: {error}"), file=errors)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=errors)
        return 130
    return 1


def _run(options: argparse.Namespace, client: Groundwork, terminal: Terminal) -> int:
    match options.command:
        case "ingest":
            documents = documents_in(Path(path) for path in options.paths)
            status = _ingest(client, documents, options.collection, terminal, watch=options.watch)
            return 0 if status.state in ("succeeded", "queued", "running") else 1
        case "ask":
            answer = ask(client, options.question, options.collection, out=terminal.out)
            return 0 if answer.found else 1
        case "search":
            _search(client, options.query, options.collection, options.top, terminal)
        case "documents":
            _documents(client, options.collection, terminal)
        case "collections":
            rows = [(one.name, one.embedding_model, one.description) for one in client.collections()]
            terminal.table(("collection", "embedding model", "description"), rows)
        case "jobs":
            _jobs(client, options.limit, terminal)
        case "job":
            return _job(client, options, terminal)
    return 0


def ingest_folder(client: Groundwork, folder: Path, collection: str, *, out: TextIO) -> JobStatus:
    """Ingest all files of ``folder``, show progress until the end, and what became of each document.

    The collection is made if it is not there. More files than one request takes become several jobs; the
    status given back is then that of the job that ended worst. Raises `ApiError` and `FileNotFoundError`.
    """
    return _ingest(client, documents_in([Path(folder)]), collection, Terminal(out), watch=True)


def ask(client: Groundwork, question: str, collections: Sequence[str], *, out: TextIO) -> Answer:
    """Ask, show the answer as it is written, then the passages that it cites."""
    terminal = Terminal(out)
    answer: Answer | None = None
    streamed = ""
    for event in client.ask_stream(question, collections):
        if isinstance(event, AnswerDelta):
            streamed += event.text
            terminal.piece(event.text)
        elif isinstance(event, AnswerDone):
            answer = event.answer
    assert answer is not None  # a stream without it has raised
    if not streamed:
        terminal.piece(answer.text)
    terminal.line()
    for citation in answer.citations:
        _cite(citation, terminal)
    terminal.line(terminal.style("dim", _summary(answer)))
    return answer


def _ingest(
    client: Groundwork, documents: Iterable[NewDocument], collection: str, terminal: Terminal, *, watch: bool
) -> JobStatus:
    _ensure_collection(client, collection)
    jobs = client.ingest(collection, documents)
    if not jobs:
        raise FileNotFoundError("There is no file to ingest.")
    for job in jobs:
        terminal.line(f"accepted as job {job.id}")
        terminal.line(terminal.style("dim", f"  {client.base_url}/api/jobs/{job.id}"))
    if not watch:
        return jobs[-1]
    ended = [_watch(client, job.id, terminal) for job in jobs]
    return max(ended, key=lambda status: _BEST_FIRST.index(status.state))


def _ensure_collection(client: Groundwork, collection: str) -> None:
    try:
        client.collection(collection)
    except ApiError as error:
        if error.status != 404:
            raise
        client.put_collection(collection)


def _watch(client: Groundwork, job: str, terminal: Terminal) -> JobStatus:
    """Show a job until it ends, then its outcomes."""
    status = None
    try:
        for status in client.jobs.follow(job):
            terminal.progress(status)
    except KeyboardInterrupt:
        terminal.line(f"The job goes on without us: python -m client job {job} --follow")
        raise
    assert status is not None  # following ends with the final status or raises
    terminal.clear_progress()
    _finished(client, status, terminal)
    return status


def _finished(client: Groundwork, status: JobStatus, terminal: Terminal) -> None:
    counts = ", ".join(f"{number} {plain(name)}" for name, number in status.counts.items())
    terminal.line(f"{terminal.state(status.state)}  {counts}".rstrip())
    if status.kind == "ingestion":
        _outcomes(client.jobs.outcomes(status.id), terminal)
    else:
        for error in status.errors:
            terminal.line(plain(f"  {error.item} {error.code}: {error.message}"))


def _outcomes(outcomes: Iterable[Outcome], terminal: Terminal) -> None:
    """A table of what became of each document: failures last, where they are seen, and none left out."""
    good: list[Outcome] = []
    bad: list[Outcome] = []
    more: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.state in ("failed", "cancelled") or outcome.pages_without_text:
            bad.append(outcome)
        elif len(good) < OUTCOMES_SHOWN:
            good.append(outcome)
        else:
            more[outcome.state] += 1
    if good or bad:
        rows = [
            (one.id, one.state, str(one.version or ""), str(one.chunks or ""), _note(one))
            for one in good + bad
        ]
        terminal.table(("document", "state", "version", "chunks", "note"), rows)
    for state, number in more.items():
        terminal.line(plain(f"... and {number} more {state}"))


def _note(outcome: Outcome) -> str:
    notes = [f"{outcome.code}: {outcome.message}"] if outcome.code else []
    if outcome.pages_without_text:
        notes.append(f"no text on page {', '.join(map(str, outcome.pages_without_text))} of {outcome.pages}")
    return "; ".join(notes)


def _cite(citation: Citation, terminal: Terminal) -> None:
    place = [f"{citation.collection}/{citation.document}" if citation.collection else citation.document]
    if citation.page:
        last = citation.page_end or citation.page
        place.append(f"page {citation.page}" if last == citation.page else f"pages {citation.page}-{last}")
    if citation.headings:
        place.append(" > ".join(citation.headings))
    terminal.line(terminal.style("cyan", f"[{citation.number}]") + " " + plain(", ".join(place)))
    if citation.quote:
        terminal.wrapped(f'"{citation.quote}"', "    ")


def _summary(answer: Answer) -> str:
    """Where the answer came from, and how long it took."""
    caution = "" if answer.grounded else "rests on no passage: check it"
    parts = (
        [answer.model or "no model", answer.strategy, caution]
        if answer.found
        else ["not found in the documents"]
    )
    if answer.withheld:
        parts.append(f"{len(answer.withheld)} left out as orders to the model")
    parts += [f"{name.replace('_', ' ')} {value:.0f} ms" for name, value in answer.timings_ms.items()]
    return plain(", ".join(part for part in parts if part))


def _search(client: Groundwork, query: str, collection: str, top: int | None, terminal: Terminal) -> None:
    result = client.search(collection, query, top=top)
    for number, hit in enumerate(result.hits, start=1):
        place = f"{hit.document}, page {hit.page}" if hit.page else hit.document
        terminal.line(f"{number:>2}. {terminal.style('bold', plain(place))}  {hit.score:.4f}")
        terminal.wrapped(hit.text[:400], "    ")
    if not result.hits:
        terminal.line("Nothing found.")


def _documents(client: Groundwork, collection: str, terminal: Terminal) -> None:
    rows = [
        (
            one.id,
            one.state,
            str(one.visible_version or "-"),
            str(one.chunks),
            f"{one.size:,}",
            f"{one.error.code}: {one.error.message}" if one.error else "",
        )
        for one in client.documents(collection)
    ]
    terminal.table(("document", "state", "version", "chunks", "bytes", "error"), rows)


def _jobs(client: Groundwork, limit: int, terminal: Terminal) -> None:
    rows = []
    for status in client.jobs.list():
        if len(rows) == limit:
            break
        counts = ", ".join(f"{number} {name}" for name, number in status.counts.items())
        rows.append((status.id, status.state, status.kind, status.collection, status.created[:19], counts))
    terminal.table(("job", "state", "kind", "collection", "created", "outcomes"), rows)


def _job(client: Groundwork, options: argparse.Namespace, terminal: Terminal) -> int:
    if options.cancel:
        status = client.jobs.cancel(options.id)
    elif options.retry:
        status = client.jobs.retry(options.id)
    else:
        status = client.jobs.status(options.id)
    if status.final:
        _finished(client, status, terminal)
    elif options.follow:
        status = _watch(client, status.id, terminal)
    else:
        terminal.progress(status)
        terminal.out.write("\n" if terminal.is_tty else "")
    return 0 if status.state in ("succeeded", "queued", "running") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m client", description="Talk to a Groundwork service.")
    parser.add_argument("--url", help=f"its address (GROUNDWORK_URL, else {DEFAULT_URL})")
    parser.add_argument("--key", help="the API key (GROUNDWORK_API_KEY)")
    commands = parser.add_subparsers(dest="command", required=True)

    ingest = commands.add_parser("ingest", help="hand over files and folders")
    ingest.add_argument("paths", nargs="+", metavar="PATH")
    ingest.add_argument("--collection", required=True)
    ingest.add_argument("--no-watch", dest="watch", action="store_false", help="do not wait for the job")

    asking = commands.add_parser("ask", help="ask the documents a question")
    asking.add_argument("question")
    asking.add_argument("--collection", required=True, action="append", help="may be given several times")

    search = commands.add_parser("search", help="find passages")
    search.add_argument("query")
    search.add_argument("--collection", required=True)
    search.add_argument("--top", type=int)

    documents = commands.add_parser("documents", help="list a collection's documents")
    documents.add_argument("--collection", required=True)

    commands.add_parser("collections", help="list the collections")

    jobs = commands.add_parser("jobs", help="list jobs, newest first")
    jobs.add_argument("--limit", type=int, default=20)

    job = commands.add_parser("job", help="show, follow, cancel or retry one job")
    job.add_argument("id")
    job.add_argument("--follow", action="store_true")
    job.add_argument("--cancel", action="store_true")
    job.add_argument("--retry", action="store_true")
    return parser
