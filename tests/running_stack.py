"""A started stack as tests use it: raw calls, clients, tenants of their own."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from azure.data.tables import TableServiceClient

from client import Groundwork
from laptop.stack import ACCOUNT_KEY, Stack

if TYPE_CHECKING:
    from openid_issuer import OpenIdIssuer

JOB_SECONDS = 120
# What no response, log or row may hold: Durable's own addresses, signed addresses, storage and API keys.
GIVEN_AWAY = re.compile(rb"/runtime/webhooks|[?&](?:code|sig)=|AccountKey=|" + ACCOUNT_KEY.encode())
API_KEY = re.compile(rb"gw_[0-9a-f]{16}_[A-Za-z0-9_-]{43}")
# Members of bodies that hold what callers confide: documents, questions, prompts.
CONFIDING = ("content", "query", "input", "instructions")
CONFIDED_CHARACTERS = 40
CONFIDED_SPACES = 4
# Beginnings of what was confided to the stack in this run: no log and no table may ever hold one.
CONFIDED: set[str] = set()


def confide(body: Any) -> None:
    """Remember what a request's body confides: a line of each text that is long enough to be told again."""
    if isinstance(body, bytes):
        body = {"content": body.decode(errors="ignore")}
    if isinstance(body, list):
        for each in body:
            confide(each)
    elif isinstance(body, dict):
        for name, value in body.items():
            if name in CONFIDING and isinstance(value, str):
                line = max(value.splitlines(), key=len, default="")
                # Single words, however long, may well be a name somewhere else.
                if len(line) >= CONFIDED_CHARACTERS and line.count(" ") >= CONFIDED_SPACES:
                    CONFIDED.add(line[: 2 * CONFIDED_CHARACTERS])
            else:
                confide(value)


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
        confide(body)
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
                status, names, read = response.status, _lower(response.headers), response.read()
        except urllib.error.HTTPError as error:
            status, names, read = error.code, _lower(error.headers), error.read()
        for text in (read, *(value.encode() for value in names.values())):
            assert not GIVEN_AWAY.search(text), text[:500]
        return status, names, _json(read)

    def rows_of_all_tables(self) -> dict[str, list[str]]:
        """Every row of every table as JSON; JSON within a text has its quotation marks escaped once more."""
        with TableServiceClient.from_connection_string(self.storage) as service:
            return {
                table.name: [
                    json.dumps(_without_title(dict(row)), default=str, ensure_ascii=False)
                    for row in service.get_table_client(table.name).list_entities()
                ]
                for table in service.list_tables()
            }

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


def _without_title(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a document names it by its title, which may be the subject of a mail: it is meant to."""
    if "upload" in row:
        row["upload"] = json.dumps({**json.loads(row["upload"]), "title": ""})
    return row


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data
