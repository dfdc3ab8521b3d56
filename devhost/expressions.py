"""Binding expressions: `{name}` patterns that take values out of a path and put values into one."""

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from devhost.errors import AppLoadError

_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<name>[^{}]*)\}|(?P<text>[^{}]+)|(?P<stray>[{}])")
_NAME = re.compile(r"^[^\W\d][\w.\-]*$")


def _tokens(template: str) -> list[tuple[bool, str]]:
    """(is a name, text) pairs of `template`; raises AppLoadError where the host would refuse it."""
    tokens = []
    for match in _TOKEN.finditer(template):
        if match["stray"]:
            raise AppLoadError(f"binding expression {template!r} has a brace without its partner")
        name = match["name"]
        if name is not None:
            if not _NAME.match(name):
                raise AppLoadError(f"binding expression {template!r}: {name!r} is no valid name")
            tokens.append((True, name))
        else:
            tokens.append((False, match["text"] or match["brace"][0]))
    return tokens


class PathPattern:
    """A path with `{name}` captures, as a blob trigger has them.

    As in the Functions host each capture is greedy and may span slashes: `inbox/{name}` takes
    `inbox/a/b.txt` with `name` = `a/b.txt`, and `{a}/{b}` splits at the last slash.
    """

    def __init__(self, template: str) -> None:
        source, names = "", []
        for is_name, text in _tokens(template):
            if is_name:
                names.append(text)
                source += "(.*)"
            else:
                source += re.escape(text)
        if len(set(names)) != len(names):
            raise AppLoadError(f"binding expression {template!r} names a value twice")
        self._pattern = re.compile(f"^{source}$")
        self._names = names
        first_name = next((i for i, (is_name, _) in enumerate(_tokens(template)) if is_name), None)
        self.literal_prefix = "".join(text for _, text in _tokens(template)[:first_name])
        """The text every matching path starts with."""

    def match(self, path: str) -> dict[str, str] | None:
        """The captured values, or None when `path` does not fit."""
        found = self._pattern.match(path)
        return dict(zip(self._names, found.groups(), strict=True)) if found else None


def check_template(template: str) -> None:
    """Raises AppLoadError when `fill` could never work on `template`."""
    _tokens(template)


def fill(template: str, values: Mapping[str, Any]) -> str:
    """`template` with every `{name}` replaced from `values` (in any case), `{rand-guid}`, `{DateTime}`.

    Raises KeyError for a name without a value.
    """
    known = {name.lower(): value for name, value in values.items()}

    def value(name: str) -> str:
        if name == "rand-guid":
            return str(uuid.uuid4())
        if name == "DateTime":
            return datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        found = known
        for part in name.lower().split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise KeyError(f"no value for {{{name}}} in {template!r}")
            item = found[part]
            found = {key.lower(): entry for key, entry in item.items()} if isinstance(item, Mapping) else item
        return str(found)

    return "".join(value(text) if is_name else text for is_name, text in _tokens(template))
