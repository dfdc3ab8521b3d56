"""Prompts: versioned files, each with a name, a version and a hash that telemetry and caches can tell."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
_FILE = re.compile(r"---\nname: (?P<name>[a-z-]+)\nversion: (?P<version>\d+)\n---\n(?P<text>.+)", re.S)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's text and where it comes from."""

    name: str
    version: int
    text: str
    sha256: str

    @property
    def label(self) -> str:
        """Name, version and the hash's beginning: a changed text shows even under an old number."""
        return f"{self.name}@{self.version}+{self.sha256[:12]}"


@cache
def load(name: str) -> Prompt:
    """The prompt in ``{name}.md`` beside this module; raises `ValueError` for a malformed file."""
    match = _FILE.fullmatch((FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    if match is None or match["name"] != name:
        raise ValueError(f"{name}.md does not begin with its name and version.")
    text = match["text"].strip()
    return Prompt(name, int(match["version"]), text, hashlib.sha256(text.encode()).hexdigest())
