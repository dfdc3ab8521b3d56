"""Batches whose host is killed or that are cancelled: each custom_id once, whatever the moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import openai
from batch_files import check_complete, ended, lines_of, requests, start
from running_stack import RunningStack

LINES = 1000
WAIT_SECONDS = 60
# So slow that a batch of these lines takes seconds, and is still running when it is cancelled.
SLOW_MS = 300
# What may be asked again for each kill: of each lane the lines since its last note and those in flight.
REPEATED = 4 * (64 + 16)


def kill_host(own: RunningStack) -> None:
    own.stack.kill_host()
    own.stack.start_host()
    own.stack.wait("host", f"{own.url}/health/live")


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answered(service: Any) -> int:
    return service.counts()["distinct"]


def test_a_batch_whose_host_is_killed_answers_every_line_once(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    service.does(throttled=0.05, failed=0.01, retry_after_ms=50, latency_ms=20)
    batch = start(client, requests(LINES))
    kills = (1, 300, 700)
    for count in kills:
        wait_for(lambda count=count: answered(service) >= count)
        kill_host(own)
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert check_complete(client, batch, LINES) == (LINES, 0)
    counts = service.counts()
    assert counts["distinct"] == LINES
    assert counts["answered"] - LINES <= len(kills) * REPEATED


def test_a_cancelled_batch_keeps_what_is_done_and_a_retry_does_the_rest(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    service.does(latency_ms=SLOW_MS)
    batch = start(client, requests(LINES))
    wait_for(lambda: answered(service) >= 200)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    done, given_up = check_complete(client, batch, LINES)
    assert done >= 200
    assert given_up > 0
    errors = lines_of(client, batch.error_file_id)
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    asked = service.counts()["requests"]
    assert asked - done <= 4 * 16  # in flight at that moment; after it nothing was sent
    service.does()
    assert own.call("POST", f"/api/jobs/{batch.id[6:]}/retry", key=client.api_key)[0] == 202
    batch = ended(client, batch.id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    assert check_complete(client, batch, LINES) == (LINES, 0)
    assert service.counts()["answered"] == given_up


def test_a_batch_killed_while_it_is_cancelled_ends_cancelled(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    service.does(latency_ms=SLOW_MS)
    batch = start(client, requests(LINES))
    wait_for(lambda: answered(service) >= 100)
    client.batches.cancel(batch.id)
    kill_host(own)
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    done, given_up = check_complete(client, batch, LINES)
    assert done + given_up == LINES


def test_a_chat_does_not_wait_for_a_batch(own: RunningStack, client: openai.OpenAI, service: Any):
    service.does(latency_ms=300)
    batch = start(client, requests(LINES))
    wait_for(lambda: service.counts()["open"] >= 30)
    waits: list[float] = []

    def chat() -> None:
        began = time.monotonic()
        asked: Any = [{"role": "user", "content": "hello"}]
        client.chat.completions.create(model="chat", messages=asked)
        waits.append(time.monotonic() - began)

    chats = [threading.Thread(target=chat) for _ in range(3)]
    for thread in chats:
        thread.start()
    for thread in chats:
        thread.join()
    assert len(waits) == 3
    assert client.batches.retrieve(batch.id).status == "in_progress"
    client.batches.cancel(batch.id)
    assert ended(client, batch.id).status == "cancelled"
