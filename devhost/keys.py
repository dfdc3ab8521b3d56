"""Access keys of HTTP functions: made at the first start, kept in the data folder, never logged."""

import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from devhost.errors import SettingsError

# 40 random bytes, as the Functions host makes its own keys (SecretManager.GenerateSecret).
KEY_BYTES = 40


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The keys of one host: `master` opens everything, `default` functions, `system` the extensions."""

    master: str
    default: str
    system: str

    def __repr__(self) -> str:
        return "HostKeys(***)"

    @property
    def all(self) -> tuple[str, ...]:
        """Every key, for masking in logs."""
        return (self.master, self.default, self.system)

    def opens(self, level: str, key: str | None) -> bool:
        """Whether `key` opens a function of auth `level`: anonymous, function or admin."""
        if level == "anonymous":
            return True
        if not key:
            return False
        accepted = (self.master,) if level == "admin" else (self.master, self.default)
        return any(hmac.compare_digest(key.encode(), known.encode()) for known in accepted)


def load_keys(path: Path) -> HostKeys:
    """The keys in `path`; makes the file, readable by its owner alone, when there is none."""
    if not path.is_file():
        _write_new_keys(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return HostKeys(document["master"], document["default"], document["system"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} does not hold the host's keys; delete it to get new ones") from error


def _write_new_keys(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {name: secrets.token_urlsafe(KEY_BYTES) for name in ("master", "default", "system")}
    half_written = path.with_suffix(f".{os.getpid()}.new")
    descriptor = os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
    half_written.replace(path)
