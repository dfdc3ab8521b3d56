"""Which credential is taken, and what becomes of those that fail again and again."""

from __future__ import annotations

import base64
import json

import pytest
from starlette.requests import Request

from functions.http import presented
from shared.audit import Audit
from shared.authentication import WINDOW_SECONDS, Authentication, FailedAttempts, Presented
from shared.config import EntraSettings
from shared.errors import RateLimited, Unauthenticated
from shared.identity import Principal
from shared.keys import Keys, new_key
from shared.storage import Storage

pytestmark = pytest.mark.security("API2", "API4")

ALICE = Principal("harbour", "alice")
CLAIMS = [{"typ": "tid", "val": "e"}, {"typ": "oid", "val": "bob"}]
INGRESS = base64.b64encode(json.dumps({"auth_typ": "aad", "claims": CLAIMS}).encode()).decode()


def authentication(storage: Storage, *, most: int = 3, trusting: bool = False) -> Authentication:
    return Authentication(
        keys=Keys(storage),
        tokens=None,
        audit=Audit(storage),
        attempts=FailedAttempts(most, clock=lambda: 1000.0),
        trusted_ingress=EntraSettings("", (), {"e": "harbour"}) if trusting else None,
    )


async def denied(storage: Storage, tenant: str) -> list[str]:
    items, _ = await Audit(storage).page(tenant, limit=1000, decision="denied")
    return [item["reason"] for item in items]


async def test_a_request_that_brings_nothing_is_told_what_to_bring(storage: Storage):
    with pytest.raises(Unauthenticated) as caught:
        await authentication(storage, most=1).principal(Presented(), "c")
    assert "Bearer" in caught.value.detail


async def test_a_source_that_fails_too_often_is_told_to_wait(storage: Storage):
    doors = authentication(storage)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await doors.principal(Presented(new_key(), source="a"), "c")
    with pytest.raises(RateLimited) as caught:
        await doors.principal(Presented(new_key(), source="a"), "c")
    assert 0 < (caught.value.retry_after or 0) <= WINDOW_SECONDS
    with pytest.raises(Unauthenticated):
        await doors.principal(Presented(new_key(), source="b"), "c")


async def test_a_good_credential_is_taken_whatever_others_did_from_its_address_or_with_it(
    storage: Storage,
):
    doors = authentication(storage)
    key, _ = await Keys(storage).issue(ALICE)
    wrong = key[:-4] + ("AAAA" if not key.endswith("AAAA") else "BBBB")
    for _ in range(10):
        with pytest.raises((Unauthenticated, RateLimited)):
            await doors.principal(Presented(wrong, source="a"), "c")
    assert await doors.principal(Presented(key, source="a"), "c") == ALICE


async def test_guesses_at_one_key_from_many_places_are_counted_together_and_fill_no_table(storage: Storage):
    doors = authentication(storage)
    tenant = f"t-{new_key()[3:19]}"
    key, _ = await Keys(storage).issue(Principal(tenant, "alice"))
    wrong = key[:-4] + ("AAAA" if not key.endswith("AAAA") else "BBBB")
    for number in range(3):
        with pytest.raises(Unauthenticated):
            await doors.principal(Presented(wrong, source=f"s{number}"), "c")
    for number in range(5):
        with pytest.raises(RateLimited):
            await doors.principal(Presented(wrong, source=f"t{number}"), "c")
    assert await denied(storage, tenant) == ["wrong_secret"] * 3


def test_failures_are_forgotten_with_their_window_and_never_grow_without_end():
    now = [0.0]
    attempts = FailedAttempts(2, clock=lambda: now[0])
    assert [attempts.add(["a"]) > 0 for _ in range(4)] == [False, False, True, True]
    now[0] = WINDOW_SECONDS
    assert attempts.add(["a"]) == 0
    for number in range(30_000):
        attempts.add([f"n{number}"])
    assert len(attempts._counts) <= 10_001


@pytest.mark.security("API8")
async def test_the_header_of_an_ingress_counts_only_where_one_is_trusted(
    storage: Storage,
):
    forged = Presented(ingress=(INGRESS,))
    with pytest.raises(Unauthenticated):
        await authentication(storage).principal(forged, "c")
    who = await authentication(storage, trusting=True).principal(forged, "c")
    assert (who.tenant, who.user) == ("harbour", "bob")
    key, _ = await Keys(storage).issue(ALICE)
    both = Presented(key, ingress=(INGRESS,))
    assert await authentication(storage, trusting=True).principal(both, "c") == ALICE
    with pytest.raises(Unauthenticated):
        await authentication(storage, trusting=True).principal(Presented(new_key(), ingress=(INGRESS,)), "c")


def request(*headers: tuple[str, str], client: str = "10.0.0.9") -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    return Request({"type": "http", "headers": raw, "client": (client, 1), "path": "/", "query_string": b""})


@pytest.mark.parametrize(
    ("forwarded", "source"),
    [
        ([], "10.0.0.9"),
        (["203.0.113.7:51234"], "203.0.113.7"),
        (["1.1.1.1, 203.0.113.7:51234"], "203.0.113.7"),
        (["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        (["[2001:db8::1]:443"], "[2001:db8::1]"),
        (["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_the_source_is_the_address_that_the_front_end_was_called_from(forwarded: list[str], source: str):
    assert presented(request(*(("X-Forwarded-For", value) for value in forwarded))).source == source


def test_a_credential_shows_in_no_repr():
    shown = repr(presented(request(("Authorization", "Bearer gw_secret"), ("X-MS-CLIENT-PRINCIPAL", "abc"))))
    assert "secret" not in shown
    assert "abc" not in shown
