"""Files as openai-python and raw requests see them, against the started stack."""

from __future__ import annotations

import io
import uuid
from typing import Any

import openai
import pytest
from running_stack import RunningStack

LINES = b'{"custom_id": "a"}\n' * 3


@pytest.fixture(scope="module")
def key(stack: RunningStack) -> str:
    return stack.key_for(stack.new_tenant())


@pytest.fixture(scope="module")
def client(stack: RunningStack, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0)


def put(client: openai.OpenAI, data: bytes = LINES, name: str = "in.jsonl", **more: Any) -> Any:
    return client.files.create(file=(name, io.BytesIO(data)), purpose="batch", **more)


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A form with the given parts, each the rest of its disposition and its content."""
    boundary = "x" * 20
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {named}\r\n\r\n".encode() + content + b"\r\n"
        for named, content in parts
    )
    return body + f"--{boundary}--\r\n".encode(), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }


def test_a_file_comes_back_as_it_was_sent(client: openai.OpenAI):
    file = put(client)
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(LINES), "in.jsonl", "batch")
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 30 * 24 * 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == LINES
    assert client.files.delete(file.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)


def test_a_file_of_several_blocks_is_put_together_in_order(client: openai.OpenAI):
    # Equal blocks of 4 MiB among them: each keeps its place.
    data = b"".join(bytes([65 + n % 2]) * 4 * 1024 * 1024 for n in range(4)) + b"end"
    file = put(client, data)
    assert file.bytes == len(data)
    assert client.files.content(file.id).read() == data


@pytest.mark.parametrize(
    ("asked", "status", "wanted"),
    [
        ("bytes=0-4", 206, slice(0, 5)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=0-9999", 200, slice(None)),
        ("bytes=9999-", 200, slice(None)),
        ("bytes=3-2", 200, slice(None)),
        ("lines=0-1", 200, slice(None)),
    ],
)
def test_a_range_of_a_file_is_served(client: openai.OpenAI, asked: str, status: int, wanted: slice):
    file = put(client)
    answer = client.files.with_raw_response.content(file.id, extra_headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, LINES[wanted])
    if status == 206:
        first = (wanted.start or 0) % len(LINES)
        assert answer.headers["content-range"] == (
            f"bytes {first}-{first + len(LINES[wanted]) - 1}/{len(LINES)}"
        )


def test_the_list_is_the_callers_newest_first_and_paged(stack: RunningStack):
    tenant = stack.new_tenant()
    own = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key_for(tenant))
    ids = [put(own, name=f"{n}.jsonl").id for n in range(5)]
    assert [file.id for file in own.files.list()] == ids[::-1]
    first = own.files.list(limit=2)
    assert [file.id for file in first.data] == ids[:2:-1]
    assert [file.id for file in first] == ids[::-1]  # page by page
    assert list(own.files.list(purpose="batch_output")) == []
    other = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key_for(tenant, user="else"))
    assert list(other.files.list()) == []


def test_a_file_is_nobody_elses(stack: RunningStack, client: openai.OpenAI):
    file = put(client).id
    for key in (stack.key_for(stack.new_tenant()), stack.key):
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            status, document = stack.call(method, f"/v1/files/{file}{path}", key=key)
            assert (status, document["error"]["code"]) == (404, "not_found")
    assert client.files.content(file).read() == LINES


def test_an_idempotency_key_makes_an_upload_repeatable(client: openai.OpenAI):
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = put(client, extra_headers=headers)
    assert put(client, extra_headers=headers) == first
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.files.create(file=("in.jsonl", LINES + b"\n"), purpose="batch", extra_headers=headers)
    assert caught.value.code == "idempotency_key_reused"
    assert client.files.content(first.id).read() == LINES
    assert put(client).id != first.id


def test_the_azure_client_sees_the_same_files(stack: RunningStack, key: str, client: openai.OpenAI):
    azure = openai.AzureOpenAI(azure_endpoint=stack.url, api_key=key, api_version="2025-04-01-preview")
    file = put(azure)
    assert client.files.content(file.id).read() == LINES
    assert azure.files.retrieve(file.id).bytes == len(LINES)
    assert azure.files.delete(file.id).deleted


def test_an_expiry_may_be_chosen_within_its_limits(stack: RunningStack, key: str, client: openai.OpenAI):
    file = put(client, expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at == file.created_at + 3600
    for seconds in (3599, 30 * 24 * 3600 + 1, -1):
        with pytest.raises(openai.BadRequestError) as caught:
            put(client, expires_after={"anchor": "created_at", "seconds": seconds})
        assert caught.value.param == "expires_after[seconds]"


@pytest.mark.parametrize(
    ("parts", "status", "param"),
    [
        ([('name="purpose"', b"batch")], 400, "file"),
        ([('name="file"; filename="a"', b"x")], 400, "purpose"),
        ([('name="file"; filename="a"', b"x"), ('name="purpose"', b"fine-tune")], 400, "purpose"),
        ([('name="file"; filename="a"', b""), ('name="purpose"', b"batch")], 400, "file"),
        ([('name="other"; filename="a"', b"x"), ('name="purpose"', b"batch")], 400, None),
        ([('name="file"; filename="a"', b"x")] * 2, 400, None),
        ([('name="purpose"', b"x" * 9000)], 400, None),
        ([(f'name="f{n}"', b"x") for n in range(40)], 400, None),
        # The file may come before its purpose, and its name may be any.
        ([('name="file"; filename="../\xc3\xa9"', b"x"), ('name="purpose"', b"batch")], 200, None),
    ],
)
def test_a_form_that_is_none_is_refused(stack: RunningStack, key: str, parts: Any, status: int, param: Any):
    body, headers = form(*parts)
    answered, document = stack.call("POST", "/v1/files", body, key=key, headers=headers)
    assert answered == status, document
    if status != 200:
        assert document["error"]["param"] == param


def test_a_form_that_breaks_off_or_is_of_another_type_is_refused(stack: RunningStack, key: str):
    body, headers = form(('name="purpose"', b"batch"), ('name="file"; filename="a"', b"x" * 100))
    status, document = stack.call("POST", "/v1/files", body[:-40], key=key, headers=headers)
    assert (status, document["error"]["code"]) == (400, "invalid_request")
    status, document = stack.call("POST", "/v1/files", b"garbage", key=key, headers=headers)
    assert (status, document["error"]["code"]) == (400, "invalid_request")
    status, document = stack.call("POST", "/v1/files", {"purpose": "batch"}, key=key)
    assert (status, document["error"]["code"]) == (415, "unsupported_media_type")
    before, _ = stack.call("GET", "/v1/files", key=key)
    assert before == 200
