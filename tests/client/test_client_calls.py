"""Calls: what is sent, how refusals are waited out, what errors say."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import pytest
from contract_service import KEY, Scripted, Service, problem

from client import ApiError, ConnectionFailed, Groundwork, NewDocument
from client.api import BATCH_BYTES, BATCH_DOCUMENTS
from client.transport import MAX_RETRY_AFTER_SECONDS, MAX_TRIES

JOB = {"id": "a1", "kind": "ingestion", "state": "queued", "links": {"self": "/api/jobs/a1"}}
ACCEPTED = Scripted(202, JOB, {"Location": "/api/jobs/a1", "Retry-After": "2"})


def test_the_key_goes_into_the_authorization_header_and_not_into_repr(
    service: Service, groundwork: Groundwork
) -> None:
    service.on("GET /api/me", Scripted(body={"tenant": "default", "user": "ada", "groups": [], "roles": []}))
    assert groundwork.me()["user"] == "ada"
    assert service.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(groundwork)


def test_an_error_carries_the_problem_details(service: Service, groundwork: Groundwork) -> None:
    service.on(
        "GET /api/collections/x",
        problem(404, "not_found", "There is no collection 'x'.", resource="collection"),
    )
    with pytest.raises(ApiError) as caught:
        groundwork.collection("x")
    error = caught.value
    assert (error.status, error.code, error.retryable) == (404, "not_found", False)
    assert error.detail == "There is no collection 'x'."
    assert error.correlation_id == "c0ffee00c0ffee00"
    assert error.problem["resource"] == "collection"
    assert len(service.seen) == 1


def test_an_error_page_of_a_proxy_is_an_error_too(service: Service, groundwork: Groundwork) -> None:
    service.on("GET /api/me", Scripted(502, b"<html>Bad gateway</html>", {"x-correlation-id": "from-proxy"}))
    with pytest.raises(ApiError) as caught:
        groundwork.me()
    assert (caught.value.code, caught.value.correlation_id) == ("http_502", "from-proxy")
    assert "html" not in caught.value.detail


@pytest.mark.parametrize("status", [429, 503])
def test_a_refused_call_is_made_again_after_the_time_the_service_names(
    service: Service, groundwork: Groundwork, waits: list[float], status: int
) -> None:
    service.on(
        "POST /api/collections/c/search",
        problem(status, "rate_limited", retry_after=1.25),
        problem(status, "rate_limited", retry_after=7),
        Scripted(body={"hits": [{"document": "a.md", "score": 0.5, "future_member": 1}], "timings": {}}),
    )
    assert groundwork.search("c", "trains").hits[0].document == "a.md"
    assert waits == [1.25, 7]


def test_a_wait_that_only_the_header_names_is_honoured(
    service: Service, groundwork: Groundwork, waits: list[float]
) -> None:
    service.on("GET /api/me", Scripted(503, b"busy", {"Retry-After": "3"}), Scripted(body={}))
    groundwork.me()
    assert waits == [3]


def test_tries_are_bounded(service: Service, groundwork: Groundwork, waits: list[float]) -> None:
    service.on("GET /api/me", problem(503, "models_unavailable"))
    with pytest.raises(ApiError, match="models_unavailable"):
        groundwork.me()
    assert len(service.seen) == MAX_TRIES
    assert len(waits) == MAX_TRIES - 1


@pytest.mark.parametrize(
    ("seconds", "calls"), [(MAX_RETRY_AFTER_SECONDS, MAX_TRIES), (MAX_RETRY_AFTER_SECONDS + 1, 1)]
)
def test_a_service_that_wants_more_patience_than_the_limit_is_an_error_at_once(
    service: Service, groundwork: Groundwork, seconds: float, calls: int
) -> None:
    service.on("GET /api/me", problem(429, "rate_limited", retry_after=seconds))
    with pytest.raises(ApiError) as caught:
        groundwork.me()
    assert caught.value.retry_after == seconds
    assert len(service.seen) == calls


@pytest.mark.parametrize("status", [400, 401, 403, 409, 500, 502, 504])
def test_other_errors_are_not_retried(service: Service, groundwork: Groundwork, status: int) -> None:
    service.on("GET /api/me", problem(status, "told"))
    with pytest.raises(ApiError):
        groundwork.me()
    assert len(service.seen) == 1


def test_a_call_that_may_happen_twice_survives_a_broken_connection(
    service: Service, groundwork: Groundwork
) -> None:
    service.on("GET /api/me", Scripted(drop=True), Scripted(body={"user": "ada"}))
    assert groundwork.me() == {"user": "ada"}


def test_a_question_is_not_asked_twice_after_a_broken_connection(
    service: Service, groundwork: Groundwork
) -> None:
    service.on("POST /api/chat", Scripted(drop=True))
    with pytest.raises(ConnectionFailed):
        groundwork.ask("Who pays?", ["c"])
    assert len(service.seen) == 1


def test_a_kept_connection_serves_the_next_call(service: Service, groundwork: Groundwork) -> None:
    service.on("GET /api/me", Scripted(body={}))
    groundwork.me()
    groundwork.me()
    assert service.seen[0].peer == service.seen[1].peer


def test_no_service_at_the_address_is_a_failed_connection(waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConnectionFailed):
            Groundwork(url, KEY, sleep=waits.append, max_tries=2).me()
    assert len(waits) == 1


def test_a_redirect_is_not_followed_with_the_key(service: Service, groundwork: Groundwork) -> None:
    service.on("GET /api/me", Scripted(302, b"", {"Location": f"{service.url}/elsewhere"}))
    assert groundwork._transport.call("GET", "/api/me").status == 302
    assert [seen.target for seen in service.seen] == ["/api/me"]


@pytest.mark.parametrize("url", ["ftp://host", "127.0.0.1:7071", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must look like"):
        Groundwork(url, KEY)


def test_a_document_id_is_a_path_whose_parts_are_escaped(service: Service, groundwork: Groundwork) -> None:
    service.on("PUT /api/collections/c/documents/hr/a%20b%3F%23%C3%BC.md", ACCEPTED)
    status = groundwork.put_document("c", "hr/a b?#ü.md", "# Hi", title="Hi & ho", tags=["x", "y"])
    seen = service.seen[0]
    assert seen.target.partition("?")[2] == "title=Hi+%26+ho&tag=x&tag=y"
    assert seen.body == b"# Hi"
    assert (status.id, status.retry_after, status.final) == ("a1", 2, False)


def test_ingested_bytes_arrive_as_they_are_with_an_idempotency_key(
    service: Service, groundwork: Groundwork, tmp_path: Path
) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(b"\x00\xff")
    service.on(
        "POST /api/collections/c/ingestions", problem(503, "storage_unavailable", retry_after=1), ACCEPTED
    )
    documents = [NewDocument("a.bin", file), NewDocument("b.txt", "häh", tags=["t"], readers=["user:ada"])]
    assert [job.id for job in groundwork.ingest("c", documents)] == ["a1"]
    first, second = service.seen
    assert len(first.headers["idempotency-key"]) == 32
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    one, two = second.json()["documents"]
    assert base64.b64decode(one["content_base64"]) == b"\x00\xff"
    assert set(one) == {"id", "content_base64"}
    assert base64.b64decode(two["content_base64"]).decode() == "häh"
    assert (two["tags"], two["readers"]) == (["t"], ["user:ada"])


@pytest.mark.parametrize(("number", "requests"), [(BATCH_DOCUMENTS, 1), (BATCH_DOCUMENTS + 1, 2)])
def test_batches_are_bounded_by_number(
    service: Service, groundwork: Groundwork, number: int, requests: int
) -> None:
    service.on("POST /api/collections/c/ingestions", ACCEPTED)
    jobs = groundwork.ingest("c", (NewDocument(f"{i}.txt", "x") for i in range(number)))
    assert len(jobs) == len(service.seen) == requests
    ids = [one["id"] for seen in service.seen for one in seen.json()["documents"]]
    assert ids == [f"{i}.txt" for i in range(number)]


@pytest.mark.parametrize(("last", "requests"), [(BATCH_BYTES // 2, 1), (BATCH_BYTES // 2 + 1, 2)])
def test_batches_are_bounded_by_bytes(
    service: Service, groundwork: Groundwork, last: int, requests: int
) -> None:
    service.on("POST /api/collections/c/ingestions", ACCEPTED)
    groundwork.ingest("c", [NewDocument("a", b"a" * (BATCH_BYTES // 2)), NewDocument("b", b"b" * last)])
    assert len(service.seen) == requests


def test_a_document_larger_than_a_batch_is_sent_raw(service: Service, groundwork: Groundwork) -> None:
    service.on("PUT /api/collections/c/documents/big", ACCEPTED)
    groundwork.ingest("c", [NewDocument("big", b"a" * (BATCH_BYTES + 1))])
    assert len(service.seen[0].body) == BATCH_BYTES + 1


def test_documents_are_listed_over_all_pages(service: Service, groundwork: Groundwork) -> None:
    record = {
        "id": "a.pdf",
        "state": "failed",
        "pages_without_text": [2],
        "tags": ["t"],
        "error": {"code": "no_text", "message": "Pages without text.", "retryable": False},
    }
    service.on(
        "GET /api/collections/c/documents",
        Scripted(body={"items": [record], "next": "a.pdf"}),
        Scripted(body={"items": [{"id": "b.md", "state": "indexed", "visible_version": 3}], "next": None}),
    )
    first, second = groundwork.documents("c")
    assert first.error is not None
    assert (first.error.code, first.pages_without_text, first.visible_version) == ("no_text", (2,), None)
    assert second.visible_version == 3
    assert [seen.target.partition("?")[2] for seen in service.seen] == ["", "after=a.pdf"]


def test_a_version_s_text_is_asked_for_by_number(service: Service, groundwork: Groundwork) -> None:
    service.on(
        "GET /api/collections/c/documents/a.md", Scripted(body={"id": "a.md", "version": 2, "text": "Hi"})
    )
    assert groundwork.document_text("c", "a.md", version=2).text == "Hi"
    assert service.seen[0].target.endswith("?view=text&version=2")


def test_collections_given_as_one_text_are_refused(groundwork: Groundwork) -> None:
    with pytest.raises(TypeError, match="list of names"):
        groundwork.ask("Who?", "handbook")
