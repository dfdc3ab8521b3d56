"""What is shipped: locked by digest, under licences that allow it, listed in a bill of materials."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from laptop import supply_chain
from laptop.supply_chain import Package

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("requirements*.txt"))

pytestmark = pytest.mark.security("LLM03", "API8")


def licensed(licence: str, name: str = "some-package") -> Package:
    return Package(name, "1.0", (), licence)


def test_every_shipped_package_may_be_shipped() -> None:
    assert [package for package in supply_chain.packages() if not package.is_permissive] == []


@pytest.mark.parametrize(
    "licence",
    [
        "GPL-3.0-or-later",
        "GNU Affero General Public License v3",
        "LGPL-2.1-only",
        "GNU Lesser General Public License v3 (LGPLv3)",
        "MIT AND GPL-2.0-only",
        "Mozilla Public License 2.0 (MPL 2.0)",
        "SSPL-1.0",
        "BUSL-1.1",
        "CC-BY-NC-4.0",
        "EUPL-1.2",
        "",
    ],
)
def test_a_licence_that_asks_for_more_or_says_nothing_is_refused(licence: str) -> None:
    assert not licensed(licence).is_permissive


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0 AND MIT", "BSD License", "PSF-2.0", "MIT-CMU"])
def test_a_permissive_licence_is_taken(licence: str) -> None:
    assert licensed(licence).is_permissive


def test_an_exception_is_for_one_package_under_one_licence() -> None:
    assert licensed("Mozilla Public License 2.0 (MPL 2.0)", "certifi").is_permissive
    assert not licensed("GPL-3.0-only", "certifi").is_permissive


@pytest.mark.parametrize("lock", [*LOCKS, "modelhost/requirements.txt"])
def test_every_line_of_a_lock_file_pins_a_version_and_its_digests_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--trusted-host|git\+", text)
    packages = list(supply_chain.packages(lock))
    assert packages
    assert [package.name for package in packages if not package.digests] == []
    unpinned = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line) and "==" not in line]
    assert unpinned == []


def test_node_packages_are_locked_by_digest_and_name_no_host() -> None:
    locks = [path for path in ROOT.rglob("package-lock.json") if "node_modules" not in path.parts]
    assert locks
    for path in locks:
        for name, package in json.loads(path.read_text())["packages"].items():
            assert not name or package.get("integrity") or package.get("link"), (path, name)
            assert "resolved" not in package, (path, name)


def test_the_bill_of_materials_is_valid_and_lists_what_azure_installs() -> None:
    text = supply_chain.sbom()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {component["name"]: component for component in json.loads(text)["components"]}
    for package in supply_chain.packages("requirements.txt"):
        component = listed[package.name]
        assert component["version"] == package.version
        assert {digest["content"] for digest in component["hashes"]} == set(package.digests)
