"""Documents by URL: fetched as the job runs, with the server's faults and tricks kept to their document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from edge_tenant import Tenant, check_problem
from receiver import Received, Receiver, Reply

pytestmark = pytest.mark.security("API7", "API10")
SECRET = "sv=2025&spr=https&signature=not-to-be-told"


@pytest.fixture
def server() -> Iterator[Receiver]:
    with closing(Receiver()) as server:
        yield server


def document(server: Receiver, name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "url": f"{server.url}/{name}?{SECRET}", **more}


def items(tenant: Tenant, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    result = tenant.call("GET", f"/api/jobs/{job['id']}/result").json
    return {item["id"]: item for item in result["items"]}


def test_a_document_is_fetched_and_found_and_its_address_is_not_told(
    tenant: Tenant, server: Receiver
) -> None:
    server.reply = lambda _: Reply(body=b"# Tide table\n\nHigh water is at noon.")
    collection = tenant.collection()
    job = tenant.ingest(collection, [document(server, "tides.md", tags=["harbour"])])
    assert job["state"] == "succeeded"
    assert tenant.found(collection, "When is high water?") == ["tides.md"]
    record = tenant.record(collection, "tides.md")
    assert record.json["source"] == f"{server.url}/tides.md"
    assert record.json["tags"] == ["harbour"]
    shown = [record.body, json.dumps(job).encode(), tenant.call("GET", f"/api/jobs/{job['id']}/result").body]
    assert not any(b"not-to-be-told" in body for body in shown)


def test_the_same_content_again_costs_nothing(tenant: Tenant, server: Receiver) -> None:
    server.reply = lambda _: Reply(body=b"High water is at noon.")
    collection = tenant.collection()
    for state in ("indexed", "unchanged"):
        job = tenant.ingest(collection, [document(server, "tides.txt")])
        assert items(tenant, job)["tides.txt"]["state"] == state
    assert tenant.record(collection, "tides.txt").json["visible_version"] == 1


def test_a_server_that_is_busy_is_asked_again_and_one_that_has_answered_is_not(
    tenant: Tenant, server: Receiver
) -> None:
    def reply(request: Received) -> Reply:
        busy = "busy" in request.path and sum("busy" in each.path for each in server.received) < 3
        return Reply(503, headers={"Retry-After": "1"}) if busy else Reply(body=b"Some text.")

    server.reply = reply
    job = tenant.ingest(tenant.collection(), [document(server, "busy.txt"), document(server, "ready.txt")])
    assert job["counts"] == {"indexed": 2}
    asked = [request.path.partition("?")[0] for request in server.received]
    assert sorted(asked) == ["/busy.txt"] * 3 + ["/ready.txt"]


def test_what_a_server_does_not_give_fails_alone_and_can_be_retried(tenant: Tenant, server: Receiver) -> None:
    there = False
    server.reply = lambda request: (
        Reply(404) if "gone" in request.path and not there else Reply(body=b"Text.")
    )
    collection = tenant.collection()
    job = tenant.ingest(collection, [document(server, "gone.txt"), document(server, "here.txt")])
    assert (job["state"], job["counts"]) == ("partial", {"failed": 1, "indexed": 1})
    assert items(tenant, job)["gone.txt"]["code"] == "source_refused"
    there = True
    assert tenant.call("POST", f"/api/jobs/{job['id']}/retry").status == 202
    assert tenant.finished(job["id"])["counts"] == {"indexed": 1}
    assert tenant.record(collection, "gone.txt").json["state"] == "indexed"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(302, headers={"Location": "http://169.254.169.254/metadata/instance"}), "url_refused"),
        (Reply(302, headers={"Location": "http://127.0.0.1:7071/health/live"}), "url_refused"),
        (Reply(302, headers={"Location": "file:///etc/passwd"}), "url_refused"),
        (Reply(headers={"Content-Length": str(60 * 1024 * 1024)}), "payload_too_large"),
        (Reply(body=b"\x89PNG\r\n\x1a\n", headers={"Content-Type": "image/png"}), "unsupported_media_type"),
        (Reply(body=b"\x1f\x8b\x08", headers={"Content-Encoding": "gzip"}), "source_refused"),
        (Reply(body=b"   "), "empty_document"),
    ],
)
def test_a_trick_of_a_server_is_that_documents_failure(
    tenant: Tenant, server: Receiver, reply: Reply, code: str
) -> None:
    server.reply = lambda _: reply
    job = tenant.ingest(tenant.collection(), [{"id": "document", "url": f"{server.url}/"}])
    assert (job["state"], job["errors"][0]["code"]) == ("failed", code)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://169.254.169.254/", "file:///etc/passwd", "http://[::1]/", "ftp://a.b/"],
)
def test_a_forbidden_address_is_refused_and_nothing_is_stored(tenant: Tenant, url: str) -> None:
    collection = tenant.collection()
    before = tenant.stored()
    body = {"documents": [{"id": "a.txt", "content": "A."}, {"id": "b.txt", "url": url}]}
    answer = tenant.call("POST", f"/api/collections/{collection}/ingestions", body)
    check_problem(answer, 400, "url_refused")
    assert tenant.stored() == before


@pytest.mark.parametrize("given", [{}, {"content": "a", "url": "https://example.org/"}])
def test_a_document_comes_in_one_way(shared_tenant: Tenant, given: dict[str, str]) -> None:
    collection = shared_tenant.collection()
    body = {"documents": [{"id": "a.txt", **given}]}
    answer = shared_tenant.call("POST", f"/api/collections/{collection}/ingestions", body)
    check_problem(answer, 400, "invalid_request")
