"""The client of Azure Tables: beside the SDK's own over a real server, and what services answer otherwise."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from azure.data.tables import EntityProperty, TableServiceClient

from shared.config import StorageSettings
from shared.errors import StorageUnavailable
from shared.tables import Change, Refused, Tables

AWKWARD_KEYS = ("a:b'c", "per%20cent", "ü é", "{braces}", "1+1=2&x", " space ")


def tables(connection: str = "", endpoint: str = "", credential: Any = None) -> Tables:
    settings = StorageSettings(connection_string=connection or None, table_endpoint=endpoint or None)
    return Tables(settings, lambda: credential, call_timeout_seconds=5)


@pytest.fixture
async def own(stack: Any) -> AsyncIterator[Tables]:
    opened = tables(stack.storage)
    yield opened
    await opened.close()


@pytest.fixture
def name() -> str:
    """A table of the test's own."""
    return f"t{uuid.uuid4().hex}"


VALUES = {"text": "é\n'\"", "whole": -(2**31), "large": 2**40, "real": 1.5, "round": 3.0, "flag": False}


async def test_the_sdk_reads_what_is_written_here(own: Tables, name: str, stack: Any):
    for key in AWKWARD_KEYS:
        await own.insert(name, {"PartitionKey": key, "RowKey": key, **VALUES})
    rows = [{"PartitionKey": "many", "RowKey": key, **VALUES} for key in AWKWARD_KEYS]
    await own.change(name, [Change("POST", row) for row in rows])
    with TableServiceClient.from_connection_string(stack.storage) as service:
        client = service.get_table_client(name)
        for key in AWKWARD_KEYS:
            for partition in (key, "many"):
                found = {
                    name: value.value if isinstance(value, EntityProperty) else value
                    for name, value in client.get_entity(partition, key).items()
                }
                assert found == {"PartitionKey": partition, "RowKey": key, **VALUES}
                assert [type(found[name]) for name in VALUES] == [type(value) for value in VALUES.values()]


async def test_what_the_sdk_has_written_is_read_here(own: Tables, name: str, stack: Any):
    values = {**VALUES, "large": EntityProperty(2**40, "Edm.Int64")}
    with TableServiceClient.from_connection_string(stack.storage) as service:
        client = service.create_table(name)
        for key in AWKWARD_KEYS:
            client.create_entity({"PartitionKey": "p", "RowKey": key, **values})
    for key in AWKWARD_KEYS:
        found = await own.get(name, "p", key)
        assert found is not None
        assert found.pop("etag")
        assert found == {"PartitionKey": "p", "RowKey": key, **VALUES}
        assert [type(found[name]) for name in VALUES] == [type(value) for value in VALUES.values()]
    assert [row["RowKey"] async for row in own.query(name)] == sorted(AWKWARD_KEYS)


async def test_a_transaction_gives_the_etags_that_the_next_one_needs(own: Tables, name: str):
    rows = [{"PartitionKey": "p", "RowKey": f"{number:03d}", "n": 1} for number in range(100)]
    etags = await own.change(name, [Change("POST", row) for row in rows])
    read = {row["RowKey"]: row["etag"] async for row in own.query(name)}
    assert etags == [read[row["RowKey"]] for row in rows]
    again = [Change("PUT", {**row, "n": 2}, etag) for row, etag in zip(rows, etags, strict=True)]
    await own.change(name, again)
    with pytest.raises(Refused) as refused:
        await own.change(name, again)
    assert refused.value.status == 412
    merged = await own.change(name, [Change("PATCH", {"PartitionKey": "p", "RowKey": "000", "m": 3})])
    found = await own.get(name, "p", "000")
    assert found == {"PartitionKey": "p", "RowKey": "000", "n": 2, "m": 3, "etag": merged[0]}


async def test_a_number_that_is_none_is_refused_before_anything_is_sent(own: Tables, name: str):
    with pytest.raises(ValueError, match="'real'"):
        await own.put(name, {"PartitionKey": "p", "RowKey": "r", "real": float("nan")})


async def test_a_wrong_key_is_refused_and_not_a_fault_of_storage(stack: Any, name: str):
    wrong = base64.b64encode(b"wrong").decode()
    parts = [
        f"AccountKey={wrong}" if part.startswith("AccountKey") else part for part in stack.storage.split(";")
    ]
    client = tables(";".join(parts))
    with pytest.raises(Refused) as refused:
        await client.insert(name, {"PartitionKey": "p", "RowKey": "r"})
    assert refused.value.status == 403
    await client.close()


# --- what services answer ---

Handler = Callable[[bytes], Awaitable[bytes]]


@asynccontextmanager
async def service(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives one answer after the other, the last again and again; and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        head = asked[-1].lower()
        if b"content-length:" in head:
            await reader.readexactly(int(head.split(b"content-length:")[1].split()[0]))
        writer.write(answers[min(len(asked), len(answers)) - 1])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers))
    return f"{head}\r\n\r\n".encode() + body


