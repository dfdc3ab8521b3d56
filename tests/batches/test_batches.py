"""Batches by openai-python as it is, against a started stack."""

from __future__ import annotations

import json
import uuid
from typing import Any

import openai
import pytest
from batch_files import check_complete, ended, jsonl, lines_of, request, requests, start
from running_stack import RunningStack

from shared.inferencing.batches.lines import MAX_LINE_BYTES


def test_a_batch_answers_every_line(client: openai.OpenAI):
    batch = start(client, requests(20), metadata={"nightly": "yes"})
    assert batch.status in ("validating", "in_progress")
    assert batch.expires_at is not None
    assert batch.expires_at - batch.created_at == 24 * 3600
    batch = ended(client, batch.id)
    assert (batch.status, batch.metadata, batch.errors) == ("completed", {"nightly": "yes"}, None)
    assert batch.error_file_id is None
    assert check_complete(client, batch, 20) == (20, 0)
    output = client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert [found.id for found in client.batches.list()] == [batch.id]


def test_a_line_that_is_no_request_fails_alone(client: openai.OpenAI):
    good = [request("r-0"), request("r-1")]
    lines = [
        good[0],
        b"{not json",
        b"\xff\xfe",
        b"[1, 2]",
        b"",
        b"   ",
        b'{"custom_id": "' + b"x" * MAX_LINE_BYTES + b'"}',
        {**request("r-2"), "custom_id": 7},
        {**request("r-3"), "method": "GET"},
        {**request("r-4"), "url": "/v1/embeddings"},
        {**request("r-5"), "body": "text"},
        {**request("r-6"), "body": {"messages": []}},
        request("r-7", model="gpt-9"),
        request("r-8", max_tokens=-1),
        request("r-9", messages=[]),
        b'{"custom_id": "r-10", "method": "POST", "url": "/v1/responses", "body": {"model": "\\ud800"}}',
        request("r-11", model="rag:none"),
        b"[" * 100_000,
        good[1],
    ]
    batch = ended(client, start(client, jsonl(lines)).id)
    assert batch.status == "completed"
    answered = lines_of(client, batch.output_file_id)
    assert sorted(line["custom_id"] for line in answered) == ["r-0", "r-1"]
    failed = lines_of(client, batch.error_file_id)
    told = {
        line["custom_id"] or line["error"]["line"]: (
            (line["error"] or {}).get("code") or line["response"]["body"]["error"]["code"]
        )
        for line in failed
    }
    assert told == {
        2: "invalid_json_line",
        3: "invalid_json_line",
        4: "invalid_json_line",
        5: "line_too_long",
        6: "invalid_request",
        "r-3": "invalid_request",
        "r-4": "url_mismatch",
        "r-5": "invalid_request",
        "r-6": "invalid_request",
        "r-7": "model_not_found",
        "r-8": "invalid_parameter",
        "r-9": "invalid_request",
        14: "invalid_json_line",
        "r-11": "model_not_found",
        16: "invalid_json_line",
    }
    refused = next(line for line in failed if line["custom_id"] == "r-7")
    assert refused["response"]["status_code"] == 404
    assert (batch.request_counts.total, batch.request_counts.failed) == (17, 15)


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (jsonl([request("a"), request("b"), request("a")]), "duplicate_custom_id", 3),
        (b"\n \n", "empty_batch", None),
        (b"{}\n" * 50_001, "too_many_tasks", None),
    ],
)
def test_a_file_that_cannot_be_a_batch_fails_it(client: openai.OpenAI, data: bytes, code: str, line: Any):
    batch = ended(client, start(client, data).id)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert [(error.code, error.line) for error in batch.errors.data or []] == [(code, line)]
    assert batch.output_file_id is None
    client.files.delete(batch.input_file_id)  # nothing reads it any more


def test_refusals_and_faults_of_the_service_fail_no_line(client: openai.OpenAI, service: Any):
    service.does(throttled=0.05, failed=0.02, retry_after_ms=50)
    batch = ended(client, start(client, requests(300)).id)
    assert check_complete(client, batch, 300) == (300, 0)
    counts = service.counts()
    assert counts["throttled"] > 0
    assert counts["failed"] > 0
    assert counts["answered"] == counts["distinct"] == 300


