"""Files over HTTP, in OpenAI's format: upload, list, one, its content, delete."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Response, StreamingResponse

from functions.http import Call
from functions.jobs import keyed_id
from functions.multipart import read_form
from functions.openai_surface import AZURE, serve
from functions.services import services
from shared.errors import InvalidParameter, InvalidRequest
from shared.files import DEFAULT_EXPIRY_SECONDS, LEAST_EXPIRY_SECONDS, File

blueprint = df.Blueprint()

# What a file may be for; others are for parts of OpenAI's API that are not served here.
PURPOSES = ("batch",)
MAX_NAME_CHARACTERS = 255
# As OpenAI's list of files.
PAGE_FILES = 10_000
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@serve("POST", "/files", AZURE, on=blueprint, keyed=True)
async def upload_file(call: Call) -> Response:
    """Upload a file as a form: purpose, file, expires_after[anchor] and expires_after[seconds]."""
    own_id = keyed_id(call)
    file_id = f"file-{own_id}"
    files = services().files
    before = await files.find(call.principal.tenant, file_id)
    writing = files.writing(call.principal.tenant, file_id)

    async def write(part: bytes) -> None:
        call.received.digest.update(part)
        if before is None:
            await writing.write(part)

    form = await read_form(call.request.headers.get("content-type", ""), call.request.stream(), write)
    if call.idempotency_key is not None:
        # The form's boundary is another one each time: what it says of the file is what counts.
        about = json.dumps([form.filename, form.fields], sort_keys=True)
        await call.claim(own_id, f"{about}{call.received.digest.hexdigest()}")
    if before is not None:
        return JSONResponse(file_object(before))
    if form.filename is None:
        raise InvalidRequest("The form has no file.", parameter="file")
    purpose = form.fields.get("purpose", "")
    if purpose not in PURPOSES:
        raise InvalidParameter(f"'purpose' must be one of: {', '.join(PURPOSES)}.", parameter="purpose")
    expiry = _expiry_seconds(form.fields)
    await writing.close()
    now = time.time()
    file = File(
        tenant=call.principal.tenant,
        id=file_id,
        owner=call.principal.user,
        name=form.filename[:MAX_NAME_CHARACTERS] or "file",
        purpose=purpose,
        size=writing.size,
        created=now,
        expires=now + expiry,
        collections=call.principal.collections,
    )
    return JSONResponse(file_object(await files.register(file)))


@serve("GET", "/files", AZURE, on=blueprint)
async def list_files(call: Call) -> Response:
    """The caller's files, newest first."""
    if call.query("order", "desc") != "desc":
        raise InvalidParameter("'order' must be 'desc'.", parameter="order")
    found, more = await services().files.newest(
        call.principal,
        after=call.query("after"),
        limit=call.number("limit", PAGE_FILES, PAGE_FILES),
        purpose=call.query("purpose"),
    )
    return JSONResponse(page([file_object(file) for file in found], more))


@serve("GET", "/files/{file_id}", AZURE, on=blueprint)
async def get_file(call: Call) -> Response:
    """One file's record."""
    return JSONResponse(file_object(await _file(call)))


@serve("DELETE", "/files/{file_id}", AZURE, on=blueprint)
async def delete_file(call: Call) -> Response:
    """Delete a file."""
    file = await _file(call)
    await services().files.delete(file)
    return JSONResponse({"id": file.id, "object": "file", "deleted": True})


@serve("GET", "/files/{file_id}/content", AZURE, on=blueprint)
async def get_file_content(call: Call) -> Response:
    """A file's bytes, or those of one Range."""
    file = await _file(call)
    start, end = _asked_range(call.request.headers.get("range", ""), file.size)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    partial = (start, end) != (0, file.size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    return StreamingResponse(
        services().files.read(file, start, end),
        status_code=206 if partial else 200,
        headers=headers,
        media_type="application/octet-stream",
    )


async def _file(call: Call) -> File:
    return await services().files.get(call.principal, call.path("file_id"))


def _asked_range(header: str, size: int) -> tuple[int, int]:
    """First byte and the one after the last; the whole where no single range within it is asked for."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or match[0] == "bytes=-":
        return 0, size
    if not match[1]:
        return max(0, size - max(1, int(match[2]))), size
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    return (first, min(last + 1, size)) if first <= last and first < size else (0, size)


def _expiry_seconds(fields: Mapping[str, str]) -> int:
    seconds, anchor = fields.get("expires_after[seconds]"), fields.get("expires_after[anchor]")
    if seconds is None and anchor is None:
        return DEFAULT_EXPIRY_SECONDS
    if anchor != "created_at":
        raise InvalidParameter("'anchor' must be 'created_at'.", parameter="expires_after[anchor]")
    return checked_expiry(seconds or "", "expires_after[seconds]")


def checked_expiry(seconds: int | str, parameter: str) -> int:
    """Seconds until a file expires; raises `InvalidParameter`."""
    text = str(seconds)
    digits = text.isascii() and text.isdigit() and len(text) < 10
    if not (digits and LEAST_EXPIRY_SECONDS <= int(text) <= DEFAULT_EXPIRY_SECONDS):
        limits = f"from {LEAST_EXPIRY_SECONDS} to {DEFAULT_EXPIRY_SECONDS}"
        raise InvalidParameter(f"{parameter!r} must be a whole number {limits}.", parameter=parameter)
    return int(text)


def file_object(file: File) -> dict[str, Any]:
    """A file as OpenAI's API shows it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": int(file.expires),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def page(items: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """One page of a list as OpenAI's API gives it."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {}
    return {"object": "list", "data": items, "has_more": more, "first_id": None, "last_id": None, **ends}


@blueprint.timer_trigger(arg_name="timer", schedule="0 */10 * * * *")
async def remove_expired_files(timer: func.TimerRequest) -> None:
    """Remove the files whose time is over."""
    await services().files.remove_expired()