# As "Performing entity group transactions" shows them, for one that was made and for one that was not.
MADE = (
    b"--batchresponse_4c\r\nContent-Type: multipart/mixed; boundary=changesetresponse_03\r\n\r\n"
    b"--changesetresponse_03\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\n"
    b"Preference-Applied: return-no-content\r\nDataServiceVersion: 3.0;\r\n"
    b"Location: https://x.table.core.windows.net/T(PartitionKey='p',RowKey='1')\r\n"
    b"ETag: W/\"datetime'2013-06-12T07%3A26%3A44.5112133Z'\"\r\n\r\n\r\n"
    b"--changesetresponse_03\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 204 No Content\r\nDataServiceVersion: 3.0;\r\n"
    b"ETag: W/\"datetime'2013-06-12T07%3A26%3A45.5Z'\"\r\n\r\n\r\n"
    b"--changesetresponse_03--\r\n--batchresponse_4c--\r\n"
)
NOT_MADE = (
    b"--batchresponse_4c\r\nContent-Type: multipart/mixed; boundary=changesetresponse_03\r\n\r\n"
    b"--changesetresponse_03\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    b"HTTP/1.1 %s\r\nContent-ID: 1\r\nContent-Type: application/json;odata=minimalmetadata\r\n\r\n"
    b'{"odata.error":{"code":"%s","message":{"lang":"en-US","value":"1:What is wrong."}}}\r\n'
    b"--changesetresponse_03--\r\n--batchresponse_4c--\r\n"
)
TWO = [Change("POST", {"PartitionKey": "p", "RowKey": key}) for key in "12"]


async def test_etags_are_read_from_what_azure_answers_to_a_transaction():
    async with service(answer("202 Accepted", MADE)) as (endpoint, _):
        client = tables(endpoint=endpoint, credential=Identity(time.time() + 3600))
        assert await client.change("T", TWO) == [
            "W/\"datetime'2013-06-12T07%3A26%3A44.5112133Z'\"",
            "W/\"datetime'2013-06-12T07%3A26%3A45.5Z'\"",
        ]
        await client.close()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (b"409 Conflict", b"EntityAlreadyExists", Refused),
        (b"412 Precondition Failed", b"UpdateConditionNotSatisfied", Refused),
        (b"413 Payload Too Large", b"RequestBodyTooLarge", Refused),
        (b"500 Internal Server Error", b"OperationTimedOut", StorageUnavailable),
        (b"503 Service Unavailable", b"ServerBusy", StorageUnavailable),
    ],
)
async def test_a_transaction_that_was_not_made_tells_why(status: bytes, code: bytes, error: type[Exception]):
    async with service(answer("202 Accepted", NOT_MADE % (status, code))) as (endpoint, _):
        client = tables(endpoint=endpoint, credential=Identity(time.time() + 3600))
        with pytest.raises(error) as raised:
            await client.change("T", TWO)
        if isinstance(raised.value, Refused):
            assert (raised.value.status, raised.value.code) == (int(status[:3]), code.decode())
        await client.close()


async def test_a_transaction_whose_end_is_not_told_may_not_have_been_made():
    async with service(answer("202 Accepted", MADE[: len(MADE) // 2])) as (endpoint, _):
        client = tables(endpoint=endpoint, credential=Identity(time.time() + 3600))
        with pytest.raises(StorageUnavailable):
            await client.change("T", TWO)
        await client.close()


async def test_a_service_that_is_busy_is_asked_again_when_it_says():
    async with service(answer("503 Server Busy", b"", "Retry-After: 7")) as (endpoint, _):
        client = tables(endpoint=endpoint, credential=Identity(time.time() + 3600))
        with pytest.raises(StorageUnavailable) as busy:
            await client.get("T", "p", "1")
        assert busy.value.retry_after == 7
        await client.close()


async def test_pages_are_followed_to_the_end_even_where_one_is_empty():
    more = ("x-ms-continuation-NextPartitionKey: 1!4!cA--", "x-ms-continuation-NextRowKey: 1!4!MQ--")
    row = b'{"value":[{"odata.etag":"W/1","PartitionKey":"p","RowKey":"1"}]}'
    async with service(answer("200 OK", b'{"value":[]}', *more), answer("200 OK", row)) as (endpoint, asked):
        client = tables(endpoint=endpoint, credential=Identity(time.time() + 3600))
        assert [found["RowKey"] async for found in client.query("T", "PartitionKey eq 'p'")] == ["1"]
        assert b"NextPartitionKey=1%214%21cA--&NextRowKey=1%214%21MQ--" in asked[1]
        await client.close()


class Identity:
    """A credential whose tokens end at ``expires_on``."""

    def __init__(self, expires_on: float) -> None:
        self._expires_on = expires_on
        self.asked: list[tuple[str, ...]] = []

    async def get_token(self, *scopes: str) -> Any:
        self.asked.append(scopes)
        return SimpleNamespace(token=f"token-{len(self.asked)}", expires_on=self._expires_on)


@pytest.mark.parametrize(("seconds", "tokens"), [(3600, 1), (200, 2)])
async def test_a_token_is_used_until_shortly_before_its_end(seconds: int, tokens: int):
    identity = Identity(time.time() + seconds)
    async with service(answer("404 Not Found")) as (endpoint, asked):
        client = tables(endpoint=endpoint, credential=identity)
        for _ in range(2):
            assert await client.get("T", "p", "1") is None
        await client.close()
    assert identity.asked == [("https://storage.azure.com/.default",)] * tokens
    assert f"Authorization: Bearer token-{tokens}".encode() in asked[1]
