"""Principals, roles, and names of access lists."""

from __future__ import annotations

import pytest

from shared.errors import Forbidden, InvalidName
from shared.identity import Principal, Role, check_name, check_readers

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


def test_a_principal_reaches_all_collections_or_those_of_its_credential():
    assert ALICE.reaches("anything")
    limited = Principal("harbour", "alice", collections=("charts",))
    assert limited.reaches("charts")
    assert not limited.reaches("logs")
    assert not Principal("harbour", "alice", collections=()).reaches("")


@pytest.mark.parametrize(
    "principal",
    [ALICE, Principal("t", "u", (), (), ("a", "b"), "key:1"), Principal("t", "u", collections=())],
)
def test_a_principal_survives_the_way_through_a_job(principal: Principal):
    again = Principal.from_dict(principal.to_dict())
    assert (again, again.credential) == (principal, principal.credential)
