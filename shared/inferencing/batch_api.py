"""The Batch API of a service, OpenAI's or Azure's: a file in, a batch over it, files out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from shared.errors import InvalidRequest, ModelsUnavailable

from .catalogue import Api, Deployment
from .credentials import Credentials
from .faults import DeploymentFault, FaultKind, Rejected, classify_status
from .wire import HttpWire, WireResponse

PURPOSE = "batch"
# As `Timeouts.connect_seconds`.
CONNECT_SECONDS = 3.0
# One answer about a batch or a file.
CALL_SECONDS = 60.0
# An input of 200 MiB at 3 Mbit/s; an activity may take 30 minutes (host.json).
UPLOAD_SECONDS = 600.0
# Between two parts of a file that is being read.
GAP_SECONDS = 60.0
# The largest page that OpenAI's lists give.
PAGE = 100
# Each line of an input is a JSON object: none can begin with the dashes before it.
BOUNDARY = "groundwork-batch-input"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file for the service; ``parts`` are ``size`` bytes in all."""

    name: str
    size: int
    parts: AsyncIterator[bytes]


class BatchApi:
    """One deployment's service.

    Each call raises `ModelsUnavailable` for what may pass, with the time that the service asks to stay away,
    and `InvalidRequest` for what it refuses.
    """

    def __init__(self, wire: HttpWire, credentials: Credentials, deployment: Deployment) -> None:
        self._wire = wire
        self._credentials = credentials
        self._deployment = deployment

    def endpoint(self, full: str) -> str:
        """OpenAI's name of an endpoint as this service has it: Azure's have no ``/v1``."""
        return full if self._deployment.api is Api.OPENAI else full.removeprefix("/v1")

    async def upload(self, file: Upload) -> Document:
        """Hand in the input of a batch."""
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{PURPOSE}\r\n'
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{BOUNDARY}--\r\n".encode()

        async def form() -> AsyncIterator[bytes]:
            yield head
            async for part in file.parts:
                yield part
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Length": str(len(head) + file.size + len(tail)),
        }
        return await self._ask("POST", "files", form(), headers, seconds=UPLOAD_SECONDS)

    async def create(
        self, file: str, endpoint: str, metadata: Mapping[str, str], *, seconds: float
    ) -> Document:
        """Begin a batch over a file that was handed in; the service has ``seconds`` to answer."""
        asked = {
            "input_file_id": file,
            "endpoint": self.endpoint(endpoint),
            "completion_window": "24h",
            "metadata": dict(metadata),
        }
        headers = {"Content-Type": "application/json"}
        return await self._ask("POST", "batches", json.dumps(asked).encode(), headers, seconds=seconds)

    async def batch(self, name: str) -> Document:
        return await self._ask("GET", f"batches/{quote(name, safe='')}")

    async def cancel(self, name: str) -> None:
        await self._ask("POST", f"batches/{quote(name, safe='')}/cancel", b"")

    async def files(self) -> AsyncIterator[Document]:
        """The inputs of batches that the service has."""
        async for found in self._pages("files", {"purpose": PURPOSE}, since=0.0):
            yield found

    async def batches(self, *, since: float) -> AsyncIterator[Document]:
        """The service's batches, newest first, as far as they were created at ``since`` or later."""
        async for found in self._pages("batches", {}, since=since):
            yield found

    async def content(self, file: str) -> AsyncIterator[bytes]:
        """A file's bytes as they arrive."""
        async with self._response("GET", f"files/{quote(file, safe='')}/content") as response:
            while True:
                async with asyncio.timeout(GAP_SECONDS):
                    data = await response.read_some()
                if not data:
                    return
                yield data

    async def delete(self, file: str) -> None:
        """Remove a file; one that is gone already is none's concern."""
        try:
            await self._ask("DELETE", f"files/{quote(file, safe='')}")
        except ModelsUnavailable as error:
            if error.extra.get("upstream_status") != 404:
                raise

    async def _pages(self, path: str, query: Mapping[str, str], *, since: float) -> AsyncIterator[Document]:
        after = ""
        while True:
            asked = {**query, "limit": str(PAGE), **({"after": after} if after else {})}
            page = await self._ask("GET", f"{path}?{urlencode(asked)}")
            found = [entry for entry in page.get("data") or [] if isinstance(entry, dict)]
            for entry in found:
                yield entry
            if not found or not page.get("has_more"):
                return
            # A page of older ones alone: what follows is older still.
            if all(float(entry.get("created_at") or 0) < since for entry in found):
                return
            after = str(found[-1].get("id"))

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        seconds: float = CALL_SECONDS,
    ) -> Document:
        async with self._response(method, path, body, headers, seconds) as response:
            async with asyncio.timeout(seconds):
                data = await response.read()
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ModelsUnavailable("The service's Batch API did not answer in JSON.")
        return document

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = CALL_SECONDS,
    ) -> AsyncIterator[WireResponse]:
        response: WireResponse | None = None
        try:
            async with asyncio.timeout(seconds):
                sent = {**(await self._credentials(self._deployment)), **(headers or {})}
                url = self._deployment.service_url(path)
                response = await self._wire.send(method, url, sent, body, CONNECT_SECONDS)
                if not 200 <= response.status < 300:
                    raise classify_status(response.status, response.headers, await response.read())
            yield response
        except DeploymentFault as fault:
            status = response.status if response is not None else None
            raise ModelsUnavailable(
                "The service's Batch API refuses access, or does not have what it is asked for."
                if fault.kind is FaultKind.MISCONFIGURED
                else "The service's Batch API does not serve now.",
                retry_after=fault.retry_after,
                upstream_status=status,
            ) from fault
        except Rejected as rejected:
            code = str(rejected.error.get("code") or "")
            named = f" It gives the code {code!r}." if code.isidentifier() else ""
            raise InvalidRequest(
                f"The service's Batch API refused the request.{named}", upstream_status=rejected.status
            ) from rejected
        except TimeoutError:
            raise ModelsUnavailable("The service's Batch API did not answer in time.") from None
        finally:
            if response is not None:
                response.close()
