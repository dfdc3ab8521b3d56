"""Microsoft Entra ID: access tokens for this API, and the claims that App Service has checked already.

Only tokens of version 2.0 are taken, signed with RS256 by a key that the issuer publishes, for one of the
audiences and from one of the Entra tenants that the settings name. Each Entra tenant stands for one tenant
here. The app roles of the token are the roles of the same name; a token without one may do nothing. Groups
that did not fit into a token are not looked up: the caller then has none.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.errors import IdentityUnavailable, Unauthenticated
from shared.identity import Principal, Role

if TYPE_CHECKING:
    from shared.config import EntraSettings

log = logging.getLogger("groundwork.entra")

ALGORITHM = "RS256"
# Clocks of two machines; Microsoft's own libraries allow five minutes, which a stolen token gains as well.
CLOCK_SKEW_SECONDS = 60
# What fits into the headers of a request anyway (App Service takes 64 KB of them).
TOKEN_MAX_CHARACTERS = 32_768
# Entra publishes a new key days before it signs with it; a withdrawn one is refused after this long.
KEYS_FRESH_SECONDS = 3600
# While the issuer does not answer, the keys it last published are good for a day.
KEYS_STALE_SECONDS = 24 * 3600
# A token with an unknown key makes us ask the issuer again, but no more often than this.
REFETCH_SECONDS = 30
FETCH_TIMEOUT_SECONDS = 5
DOCUMENT_MAX_BYTES = 1 << 20
GROUP_MAX_CHARACTERS = 100
GROUPS_MAX = 1000

_CLAIMS = "http://schemas.microsoft.com/identity/claims/"
_INGRESS_NAMES = {
    f"{_CLAIMS}tenantid": "tid",
    f"{_CLAIMS}objectidentifier": "oid",
    f"{_CLAIMS}scope": "scp",
    "http://schemas.microsoft.com/ws/2008/06/identity/claims/role": "roles",
    "http://schemas.microsoft.com/ws/2008/06/identity/claims/groups": "groups",
}

Fetch = Callable[[str], Awaitable[Mapping[str, Any]]]


class AccessTokens:
    """Checks access tokens of Entra ID."""

    def __init__(
        self,
        settings: EntraSettings,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``fetch`` gets a JSON document by its address; it raises OSError where it cannot."""
        self._settings = settings
        self._issuers = {
            tenant: _Issuer(f"{settings.authority}/{tenant}/v2.0", fetch or fetch_json, clock)
            for tenant in settings.tenants
        }

    async def resolve(self, token: str) -> Principal:
        """The principal that ``token`` proves; raises `Unauthenticated`, `IdentityUnavailable`."""
        import jwt

        try:
            if len(token) > TOKEN_MAX_CHARACTERS:
                raise _Refused("too_long")
            header = jwt.get_unverified_header(token)
            if header.get("alg") != ALGORITHM or "crit" in header:
                raise _Refused("algorithm")
            # Read unchecked, only to know whose keys to check with; the claim is under the signature too.
            unchecked = jwt.decode(token, options={"verify_signature": False})
            issuer = self._issuers.get(str(unchecked.get("tid")))
            if issuer is None:
                raise _Refused("unknown_tenant")
            claims = jwt.decode(
                token,
                await issuer.key(str(header.get("kid"))),
                algorithms=[ALGORITHM],
                audience=list(self._settings.audience),
                issuer=issuer.name,
                leeway=CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "nbf", "iat", "iss", "aud", "oid", "tid"]},
            )
            if not _is_access_token(claims):
                raise _Refused("no_access_token")
            return principal_of(claims, self._settings, f"token:{claims.get('azp') or claims['oid']}")
        except (_Refused, jwt.PyJWTError, ValueError, TypeError) as error:
            reason = str(error) if isinstance(error, _Refused) else type(error).__name__
            log.info("access_token_refused", extra={"reason": reason})
            raise Unauthenticated("The access token is not valid.") from None


class _Refused(Exception):
    """Why a token is not taken, in a word for the log."""


def _is_access_token(claims: Mapping[str, Any]) -> bool:
    """An ID token of the same application is signed alike and has neither scopes nor a client."""
    return bool(claims.get("scp")) or bool(claims.get("azp") and claims.get("idtyp", "app") == "app")


def principal_of(claims: Mapping[str, Any], settings: EntraSettings, credential: str) -> Principal:
    """The principal of claims that have been checked; raises `Unauthenticated`."""
    tenant = settings.tenants.get(str(claims.get("tid")))
    user = claims.get("oid")
    if tenant is None or not isinstance(user, str) or not 1 <= len(user) <= GROUP_MAX_CHARACTERS:
        raise Unauthenticated("The access token is not valid.")
    known = {role.value: role for role in Role if role is not Role.PLATFORM}
    roles = tuple(known[name] for name in dict.fromkeys(_texts(claims.get("roles"))) if name in known)
    return Principal(tenant, user, _groups(claims, tenant), roles, credential=credential)


