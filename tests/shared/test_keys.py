"""API keys: what is stored of them, whom they prove, how they end."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from shared.errors import Conflict, InvalidName, NotFound, Unauthenticated
from shared.identity import Principal, Role
from shared.keys import KEY_PATTERN, PARTITION, TABLE, Keys, RefusedKey, digest, key_id, new_key
from shared.storage import Storage

pytestmark = pytest.mark.security("API2")

ALICE = Principal("harbour", "alice", ("keepers",), (Role.CONTRIBUTOR,), ("charts",))


def test_keys_are_long_and_never_the_same():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)


async def test_a_key_proves_the_principal_that_it_was_made_for(storage: Storage):
    key, _ = await Keys(storage).issue(ALICE)
    assert await Keys(storage).resolve(key) == ALICE


async def test_a_key_is_stored_as_its_digest_alone(storage: Storage):
    key, _ = await Keys(storage).issue(ALICE)
    row = await storage.get_row(TABLE, PARTITION, key.split("_")[1])
    assert row is not None
    assert row["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in str(row)
    assert key.split("_", 2)[2] not in str(row)


async def test_a_key_that_is_wrong_in_any_part_proves_nothing(storage: Storage):
    keys = Keys(storage)
    key, _ = await keys.issue(ALICE)
    _, public, secret = key.split("_", 2)
    wrong = [
        "",
        "gw__",
        key[:-1],
        key + "A",
        key + "\n",
        f" {key}",
        f"gw_{public}_{'A' * 43}",
        f"gw_{'0' * 16}_{secret}",
        f"gw_{public}_{secret[:-1]}'",
        "gw_' or true_" + "A" * 43,
    ]
    for other in wrong:
        with pytest.raises(Unauthenticated):
            await keys.resolve(other)
    assert await keys.resolve(key) == ALICE


async def test_a_key_ends_at_its_expiry_also_where_it_is_remembered(storage: Storage):
    keys = Keys(storage)
    key, _ = await keys.issue(ALICE, expires_seconds=0.6)
    assert await keys.resolve(key) == ALICE
    await asyncio.sleep(0.7)
    with pytest.raises(Unauthenticated):
        await keys.resolve(key)


async def test_a_bootstrap_key_is_the_platforms_administrator(storage: Storage):
    key = new_key()
    principal = await Keys(storage, digest(key)).resolve(key)
    assert (principal.tenant, principal.roles) == ("default", (Role.PLATFORM,))
    with pytest.raises(Unauthenticated):
        await Keys(storage, digest(key)).resolve(new_key())


async def test_a_key_cannot_be_made_for_a_tenant_that_cannot_be(storage: Storage):
    with pytest.raises(InvalidName):
        await Keys(storage).issue(Principal("../other", "u"))


async def test_a_refused_key_tells_whose_it_is_to_the_audit_and_not_to_the_caller(storage: Storage):
    keys = Keys(storage)
    key, record = await keys.issue(ALICE)
    await keys.revoke(record)
    for offered, reason in ((key[:-1] + ("B" if key[-1] == "A" else "A"), "wrong_secret"), (key, "revoked")):
        with pytest.raises(RefusedKey) as caught:
            await keys.resolve(offered)
        assert (caught.value.reason, caught.value.key.principal) == (reason, ALICE)
        assert caught.value.detail == "The API key is not valid."
        assert key not in repr(caught.value.key)
        assert digest(key) not in repr(caught.value.key)


async def test_a_revoked_key_proves_nothing_at_once_where_it_was_revoked(storage: Storage):
    keys = Keys(storage)
    key, record = await keys.issue(ALICE)
    assert await keys.resolve(key) == ALICE
    revoked = await keys.revoke(record)
    assert revoked.state == "revoked"
    with pytest.raises(Unauthenticated):
        await keys.resolve(key)
    assert (await keys.revoke(revoked)).revoked == revoked.revoked


async def test_a_rotated_key_and_its_successor_both_work_until_the_overlap_ends(storage: Storage):
    keys = Keys(storage)
    old, record = await keys.issue(ALICE, expires_seconds=60, label="ship")
    made, successor = await keys.rotate(
        record, key=new_key(), expires_seconds=60, overlap_seconds=0.6, issued_by="bob"
    )
    assert (successor.principal, successor.label, successor.issued_by) == (ALICE, "ship", "bob")
    assert await keys.resolve(old) == await keys.resolve(made) == ALICE
    await asyncio.sleep(0.7)
    with pytest.raises(Unauthenticated):
        await keys.resolve(old)
    assert await keys.resolve(made) == ALICE
    assert (await keys.find(record.id)).replaced_by == successor.id


async def test_an_overlap_never_lengthens_the_life_of_the_old_key(storage: Storage):
    keys = Keys(storage)
    _, record = await keys.issue(ALICE, expires_seconds=5)
    await keys.rotate(record, key=new_key(), expires_seconds=60, overlap_seconds=600, issued_by="")
    after = await keys.find(record.id)
    assert after.seconds_left() <= 5


async def test_only_one_of_two_rotations_has_a_successor(storage: Storage):
    keys = Keys(storage)
    _, record = await keys.issue(ALICE, expires_seconds=60)
    attempts = await asyncio.gather(
        *(
            keys.rotate(record, key=key, expires_seconds=60, overlap_seconds=9, issued_by="")
            for key in (new_key(), new_key())
        ),
        return_exceptions=True,
    )
    made = [each for each in attempts if not isinstance(each, BaseException)]
    assert sum(isinstance(each, Conflict) for each in attempts) == 1
    assert (await keys.find(record.id)).replaced_by == made[0][1].id
    with pytest.raises(Conflict):
        await keys.rotate(record, key=new_key(), expires_seconds=9, overlap_seconds=9, issued_by="")


async def test_a_tenants_keys_are_listed_without_those_of_others(storage: Storage):
    keys = Keys(storage)
    tenant = f"t-{new_key()[3:19]}"
    ids = {(await keys.issue(Principal(tenant, f"u{n}")))[1].id for n in range(3)}
    await keys.issue(Principal(f"{tenant}-b", "other"))
    assert {key.id async for key in keys.list(tenant)} == ids
    with pytest.raises(NotFound):
        await keys.find("0" * 16)


async def test_the_use_of_a_key_is_written_down_behind_the_request(storage: Storage):
    keys = Keys(storage)
    key, record = await keys.issue(ALICE)
    assert (await keys.find(record.id)).last_used is None
    await keys.resolve(key)
    for _ in range(100):
        if (await keys.find(key_id(key))).last_used is not None:
            break
        await asyncio.sleep(0.02)
    assert (await keys.find(record.id)).last_used is not None
    assert await Keys(storage).resolve(key) == ALICE
