"""What a request to a deployment is authorised with: a key from the settings, or a managed identity."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from .catalogue import Api, CatalogueError, Deployment

# The scope of Azure OpenAI and Foundry tokens ("Authenticate with managed identity", Azure OpenAI docs).
AZURE_SCOPE = "https://cognitiveservices.azure.com/.default"
# Tokens live about a day with managed identity, an hour otherwise; renew well before.
RENEW_BEFORE_EXPIRY_SECONDS = 300

Credentials = Callable[[Deployment], Awaitable[Mapping[str, str]]]


class AccessToken(Protocol):
    @property
    def token(self) -> str: ...
    @property
    def expires_on(self) -> int: ...


class TokenSource(Protocol):
    """The part of an asynchronous azure-identity credential that is used."""

    async def get_token(self, *scopes: str) -> AccessToken: ...


class DeploymentCredentials:
    """Headers that authorise a request: ``await credentials(deployment)``.

    A deployment with a ``key_setting`` uses that setting's value; an Azure deployment without one uses a
    token of ``identity`` (azure-identity's default chain unless given); any other sends nothing.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        identity: TokenSource | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._wall_clock = wall_clock
        self._token: AccessToken | None = None
        self._renewing = asyncio.Lock()

    async def __call__(self, deployment: Deployment) -> Mapping[str, str]:
        if deployment.key_setting is not None:
            key = self._settings.get(deployment.key_setting)
            if not key:
                raise CatalogueError(
                    f"deployment {deployment.name}: the setting {deployment.key_setting} is not set"
                )
            return {"Authorization": f"Bearer {key}"} if deployment.api is Api.OPENAI else {"api-key": key}
        if deployment.api is Api.OPENAI:
            return {}
        return await self.of_identity()

    async def of_identity(self) -> Mapping[str, str]:
        """Headers with a token of the identity, for any of Azure's AI services."""
        return {"Authorization": f"Bearer {await self._access_token()}"}

    async def _access_token(self) -> str:
        async with self._renewing:
            now = self._wall_clock()
            if self._token is None or self._token.expires_on - now < RENEW_BEFORE_EXPIRY_SECONDS:
                self._token = await self._source().get_token(AZURE_SCOPE)
            return self._token.token

    def _source(self) -> TokenSource:
        if self._identity is None:
            from azure.identity.aio import DefaultAzureCredential

            self._identity = DefaultAzureCredential()
        return self._identity
