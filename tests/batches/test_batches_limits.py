"""What bounds a batch besides its service: its window, its tenant's rates, what it may cost."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from batch_files import check_complete, ended, jsonl, lines_of, request, requests, start
from running_stack import RunningStack
from test_batches_restart import answered, wait_for

from shared.config import StorageSettings
from shared.inferencing.batches.plans import SHARD_LINES
from shared.inferencing.batches.records import TABLE
from shared.storage import open_storage

# Five shards: the last of them is begun when one of the other four is done, and reads the window then.
LINES = 5 * SHARD_LINES
# Of the model `priced`: nothing for the prompt, 0.02 for each of the most tokens of an answer.
MOST_TOKENS, PRICE_OF_A_TOKEN = 5, 0.02
# The service reports three tokens for each answer.
COST_OF_A_LINE = 3 * PRICE_OF_A_TOKEN


def limit(own: RunningStack, client: openai.OpenAI, **limits: float) -> None:
    assert own.call("PUT", "/api/limits", limits, key=client.api_key)[0] == 200


def job_of(own: RunningStack, client: openai.OpenAI, batch: Any) -> dict[str, Any]:
    return own.call("GET", f"/api/jobs/{batch.id[6:]}", key=client.api_key)[1]


def retry(own: RunningStack, client: openai.OpenAI, batch: Any) -> None:
    assert own.call("POST", f"/api/jobs/{batch.id[6:]}/retry", key=client.api_key)[0] == 202


async def test_the_end_of_its_window_ends_a_batch_and_a_retry_begins_a_new_one(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    service.does(latency_ms=100)
    tenant = own.call("GET", "/api/me", key=client.api_key)[1]["tenant"]
    batch = start(client, requests(LINES))
    wait_for(lambda: answered(service) >= 50)
    async with open_storage(StorageSettings(connection_string=own.storage)) as storage:
        row = {"PartitionKey": tenant, "RowKey": f"batch:{batch.id[6:]}", "expires": time.time()}
        await storage.merge_row(TABLE, row)
    batch = ended(client, batch.id)
    assert batch.status == "expired"
    done, given_up = check_complete(client, batch, LINES)
    assert done >= 50
    assert given_up > 0
    assert {line["error"]["code"] for line in lines_of(client, batch.error_file_id)} == {"batch_expired"}
    service.does()
    retry(own, client, batch)
    batch = ended(client, batch.id)
    assert check_complete(client, batch, LINES) == (LINES, 0)
    assert batch.expires_at > time.time() + 23 * 3600
    assert service.counts()["answered"] == given_up


def test_a_batch_keeps_to_its_tenants_rate_and_leaves_a_part_of_it(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    # A second's worth each, ten at once, of which a batch leaves a quarter.
    limit(own, client, tenant_requests_per_minute=60)
    began = time.monotonic()
    batch = start(client, requests(12))
    wait_for(lambda: answered(service) >= 7)
    asked: Any = [{"role": "user", "content": "hello"}]
    client.with_options(max_retries=0).chat.completions.create(model="chat", messages=asked)
    while client.batches.retrieve(batch.id).status not in ("completed", "failed"):
        sent = service.counts()["requests"]
        assert sent <= 10 + (time.monotonic() - began) + 1
        time.sleep(0.2)
    assert check_complete(client, ended(client, batch.id), 12) == (12, 0)


def test_a_ceiling_of_what_a_job_may_cost_fails_the_lines_beyond_it(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    ceiling = 10 * COST_OF_A_LINE
    limit(own, client, job_cost=ceiling)
    data = jsonl(request(f"r-{n}", model="priced", max_tokens=MOST_TOKENS) for n in range(30))
    batch = ended(client, start(client, data).id)
    assert batch.status == "completed"
    done, refused = check_complete(client, batch, 30)
    # The last call is not made unless its whole answer could be paid for.
    assert 10 - MOST_TOKENS / 3 < done <= 10
    errors = lines_of(client, batch.error_file_id)
    assert {line["response"]["status_code"] for line in errors} == {402}
    assert {line["response"]["body"]["error"]["code"] for line in errors} == {"budget_exceeded"}
    assert service.counts()["requests"] == done  # what it cannot pay is not asked for
    wait_for(lambda: job_of(own, client, batch)["estimated_cost"] > 0)  # written a few seconds after
    job = job_of(own, client, batch)
    assert job["state"] == "partial"
    assert job["estimated_cost"] == pytest.approx(done * COST_OF_A_LINE)
    assert job["estimated_cost"] <= ceiling
    limit(own, client, job_cost=(refused + 2) * COST_OF_A_LINE)
    retry(own, client, batch)
    assert check_complete(client, ended(client, batch.id), 30) == (30, 0)
    usage = own.call("GET", "/api/usage?by=model", key=client.api_key)[1]["items"]
    assert sum(row["estimated_cost"] for row in usage) == pytest.approx(30 * COST_OF_A_LINE)


def test_the_rate_of_a_retried_batch_is_that_of_what_it_does_now(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    data = jsonl(request(f"r-{n}", "fail" if n % 3 == 0 else "") for n in range(90))
    batch = ended(client, start(client, data).id)
    assert check_counts(batch) == (60, 30)
    service.does(heals=True, latency_ms=1500)
    retry(own, client, batch)
    wait_for(lambda: service.counts()["open"] > 0)
    progress = job_of(own, client, batch)["progress"]
    assert (progress["done"], progress["total"]) == (60, 90)
    assert progress["rate"] is progress["eta_seconds"] is None
    assert check_counts(ended(client, batch.id)) == (90, 0)


def check_counts(batch: Any) -> tuple[int, int]:
    return batch.request_counts.completed, batch.request_counts.failed
