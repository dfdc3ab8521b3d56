"""Tenants of the shared stack."""

from __future__ import annotations

import pytest
from edge_tenant import Tenant


@pytest.fixture
def tenant(stack) -> Tenant:
    """A tenant that no other test uses, with its administrator's key."""
    name = stack.new_tenant()
    return Tenant(stack, name, stack.key_for(name))


@pytest.fixture(scope="module")
def shared_tenant(stack) -> Tenant:
    """One tenant for all tests of a module that only read or are refused."""
    name = stack.new_tenant()
    return Tenant(stack, name, stack.key_for(name))
