"""A tenant of a stack as the tests of the OpenAI-compatible surface see it."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass
from typing import Any

PUMP = """# Heron pumps

The Heron 42 S weighs 18.5 kilograms. It is delivered in a wooden crate.

The Heron 42 S needs a supply of 230 volts. Its motor is sealed with the gasket GX-77.
"""
SECRET = "# Payroll\n\nThe salary of the captain of the Albatros is 9,400 crowns a month.\n"


@dataclass(frozen=True)
class Tenant:
    """A tenant with the collection ``pumps``, and the keys of two of its users."""

    stack: Any
    name: str
    key: str
    reader_key: str

    @property
    def url(self) -> str:
        return self.stack.url

    @property
    def v1(self) -> str:
        return f"{self.stack.url}/v1"

    def post(self, path: str, body: Any, **more: Any) -> tuple[int, dict[str, str], Any]:
        return self.stack.exchange("POST", path, body, key=more.pop("key", self.key), **more)


def new_tenant(stack: Any) -> Tenant:
    name = stack.new_tenant()
    key = stack.key_for(name)
    tenant = Tenant(stack, name, key, stack.key_for(name, roles=("reader",), user="rita"))
    assert stack.call("PUT", "/api/collections/pumps", {}, key=key)[0] == 201
    documents = [
        {"id": "heron.md", "content": PUMP},
        {"id": "secret.md", "content": SECRET, "readers": ["user:tester"]},
    ]
    status, job = stack.call("POST", "/api/collections/pumps/ingestions", {"documents": documents}, key=key)
    assert status == 202, job
    assert stack.finished(job["id"], key=key)["state"] == "succeeded"
    return tenant


def read_lines(response: Any) -> list[bytes]:
    """The data of each server-sent event of a response."""
    return [line[6:].rstrip(b"\n") for line in response if line.startswith(b"data: ")]


def open_stream(tenant: Tenant, path: str, body: bytes) -> Any:
    """A raw response, to be read by line."""
    headers = {"Authorization": f"Bearer {tenant.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(tenant.url + path, data=body, headers=headers)
    return urllib.request.urlopen(request, timeout=60)
