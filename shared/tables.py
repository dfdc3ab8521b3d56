"""Azure Tables over its REST interface: rows in and out, transactions of one partition.

The SDK's client takes a millisecond of CPU for a call and half a one for each row of a transaction, whose
parts it writes and reads with the ``email`` package: a third of what ingestion cost the host. What the
product needs of the service is little, and is written here as it goes over the wire ("Table service REST
API", Azure Storage). Faults of the network and of the service become `StorageUnavailable`; what a caller
has to tell apart is `Refused`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from shared.errors import StorageUnavailable

if TYPE_CHECKING:
    import aiohttp

    from shared.config import StorageSettings

Row = dict[str, Any]

API_VERSION = "2019-02-02"
TOKEN_SCOPE = "https://storage.azure.com/.default"
# Managed identity's tokens live a day, others an hour.
RENEW_BEFORE_EXPIRY_SECONDS = 300
CONNECT_SECONDS = 10
# In place of an ETag: whatever is there.
ANY = "*"
# Numbers beyond it are of the type Edm.Int64, which JSON holds as text.
INT32 = range(-(2**31), 2**31)

_JSON = "application/json"
_READ = {"Accept": "application/json;odata=minimalmetadata"}
_WRITE = {"Accept": _JSON, "Content-Type": _JSON, "Prefer": "return-no-content"}
_TYPE = "@odata.type"
_STATUS_OF_PART = re.compile(rb"HTTP/1\.1 (\d{3})")
_ETAG_OF_PART = re.compile(rb"\r?\nETag: *([^\r\n]+)", re.IGNORECASE)
_CODE = re.compile(r'"code"\s*:\s*"(\w+)"')


class Refused(Exception):
    """The service did not do what was asked; ``status`` is of HTTP, ``code`` the service's own."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code


