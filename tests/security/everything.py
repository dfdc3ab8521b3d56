"""A tenant with one of everything, and how each route is asked about it.

The sweeps of this folder walk over the table of routes. A new route fails them until it is told here what
its parameters are called, and in `NEEDS` which role it needs where that is not reader.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from edge_tenant import Answer, Tenant

import function_app  # noqa: F401 - fills ROUTES
from functions.http import ROUTES, RouteEntry
from shared.identity import Role

GUARDED = [entry for entry in ROUTES if entry.role is not None]
OPEN = {
    "GET /",
    "GET /console/{*file}",
    "GET /health/live",
    "GET /health/ready",
    "GET /openapi.json",
}
# Who may do what: every other route is for readers.
NEEDS = {
    "PUT /api/collections/{collection}": Role.CONTRIBUTOR,
    "DELETE /api/collections/{collection}": Role.ADMINISTRATOR,
    "PUT /api/collections/{collection}/documents/{*document}": Role.CONTRIBUTOR,
    "DELETE /api/collections/{collection}/documents/{*document}": Role.CONTRIBUTOR,
    "POST /api/collections/{collection}/ingestions": Role.CONTRIBUTOR,
    "POST /api/jobs/{job}/cancel": Role.CONTRIBUTOR,
    "POST /api/jobs/{job}/retry": Role.CONTRIBUTOR,
    "GET /api/keys": Role.ADMINISTRATOR,
    "POST /api/keys": Role.ADMINISTRATOR,
    "GET /api/keys/{key}": Role.ADMINISTRATOR,
    "POST /api/keys/{key}/rotate": Role.ADMINISTRATOR,
    "DELETE /api/keys/{key}": Role.ADMINISTRATOR,
    "POST /api/collections/{collection}/reindex": Role.ADMINISTRATOR,
    "POST /api/collections/{collection}/rollback": Role.ADMINISTRATOR,
    "DELETE /api/collections/{collection}/layouts/{layout}": Role.ADMINISTRATOR,
    "PUT /api/collections/{collection}/golden-set": Role.CONTRIBUTOR,
    "GET /api/collections/{collection}/golden-set": Role.CONTRIBUTOR,
    "POST /api/erasures": Role.ADMINISTRATOR,
    "GET /api/erasures/{erasure}": Role.ADMINISTRATOR,
    "POST /api/reconciliations": Role.OPERATOR,
    "GET /api/audit": Role.ADMINISTRATOR,
    "PUT /api/limits": Role.ADMINISTRATOR,
    "POST /api/webhooks": Role.ADMINISTRATOR,
    "GET /api/webhooks": Role.ADMINISTRATOR,
    "GET /api/webhooks/{webhook}": Role.ADMINISTRATOR,
    "DELETE /api/webhooks/{webhook}": Role.ADMINISTRATOR,
    "POST /api/webhooks/{webhook}/rotate": Role.ADMINISTRATOR,
    "POST /api/webhooks/{webhook}/enable": Role.ADMINISTRATOR,
}
SECRET = "The vault code of the lighthouse is seven."
QUESTION = [{"role": "user", "content": "What is the vault code of the lighthouse?"}]
# An address that the stack of the tests may ask; nobody listens there.
HOOK = "http://127.0.0.2:9/hook"
PARAMETER = re.compile(r"\{\*?(\w+)[^}]*\}")

Names = dict[str, list[str]]


def name_of(entry: RouteEntry) -> str:
    path = "/" if entry.path.startswith("/{ignored") else entry.path
    return f"{entry.method} {path}"


def make_everything(tenant: Tenant) -> Names:
    """Make one of each kind of thing; the ids of each, by the parameters that name them in paths."""
    collection = tenant.collection("vault")
    ingested = tenant.put(collection, "code.txt", SECRET)
    assert ingested["state"] == "succeeded"
    failed = tenant.put(collection, "empty.txt", b"")  # there is something to retry
    asked = {"collections": [collection], "messages": QUESTION}
    answered = tenant.call("POST", "/api/chat", asked, headers={"Prefer": "respond-async"}).json["id"]
    tenant.finished(answered)
    key = tenant.call("POST", "/api/keys", {"user": "someone"}).json["id"]
    hook = tenant.call("POST", "/api/webhooks", {"url": HOOK}).json["id"]
    asked = {"model": f"rag:{collection}", "input": QUESTION[0]["content"], "background": True}
    response = tenant.call("POST", "/v1/responses", asked).json["id"]
    return {
        "webhook": [hook],
        "response": [response],
        "collection": [collection],
        "document": ["code.txt", "empty.txt"],
        "job": [failed["id"], ingested["id"], answered],
        "key": [key],
        "file_id": [file := _uploaded(tenant)],
        "batch_id": [_started(tenant, file)],
        "model": [f"rag:{collection}"],
        "deployment": [f"rag:{collection}"],
        "layout": ["1"],
        "erasure": ["0" * 32],
    }


def _uploaded(tenant: Tenant) -> str:
    """A file of the owner's that holds the secret; its id."""
    parts = {'name="purpose"': "batch", 'name="file"; filename="vault.jsonl"': SECRET}
    form = "".join(f"--x\r\nContent-Disposition: form-data; {n}\r\n\r\n{v}\r\n" for n, v in parts.items())
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = tenant.call("POST", "/v1/files", f"{form}--x--\r\n".encode(), headers=headers)
    assert answer.status == 200, answer.body
    return answer.json["id"]


