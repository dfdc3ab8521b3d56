"""Batches whose model has a batch deployment: run by the service's own Batch API, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from batch_files import check_complete, ended, jsonl, lines_of, request, start
from batch_service import BatchService
from running_stack import RunningStack
from test_batches_restart import kill_host, wait_for

# Per line 9 tokens in at 1000 a million, 3 out at 2000 a million: the batch deployment's prices.
COST_OF_A_LINE = (9 * 1000 + 3 * 2000) / 1e6


@pytest.fixture
def remote(batch_service: BatchService) -> Iterator[BatchService]:
    batch_service.reset()
    yield batch_service
    batch_service.hangs = ""


def bulk(count: int) -> bytes:
    return jsonl(request(f"r-{number}", model="bulk") for number in range(count))


def told(client: openai.OpenAI, batch: Any) -> dict[str, str]:
    """The code of each line in the errors file."""
    lines = lines_of(client, batch.error_file_id)
    return {
        line["custom_id"]: (line["error"] or {}).get("code") or line["response"]["body"]["error"]["code"]
        for line in lines
    }


def cost(own: RunningStack, client: openai.OpenAI, batch: Any) -> float:
    return own.call("GET", f"/api/jobs/{batch.id[6:]}", key=client.api_key)[1]["estimated_cost"]


def retry(own: RunningStack, client: openai.OpenAI, batch: Any) -> None:
    assert own.call("POST", f"/api/jobs/{batch.id[6:]}/retry", key=client.api_key)[0] == 202


def test_a_batch_goes_to_the_services_own_batch_and_comes_back_whole(
    own: RunningStack, client: openai.OpenAI, service: Any, remote: BatchService
):
    data = bulk(300) + jsonl([b"{not json", request("r-300", model="bulk", max_tokens=-1)])
    batch = ended(client, start(client, data).id)
    assert batch.status == "completed"
    output = lines_of(client, batch.output_file_id)
    assert sorted(line["custom_id"] for line in output) == sorted(f"r-{n}" for n in range(300))
    for line in output:
        assert line["response"]["body"]["choices"][0]["message"]["content"] == f"say {line['custom_id']}"
    assert told(client, batch) == {None: "invalid_json_line", "r-300": "invalid_parameter"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (302, 300, 2)
    assert service.counts()["requests"] == 0  # no line was a call
    assert [len(data.splitlines()) for data in remote.inputs] == [300]
    assert json.loads(remote.inputs[0].splitlines()[7]) == {
        "custom_id": "8",
        "method": "POST",
        "url": "/chat/completions",
        "body": {"model": "bulk-night", "messages": [{"role": "user", "content": "say r-7"}]},
    }
    assert remote.files == {}  # what was the tenant's is gone from the service
    wait_for(lambda: cost(own, client, batch) > 0)  # it is written a few seconds after
    assert cost(own, client, batch) == pytest.approx(300 * COST_OF_A_LINE)
    usage = own.call("GET", "/api/usage?by=model", key=client.api_key)
    row = next(row for row in usage[1]["items"] if row["model"] == "bulk")
    assert (row["calls"], row["prompt_tokens"], row["completion_tokens"]) == (300, 2700, 900)
    assert row["estimated_cost"] == pytest.approx(300 * COST_OF_A_LINE)


def test_refusals_and_faults_on_the_way_fail_nothing(client: openai.OpenAI, remote: BatchService):
    remote.faults = [
        ("POST files", 429),
        ("POST batches", 429),
        ("POST batches", 503),
        ("GET batches/", 500),
        ("GET batches/", 500),
        ("GET files/", 500),
    ]
    batch = ended(client, start(client, bulk(20)).id)
    assert check_complete(client, batch, 20) == (20, 0)
    assert remote.faults == []
    assert (len(remote.inputs), len(remote.batches)) == (1, 1)


def test_a_host_killed_between_create_and_note_submits_once(
    own: RunningStack, client: openai.OpenAI, remote: BatchService
):
    remote.hangs = "POST batches"
    batch = start(client, bulk(20))
    wait_for(lambda: len(remote.batches) == 1)
    kill_host(own)
    remote.hangs = ""
    batch = ended(client, batch.id)
    assert check_complete(client, batch, 20) == (20, 0)
    assert (len(remote.inputs), len(remote.batches)) == (1, 1)


def test_a_host_killed_between_upload_and_create_uploads_once(
    own: RunningStack, client: openai.OpenAI, remote: BatchService
):
    remote.hangs = "POST files"
    batch = start(client, bulk(20))
    wait_for(lambda: len(remote.inputs) == 1)
    kill_host(own)
    remote.hangs = ""
    batch = ended(client, batch.id)
    assert check_complete(client, batch, 20) == (20, 0)
    assert (len(remote.inputs), len(remote.batches)) == (1, 1)


def test_a_cancelled_batch_keeps_what_the_service_had_done_and_a_retry_does_the_rest(
    own: RunningStack, client: openai.OpenAI, remote: BatchService
):
    remote.runs, remote.unanswered = False, {"3", "4"}
    batch = start(client, bulk(10))
    wait_for(lambda: remote.asked("GET batches/") >= 2)
    client.batches.cancel(batch.id)
    batch = ended(client, batch.id)
    assert batch.status == "cancelled"
    assert check_complete(client, batch, 10) == (8, 2)
    assert told(client, batch) == {"r-2": "batch_cancelled", "r-3": "batch_cancelled"}
    assert remote.asked("POST batches/batch_0/cancel") == 1
    remote.runs, remote.unanswered = True, set()
    retry(own, client, batch)
    batch = ended(client, batch.id)
    assert check_complete(client, batch, 10) == (10, 0)
    assert [len(data.splitlines()) for data in remote.inputs] == [10, 2]


def test_an_expired_batch_keeps_the_part_that_is_there(client: openai.OpenAI, remote: BatchService):
    remote.end, remote.unanswered = "expired", {"1", "10"}
    batch = ended(client, start(client, bulk(10)).id)
    assert batch.status == "expired"
    assert check_complete(client, batch, 10) == (8, 2)
    assert told(client, batch) == {"r-0": "batch_expired", "r-9": "batch_expired"}


def test_a_line_that_the_service_lost_or_refused_is_an_error(client: openai.OpenAI, remote: BatchService):
    remote.unanswered, remote.refused = {"2"}, {"3"}
    batch = ended(client, start(client, bulk(10)).id)
    assert batch.status == "completed"
    assert check_complete(client, batch, 10) == (8, 2)
    assert told(client, batch) == {"r-1": "request_lost", "r-2": "bad"}


def test_a_batch_that_fails_validation_fails_with_its_reasons(
    own: RunningStack, client: openai.OpenAI, remote: BatchService
):
    remote.end = "failed"
    remote.reasons = [{"code": "invalid_request", "message": "A bad line.", "line": 2, "param": "body"}]
    data = jsonl([b"[]"]) + bulk(3)
    batch = ended(client, start(client, data).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    found = [(one.code, one.message, one.line, one.param) for one in batch.errors.data or []]
    assert found == [("invalid_request", "A bad line.", 3, "body")]
    assert remote.files == {}
    remote.end = "completed"
    retry(own, client, batch)
    batch = ended(client, batch.id)
    assert batch.status == "completed"
    assert len(lines_of(client, batch.output_file_id)) == 3


def test_a_refused_submission_fails_the_batch_and_leaves_nothing(client: openai.OpenAI, remote: BatchService):
    remote.faults = [("POST batches", 400)]
    batch = ended(client, start(client, bulk(3)).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [one.code for one in batch.errors.data or []] == ["invalid_request"]
    assert (remote.files, remote.batches) == ({}, {})


def test_a_batch_of_several_models_and_a_call_stay_with_the_ordinary_deployments(
    client: openai.OpenAI, remote: BatchService
):
    mixed = jsonl([request("r-0"), request("r-1", model="bulk")])
    batch = ended(client, start(client, mixed).id)
    assert check_complete(client, batch, 2) == (2, 0)
    asked: Any = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="bulk", messages=asked)
    assert answer.choices[0].message.content == "hello"
    assert remote.calls == []


def test_a_tenants_caps_hold_and_a_cost_ceiling_keeps_a_batch_here(
    own: RunningStack, client: openai.OpenAI, remote: BatchService
):
    limit = {"completion_tokens": 50}
    assert own.call("PUT", "/api/limits", limit, key=client.api_key)[0] == 200
    data = jsonl([request("r-0", model="bulk"), request("r-1", model="bulk", max_tokens=60)])
    batch = ended(client, start(client, data).id)
    assert check_complete(client, batch, 2) == (1, 1)
    (line,) = map(json.loads, remote.inputs[0].splitlines())
    assert line["body"]["max_completion_tokens"] == 50
    assert own.call("PUT", "/api/limits", {"job_cost": 100}, key=client.api_key)[0] == 200
    batch = ended(client, start(client, bulk(2)).id)
    assert check_complete(client, batch, 2) == (2, 0)
    assert len(remote.batches) == 1
