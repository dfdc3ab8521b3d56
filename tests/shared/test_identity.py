"""Principals, roles, names, and the keys that prove who calls."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from shared.errors import Forbidden, InvalidName, Unauthenticated
from shared.identity import (
    KEY_PATTERN,
    TABLE,
    Keys,
    Principal,
    Role,
    check_name,
    check_readers,
    digest,
    new_key,
)
from shared.storage import Storage

ALICE = Principal("harbour", "alice", ("keepers",), (Role.CONTRIBUTOR,))


@pytest.mark.parametrize(
    ("role", "included"),
    [
        (Role.READER, {Role.READER}),
        (Role.CONTRIBUTOR, {Role.READER, Role.CONTRIBUTOR}),
        (Role.OPERATOR, {Role.READER, Role.OPERATOR}),
        (Role.PROMPT_EDITOR, {Role.READER, Role.PROMPT_EDITOR}),
        (Role.ADMINISTRATOR, set(Role) - {Role.PLATFORM}),
        (Role.PLATFORM, set(Role)),
    ],
)
def test_a_role_includes_those_below_it(role: Role, included: set[Role]):
    principal = Principal("t", "u", roles=(role,))
    assert {other for other in Role if principal.may(other)} == included
    for other in set(Role) - included:
        with pytest.raises(Forbidden):
            principal.require(other)


def test_roles_add_up():
    assert Principal("t", "u", roles=(Role.CONTRIBUTOR, Role.OPERATOR)).may(Role.OPERATOR)
    assert not Principal("t", "u", roles=()).may(Role.READER)


def test_a_principal_is_known_by_its_tenant_its_user_and_its_groups():
    assert ALICE.readers == ("tenant:*", "user:alice", "group:keepers")


@pytest.mark.parametrize("name", ["a", "a-b", "0", "a" * 63, "a--b"])
def test_a_name_that_is_taken(name: str):
    assert check_name("collection", name) == name


@pytest.mark.parametrize("name", ["", "-", "a-", "-a", "A", "a_b", "a.b", "a" * 64, "é", "a\n", "a/b"])
def test_a_name_that_is_refused(name: str):
    with pytest.raises(InvalidName):
        check_name("collection", name)


@pytest.mark.parametrize("reader", ["tenant:*", "user:a", "group:a b", "user:a:b", "user:é"])
def test_a_reader_that_is_taken(reader: str):
    check_readers([reader])


@pytest.mark.parametrize(
    "reader", ["", "user", "user:", "alice", "tenant:other", "role:x", "user:a\nb", "User:a"]
)
def test_a_reader_that_is_refused(reader: str):
    with pytest.raises(InvalidName):
        check_readers(["tenant:*", reader])


def test_keys_are_long_and_never_the_same():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)


async def test_a_key_proves_the_principal_that_it_was_made_for(storage: Storage):
    key = await Keys(storage).issue(ALICE)
    assert await Keys(storage).resolve(key) == ALICE


async def test_a_key_is_stored_as_its_digest_alone(storage: Storage):
    key = await Keys(storage).issue(ALICE)
    row = await storage.get_row(TABLE, "key", key.split("_")[1])
    assert row is not None
    assert row["sha256"] == hashlib.sha256(key.encode()).hexdigest()
    assert key not in str(row)
    assert key.split("_", 2)[2] not in str(row)


async def test_a_key_that_is_wrong_in_any_part_proves_nothing(storage: Storage):
    keys = Keys(storage)
    key = await keys.issue(ALICE)
    _, public, secret = key.split("_", 2)
    wrong = [
        None,
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
    key = await keys.issue(ALICE, expires_seconds=0.6)
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