def _groups(claims: Mapping[str, Any], tenant: str) -> tuple[str, ...]:
    """The groups of the token: none where they did not fit into it and Entra left a link instead."""
    elsewhere = "groups" in (claims.get("_claim_names") or ()) or claims.get("hasgroups")
    groups = _texts(claims.get("groups"))
    if elsewhere or len(groups) > GROUPS_MAX or any(len(group) > GROUP_MAX_CHARACTERS for group in groups):
        log.warning("groups_not_in_token", extra={"tenant": tenant})
        return ()
    return tuple(dict.fromkeys(groups))


def _texts(value: Any) -> list[str]:
    """A claim of several values; one that has another form counts as absent."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [each for each in value if isinstance(each, str) and each.isprintable() and each]


class _Issuer:
    """One issuer and the keys it publishes."""

    def __init__(self, address: str, fetch: Fetch, clock: Callable[[], float]) -> None:
        self.name = address
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, Any] = {}
        self._fetched = -float("inf")
        self._asked = -float("inf")
        self._asking = asyncio.Lock()

    async def key(self, kid: str) -> Any:
        """The public key ``kid``; the keys are fetched again where they are old or lack it."""
        if self._age() > KEYS_FRESH_SECONDS or kid not in self._keys:
            await self._refetch(kid)
        if self._age() > KEYS_STALE_SECONDS:
            raise IdentityUnavailable(retry_after=REFETCH_SECONDS)
        if kid not in self._keys:
            raise _Refused("unknown_key")
        return self._keys[kid]

    def _age(self) -> float:
        return self._clock() - self._fetched

    async def _refetch(self, kid: str) -> None:
        if self._asking.locked() and kid in self._keys:
            return
        async with self._asking:
            fresh = self._age() <= KEYS_FRESH_SECONDS and kid in self._keys
            if fresh or self._clock() - self._asked < REFETCH_SECONDS:
                return
            self._asked = self._clock()
            try:
                self._keys = await self._published()
            except (OSError, ValueError, TypeError, KeyError, TimeoutError) as error:
                log.warning("signing_keys_not_fetched", extra={"reason": type(error).__name__})
                return
            self._fetched = self._clock()

    async def _published(self) -> dict[str, Any]:
        metadata = await self._fetch(f"{self.name}/.well-known/openid-configuration")
        if metadata["issuer"] != self.name:
            raise ValueError("the metadata is another issuer's")
        address = str(metadata["jwks_uri"])
        if not address.startswith(self.name.partition("://")[0] + "://"):
            raise ValueError("the keys are published without TLS")
        return _signing_keys((await self._fetch(address))["keys"])


def _signing_keys(published: Any) -> dict[str, Any]:
    """The RSA keys among what an issuer publishes; one that cannot be read does not hide the others."""
    import jwt

    keys: dict[str, Any] = {}
    for each in published if isinstance(published, list) else ():
        if isinstance(each, Mapping) and each.get("kty") == "RSA" and each.get("use", "sig") == "sig":
            with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError, KeyError):
                keys[str(each["kid"])] = jwt.PyJWK(dict(each), ALGORITHM).key
    return keys


async def fetch_json(address: str) -> Mapping[str, Any]:
    """A JSON object by its address; raises OSError or ValueError."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(address, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise OSError(f"status {response.status}")
            data = await response.content.read(DOCUMENT_MAX_BYTES + 1)
            while len(data) <= DOCUMENT_MAX_BYTES and not response.content.at_eof():
                data += await response.content.read(DOCUMENT_MAX_BYTES + 1 - len(data))
    except aiohttp.ClientError as error:
        raise OSError(type(error).__name__) from error
    if len(data) > DOCUMENT_MAX_BYTES:
        raise ValueError("the document is too large")
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("the document is no object")
    return document


def ingress_principal(values: Sequence[str], settings: EntraSettings) -> Principal:
    """The principal that App Service authentication puts into ``X-MS-CLIENT-PRINCIPAL``.

    The header has no signature: call this only where the settings say that App Service stands in front and
    takes the header away from clients. Raises `Unauthenticated`.
    """
    try:
        (value,) = values
        document = json.loads(base64.b64decode(value, validate=True))
        if document["auth_typ"] != "aad":
            raise ValueError("another identity provider")
        claims: dict[str, Any] = {"roles": [], "groups": []}
        names: dict[str, str] = {**_INGRESS_NAMES, str(document.get("role_typ")): "roles"}
        for claim in document["claims"]:
            name = names.get(claim["typ"], str(claim["typ"]))
            if name in ("roles", "groups"):
                claims[name].append(claim["val"])
            else:
                claims[name] = claim["val"]
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        raise Unauthenticated("The identity that the ingress states is not valid.") from None
    return principal_of(claims, settings, "ingress")
