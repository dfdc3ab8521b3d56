"""Small documents through the queue ``ingestion-requests``, one a message, with duplicates and poison.

A tenth of the documents comes twice: half of them as the same message again, half under another message id.
A fiftieth of the messages is poison of four kinds. All is sent while the host works. At the end everything
must be accounted for: each document visible once with its own bytes, each duplicate without effect, each
poison message a failed job with its reason; and neither memory nor the cost of a document may have grown
with their number.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from azure.core.exceptions import ResourceExistsError
from azure.storage.queue import QueueClient

from bench.consumption import (
    HostMemory,
    cpu_seconds,
    durable_state_bytes,
    embedding_calls,
    in_background,
)
from bench.corpus import short_documents
from client import Groundwork
from laptop.stack import Stack

SIZES = (500, 10_000)
QUEUE, COLLECTION = "ingestion-requests", "queue"
DUPLICATES_EACH, POISON_EACH = 10, 50
COST_BAR, MEMORY_BAR = 1.2, 1.10
SENDERS = 8
POLL_SECONDS = 2.0
# A job a message, on two cores that others keep busy.
SECONDS_A_MESSAGE = 5.0
SEED = 20
# The code that the failed job of each kind of poison names.
POISON_CODES = ("malformed_json", "not_found", "invalid_request", "corrupt_document")


@dataclass(frozen=True)
class Load:
    """The messages of a run, and what is to become of them."""

    messages: list[str]
    documents: dict[str, str]
    again: int
    poison: Counter[str]

    @property
    def jobs(self) -> int:
        """One a document, one a document under another message id, one a poison message."""
        return len(self.documents) + self.again + sum(self.poison.values())


@dataclass(frozen=True)
class Round:
    load: Load
    seconds: float
    cpu: dict[str, float]
    peak_mib: float
    calls: int
    durable_bytes: int
    visible: int
    digest: str
    wrong: list[str]

    @property
    def cost(self) -> float:
        """CPU milliseconds of all parts for one message."""
        return 1000 * sum(self.cpu.values()) / len(self.load.messages)

    @property
    def model_cost(self) -> float:
        """CPU milliseconds of the model host for one message: of one chunk, however many there are."""
        return 1000 * self.cpu["model"] / len(self.load.messages)


def main(argv: list[str]) -> int:
    """Print what became of the messages of each size, and the bars; 1 where one is missed."""
    parser = argparse.ArgumentParser(prog="bench queue")
    parser.add_argument("--documents", type=int, nargs="+", default=list(SIZES))
    arguments = parser.parse_args(argv)
    rounds = [_measured(size) for size in arguments.documents]
    return _verdict(rounds)


def load_of(size: int) -> Load:
    """``size`` documents with their duplicates and poison, in a random order that is always the same."""
    documents = {f"note-{number:05d}.md": text for number, text in enumerate(short_documents(size))}
    orders = [_order(name, {"id": name, "content": text}) for name, text in documents.items()]
    twice = random.Random(SEED).sample(range(size), size // DUPLICATES_EACH)
    names = list(documents)
    repeated = [orders[number] for number in twice[::2]]
    again = [
        _order(f"again-{names[number]}", {"id": names[number], "content": documents[names[number]]})
        for number in twice[1::2]
    ]
    poison = [_poison(number) for number in range(size // POISON_EACH)]
    messages = [*orders, *repeated, *again, *(message for message, _ in poison)]
    random.Random(SEED).shuffle(messages)
    return Load(messages, documents, len(again), Counter(code for _, code in poison))


def _order(message: str, document: dict[str, str], collection: str = COLLECTION) -> str:
    body = {"tenant": "default", "collection": collection, "id": message, "documents": [document]}
    return json.dumps(body)


def _poison(number: int) -> tuple[str, str]:
    """A message nothing can come of, and the code of its reason."""
    name = f"poison-{number:05d}"
    damaged = base64.b64encode(b"%PDF-1.7\n%damaged " + name.encode()).decode()
    kinds = (
        f'{{"tenant": "default", "broken": "{name}',
        _order(name, {"id": name, "content": "lost"}, collection="nowhere"),
        _order(name, {"id": name, "content_base64": "not base64!"}),
        _order(name, {"id": f"{name}.pdf", "content_base64": damaged}),
    )
    kind = number % len(kinds)
    return kinds[kind], POISON_CODES[kind]


def _measured(size: int) -> Round:
    load = load_of(size)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(python=Path(sys.executable), folder=Path(folder))
        stack.start()
        try:
            row = _round(stack, load)
        finally:
            stack.stop()
    _print(row)
    return row


def _round(stack: Stack, load: Load) -> Round:
    client = Groundwork(stack.url, stack.key)
    client.put_collection(COLLECTION)
    queue = QueueClient.from_connection_string(stack.storage, QUEUE)
    with suppress(ResourceExistsError):
        queue.create_queue()
    before, began = cpu_seconds(stack), time.time()
    with HostMemory(stack) as memory:
        sending = in_background(lambda: _send(queue, load.messages))
        _wait(client, queue, load, sending.is_alive)
    seconds = time.time() - began
    cpu = {part: used - before.get(part, 0.0) for part, used in cpu_seconds(stack).items()}
    wrong, visible, digest = _account(client, load)
    return Round(
        load=load,
        seconds=seconds,
        cpu=cpu,
        peak_mib=memory.peak,
        calls=embedding_calls(stack),
        durable_bytes=durable_state_bytes(stack),
        visible=visible,
        digest=digest,
        wrong=wrong,
    )


def _send(queue: QueueClient, messages: Iterable[str]) -> None:
    with ThreadPoolExecutor(SENDERS) as senders:
        for _ in senders.map(queue.send_message, messages):
            pass


def _wait(client: Groundwork, queue: QueueClient, load: Load, sending: Callable[[], bool]) -> None:
    """Return when the queue is empty and no job runs. Each look costs some of what is measured: few are."""
    deadline = time.time() + 120 + SECONDS_A_MESSAGE * len(load.messages)
    while sending() or queue.get_queue_properties().approximate_message_count:
        _in_time(deadline)
        time.sleep(POLL_SECONDS)
    while not all(job.final for job in islice(client.jobs.list(), 200)):
        _in_time(deadline)
        time.sleep(POLL_SECONDS)
    while any(not job.final for job in client.jobs.list()):
        _in_time(deadline)
        time.sleep(5 * POLL_SECONDS)


def _in_time(deadline: float) -> None:
    if time.time() > deadline:
        raise SystemExit("The messages were not worked off in time.")


def _account(client: Groundwork, load: Load) -> tuple[list[str], int, str]:
    """What is wrong, in sentences; how many documents are visible, and a digest of their names and bytes."""
    jobs = list(client.jobs.list())
    states = Counter(job.state for job in jobs)
    reasons = Counter(job.errors[0].code if job.errors else "" for job in jobs if job.state == "failed")
    wrong = []
    if len(jobs) != load.jobs:
        wrong.append(f"{len(jobs)} jobs, expected {load.jobs}")
    if states["succeeded"] != len(load.documents) + load.again:
        wrong.append(f"jobs ended as {dict(states)}")
    if reasons != load.poison:
        wrong.append(f"failed for {dict(reasons)}, expected {dict(load.poison)}")
    seen = {
        document.id: document.sha256
        for document in client.documents(COLLECTION)
        if document.visible_version and document.state == "indexed"
    }
    expected = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in load.documents.items()}
    if seen != expected:
        wrong.append(f"{len(expected.items() - seen.items())} documents are not visible as they were sent")
        wrong.append(f"{len(seen.keys() - expected.keys())} documents are visible that were never sent")
    digest = hashlib.sha256(json.dumps(sorted(seen.items())).encode()).hexdigest()[:16]
    return wrong, len(seen), digest


def _print(row: Round) -> None:
    load, size = row.load, len(row.load.messages)
    parts = ", ".join(f"{part} {1000 * used / size:.1f}" for part, used in row.cpu.items())
    repeated = size - load.jobs
    print(
        f"{len(load.documents)} documents in {size} messages: {row.seconds:.0f} s, "
        f"{size / row.seconds:.1f} messages/s\n"
        f"       accounted {len(load.documents)} documents, {repeated} repeated and {load.again} resent, "
        f"{sum(load.poison.values())} poison; {row.visible} visible, digest {row.digest}, "
        f"{row.calls} embedding calls\n"
        f"       CPU ms a message: {row.cost:.1f} ({parts}); peak of the host {row.peak_mib:.0f} MiB; "
        f"durable state {row.durable_bytes / size / 1024:.1f} KiB a message",
        flush=True,
    )
    for sentence in row.wrong:
        print(f"       WRONG: {sentence}")


def _verdict(rounds: list[Round]) -> int:
    wrong = sum(len(row.wrong) for row in rounds)
    costs = [row.cost for row in rounds]
    cost, memory = costs[-1] / costs[0], rounds[-1].peak_mib / rounds[0].peak_mib
    model = rounds[-1].model_cost / rounds[0].model_cost
    bars = [
        (f"faults in the accounts {wrong}, bar 0", wrong == 0),
        (f"CPU a message, the last over the first {cost:.2f}, bar <= {COST_BAR}", cost <= COST_BAR),
        (f"memory, the last over the first {memory:.2f}, bar <= {MEMORY_BAR}", memory <= MEMORY_BAR),
    ]
    for text, good in bars:
        print(f"{text}  {'PASS' if good else 'below'}")
    print(f"the machine's share of that: the model's part, the same work in both rounds, by {model:.2f}")
    return 0 if all(good for _, good in bars) else 1
