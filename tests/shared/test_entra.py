"""Access tokens of Entra ID against an issuer over HTTP, and what App Service says of the caller."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from openid_issuer import OpenIdIssuer

from shared.config import EntraSettings, Settings
from shared.entra import (
    CLOCK_SKEW_SECONDS,
    KEYS_FRESH_SECONDS,
    KEYS_STALE_SECONDS,
    REFETCH_SECONDS,
    AccessTokens,
    fetch_json,
    ingress_principal,
)
from shared.errors import IdentityUnavailable, Unauthenticated
from shared.identity import Role

pytestmark = pytest.mark.security("API2")


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[OpenIdIssuer]:
    issuer = OpenIdIssuer()
    yield issuer
    issuer.close()


@pytest.fixture
def issuer(shared_issuer: OpenIdIssuer) -> OpenIdIssuer:
    """The issuer as it is at first: one key, and an answer to every question."""
    shared_issuer.keys = {"first": shared_issuer.keys["first"]}
    shared_issuer.answers = True
    shared_issuer.requests.clear()
    return shared_issuer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def settings_of(issuer: OpenIdIssuer) -> EntraSettings:
    storage = {"GroundworkStorage": "x", "GROUNDWORK_SEARCH": "embedded:x", "GROUNDWORK_MODELS": "host.json"}
    entra = Settings.parse({**storage, **issuer.settings}).entra
    assert entra is not None
    return entra


def tokens_of(issuer: OpenIdIssuer, clock: Callable[[], float] = time.monotonic) -> AccessTokens:
    return AccessTokens(settings_of(issuer), clock=clock)


def first(issuer: OpenIdIssuer) -> str:
    """The Entra tenant that tokens are for unless said otherwise."""
    return next(iter(issuer.tenants))


# --- what a good token says ---


async def test_a_token_proves_the_user_the_groups_and_the_roles_of_its_tenant(issuer: OpenIdIssuer):
    tokens = tokens_of(issuer)
    for number, tenant in enumerate(issuer.tenants.values()):
        user, groups = str(uuid.uuid4()), [str(uuid.uuid4()), str(uuid.uuid4())]
        token = issuer.token(number, oid=user, groups=groups, roles=["contributor", "operator", "unknown"])
        who = await tokens.resolve(token)
        assert (who.tenant, who.user, who.groups) == (tenant, user, tuple(groups))
        assert who.roles == (Role.CONTRIBUTOR, Role.OPERATOR)
        assert who.credential == "token:client"
        assert who.collections is None


async def test_the_keys_are_fetched_once_for_many_tokens(issuer: OpenIdIssuer):
    tokens = tokens_of(issuer)
    for _ in range(5):
        await tokens.resolve(issuer.token())
    assert len(issuer.requests) == 2  # metadata and keys


@pytest.mark.security("API5")
@pytest.mark.parametrize("roles", [None, [], "reader", ["platform"], ["Reader"], [["reader"]], {"reader": 1}])
async def test_a_token_without_a_role_of_ours_may_do_nothing(issuer: OpenIdIssuer, roles: Any):
    who = await tokens_of(issuer).resolve(issuer.token(roles=roles))
    assert who.roles == ()
    assert not who.may(Role.READER)


async def test_an_application_signs_in_with_its_roles_and_without_a_user(issuer: OpenIdIssuer):
    for more in ({}, {"idtyp": "app"}):
        who = await tokens_of(issuer).resolve(issuer.token(scp=None, azp="robot", oid="robot-1", **more))
        assert (who.user, who.credential, who.groups) == ("robot-1", "token:robot", ())


@pytest.mark.security("LLM02")
@pytest.mark.parametrize(
    "overage",
    [
        {"_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "https://graph"}}},
        {"_claim_names": {"groups": "src1"}, "groups": ["a"]},
        {"hasgroups": True, "groups": ["a"]},
        {"groups": ["g" * 101]},
        {"groups": [f"g{n}" for n in range(1001)]},
        {"groups": "keepers"},
        {"groups": [1, None, "a\nb"]},
        {},
    ],
)
async def test_groups_that_are_not_in_the_token_are_none_at_all(
    issuer: OpenIdIssuer, overage: dict[str, Any]
):
    who = await tokens_of(issuer).resolve(issuer.token(**overage))
    assert who.groups == ()
    assert who.readers == ("tenant:*", f"user:{who.user}")


# --- what is no good token ---


def unsigned(issuer: OpenIdIssuer) -> str:
    return jwt.encode(issuer.claims(), None, algorithm="none", headers={"kid": "first"})


def signed_with_the_public_key_as_a_secret(issuer: OpenIdIssuer) -> str:
    public = issuer.keys["first"].public_key()
    secret = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "first"}, issuer.claims()]
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = hmac.new(secret, text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def signed_by_another_key_of_the_same_name(issuer: OpenIdIssuer) -> str:
    own = OpenIdIssuer.__new__(OpenIdIssuer)
    own.keys = {}
    own.add_key("first")
    return own.sign(issuer.claims())


def changed_after_signing(issuer: OpenIdIssuer) -> str:
    head, _, signature = issuer.token().split(".")
    claims = json.dumps(issuer.claims(roles=["administrator"])).encode()
    return ".".join([head, base64.urlsafe_b64encode(claims).rstrip(b"=").decode(), signature])


def of_the_other_tenant(issuer: OpenIdIssuer) -> str:
    """Signed by the issuer that both share, as Entra's keys are, but issued for one and stating the other."""
    ours, other = issuer.tenants
    return issuer.token(tid=other, iss=issuer.issuer(ours))