def _started(tenant: Tenant, file: str) -> str:
    """A batch of the owner's, which has ended; its id."""
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = tenant.call("POST", "/v1/batches", asked)
    assert answer.status == 200, answer.body
    tenant.finished(answer.json["job_id"])
    return answer.json["id"]


def paths_of(entry: RouteEntry, names: Names) -> Iterator[tuple[str, dict[str, str]]]:
    """The route's path with every combination of ids, and these ids."""
    parameters = PARAMETER.findall(entry.path)
    unknown = [parameter for parameter in parameters if parameter not in names]
    assert not unknown, f"{name_of(entry)}: tests/security/everything.py makes no {unknown}"
    for ids in itertools.product(*(names[parameter] for parameter in parameters)):
        chosen = dict(zip(parameters, ids, strict=True))
        yield PARAMETER.sub(lambda parameter, chosen=chosen: chosen[parameter[1]], entry.path), chosen


def body_of(entry: RouteEntry, names: Names) -> Any:
    """A body that the route takes, which names what belongs to the owner."""
    if entry.body is None:
        return b"Some bytes." if entry.method == "PUT" else None
    collection = names["collection"][0]
    known = {
        "WebhookBody": {"url": HOOK},
        "LimitsBody": {"documents": 1000},
        "SearchBody": {"query": "vault code"},
        "ChatBody": {"collections": [collection], "messages": QUESTION},
        "CollectionSettings": {"description": "changed"},
        "KeyBody": {"user": "someone"},
        "IngestionRequest": {"documents": [{"id": names["document"][0], "content": "Changed."}]},
        "ChatCompletionBody": {"model": names["model"][0], "messages": QUESTION},
        "EmbeddingsBody": {"model": names["model"][0], "input": "text"},
        "BatchBody": {
            "input_file_id": names["file_id"][0],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
        "ResponsesBody": {"model": names["model"][0], "input": QUESTION[0]["content"]},
    }
    return known.get(entry.body.__name__) or {
        name: _example(schema)
        for name, schema in entry.body.model_json_schema().get("properties", {}).items()
        if name in entry.body.model_json_schema().get("required", ())
    }


def _example(schema: dict[str, Any]) -> Any:
    """Some value of a member's type, for a body that nothing is known of."""
    kind = schema.get("type")
    if "enum" in schema:
        return schema["enum"][0]
    return {"string": "text", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}.get(
        str(kind), "text"
    )


def refused(answer: Answer, status: int) -> None:
    """Refused with ``status`` in the shape of its surface: problem details, or OpenAI's errors."""
    assert answer.status == status, (answer.status, answer.body[:300])
    document = answer.json
    assert "error" in document or document["status"] == status
    assert SECRET.encode() not in answer.body
