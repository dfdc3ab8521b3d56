"""The OpenAPI contract, made from the table of routes and the models of their bodies."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from functions.http import ROUTES, RouteEntry, problem
from shared.errors import GroundworkError

_PARAMETER = re.compile(r"\{(\*?)(\w+)[^}]*\}")
_DESCRIPTIONS = {200: "Done", 201: "Made", 202: "Accepted: the work goes on as a job", 409: "Conflict"}
# As the draft "The Idempotency-Key HTTP Header Field" of the IETF has it.
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes the call repeatable: the same key with the same request gives the same result",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
}
_PROBLEM = {
    "description": "Problem details (RFC 9457) with a stable `code`",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_OPENAI_ERROR = {
    "description": "An error as OpenAI's API gives it, with the same stable `code`",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/OpenAIError"}}},
}


@cache
def contract() -> dict[str, Any]:
    """The OpenAPI 3.1 document of all registered routes."""
    from pydantic.json_schema import models_json_schema

    entries = [entry for entry in ROUTES if not entry.path.startswith("/{ignored")]
    bodies = list(dict.fromkeys(entry.body for entry in entries if entry.body is not None))
    refs, definitions = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for entry in entries:
        path = _PARAMETER.sub(r"{\2}", entry.path)
        schema = refs[(entry.body, "validation")] if entry.body is not None else None
        paths.setdefault(path, {})[entry.method.lower()] = _operation(entry, schema)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Groundwork",
            "version": "0.1.0",
            "description": "Documents in as events, dependable jobs, questions with cited answers.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                **definitions.get("$defs", {}),
                "Problem": _problem_schema(),
                "OpenAIError": _openai_schema(),
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}],
    }


def _operation(entry: RouteEntry, schema: Any) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": entry.summary,
        "operationId": _operation_id(entry),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for _, name in _PARAMETER.findall(entry.path)
        ],
        "responses": {
            str(status): {"description": _DESCRIPTIONS.get(status, "")} for status in entry.statuses
        },
    }
    if entry.keyed:
        operation["parameters"].append(_IDEMPOTENCY_KEY)
        operation["responses"]["422"] = {"description": "The Idempotency-Key came with another request"}
    if {200, 202} <= set(entry.statuses):
        operation["parameters"].append(_PREFER)
    operation["responses"]["default"] = _PROBLEM if entry.errors is problem else _OPENAI_ERROR
    if entry.role is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs the role `{entry.role.value}`."
    if schema is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


# What answers now or later lets its caller choose.
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async` for a job at once; with `wait=N`, the answer itself where it comes "
    "within N seconds (RFC 7240).",
    "schema": {"type": "string", "examples": ["respond-async", "respond-async, wait=10"]},
}


def _operation_id(entry: RouteEntry) -> str:
    words = re.sub(r"[^a-zA-Z]+", "_", _PARAMETER.sub(r"by_\2", entry.path)).strip("_")
    return f"{entry.method.lower()}_{words}"


def _problem_schema() -> dict[str, Any]:
    codes = sorted({error.code for error in _all_errors(GroundworkError)})
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "retryable", "correlation_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "enum": codes},
            "retryable": {"type": "boolean"},
            "retry_after": {"type": "number", "description": "Seconds to wait before another try"},
            "correlation_id": {"type": "string"},
        },
    }


def _openai_schema() -> dict[str, Any]:
    text = {"type": "string"}
    members = {"message": text, "type": text, "code": text, "param": {"type": ["string", "null"]}}
    error = {"type": "object", "required": list(members), "properties": members}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _all_errors(error: type[GroundworkError]) -> list[type[GroundworkError]]:
    return [error, *(found for child in error.__subclasses__() for found in _all_errors(child))]