def with_a_critical_header(issuer: OpenIdIssuer) -> str:
    headers = {"kid": "first", "crit": ["exp"]}
    return jwt.encode(issuer.claims(), issuer.keys["first"], algorithm="RS256", headers=headers)


BAD: dict[str, Callable[[OpenIdIssuer], str]] = {
    "unsigned": unsigned,
    "HS256 with the public key": signed_with_the_public_key_as_a_secret,
    "another key": signed_by_another_key_of_the_same_name,
    "changed": changed_after_signing,
    "other tenant's issuer": of_the_other_tenant,
    "critical header": with_a_critical_header,
    "unknown key": lambda issuer: issuer.sign(issuer.claims(), named="second"),
    "no key named": lambda issuer: jwt.encode(issuer.claims(), issuer.keys["first"], algorithm="RS256"),
    "RS512": lambda issuer: jwt.encode(
        issuer.claims(), issuer.keys["first"], algorithm="RS512", headers={"kid": "first"}
    ),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - CLOCK_SKEW_SECONDS - 5),
    "not yet": lambda issuer: issuer.token(nbf=int(time.time()) + CLOCK_SKEW_SECONDS + 30),
    "issued tomorrow": lambda issuer: issuer.token(iat=int(time.time()) + 86_400),
    "never expires": lambda issuer: issuer.token(exp=None),
    "never begins": lambda issuer: issuer.token(nbf=None),
    "another audience": lambda issuer: issuer.token(aud="00000003-0000-0000-c000-000000000000"),
    "no audience": lambda issuer: issuer.token(aud=None),
    "another issuer": lambda issuer: issuer.token(iss="https://login.example/x/v2.0"),
    "version 1 issuer": lambda issuer: issuer.token(iss=f"https://sts.windows.net/{first(issuer)}/"),
    "no issuer": lambda issuer: issuer.token(iss=None),
    "unknown tenant": lambda issuer: issuer.token(tid=str(uuid.uuid4())),
    "no tenant": lambda issuer: issuer.token(tid=None),
    "no user": lambda issuer: issuer.token(oid=None),
    "a user that is no text": lambda issuer: issuer.token(oid={"a": 1}),
    "a user without end": lambda issuer: issuer.token(oid="u" * 101),
    "an ID token": lambda issuer: issuer.token(scp=None, azp=None),
    "a user without scopes": lambda issuer: issuer.token(scp=None, idtyp="user"),
    "too long": lambda issuer: issuer.token(more="x" * 33_000),
    "no JSON": lambda _: "a.b.c",
    "empty parts": lambda _: "..",
    "not text": lambda _: "\udc80.\udc80.\udc80",
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
async def test_no_other_token_is_taken(issuer: OpenIdIssuer, make: Callable[[OpenIdIssuer], str]):
    tokens = tokens_of(issuer)
    with pytest.raises(Unauthenticated) as caught:
        await tokens.resolve(make(issuer))
    assert caught.value.detail == "The access token is not valid."
    assert await tokens.resolve(issuer.token())


async def test_clocks_may_differ_a_little(issuer: OpenIdIssuer):
    now = int(time.time())
    tokens = tokens_of(issuer)
    assert await tokens.resolve(issuer.token(exp=now - CLOCK_SKEW_SECONDS + 10))
    assert await tokens.resolve(issuer.token(nbf=now + CLOCK_SKEW_SECONDS - 10))


# --- keys of the issuer ---


async def test_a_new_key_is_found_when_a_token_names_it(issuer: OpenIdIssuer):
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    await tokens.resolve(issuer.token())
    issuer.add_key("second")
    clock.now += REFETCH_SECONDS
    assert await tokens.resolve(issuer.token(kid="second"))


