"""Inputs of batches, and what their outputs must hold."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable
from typing import Any

import openai

BATCH_SECONDS = 240
ENDED = ("completed", "failed", "expired", "cancelled")


def request(custom_id: str, text: str = "", **more: Any) -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": text or f"say {custom_id}"}]}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**body, **more},
    }


def jsonl(lines: Iterable[Any]) -> bytes:
    """Lines of a file; bytes are taken as they are."""
    return b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )


def requests(count: int) -> bytes:
    return jsonl(request(f"r-{number}") for number in range(count))


def start(client: openai.OpenAI, data: bytes, **more: Any) -> Any:
    file = client.files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch")
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    return client.batches.create(input_file_id=file.id, **asked)


def ended(client: openai.OpenAI, batch: str, seconds: float = BATCH_SECONDS) -> Any:
    """The batch once it has ended."""
    deadline = time.monotonic() + seconds
    while (found := client.batches.retrieve(batch)).status not in ENDED:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def lines_of(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    return [json.loads(line) for line in client.files.content(file).read().splitlines()]


def check_complete(client: openai.OpenAI, batch: Any, count: int) -> tuple[int, int]:
    """Every custom_id is in one line of the two files, with its own answer; how many in each."""
    output, errors = lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)
    ids = [line["custom_id"] for line in output + errors]
    assert sorted(ids) == sorted(f"r-{number}" for number in range(count))
    assert len({line["id"] for line in output + errors}) == count
    for line in output:
        assert line["response"]["status_code"] == 200
        message = line["response"]["body"]["choices"][0]["message"]
        assert message["content"] == f"say {line['custom_id']}"
        assert line["error"] is None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (count, len(output), len(errors))
    return len(output), len(errors)
