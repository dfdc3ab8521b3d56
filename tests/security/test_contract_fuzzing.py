"""Requests made from the contract by schemathesis: no 5xx, no status that the contract does not name."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

import function_app
from functions.openapi import contract

assert function_app.app, "the routes are registered when the app is imported"
SCHEMA = schemathesis.openapi.from_dict(contract())
# A probe may say that it cannot serve, which is a 503 by its contract.
PROBES = ("/health/ready",)
EXAMPLES = 3

pytestmark = [pytest.mark.security("API4", "API8", "API9"), pytest.mark.timeout(600)]
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def key(stack) -> str:
    """The key of the administrator of a tenant that nothing else uses."""
    return stack.key_for(stack.new_tenant())


@SCHEMA.parametrize()
@fuzzed
def test_a_request_with_a_key_gets_what_the_contract_says(case: Any, stack: Any, key: str) -> None:
    response = case.call(base_url=stack.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    if case.path not in PROBES:
        case.validate_response(
            response,
            checks=(not_a_server_error, status_code_conformance, response_schema_conformance),
        )


@SCHEMA.parametrize()
@fuzzed
def test_a_request_without_a_key_is_refused_unless_the_contract_opens_it(case: Any, stack: Any) -> None:
    response = case.call(base_url=stack.url, headers={"Authorization": ""}, timeout=60)
    if case.method != case.operation.method.upper():
        assert response.status_code in (401, 404, 405)  # a method that the path does not have
    elif case.operation.definition.raw.get("security") == []:
        assert response.status_code not in (401, 500)
    else:
        assert response.status_code == 401, response.text[:300]
