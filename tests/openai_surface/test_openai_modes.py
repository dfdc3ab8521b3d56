"""One request, three modes: whole, as a stream, as a job; and responses in the background."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
from openai_tenant import Tenant
from scripted_service import CALLS, ScriptedService

MESSAGES: Any = [{"role": "user", "content": "How much does the Heron 42 S weigh?"}]
CHAT = "/v1/chat/completions"
ASYNC = {"Prefer": "respond-async"}


def ask(tenant: Tenant, model: str, prefer: str = "respond-async", path: str = CHAT, **more: Any) -> Any:
    body = {"model": model, "messages": MESSAGES, **more}
    if path.endswith("responses"):
        body = {"model": model, "input": MESSAGES[0]["content"], **more}
    return tenant.post(path, body, headers={"Prefer": prefer} if prefer else None)


def result_of(tenant: Tenant, answer: Any) -> dict[str, Any]:
    status, headers, job = answer
    assert status == 202, job
    assert headers["location"] == job["links"]["self"]
    assert headers["preference-applied"] == "respond-async"
    finished = tenant.stack.finished(job["id"], key=tenant.key)
    assert (finished["kind"], finished["state"]) == ("answer", "succeeded"), finished
    status, result = tenant.stack.call("GET", f"/api/jobs/{job['id']}/result", key=tenant.key)
    assert status == 200
    return result


def shape(value: Any) -> Any:
    """A body without what differs from answer to answer."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items() if name not in ("id", "created")}
    return [shape(member) for member in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", [CHAT, "/openai/deployments/chat/chat/completions?api-version=2024-10-21"])
def test_a_models_completion_for_later_has_the_body_of_one_that_is_waited_for(scripted: Tenant, path: str):
    result = result_of(scripted, ask(scripted, "chat", path=path))
    assert result["object"] == "chat.completion"
    assert result["choices"][0]["message"]["content"] == "Streamed answer [1]."
    assert result["choices"][0]["finish_reason"] == "stop"
    assert result["usage"]["total_tokens"] == 14


def test_calls_of_functions_survive_a_job(scripted: Tenant):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    result = result_of(scripted, ask(scripted, "calls", tools=tools))
    message = result["choices"][0]["message"]
    assert message["content"] == "Let me look."
    assert [call["function"] for call in message["tool_calls"]] == [call["function"] for call in CALLS]


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_an_answer_from_documents_for_later_is_that_of_now(tenant: Tenant, path: str):
    ask(tenant, "rag:pumps", prefer="", path=path)  # both of the others are given what this one was
    now = ask(tenant, "rag:pumps", prefer="", path=path)
    later = result_of(tenant, ask(tenant, "rag:pumps", path=path))
    ids = ("created_at", "completed_at")
    assert shape({k: v for k, v in later.items() if k not in ids}) == shape(
        {k: v for k, v in now[2].items() if k not in ids}
    )
    assert "18.5 kilograms" in json.dumps(later)
    assert "heron.md" in json.dumps(later)


def test_who_waits_a_little_gets_the_answer_itself_where_it_is_there_by_then(tenant: Tenant):
    status, _, answer = ask(tenant, "rag:pumps", prefer="respond-async, wait=60")
    assert status == 200
    assert "18.5 kilograms" in answer["choices"][0]["message"]["content"]


def test_who_waits_too_short_a_time_gets_the_job(scripted: Tenant, service: ScriptedService):
    service.wait_for_open(0)
    status, _, job = ask(scripted, "silent", prefer="respond-async; wait=ignored, wait=1")
    assert status == 202
    assert job["state"] in ("queued", "running")
    service.wait_for_open(1)
    assert scripted.stack.call("POST", f"/api/jobs/{job['id']}/cancel", key=scripted.key)[0] == 202
    service.wait_for_open(0)  # a cancelled job stops its call to the model
    assert scripted.stack.finished(job["id"], key=scripted.key)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("model", "more", "code"),
    [
        ("chat", {"max_tokens": -1}, "invalid_parameter"),
        ("small", {"messages": [{"role": "user", "content": "word " * 300}]}, "prompt_too_long"),
        ("nobody", {}, "model_not_found"),
        ("rag:nowhere", {}, "model_not_found"),
        ("rag:pumps", {"n": 2}, "invalid_parameter"),
        ("chat", {"data_sources": []}, "invalid_parameter"),
    ],
)
def test_what_is_wrong_is_told_before_a_job_begins(scripted: Tenant, model: str, more: Any, code: str):
    status, _, document = ask(scripted, model, **more)
    assert status in (400, 404)
    assert document["error"]["code"] == code


