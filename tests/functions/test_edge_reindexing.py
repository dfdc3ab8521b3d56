"""Reindexing through the API while others search: nothing fails, nothing mixes, one call takes it back."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from edge_tenant import Tenant, check_problem

from samples.build import DOCUMENTS, ROOT

QUERY_PAUSE_SECONDS = 0.01
Span = tuple[str, int, int, str]


def sample_documents() -> list[dict[str, str]]:
    return [
        {
            "id": path.relative_to(DOCUMENTS).as_posix(),
            "content_base64": base64.b64encode(path.read_bytes()).decode(),
        }
        for path in sorted(DOCUMENTS.rglob("*"))
        if path.is_file()
    ]


def golden(documents: list[dict[str, str]], most: int) -> list[dict[str, Any]]:
    names = {document["id"] for document in documents}
    rows = (json.loads(line) for line in (ROOT / "golden.jsonl").read_text("utf-8").splitlines())
    found = [row for row in rows if row["document"] in names]
    return [{"question": row["question"], "documents": [row["document"]]} for row in found[:most]]


def layouts(tenant: Tenant, collection: str) -> dict[int, str]:
    document = tenant.call("GET", f"/api/collections/{collection}").json
    return {layout["layout"]: layout["state"] for layout in document["layouts"]}


def reindex(tenant: Tenant, collection: str, **wish: Any) -> str:
    answer = tenant.call("POST", f"/api/collections/{collection}/reindex", wish)
    assert answer.status == 202, answer.body
    return answer.json["id"]


class Searches:
    """Searches that go on in the background; what each of them found."""

    def __init__(self, tenant: Tenant, collection: str) -> None:
        self._tenant, self._collection = tenant, collection
        self._stop = threading.Event()
        self.found: list[set[Span]] = []
        self.failures: list[Any] = []

    @contextmanager
    def going_on(self) -> Iterator[Searches]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        path = f"/api/collections/{self._collection}/search"
        number = 0
        while not self._stop.is_set():
            number += 1
            mode = "hybrid" if number % 4 == 0 else "keyword"
            body = {"query": "notice period travel dome shutter", "top": 20, "mode": mode}
            try:
                answer = self._tenant.call("POST", path, body)
                if answer.status != 200 or not answer.json["hits"]:
                    self.failures.append((answer.status, answer.body[:300]))
                else:
                    self.found.append({span(hit) for hit in answer.json["hits"]})
            except Exception as error:
                self.failures.append(repr(error))
            time.sleep(QUERY_PAUSE_SECONDS)


def span(hit: dict[str, Any]) -> Span:
    return hit["document"], hit["version"], hit["start"], hit["text"]


def wait_for_more(searches: Searches, count: int = 5) -> None:
    enough = len(searches.found) + count
    deadline = time.monotonic() + 60
    while len(searches.found) < enough and not searches.failures:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_sample_collection_is_reindexed_and_rolled_back_under_constant_searches(tenant: Tenant):
    documents = sample_documents()
    collection = tenant.collection()
    assert tenant.ingest(collection, documents)["state"] == "succeeded"
    old = set(tenant.chunks(collection))
    questions = golden(documents, 12)
    with Searches(tenant, collection).going_on() as searches:
        wait_for_more(searches)
        job = tenant.finished(reindex(tenant, collection, chunk_characters=400, golden=questions))
        assert job["state"] == "succeeded", job
        assert job["counts"]["indexed"] == len(documents)
        wait_for_more(searches)
        swapped = len(searches.found)
        new = set(tenant.chunks(collection))
        answer = tenant.call("POST", f"/api/collections/{collection}/rollback", {})
        assert answer.status == 200
        wait_for_more(searches)
        assert searches.found[-1] <= old
    assert searches.failures == []
    assert len(new) > len(old)
    mixed = [found for found in searches.found if not (found <= old or found <= new)]
    assert mixed == []
    assert any(not found <= old for found in searches.found[:swapped]), "no search saw the new layout"
    assert set(tenant.chunks(collection)) == old
    assert layouts(tenant, collection) == {1: "serving", 2: "kept"}
    result = tenant.call("GET", f"/api/jobs/{job['id']}/result").json
    assert (result["layout"], result["replaced"], result["swapped"]) == (2, 1, True)
    for figures in (result["comparison"]["old"], result["comparison"]["new"]):
        assert figures["questions"] == len(questions)
        assert 0.5 < figures["ndcg"] <= 1
    # A document lies in one version and one layout for whoever asks, in the new layout as well.
    forward = tenant.call("POST", f"/api/collections/{collection}/rollback", {"layout": 2})
    assert forward.status == 200
    assert set(tenant.chunks(collection)) == new


def test_what_comes_in_changes_or_goes_meanwhile_is_right_in_both_layouts(tenant: Tenant):
    collection = tenant.collection()
    first = [{"id": f"{n}.txt", "content": f"Crate {n} of salt. " * 60} for n in range(30)]
    assert tenant.ingest(collection, first)["counts"] == {"indexed": 30}
    job = reindex(tenant, collection, chunk_characters=300)
    changed = [{"id": f"{n}.txt", "content": f"Barrel {n} of oil. " * 60} for n in range(10)]
    added = [{"id": f"new-{n}.txt", "content": f"Sack {n} of rye. " * 60} for n in range(5)]
    path = f"/api/collections/{collection}/ingestions"
    ingestion = tenant.call("POST", path, {"documents": changed + added}).json["id"]
    deletions = [
        tenant.call("DELETE", f"/api/collections/{collection}/documents/{n}.txt").json["id"]
        for n in range(20, 23)
    ]
    for each in (job, ingestion, *deletions):
        assert tenant.finished(each)["state"] == "succeeded", each
    assert layouts(tenant, collection) == {1: "kept", 2: "serving"}
    tenant.put(collection, "late.txt", "Cask 1 of wine. " * 60)

    expected = {
        **{f"{n}.txt": "Barrel" if n < 10 else "Crate" for n in range(30) if not 20 <= n < 23},
        **{f"new-{n}.txt": "Sack" for n in range(5)},
        "late.txt": "Cask",
    }
    for layout in (2, 1, 2):
        tenant.call("POST", f"/api/collections/{collection}/rollback", {"layout": layout})
        seen: dict[str, list[str]] = {}
        for document, _, _, text in sorted(tenant.chunks(collection)):
            seen.setdefault(document, []).append(text)
        assert {name: texts[0].split()[0] for name, texts in seen.items()} == expected
        for name, texts in seen.items():
            assert " ".join(texts).count(expected[name]) == 60, (layout, name)
        count = tenant.search(collection, "salt", count=True)["count"]
        assert count == sum(map(len, seen.values())), "chunks of other versions are left"


def test_a_layout_that_is_not_good_enough_does_not_serve(tenant: Tenant):
    collection = tenant.collection()
    tenant.put(collection, "a.txt", "The lighthouse keeper winds the clock on Sundays.")
    questions = [{"question": "Who winds the clock?", "documents": ["not-there.txt"]}]
    path = f"/api/collections/{collection}/golden-set"
    assert tenant.call("PUT", path, {"questions": questions}).json == {"questions": 1}
    assert tenant.call("GET", path).json == {"questions": questions}
    job = tenant.finished(reindex(tenant, collection, chunk_characters=200, minimum={"ndcg": 0.5}))
    assert (job["state"], job["errors"][0]["code"]) == ("failed", "below_minimum")
    assert layouts(tenant, collection) == {1: "serving", 2: "kept"}
    result = tenant.call("GET", f"/api/jobs/{job['id']}/result").json
    assert (result["swapped"], result["comparison"]["new"]["ndcg"]) == (False, 0)
    assert tenant.call("DELETE", f"/api/collections/{collection}/layouts/2").status == 200
    answer = tenant.call("POST", f"/api/collections/{collection}/rollback", {"layout": 2})
    check_problem(answer, 409, "conflict")


def test_a_cancelled_reindexing_leaves_what_was(tenant: Tenant):
    collection = tenant.collection()
    documents = [{"id": f"{n}.txt", "content": f"Crate {n} of salt. " * 60} for n in range(25)]
    tenant.ingest(collection, documents)
    before = set(tenant.chunks(collection))
    job = reindex(tenant, collection, chunk_characters=300)
    second = tenant.call("POST", f"/api/collections/{collection}/reindex", {})
    assert second.status in (202, 409)  # the first may not have named its layout yet
    assert tenant.call("POST", f"/api/jobs/{job}/cancel").status == 202
    assert tenant.finished(job)["state"] == "cancelled"
    assert set(tenant.chunks(collection)) == before
    if second.status == 202:
        tenant.finished(second.json["id"])


def test_how_long_a_document_took_to_be_found_is_shown(tenant: Tenant):
    collection = tenant.collection()
    path = f"/api/collections/{collection}"
    nothing = {"documents": 0, "p50_seconds": None, "p95_seconds": None}
    assert tenant.call("GET", path).json["freshness"] == nothing
    tenant.put(collection, "empty.txt", b"")
    tenant.put(collection, "a.txt", "Crates of salt.")
    record = tenant.record(collection, "a.txt").json
    assert 0 < record["freshness_seconds"] < 120
    assert tenant.record(collection, "empty.txt").json["freshness_seconds"] is None
    shown = tenant.call("GET", path).json["freshness"]
    assert shown["documents"] == 1
    assert shown["p50_seconds"] == shown["p95_seconds"] == record["freshness_seconds"]


@pytest.mark.parametrize(
    "wish",
    [
        {"chunk_characters": 10},
        {"embedding_model": "chat"},
        {"embedding_model": "nothing"},
        {"keep_seconds": -1},
        {"minimum": {"ndcg": 2}},
        {"minimum": {"speed": 1}},
        {"golden": [{"question": "Who?", "documents": []}]},
        {"layouts": []},
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_at_once(shared_tenant: Tenant, wish: dict[str, Any]):
    path = "/api/collections/there"
    shared_tenant.call("PUT", path, {})
    before = shared_tenant.jobs()
    answer = shared_tenant.call("POST", f"{path}/reindex", wish)
    assert answer.status == 400, answer.body
    assert shared_tenant.jobs() == before
    check_problem(shared_tenant.call("POST", f"{path}/rollback", {}), 409, "conflict")
    check_problem(shared_tenant.call("DELETE", f"{path}/layouts/1"), 409, "conflict")
    check_problem(shared_tenant.call("DELETE", f"{path}/layouts/9"), 404, "not_found")