def test_a_line_whose_request_fails_for_good_is_an_error_and_can_be_retried(
    own: RunningStack, client: openai.OpenAI, service: Any
):
    lines = [request(f"r-{n}", "fail" if n % 5 == 0 else "") for n in range(20)]
    batch = ended(client, start(client, jsonl(lines)).id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (16, 4)
    failed = lines_of(client, batch.error_file_id)
    assert {line["response"]["status_code"] for line in failed} == {400}
    status, job = own.call("GET", f"/api/jobs/{batch.id[6:]}", key=client.api_key)
    assert (status, job["kind"], job["state"]) == (200, "batch", "partial")
    assert job["progress"]["unit"] == "lines"
    assert job["progress"]["done"] == job["progress"]["total"] == 20
    assert [error["item"] for error in job["errors"]] == [line["custom_id"] for line in failed]
    assert job["links"]["batch"] == f"{own.url}/v1/batches/{batch.id}"
    service.does(heals=True)
    assert own.call("POST", f"/api/jobs/{batch.id[6:]}/retry", key=client.api_key)[0] == 202
    again = ended(client, batch.id)
    assert service.counts()["requests"] == 4  # what had been answered was not asked again
    assert (again.status, again.error_file_id) == ("completed", None)
    assert again.output_file_id == batch.output_file_id
    ids = [line["custom_id"] for line in lines_of(client, again.output_file_id)]
    assert sorted(ids) == sorted(f"r-{n}" for n in range(20))
    assert own.call("GET", f"/api/jobs/{batch.id[6:]}", key=client.api_key)[1]["state"] == "succeeded"


def test_an_idempotency_key_starts_one_batch(client: openai.OpenAI):
    data = requests(2)
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    asked: Any = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": file.id}
    first = client.batches.create(**asked, extra_headers=headers)
    assert client.batches.create(**asked, extra_headers=headers).id == first.id
    ended(client, first.id)
    assert client.batches.create(**asked, extra_headers=headers).status == "completed"
    assert len(client.batches.list().data) == 1


def test_a_batch_and_its_files_are_nobody_elses(own: RunningStack, client: openai.OpenAI):
    batch = ended(client, start(client, requests(1)).id)
    tenant = own.new_tenant()
    for key in (own.key_for(tenant), own.key):
        other = openai.OpenAI(base_url=f"{own.url}/v1", api_key=key, max_retries=0)
        for call in (
            lambda other=other: other.batches.retrieve(batch.id),
            lambda other=other: other.batches.cancel(batch.id),
            lambda other=other: other.files.content(batch.output_file_id),
            lambda other=other: other.batches.create(
                input_file_id=batch.input_file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert batch.id not in [found.id for found in other.batches.list()]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/completions"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"tenant": "other"}, "tenant"),
    ],
)
def test_a_request_for_a_batch_that_is_wrong_is_refused(client: openai.OpenAI, change: Any, param: str):
    file = client.files.create(file=("in.jsonl", requests(1)), purpose="batch")
    asked = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/batches", body={**asked, **change}, cast_to=object)
    assert caught.value.param == param


def test_an_output_is_no_input(client: openai.OpenAI):
    batch = ended(client, start(client, requests(1)).id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(
            input_file_id=batch.output_file_id or "",
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
    assert caught.value.param == "input_file_id"


def test_the_list_is_newest_first_and_paged(client: openai.OpenAI):
    ids = [start(client, requests(1)).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == ids[::-1]
    first = client.batches.list(limit=2)
    assert (first.has_more, [batch.id for batch in first.data]) == (True, ids[:2:-1])


def test_the_azure_client_runs_a_batch(own: RunningStack, client: openai.OpenAI):
    azure = openai.AzureOpenAI(
        azure_endpoint=own.url, api_key=client.api_key, api_version="2025-04-01-preview"
    )
    line = {**request("r-0"), "url": "/chat/completions"}
    batch = start(azure, jsonl([line]), endpoint="/chat/completions")
    assert check_complete(azure, ended(azure, batch.id), 1) == (1, 0)


def test_batches_of_responses_carry_whole_responses(client: openai.OpenAI):
    line = {
        "custom_id": "r-0",
        "method": "POST",
        "url": "/v1/responses",
        "body": {"model": "chat", "input": "say it"},
    }
    batch = ended(client, start(client, jsonl([line]), endpoint="/v1/responses").id)
    (answer,) = lines_of(client, batch.output_file_id)
    assert answer["response"]["body"]["output"][0]["content"][0]["text"] == "say it"


def test_no_answer_is_lost_in_odd_characters(client: openai.OpenAI):
    text = "line\nbreak \u2028 \u0000 “quotes” \U0001f600 \\"
    batch = ended(client, start(client, jsonl([request("ключ\n", text)])).id)
    (line,) = lines_of(client, batch.output_file_id)
    assert line["custom_id"] == "ключ\n"
    assert line["response"]["body"]["choices"][0]["message"]["content"] == text
    assert json.dumps(line)
