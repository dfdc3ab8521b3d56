"""Answers over HTTP: whole, as a stream, as a job; all of one shape."""

from __future__ import annotations

from typing import Any

import pytest
from edge_tenant import Answer, Tenant, call, check_problem, server_sent_events

FACTS = {
    "heron.md": "# Heron\n\nThe Heron 42 S weighs 18.4 tonnes. It was built in the yard at Lorne in 1987.",
    "kestrel.md": "# Kestrel\n\nThe Kestrel has a crew of nine. Her captain is Ada Brandt.",
}
QUESTION = "How much does the Heron 42 S weigh?"


@pytest.fixture(scope="module")
def library(shared_tenant: Tenant) -> tuple[Tenant, str]:
    collection = shared_tenant.collection()
    documents = [{"id": name, "content": text} for name, text in FACTS.items()]
    assert shared_tenant.ingest(collection, documents)["state"] == "succeeded"
    return shared_tenant, collection


def ask(library: tuple[Tenant, str], question: str = QUESTION, prefer: str = "", **body: Any) -> Answer:
    tenant, collection = library
    asked = {"collections": [collection], "messages": [{"role": "user", "content": question}], **body}
    return tenant.call("POST", "/api/chat", asked, headers={"Prefer": prefer} if prefer else None)


def same_shape(answer: dict[str, Any]) -> set[str]:
    assert answer["found"] is True
    assert "18.4 tonnes" in answer["text"]
    for citation in answer["citations"]:
        text = FACTS[citation["document"]]
        assert text[citation["start"] : citation["end"]].strip()
    return {*answer}


def test_an_answer_cites_the_document_that_holds_it(library):
    answer = ask(library).json
    same_shape(answer)
    assert answer["citations"][0]["document"] == "heron.md"
    assert answer["grounded"] is True


def test_a_stream_tells_the_sources_then_the_text_then_the_answer(library):
    events = list(server_sent_events(ask(library, stream=True)))
    names = [name for name, _ in events]
    assert names[0] == "sources"
    assert names[-1] == "done"
    assert len(names) > 2
    assert {*names[1:-1]} == {"delta"}
    final = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "delta") == final["text"]
    sources = events[0][1]["passages"]
    assert {source["document"] for source in sources} <= FACTS.keys()
    assert same_shape(final) == same_shape(ask(library).json)


def test_an_answer_for_later_is_a_job_whose_result_has_the_same_shape(library):
    tenant, _ = library
    accepted = ask(library, prefer="respond-async")
    assert accepted.status == 202
    assert accepted.headers["location"] == accepted.json["links"]["self"]
    job = tenant.finished(accepted.json["id"])
    assert (job["kind"], job["state"]) == ("answer", "succeeded")
    result = tenant.call("GET", f"/api/jobs/{job['id']}/result").json
    assert same_shape(result) == same_shape(ask(library).json)


def test_an_idempotency_key_holds_for_answers_too(library):
    tenant, collection = library
    body = {"collections": [collection], "messages": [{"role": "user", "content": QUESTION}]}
    headers = {"Prefer": "respond-async", "Idempotency-Key": "once"}
    jobs = {tenant.call("POST", "/api/chat", body, headers=headers).json["id"] for _ in range(3)}
    assert len(jobs) == 1
    tenant.finished(*jobs)
    ended = tenant.call("POST", "/api/chat", body, headers=headers)
    assert (ended.status, {ended.json["id"]}) == (202, jobs)
    waited = tenant.call("POST", "/api/chat", body, headers={**headers, "Prefer": "respond-async, wait=5"})
    assert (waited.status, waited.json["found"]) == (200, True)
    other = {**body, "messages": [{"role": "user", "content": "Another question?"}]}
    answer = tenant.call("POST", "/api/chat", other, headers=headers)
    check_problem(answer, 422, "idempotency_key_reused")
    assert tenant.finished(jobs.pop())["state"] == "succeeded"


def test_an_answer_for_later_is_for_who_asked_alone(library):
    tenant, _ = library
    job = ask(library, prefer="respond-async").json["id"]
    tenant.finished(job)
    for roles in (("reader",), ("contributor",)):
        colleague = tenant.other(f"colleague-{roles[0]}", roles=roles)
        for method, path in (
            ("GET", ""),
            ("GET", "/result"),
            ("GET", "/events"),
            ("POST", "/cancel"),
            ("POST", "/retry"),
        ):
            answer = call(tenant.stack.url, method, f"/api/jobs/{job}{path}", key=colleague)
            assert answer.status == (403 if roles == ("reader",) and method == "POST" else 404)
        listed = call(tenant.stack.url, "GET", "/api/jobs", key=colleague).json["items"]
        assert job not in [item["id"] for item in listed]
    operator = tenant.other("operator", roles=("operator",))
    assert call(tenant.stack.url, "GET", f"/api/jobs/{job}", key=operator).status == 200
    check_problem(call(tenant.stack.url, "GET", f"/api/jobs/{job}/result", key=operator), 404, "not_found")


def test_what_the_documents_do_not_tell_is_not_found(library):
    answer = ask(library, "Which tax rate applies to imported oranges in Portugal?").json
    assert answer["found"] is False
    assert answer["citations"] == []


def test_a_filter_narrows_what_an_answer_may_rest_on(library):
    answer = ask(library, filter={"field": "document", "eq": "kestrel.md"}).json
    assert {citation["document"] for citation in answer["citations"]} <= {"kestrel.md"}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "  "}],
        [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}],
    ],
)
def test_a_conversation_without_a_question_is_refused(library, messages: list[dict]):
    tenant, collection = library
    body = {"collections": [collection], "messages": messages}
    answer = tenant.call("POST", "/api/chat", body)
    check_problem(answer, 400, "invalid_parameter" if messages else "invalid_request")


def test_a_model_that_is_not_there_is_not_found(library):
    check_problem(ask(library, model="nothing"), 404, "not_found")
    check_problem(ask(library, model="embedding"), 400, "invalid_parameter")
    check_problem(ask(library, model="nothing", stream=True), 404, "not_found")
    check_problem(ask(library, prefer="respond-async", model="nothing"), 404, "not_found")
