"""Storage clients by the name of a connection setting, as binding extensions resolve them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devhost.errors import SettingsError

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient
    from azure.storage.queue.aio import QueueServiceClient

DEFAULT_CONNECTION = "AzureWebJobsStorage"
DEVELOPMENT_STORAGE = "usedevelopmentstorage=true"
# The published account of the storage emulator
# (https://learn.microsoft.com/azure/storage/common/storage-connect-azurite#well-known-storage-account-and-key).
EMULATOR = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
    "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
    "QueueEndpoint=http://127.0.0.1:10001/devstoreaccount1;"
)
# A local storage server either answers at once or is gone.
CONNECTION_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60


class Connections:
    """Makes one client per connection name and service; closes them all.

    `NAME` holds a connection string, or `NAME__queueServiceUri` / `NAME__blobServiceUri` (also
    `NAME__accountName`) an address that is used with the developer's own Azure identity. As in the
    Functions host a setting `AzureWebJobsNAME` goes before `NAME`.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._clients: dict[tuple[str, str], Any] = {}
        self._credential: Any = None

    def check(self, name: str | None, service: str) -> None:
        """Raises SettingsError when connection `name` cannot be used for `service` (queue or blob)."""
        self._find(name or DEFAULT_CONNECTION, service)

    def queues(self, name: str | None) -> "QueueServiceClient":
        from azure.storage.queue.aio import QueueServiceClient

        return self._client(name, "queue", QueueServiceClient)

    def blobs(self, name: str | None) -> "BlobServiceClient":
        from azure.storage.blob.aio import BlobServiceClient

        return self._client(name, "blob", BlobServiceClient)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        if self._credential is not None:
            await self._credential.close()

    def _client(self, name: str | None, service: str, make: Any) -> Any:
        key = (name or DEFAULT_CONNECTION, service)
        if key not in self._clients:
            connection_string, address = self._find(*key)
            options = {
                "connection_timeout": CONNECTION_TIMEOUT_SECONDS,
                "read_timeout": READ_TIMEOUT_SECONDS,
                # The SDK's own first pause is 15 s, made for a service far away.
                "retry_total": 2,
                "initial_backoff": 1,
                "increment_base": 1,
                "random_jitter_range": 0,
            }
            if connection_string is not None:
                self._clients[key] = make.from_connection_string(connection_string, **options)
            else:
                self._clients[key] = make(address, credential=self._identity(), **options)
        return self._clients[key]

    def _find(self, name: str, service: str) -> tuple[str | None, str | None]:
        """(connection string, None) or (None, service address)."""
        for known in (f"AzureWebJobs{name}", name):
            text = self._settings.get(known)
            if text:
                return (EMULATOR if text.strip().rstrip(";").lower() == DEVELOPMENT_STORAGE else text), None
            address = self._settings.get(f"{known}__{service}ServiceUri")
            if address:
                return None, address
            account = self._settings.get(f"{known}__accountName")
            if account:
                return None, f"https://{account}.{service}.core.windows.net"
        raise SettingsError(
            f"connection {name!r}: set {name} to a connection string, "
            f"or {name}__{service}ServiceUri to an address"
        )

    def _identity(self) -> Any:
        if self._credential is None:
            from azure.identity.aio import DefaultAzureCredential

            self._credential = DefaultAzureCredential()
        return self._credential
