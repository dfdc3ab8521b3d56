"""What is shipped, and under which licences: `python dev.py licences` and `python dev.py sbom`.

Shipped are the packages that Azure installs and those of the model host's container, with the model weights;
tools that only build and test are not. Their lock files name each package with its version and the digests
of its files; licences come from the metadata of the installed packages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from laptop.environment import ROOT, STATE

LOCKS = ("requirements.txt", "modelhost/requirements.txt", "requirements-weights.txt")
SBOM = STATE / "sbom.cdx.json"

# Licences that ask for something of those who ship or change what is built on them.
COPYLEFT = re.compile(
    r"\b(A?GPL|LGPL|GNU|General Public|EUPL|CDDL|EPL|Eclipse Public|CPL|OSL|SSPL|BUSL|"
    r"Business Source|Commons Clause|CC[- ]BY[- ](NC|SA|ND)|MPL|Mozilla)",
    re.I,
)
# Bound to their own files alone, which are shipped as they are (MPL 2.0, 3.3).
TOLERATED = {"certifi": "MPL-2.0", "tqdm": "MPL-2.0 AND MIT"}

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_DIGEST = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Package:
    """A locked package; ``licence`` is None where it is not installed, being for another system."""

    name: str
    version: str
    digests: tuple[str, ...]
    licence: str | None

    @property
    def is_permissive(self) -> bool:
        """Whether it may be shipped without giving more than its notices."""
        if self.licence is None or TOLERATED.get(self.name) == _short(self.licence):
            return True
        return bool(self.licence) and not COPYLEFT.search(self.licence)


def packages(*locks: str) -> Iterator[Package]:
    """The packages of lock files, each once, by name."""
    found: dict[str, Package] = {}
    for lock in locks or LOCKS:
        text = (ROOT / lock).read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if pinned := _PINNED.match(line):
                name, version = pinned[1].lower(), pinned[2]
                found[name] = Package(name, version, tuple(_DIGEST.findall(line)), _licence(name))
    yield from (found[name] for name in sorted(found))


def _licence(name: str) -> str | None:
    try:
        told: Any = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    classifiers = [c for c in told.get_all("Classifier") or [] if c.startswith("License :: ")]
    named = ", ".join(classifier.rpartition(" :: ")[2] for classifier in classifiers)
    return told.get("License-Expression") or named or (told.get("License") or "").splitlines()[0][:100]


def _short(licence: str) -> str:
    return "MPL-2.0" if licence.startswith("Mozilla Public License 2.0") else licence


def print_licences() -> int:
    """Print a line for each package; 1 where one may not be shipped."""
    refused = []
    for package in packages():
        print(f"{package.name:44} {package.version:16} {package.licence or 'for another system'}")
        if not package.is_permissive:
            refused.append(package.name)
    for name in refused:
        print(f"{name}: its licence asks for more than its notices, or is not told")
    return 1 if refused else 0


def sbom() -> str:
    """The bill of materials of what is shipped, as CycloneDX 1.6 in JSON."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    # The library's classes are wrapped by decorators that hide their types.
    make_bom: Any = Bom
    make: Any = Component
    digest_of: Any = HashType
    licences = LicenseFactory()
    bom = make_bom()
    root = make(name="groundwork", version="0.1.0", type=ComponentType.APPLICATION, bom_ref="groundwork")
    bom.metadata.component = root
    for package in packages():
        component = make(
            name=package.name,
            version=package.version,
            type=ComponentType.LIBRARY,
            purl=PackageURL("pypi", name=package.name, version=package.version),
            hashes=[digest_of(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.digests],
            licenses=[licences.make_from_string(package.licence)] if package.licence else [],
        )
        bom.components.add(component)
        bom.register_dependency(root, [component])
    return JsonV1Dot6(bom).output_as_string(indent=2)


def write_sbom() -> int:
    """Write the bill of materials and tell where it is."""
    SBOM.parent.mkdir(exist_ok=True)
    SBOM.write_text(sbom())
    print(SBOM.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(print_licences() if sys.argv[1] == "licences" else write_sbom())
