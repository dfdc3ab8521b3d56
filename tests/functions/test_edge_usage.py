"""Usage and limits over HTTP: counted for whom it was used, shown to whom it may be, limits in force."""

from __future__ import annotations

import csv
import io
from typing import Any

from edge_tenant import Tenant, check_problem

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}


def usage(tenant: Tenant, query: str = "", key: str = "") -> dict[str, Any]:
    answer = tenant.call("GET", f"/api/usage?{query}", key=key)
    assert answer.status == 200, answer.body
    return answer.json


def test_every_call_of_a_model_is_counted_for_its_user_purpose_and_model(tenant: Tenant) -> None:
    collection = tenant.collection()
    assert tenant.put(collection, "a.txt", "The Heron carries forty tonnes.")["state"] == "succeeded"
    tenant.search(collection, "Heron")
    assert tenant.call("POST", "/v1/chat/completions", CHAT).status == 200
    counted = usage(tenant, "by=purpose,model")
    calls = {(row["purpose"], row["model"]): row["calls"] for row in counted["items"]}
    assert calls == {("ingestion", "embedding"): 1, ("query", "embedding"): 1, ("chat", "chat"): 1}
    assert counted["total"]["calls"] == 3
    assert counted["total"]["prompt_tokens"] > 10
    assert counted["total"]["failed"] == 0


def test_a_reader_sees_its_own_use_and_an_operator_the_tenants(tenant: Tenant) -> None:
    reader = tenant.other("ada")
    operator = tenant.other("olga", roles=("operator",))
    for key in (reader, tenant.key):
        assert tenant.call("POST", "/v1/chat/completions", CHAT, key=key).status == 200
    assert [row["user"] for row in usage(tenant, "by=user", key=reader)["items"]] == ["ada"]
    assert usage(tenant, "user=ada", key=reader)["total"]["calls"] == 1
    assert usage(tenant, key=operator)["total"]["calls"] == 2
    assert usage(tenant, "user=ada", key=operator)["total"]["calls"] == 1
    check_problem(tenant.call("GET", "/api/usage?user=olga", key=reader), 403, "forbidden")


def test_usage_of_another_tenant_is_not_there(tenant: Tenant, stack: Any) -> None:
    assert tenant.call("POST", "/v1/chat/completions", CHAT).status == 200
    other = stack.new_tenant()
    stranger = Tenant(stack, other, stack.key_for(other))
    assert usage(stranger)["total"]["calls"] == 0
    check_problem(stranger.call("GET", f"/api/limits?tenant={tenant.name}"), 403, "forbidden")


def test_usage_comes_as_csv_where_it_is_asked_for(tenant: Tenant) -> None:
    key = tenant.other("=1+1")
    assert tenant.call("POST", "/v1/chat/completions", CHAT, key=key).status == 200
    asked = tenant.call("GET", "/api/usage?by=user", headers={"Accept": "text/csv"})
    assert asked.headers["content-type"] == "text/csv; charset=utf-8"
    header, row = csv.reader(io.StringIO(asked.body.decode(), newline=""))
    assert header[:2] == ["user", "calls"]
    assert row[:2] == ["'=1+1", "1"]
    named = tenant.call("GET", "/api/usage?by=user&format=csv", headers={"Accept": "application/json"})
    assert named.body == asked.body


def test_what_cannot_be_asked_is_said_by_its_name(tenant: Tenant) -> None:
    for query, parameter in (
        ("by=tenant", "by"),
        ("from=yesterday", "from"),
        ("from=2026-02-30", "from"),
        ("from=2026-03-01&to=2026-02-01", "from"),
        ("from=0001-01-01", "from"),
        ("format=xml", "format"),
    ):
        answer = tenant.call("GET", f"/api/usage?{query}")
        assert check_problem(answer, 400, "invalid_parameter")["parameter"] == parameter


def test_a_tenants_administrator_lowers_its_limits_and_calls_above_them_are_refused(tenant: Tenant) -> None:
    set_by_tenant = tenant.call("PUT", "/api/limits", {"user_requests_per_minute": 6, "completion_tokens": 4})
    assert set_by_tenant.json["in_force"]["user_requests_per_minute"] == 6
    assert tenant.call("POST", "/v1/chat/completions", CHAT).status == 200
    refused = tenant.call("POST", "/v1/chat/completions", CHAT)
    assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 10
    longer = tenant.call("POST", "/v1/chat/completions", {**CHAT, "max_tokens": 5}, key=tenant.other("bob"))
    assert (longer.status, longer.json["error"]["limit"]) == (400, 4)
    assert usage(tenant)["total"]["refused"] == 1


def test_nobody_raises_limits_but_the_platform(tenant: Tenant, stack: Any) -> None:
    before = tenant.call("GET", "/api/limits").json["in_force"]["user_requests_per_minute"]
    raised = tenant.call("PUT", "/api/limits", {"user_requests_per_minute": before * 10})
    assert raised.json["in_force"]["user_requests_per_minute"] == before
    check_problem(tenant.call("PUT", f"/api/limits?tenant={tenant.name}", {}), 403, "forbidden")
    check_problem(tenant.call("PUT", "/api/limits", {}, key=tenant.other("ada")), 403, "forbidden")
    granted = tenant.call(
        "PUT", f"/api/limits?tenant={tenant.name}", {"user_requests_per_minute": before * 2}, key=stack.key
    )
    assert granted.json["in_force"]["user_requests_per_minute"] == before * 2
    assert tenant.call("PUT", "/api/limits", {"job_cost": 0}).status == 400
    assert tenant.call("PUT", "/api/limits", {"requests": 5}).status == 400


def test_a_jobs_status_says_what_it_has_cost(tenant: Tenant) -> None:
    collection = tenant.collection()
    job = tenant.put(collection, "a.txt", "The Heron carries forty tonnes.")
    assert tenant.call("GET", f"/api/jobs/{job['id']}").json["estimated_cost"] == 0.0


def test_an_answer_tells_whether_it_was_given_before_and_a_request_may_refuse_that(tenant: Tenant) -> None:
    collection = tenant.collection()
    tenant.put(collection, "heron.txt", "The Heron carries forty tonnes.")
    messages = [{"role": "user", "content": "What does the Heron carry?"}]
    body = {"collections": [collection], "messages": messages}

    def ask(**headers: str) -> tuple[str, str]:
        answer = tenant.call("POST", "/api/chat", body, headers=headers)
        assert answer.status == 200, answer.body
        return answer.json["cache"], answer.headers["cache-status"]

    assert ask() == ("miss", "groundwork; fwd=miss")
    assert ask() == ("exact", "groundwork; hit")
    assert ask(**{"Cache-Control": "no-store"}) == ("off", "groundwork; fwd=bypass")
    assert ask(**{"Cache-Control": "no-cache"}) == ("miss", "groundwork; fwd=miss")
    rag = {"model": f"rag:{collection}", "messages": messages}
    message = tenant.call("POST", "/v1/chat/completions", rag).json["choices"][0]["message"]
    assert message["cache"] == "exact"
    refused = tenant.call("POST", "/v1/chat/completions", rag, headers={"Cache-Control": "no-store"})
    assert refused.json["choices"][0]["message"]["cache"] == "off"
    assert tenant.call("POST", "/v1/chat/completions", {**rag, "cache": "always"}).status == 400
    assert usage(tenant, "by=purpose")["total"]["answer_hits"] == 2
    tenant.put(collection, "heron.txt", "The Heron carries fifty tonnes.")
    changed = tenant.call("POST", "/api/chat", body).json
    assert (changed["cache"], "fifty" in changed["text"]) == ("miss", True)
