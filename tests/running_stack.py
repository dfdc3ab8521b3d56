"""A started stack as tests use it: raw calls, clients, tenants of their own."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from client import Groundwork
from laptop.stack import Stack

if TYPE_CHECKING:
    from openid_issuer import OpenIdIssuer

JOB_SECONDS = 120


@dataclass
class RunningStack:
    """A started stack; every test takes a tenant of its own, so that tests do not meet."""

    stack: Stack
    openid: OpenIdIssuer | None = None

    @property
    def url(self) -> str:
        return self.stack.url

    @property
    def key(self) -> str:
        return self.stack.key

    @property
    def storage(self) -> str:
        return self.stack.storage

    def new_tenant(self) -> str:
        return f"t-{uuid.uuid4().hex[:12]}"

    def key_for(self, tenant: str, *, roles: tuple[str, ...] = ("administrator",), **who: Any) -> str:
        """A new key for ``tenant``, made through the API."""
        body = {"tenant": tenant, "user": who.pop("user", "tester"), "roles": roles, **who}
        status, document = self.call("POST", "/api/keys", body, key=self.key)
        assert status == 201, document
        return document["key"]

    def client(self, key: str | None = None) -> Groundwork:
        return Groundwork(self.url, key or self.key)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One raw request; its status and JSON body. ``key=None`` sends none, the default the stack's."""
        status, _, document = self.exchange(method, path, body, key=key, headers=headers)
        return status, document

    def exchange(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], Any]:
        """As `call`, with the response's headers, whose names are in lower case."""
        sent = {**(headers or {})}
        if key is not None:
            sent["Authorization"] = f"Bearer {key or self.key}"
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, _lower(response.headers), _json(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _lower(error.headers), _json(error.read())

    def finished(self, job: str, *, key: str = "", seconds: float = JOB_SECONDS) -> dict[str, Any]:
        """The status of a job once it has ended."""
        deadline = time.monotonic() + seconds
        while True:
            status, document = self.call("GET", f"/api/jobs/{job}", key=key)
            assert status == 200, document
            if document["state"] not in ("queued", "running"):
                return document
            assert time.monotonic() < deadline, f"the job is still {document['state']}: {document}"
            time.sleep(0.1)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data
