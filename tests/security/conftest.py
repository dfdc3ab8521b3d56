"""Two tenants of the shared stack: one has one of everything, the other wants it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "functions"))

from edge_tenant import Tenant
from everything import Names, make_everything


@pytest.fixture(scope="session")
def owner(stack) -> tuple[Tenant, Names]:
    """A tenant with one of everything, and what its things are called."""
    name = stack.new_tenant()
    tenant = Tenant(stack, name, stack.key_for(name))
    return tenant, make_everything(tenant)


@pytest.fixture(scope="session")
def stranger(stack) -> Tenant:
    """Another tenant, with its administrator's key."""
    name = stack.new_tenant()
    return Tenant(stack, name, stack.key_for(name))


@pytest.fixture
def bystander(stack) -> Tenant:
    """A tenant that has never asked for anything of the owner's by its name."""
    name = stack.new_tenant()
    return Tenant(stack, name, stack.key_for(name))