def test_an_answer_that_would_outlast_the_request_is_refused_and_welcome_as_a_job(scripted: Tenant):
    client = openai.OpenAI(base_url=scripted.v1, api_key=scripted.key, max_retries=0)
    for _ in range(3):  # what is known of a pace has been learned from answers
        for _ in client.chat.completions.create(model="slow", messages=MESSAGES, stream=True):
            pass
    for path in (CHAT, "/v1/responses"):
        status, headers, document = ask(scripted, "slow", prefer="", path=path)
        error = document["error"]
        assert (status, error["code"], error["limit"]) == (400, "outlasts_request", 0.2)
        assert error["expected_seconds"] >= 0.2
        assert headers["x-should-retry"] == "false"
    result = result_of(scripted, ask(scripted, "slow", prefer="respond-async, wait=0"))
    assert result["choices"][0]["message"]["content"].endswith(" more")


def test_a_response_in_the_background_is_retrieved_by_its_id(tenant: Tenant):
    client = openai.OpenAI(base_url=tenant.v1, api_key=tenant.key, max_retries=0)
    question = MESSAGES[0]["content"]
    response = client.responses.create(model="rag:pumps", input=question, background=True)
    assert response.status in ("queued", "in_progress", "completed")
    assert response.background is True
    deadline = time.monotonic() + 60
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed"
    assert "18.5 kilograms" in response.output_text
    assert client.responses.cancel(response.id).status == "completed"  # it stays what it is


def test_a_response_in_the_background_is_cancelled_by_its_id(scripted: Tenant, service: ScriptedService):
    client = openai.OpenAI(base_url=scripted.v1, api_key=scripted.key, max_retries=0)
    service.wait_for_open(0)
    response = client.responses.create(model="silent", input="Hello?", background=True)
    service.wait_for_open(1)
    client.responses.cancel(response.id)
    service.wait_for_open(0)
    deadline = time.monotonic() + 60
    while client.responses.retrieve(response.id).status != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_response_that_fails_says_why(scripted: Tenant):
    client = openai.OpenAI(base_url=scripted.v1, api_key=scripted.key, max_retries=0)
    response = client.responses.create(model="refuses", input="Hello?", background=True)
    deadline = time.monotonic() + 60
    while (response := client.responses.retrieve(response.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert response.status == "failed"
    assert response.error is not None
    assert str(response.error.code) == "invalid_request"


def test_a_response_is_its_owners_alone(tenant: Tenant):
    client = openai.OpenAI(base_url=tenant.v1, api_key=tenant.key, max_retries=0)
    response = client.responses.create(model="rag:pumps", input="Weight?", background=True)
    completion = ask(tenant, "rag:pumps")[2]["id"]
    stranger = tenant.stack.key_for(tenant.stack.new_tenant())
    paths = [f"/v1/responses/{response.id}", "/v1/responses/resp_0", f"/v1/responses/resp_{completion}"]
    keys = [(paths[0], stranger), (paths[0], tenant.reader_key), *((p, tenant.key) for p in paths[1:])]
    for path, key in keys:
        for method, action in (("GET", ""), ("POST", "/cancel")):
            status, _, document = tenant.stack.exchange(method, path + action, key=key)
            assert (status, document["error"]["code"]) == (404, "not_found"), path
