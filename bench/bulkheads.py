"""What a large ingestion leaves of chat: questions on a calm stack, then on the same stack while it ingests.

The questions of the golden set go one after another to the sample documents, past every cache; short
documents go to another collection. Both use the same host, index, storage and model process. What is compared
was measured in the same run, by the same questions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.corpus import short_documents
from client import Groundwork, NewDocument
from client.folders import documents_in
from laptop.environment import ROOT
from laptop.stack import Stack

DOCUMENTS, QUESTIONS = 2000, 60
SAMPLES = ROOT / "samples"
# An answer keeps both cores of a small machine busy by itself: where it had to share them evenly with the
# embedding of documents, it would take twice as long.
LATENCY_BAR = 2.0


@dataclass
class Latencies:
    """Seconds of each question, and the refused or failed ones."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        return sorted(self.seconds)[int(0.95 * (len(self.seconds) - 1))]


def main(argv: list[str]) -> int:
    """Print the latencies of both parts and their ratio; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="bench bulkheads")
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(python=Path(sys.executable), folder=Path(folder))
        stack.start()
        try:
            return _compare(stack, arguments.documents, arguments.questions)
        finally:
            stack.stop()


def _compare(stack: Stack, documents: int, questions: int) -> int:
    client = Groundwork(stack.url, stack.key)
    for collection in ("asked", "large"):
        client.put_collection(collection)
    for job in client.ingest("asked", documents_in([SAMPLES / "documents"])):
        client.jobs.wait(job.id)
    lines = (SAMPLES / "golden.jsonl").read_text("utf-8").splitlines()[:questions]
    texts = itertools.cycle([json.loads(line)["question"] for line in lines])
    _asked(stack, texts, lambda asked: asked < questions)  # opens connections, loads the models
    calm = _asked(stack, texts, lambda asked: asked < questions)
    new = [NewDocument(f"note-{number}.md", text) for number, text in enumerate(short_documents(documents))]
    jobs = [job.id for job in client.ingest("large", new)]

    def ingesting() -> bool:
        return any(not client.jobs.status(job).final for job in jobs)

    busy = _asked(stack, texts, lambda asked: asked < questions and ingesting())
    if not busy.seconds:
        raise SystemExit("The ingestion had ended before a question was answered: take more documents.")
    progress = [client.jobs.status(job).progress for job in jobs]
    share = sum(each.done for each in progress if each) / documents
    for name, part in (("calm", calm), ("while it ingests", busy)):
        print(
            f"{name}: {len(part.seconds)} questions, median {1000 * part.median:.0f} ms, "
            f"p95 {1000 * part.p95:.0f} ms, {part.failed} failed"
        )
    print(f"documents searchable by the last question: {share:.0%} of {documents}; {os.cpu_count()} cores")
    failed, ratio = calm.failed + busy.failed, busy.median / calm.median
    bars = [
        (f"questions refused or failed {failed}, bar 0", failed == 0),
        (f"median, busy over calm {ratio:.2f}, bar <= {LATENCY_BAR}", ratio <= LATENCY_BAR),
    ]
    for text, good in bars:
        print(f"{text}  {'PASS' if good else 'below'}")
    return 0 if all(good for _, good in bars) else 1


def _asked(stack: Stack, questions: Iterator[str], go_on: Callable[[int], bool]) -> Latencies:
    found, asked = Latencies(), 0
    while go_on(asked):
        asked += 1
        began = time.perf_counter()
        try:
            _answer(stack, next(questions))
        except OSError:
            found.failed += 1
        else:
            found.seconds.append(time.perf_counter() - began)
    return found


def _answer(stack: Stack, question: str) -> None:
    body = {"model": "rag:asked", "messages": [{"role": "user", "content": question}]}
    headers = {
        "Authorization": f"Bearer {stack.key}",
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
    }
    request = urllib.request.Request(f"{stack.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=120).read()
