"""Deployments that cannot do everything a chat may need."""

from __future__ import annotations

import pytest

from shared.errors import InvalidParameter, ModelsUnavailable

from .scripted import BODY, CALL, Bench, Script, catalogue_text
from .virtual_time import run

NEEDING = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}},
    "messages": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    },
}


@pytest.mark.parametrize("member", list(NEEDING))
def test_a_request_goes_only_to_deployments_that_can_do_what_it_needs(member: str) -> None:
    async def scenario() -> None:
        body = BODY | NEEDING[member]
        bench = Bench(catalogue_text("a", "b", a="capabilities = []"), a=Script(), b=Script())
        found = [(await bench.gateway.complete("m", body, call=CALL)).deployment for _ in range(10)]
        assert set(found) == {"b"}
        assert {await bench.complete() for _ in range(20)} == {"a", "b"}
        bench = Bench(catalogue_text("a", a="capabilities = []"), a=Script())
        with pytest.raises(InvalidParameter) as raised:
            await bench.gateway.complete("m", body, call=CALL)
        assert raised.value.extra["parameter"] == member
        assert bench.wire.sent == []

    run(scenario())


def test_what_needs_a_capability_fails_over_only_to_who_has_it() -> None:
    async def scenario() -> None:
        text = catalogue_text("a", "b", a='capabilities = ["images"]', b='capabilities = ["tools"]')
        bench = Bench(text, a=Script(), b=Script(status=500))
        for _ in range(3):
            with pytest.raises(ModelsUnavailable):
                await bench.gateway.complete("m", BODY | NEEDING["tools"], call=CALL)
        assert bench.wire.hits("a") == 0

    run(scenario())
