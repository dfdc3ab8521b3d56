"""Real documents as blob events: the Markdown files and PDFs of the corpus, put into the inbox.

Every document must reach an end: the locked PDF and one without any text with reasons of their own, pages
without text named, all others searchable. The same blobs again must not embed anything. Then into another
collection, with the host killed half way and started again: what is there afterwards must be what the
undisturbed run left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import ContainerClient

from bench.consumption import cpu_seconds, embedding_calls
from bench.corpus import DATA, markdown_files
from client import Groundwork
from client.models import Document
from laptop.stack import Stack

# PDFs that nothing can be read from, and the code that tells why.
BLANK = "pdf/without-text.pdf"
UNREADABLE = {"pdf/libreoffice-writer-password.pdf": "password_protected", BLANK: "no_text"}
# Of its six pages of images two have no caption.
IMAGES, IMAGES_WITHOUT_TEXT = "pdf/imagemagick-images.pdf", 2
# The corpus has none with no text at all, as a scanner makes them.
BLANK_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)
SENDERS = 8
POLL_SECONDS = 2.0
WAIT_SECONDS = 3600
TERMINAL = ("indexed", "failed")


@dataclass(frozen=True)
class Ends:
    """What became of the documents of a collection."""

    documents: Mapping[str, Document]
    found: int

    @property
    def states(self) -> dict[str, tuple[str, str, int]]:
        return {
            name: (document.state, document.error.code if document.error else "", document.chunks)
            for name, document in self.documents.items()
        }


def main(argv: list[str]) -> int:
    """Print what became of the blobs, undisturbed, again and with a kill; 1 where one was lost or doubled."""
    parser = argparse.ArgumentParser(prog="bench events")
    parser.add_argument("--files", type=int, help="only so many Markdown files (default: all)")
    arguments = parser.parse_args(argv)
    blobs = corpus(arguments.files)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stack = Stack(python=Path(sys.executable), folder=Path(folder))
        stack.start()
        try:
            return _run(stack, blobs)
        finally:
            stack.stop()


def corpus(files: int | None = None) -> dict[str, bytes]:
    """The documents by the paths they get in the inbox; exits with a word where there are none."""
    pdfs = sorted((DATA / "pdf").rglob("*.pdf"))
    if not pdfs:
        raise SystemExit(f"This benchmark reads PDFs from {DATA}, and there are none.")
    paths = [*markdown_files()[:files], *pdfs]
    return {path.relative_to(DATA).as_posix(): path.read_bytes() for path in paths} | {BLANK: BLANK_PDF}


def _run(stack: Stack, blobs: dict[str, bytes]) -> int:
    client = Groundwork(stack.url, stack.key)
    before, began = cpu_seconds(stack), time.time()
    first = _ingested(stack, client, "calm", blobs)
    cpu = sum(cpu_seconds(stack).values()) - sum(before.values())
    calls = embedding_calls(stack)
    _print("put into the inbox", first, time.time() - began)
    print(f"       {calls} embedding calls, CPU {cpu:.0f} s in all parts", flush=True)
    began = time.time()
    second = _ingested(stack, client, "calm", blobs, versions=2)
    again = embedding_calls(stack) - calls
    _print(f"the same blobs again, {again} embedding calls", second, time.time() - began)
    began = time.time()
    killed = _ingested(stack, client, "killed", blobs, disturb=_kill)
    _print("host killed half way and started again", killed, time.time() - began)
    reasons = {name: code for name, (state, code, _) in first.states.items() if state == "failed"}
    checks = [
        (
            f"documents without an end {len(blobs) - len(first.documents)}, bar 0",
            first.states.keys() == blobs.keys(),
        ),
        (f"failed for {reasons}", reasons == UNREADABLE),
        (
            f"pages of {IMAGES} named for having no text {len(first.documents[IMAGES].pages_without_text)}",
            len(first.documents[IMAGES].pages_without_text) == IMAGES_WITHOUT_TEXT,
        ),
        (
            f"chunks found {first.found}, of the documents' records {_chunks(first)}",
            first.found == _chunks(first) > 0,
        ),
        (f"embedding calls for unchanged blobs {again}, bar 0", again == 0),
        ("unchanged blobs left all as it was", second.states == first.states and second.found == first.found),
        (
            f"after a kill the same ends and {killed.found} chunks, none twice",
            killed.states == first.states and killed.found == first.found,
        ),
    ]
    for text, good in checks:
        print(f"{text}  {'PASS' if good else 'below'}")
    return 0 if all(good for _, good in checks) else 1


def _ingested(
    stack: Stack,
    client: Groundwork,
    collection: str,
    blobs: Mapping[str, bytes],
    *,
    versions: int = 1,
    disturb: Callable[[Stack], None] | None = None,
) -> Ends:
    """Put the blobs, and wait until each document's version of that number has reached its end."""
    client.put_collection(collection)
    inbox = ContainerClient.from_connection_string(stack.storage, "inbox")
    with suppress(ResourceExistsError):
        inbox.create_container()
    with ThreadPoolExecutor(SENDERS) as senders:
        for _ in senders.map(
            lambda item: inbox.upload_blob(f"default/{collection}/{item[0]}", item[1], overwrite=True),
            blobs.items(),
        ):
            pass
    deadline = time.time() + WAIT_SECONDS
    while True:
        documents = {document.id: document for document in client.documents(collection)}
        ended = [each for each in documents.values() if each.state in TERMINAL and each.version >= versions]
        if disturb is not None and 2 * len(ended) >= len(blobs):
            disturb(stack)
            disturb = None
        elif len(ended) == len(blobs):
            break
        if time.time() > deadline:
            raise SystemExit(f"{len(ended)} of {len(blobs)} documents have reached an end in time.")
        time.sleep(POLL_SECONDS)
    while not all(job.final for job in client.jobs.list()):
        time.sleep(POLL_SECONDS)
    found = client.search(collection, " ", count=True).count or 0
    return Ends({document.id: document for document in client.documents(collection)}, found)


def _kill(stack: Stack) -> None:
    stack.kill_host()
    stack.start_host()
    stack.wait("host", f"{stack.url}/health/live")


def _chunks(ends: Ends) -> int:
    return sum(document.chunks for document in ends.documents.values())


def _print(title: str, ends: Ends, seconds: float) -> None:
    states = Counter(document.state for document in ends.documents.values())
    print(f"{len(ends.documents)} documents {title}: {seconds:.0f} s, {dict(states)}", flush=True)