class Change(NamedTuple):
    """One row in a transaction: the method of HTTP, the row, and the ETag that it must have."""

    method: str
    row: Row
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class Tables:
    """The tables of one account; a table is made at its first write. Bound to one event loop."""

    def __init__(
        self, settings: StorageSettings, credential: Callable[[], Any], *, call_timeout_seconds: float
    ) -> None:
        """``credential`` gives an asynchronous token credential; asked for where there is no key."""
        self._timeout_seconds = call_timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        if settings.connection_string:
            parts = _connection_parts(settings.connection_string)
            self._endpoint = parts.endpoint.rstrip("/")
            self._authorise: _SharedKey | _Token = _SharedKey(parts.account, parts.key)
        else:
            self._endpoint = (settings.table_endpoint or "").rstrip("/")
            self._authorise = _Token(credential)
        self._root = urlsplit(self._endpoint).path

    async def get(self, table: str, partition: str, key: str) -> Row | None:
        """One row with its ETag under ``"etag"``, or None."""
        answer = await self._send("GET", _place(table, partition, key), headers=_READ, absent=404)
        return None if answer.status == 404 else _row(json.loads(answer.body))

    async def query(
        self, table: str, condition: str = "", *, select: Sequence[str] = (), page: int | None = None
    ) -> AsyncIterator[Row]:
        """The rows that meet an OData condition, in the order of their keys; none where there is no table."""
        asked = {"$filter": condition, "$select": ",".join(select), "$top": str(page or "")}
        following: dict[str, str] = {}
        while True:
            query = "&".join(
                f"{name}={quote(value, safe='')}" for name, value in {**asked, **following}.items() if value
            )
            answer = await self._send("GET", f"{table}()", query=query, headers=_READ, absent=404)
            if answer.status == 404:
                return
            for entity in json.loads(answer.body)["value"]:
                yield _row(entity)
            following = {
                name: answer.headers[f"x-ms-continuation-{name}"]
                for name in ("NextPartitionKey", "NextRowKey")
                if answer.headers.get(f"x-ms-continuation-{name}")
            }
            if not following:
                return

    async def insert(self, table: str, row: Row) -> None:
        """Insert a row; `Refused` with 409 where there is one with its keys."""
        await self._write(table, "POST", table, row)

    async def merge(self, table: str, row: Row) -> None:
        """Insert a row, or set the given properties of the one that is there."""
        await self._write(table, "PATCH", _place_of(table, row), row)

    async def put(self, table: str, row: Row, etag: str | None = None) -> None:
        """Insert or replace a row; with ``etag`` only replace it, `Refused` with 412 or 404 otherwise."""
        await self._write(table, "PUT", _place_of(table, row), row, etag)

    async def delete(self, table: str, partition: str, key: str) -> None:
        """Delete a row, whatever its version; absent ones are fine."""
        headers = {**_READ, "If-Match": ANY}
        await self._send("DELETE", _place(table, partition, key), headers=headers, absent=404)

    async def change(self, table: str, changes: Sequence[Change]) -> list[str]:
        """Make changes to rows of one partition, all or none; the rows' ETags afterwards.

        `Refused` with the status of the first that cannot be made.
        """
        boundary = uuid.uuid4().hex
        body = _transaction(f"{self._endpoint}/{table}", changes, boundary)
        headers = {
            "Accept": _JSON,
            "Content-Type": f"multipart/mixed; boundary=batch_{boundary}",
            "MaxDataServiceVersion": "3.0;NetFx",
        }

        async def once() -> list[str]:
            answer = await self._send("POST", "$batch", body=body, headers=headers)
            statuses = [int(status) for status in _STATUS_OF_PART.findall(answer.body)]
            if refused := next((status for status in statuses if status >= 400), None):
                _raise_for(refused, {}, answer.body)
            if len(statuses) != len(changes):
                raise StorageUnavailable(f"The table {table!r} did not tell what became of a change.")
            return [etag.decode() for etag in _ETAG_OF_PART.findall(answer.body)]

        return await self._in_table(table, once)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _write(self, table: str, method: str, place: str, row: Row, etag: str | None = None) -> None:
        headers = _WRITE if etag is None else {**_WRITE, "If-Match": etag}
        body = _entity(row)
        await self._in_table(table, lambda: self._send(method, place, body=body, headers=headers))

    async def _in_table(self, table: str, write: Callable[[], Any]) -> Any:
        """Write; where the table is not there yet, make it and write again."""
        try:
            return await write()
        except Refused as refused:
            if refused.code != "TableNotFound":
                raise
        body = json.dumps({"TableName": table}).encode()
        try:
            await self._send("POST", "Tables", body=body, headers=_WRITE)
        except Refused as refused:
            if refused.code != "TableAlreadyExists":  # another process was faster
                raise
        return await write()

    async def _send(
        self,
        method: str,
        place: str,
        *,
        query: str = "",
        body: bytes | None = None,
        headers: Mapping[str, str],
        absent: int | None = None,
    ) -> _Answer:
        """The answer to one request. Raises `Refused`, unless its status is ``absent``."""
        import aiohttp
        from yarl import URL

        session = self._session or self._open()
        path = f"{self._root}/{place}"
        all_headers = {
            **headers,
            **await self._authorise.headers(path),
            "x-ms-version": API_VERSION,
            "DataServiceVersion": "3.0",
        }
        url = URL(f"{self._endpoint}/{place}?{query}" if query else f"{self._endpoint}/{place}", encoded=True)
        try:
            async with session.request(
                method, url, data=body, headers=all_headers, allow_redirects=False
            ) as response:
                answer = _Answer(response.status, response.headers, await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise StorageUnavailable("Storage did not answer.") from error
        if answer.status >= 400 and answer.status != absent:
            _raise_for(answer.status, answer.headers, answer.body)
        return answer

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds, connect=CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


class _SharedKey:
    """Signs requests with the account's key ("Shared Key Lite and table service authorization")."""

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._key = base64.b64decode(key)

    async def headers(self, path: str) -> dict[str, str]:
        moment = formatdate(time.time(), usegmt=True)
        signed = hmac.digest(self._key, f"{moment}\n/{self._account}{path}".encode(), hashlib.sha256)
        signature = base64.b64encode(signed).decode()
        return {"x-ms-date": moment, "Authorization": f"SharedKeyLite {self._account}:{signature}"}


class _Token:
    """Sends an access token of the app's identity."""

    def __init__(self, credential: Callable[[], Any]) -> None:
        self._credential = credential
        self._token: Any = None
        self._renewing = asyncio.Lock()

    async def headers(self, _path: str) -> dict[str, str]:
        async with self._renewing:
            if self._token is None or self._token.expires_on - time.time() < RENEW_BEFORE_EXPIRY_SECONDS:
                self._token = await self._credential().get_token(TOKEN_SCOPE)
        return {
            "x-ms-date": formatdate(time.time(), usegmt=True),
            "Authorization": f"Bearer {self._token.token}",
        }


class _ConnectionParts(NamedTuple):
    account: str
    key: str
    endpoint: str


def _connection_parts(connection: str) -> _ConnectionParts:
    """The account, its key and its tables' endpoint, as a connection string names them."""
    parts = dict(part.split("=", 1) for part in connection.split(";") if "=" in part)
    account = parts["AccountName"]
    scheme, suffix = parts.get("DefaultEndpointsProtocol", "https"), parts.get("EndpointSuffix")
    endpoint = parts.get("TableEndpoint") or f"{scheme}://{account}.table.{suffix or 'core.windows.net'}"
    return _ConnectionParts(account, parts["AccountKey"], endpoint)


def literal(text: str) -> str:
    """A text as a condition has it."""
    return "'" + text.replace("'", "''") + "'"


def _place(table: str, partition: str, key: str) -> str:
    return f"{table}(PartitionKey={_quoted(partition)},RowKey={_quoted(key)})"


def _place_of(table: str, row: Row) -> str:
    return _place(table, row["PartitionKey"], row["RowKey"])


def _quoted(key: str) -> str:
    return f"'{quote(key.replace(chr(39), 2 * chr(39)), safe='')}'"


def _entity(row: Row) -> bytes:
    """A row as JSON, with the types that JSON does not tell."""
    entity: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError(f"The property {name!r} is not a finite number.")
            entity[f"{name}{_TYPE}"] = "Edm.Double"
        elif isinstance(value, int) and not isinstance(value, bool) and value not in INT32:
            entity[f"{name}{_TYPE}"], value = "Edm.Int64", str(value)
        entity[name] = value
    return json.dumps(entity, separators=(",", ":")).encode()


def _row(entity: Mapping[str, Any]) -> Row:
    row: Row = {"etag": entity.get("odata.etag", "")}
    for name, value in entity.items():
        if "odata." in name or name == "Timestamp":
            continue
        kind = entity.get(f"{name}{_TYPE}")
        if kind == "Edm.Double":
            value = float(value)
        elif kind == "Edm.Int64":
            value = int(value)
        row[name] = value
    return row


def _transaction(address: str, changes: Iterable[Change], boundary: str) -> bytes:
    """An entity group transaction ("Performing entity group transactions", Azure Storage)."""
    pieces = [
        f"--batch_{boundary}\r\nContent-Type: multipart/mixed; boundary=changeset_{boundary}\r\n\r\n".encode()
    ]
    for number, (method, row, etag) in enumerate(changes):
        keys = f"(PartitionKey={_quoted(row['PartitionKey'])},RowKey={_quoted(row['RowKey'])})"
        condition = f"If-Match: {etag}\r\n" if etag else ""
        body = b"" if method == "DELETE" else _entity(row)
        pieces += [
            f"--changeset_{boundary}\r\n"
            "Content-Type: application/http\r\n"
            "Content-Transfer-Encoding: binary\r\n"
            f"Content-ID: {number}\r\n\r\n"
            f"{method} {address}{'' if method == 'POST' else keys} HTTP/1.1\r\n"
            f"Content-Type: {_JSON}\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Accept: {_JSON};odata=minimalmetadata\r\n"
            "Prefer: return-no-content\r\n"
            f"DataServiceVersion: 3.0\r\n{condition}\r\n".encode(),
            body,
            b"\r\n",
        ]
    pieces.append(f"--changeset_{boundary}--\r\n--batch_{boundary}--\r\n".encode())
    return b"".join(pieces)


def _raise_for(status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise what a status of 400 and above means."""
    if status >= 500 or status in (408, 429):
        asked = headers.get("Retry-After", "")
        raise StorageUnavailable(
            "Storage did not answer.", retry_after=float(asked) if asked.isdigit() else None
        )
    found = _CODE.search(body.decode(errors="replace"))
    raise Refused(status, found[1] if found else headers.get("x-ms-error-code", ""))
