"""Lists the names and ETags of a container's blobs, cheaply enough to do it all the time.

The storage SDK builds a full object of some fifty fields for every blob it lists. A scan needs two, so the
list call is made here directly and its XML read as it stands.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

import aiohttp

# The most entries the service returns in one page (List Blobs, REST API).
PAGE_SIZE = 5000
API_VERSION = "2021-12-02"
SIGNATURE_LIFETIME = timedelta(hours=1)
STORAGE_SCOPE = "https://storage.azure.com/.default"


class ContainerListing:
    """Pages of (name, ETag) of one container, optionally below a name prefix."""

    def __init__(self, container: Any, prefix: str) -> None:
        """`container` is an SDK ContainerClient; its credential signs the calls."""
        self._container = container
        self._prefix = prefix
        self._session: aiohttp.ClientSession | None = None
        self._signature = ""
        self._sign_again = datetime.fromtimestamp(0, UTC)

    async def pages(self) -> AsyncIterator[list[tuple[str, str]]]:
        """Yields page after page. A missing container has none; other failures raise ClientError."""
        marker = ""
        while True:
            text = await self._get(marker)
            if text is None:
                return
            page, marker = _read_page(text)
            yield page
            if not marker:
                return

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _get(self, marker: str) -> bytes | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60, connect=5))
        parameters = {
            "restype": "container",
            "comp": "list",
            "maxresults": str(PAGE_SIZE),
            "prefix": self._prefix,
            "marker": marker,
        }
        query = {name: value for name, value in parameters.items() if value}
        address, headers = await self._authorised(query)
        async with self._session.get(address, params=query, headers=headers) as response:
            if response.status == 404:
                return None
            response.raise_for_status()
            return await response.read()

    async def _authorised(self, query: dict[str, str]) -> tuple[str, dict[str, str]]:
        """Adds a shared access signature to `query`, or a bearer token to the headers."""
        headers = {"x-ms-version": API_VERSION}
        credential = self._container.credential
        if hasattr(credential, "get_token"):
            token = await credential.get_token(STORAGE_SCOPE)
            headers["authorization"] = f"Bearer {token.token}"
        elif credential is not None:
            query.update(self._sign(credential))
        return self._container.url, headers

    def _sign(self, credential: Any) -> dict[str, str]:
        from azure.storage.blob import ContainerSasPermissions, generate_container_sas

        now = datetime.now(UTC)
        if now >= self._sign_again:
            self._sign_again = now + SIGNATURE_LIFETIME / 2
            self._signature = generate_container_sas(
                credential.account_name,
                self._container.container_name,
                account_key=credential.account_key,
                permission=ContainerSasPermissions(list=True),
                expiry=now + SIGNATURE_LIFETIME,
            )
        return dict(parse_qsl(self._signature))


def _read_page(text: bytes) -> tuple[list[tuple[str, str]], str]:
    root = ElementTree.fromstring(text)
    page = []
    for blob in root.iterfind("Blobs/Blob"):
        name = blob.find("Name")
        etag = blob.findtext("Properties/Etag", "")
        if name is not None and name.text:
            page.append((unquote(name.text) if name.get("Encoded") == "true" else name.text, etag.strip('"')))
    return page, root.findtext("NextMarker") or ""