async def test_a_flood_of_unknown_keys_asks_the_issuer_once_in_a_while(issuer: OpenIdIssuer):
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    await tokens.resolve(issuer.token())
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await tokens.resolve(issuer.sign(issuer.claims(), named=f"k{number}"))
    assert len(issuer.requests) == 2
    clock.now += REFETCH_SECONDS
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await tokens.resolve(issuer.sign(issuer.claims(), named=f"k{number}"))
    assert len(issuer.requests) == 4


async def test_a_withdrawn_key_is_refused_within_the_hour(issuer: OpenIdIssuer):
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    issuer.add_key("second")
    old = issuer.token()
    assert await tokens.resolve(old)
    del issuer.keys["first"]
    clock.now += KEYS_FRESH_SECONDS + 1
    with pytest.raises(Unauthenticated):
        await tokens.resolve(old)
    assert await tokens.resolve(issuer.token(kid="second"))
    issuer.add_key("first")


async def test_while_the_issuer_is_down_its_keys_are_good_for_a_day_and_then_it_is_said(
    issuer: OpenIdIssuer,
):
    clock = Clock()
    tokens = tokens_of(issuer, clock)
    token = issuer.token()
    assert await tokens.resolve(token)
    issuer.answers = False
    clock.now += KEYS_STALE_SECONDS - 1
    assert await tokens.resolve(token)
    clock.now += 2
    with pytest.raises(IdentityUnavailable) as caught:
        await tokens.resolve(token)
    assert caught.value.retryable
    issuer.answers = True
    clock.now += REFETCH_SECONDS
    assert await tokens.resolve(token)


async def test_no_keys_at_all_is_no_fault_of_the_caller(issuer: OpenIdIssuer):
    issuer.answers = False
    with pytest.raises(IdentityUnavailable):
        await tokens_of(issuer).resolve(issuer.token())


@pytest.mark.security("API10")
@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example/v2.0"},
        {"jwks_uri": "ftp://127.0.0.1/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"keys": "none"},
        {"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}]},
        {"keys": [{"kty": "RSA", "use": "enc", "kid": "first", "n": "AQAB", "e": "AQAB"}]},
    ],
)
async def test_metadata_that_is_not_the_issuers_own_gives_no_key(
    issuer: OpenIdIssuer, change: dict[str, Any]
):
    async def fetch(address: str) -> Any:
        return {**await fetch_json(address), **change}

    with pytest.raises((IdentityUnavailable, Unauthenticated)):
        await AccessTokens(settings_of(issuer), fetch=fetch).resolve(issuer.token())


# --- App Service authentication ---


def stated(issuer: OpenIdIssuer, auth_typ: str = "aad", **changes: Any) -> str:
    values = {
        "tid": first(issuer),
        "oid": "alice",
        "roles": "operator",
        "groups": "keepers",
        **changes,
    }
    claims = [{"typ": name, "val": value} for name, value in values.items() if value is not None]
    document = {"auth_typ": auth_typ, "name_typ": "name", "role_typ": "roles", "claims": claims}
    return base64.b64encode(json.dumps(document).encode()).decode()


async def test_what_app_service_states_is_the_same_principal(issuer: OpenIdIssuer):
    who = ingress_principal([stated(issuer)], settings_of(issuer))
    assert (who.tenant, who.user) == (issuer.tenants[first(issuer)], "alice")
    assert (who.groups, who.roles, who.credential) == (("keepers",), (Role.OPERATOR,), "ingress")
    long = "http://schemas.microsoft.com/identity/claims/"
    names = {f"{long}tenantid": first(issuer), f"{long}objectidentifier": "b"}
    other = stated(issuer, tid=None, oid=None, **names)
    assert ingress_principal([other], settings_of(issuer)).user == "b"
    overage = stated(issuer, hasgroups="true")
    assert ingress_principal([overage], settings_of(issuer)).groups == ()


@pytest.mark.security("API8")
async def test_what_app_service_never_states_proves_nothing(issuer: OpenIdIssuer):
    bad = [
        [],
        [""],
        ["%%%"],
        [base64.b64encode(b"[]").decode()],
        [base64.b64encode(b'{"auth_typ": "aad", "claims": 7}').decode()],
        [stated(issuer, auth_typ="google")],
        [stated(issuer, tid=str(uuid.uuid4()))],
        [stated(issuer, tid=None)],
        [stated(issuer, oid=None)],
        [stated(issuer, oid=7)],
        [stated(issuer), stated(issuer)],
    ]
    for values in bad:
        with pytest.raises(Unauthenticated):
            ingress_principal(values, settings_of(issuer))
    platform = stated(issuer, roles="platform")
    assert ingress_principal([platform], settings_of(issuer)).roles == ()
