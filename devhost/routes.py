"""HTTP route templates of the Functions host: parsing, constraints and precedence as in ASP.NET Core.

A template is made of segments. A segment is literal text, one parameter, or a mix of both
(`report-{id}.{format}`); `{*rest}` as the last segment takes everything that is left. A parameter may
carry constraints (`{id:int:min(1)}`), a default (`{page=1}`) and be optional (`{id?}`). Literals match
in any case. Per segment a literal beats a constrained parameter, that beats a plain one, and a catch-all
comes last.
"""

import codecs
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

from devhost.errors import AppLoadError

T = TypeVar("T")
Constraint = Callable[[str], bool]

_INT32 = (-(2**31), 2**31 - 1)
_INT64 = (-(2**63), 2**63 - 1)
_PARAMETER_NAME = re.compile(r"^[^/{}?*:=()]+$")
_CONSTRAINT = re.compile(r"^(?P<name>\w+)(?:\((?P<argument>.*)\))?$", re.DOTALL)


def decode_path(raw_path: bytes) -> str | None:
    """The path that routes are matched with, from the bytes on the wire; None for a malformed one.

    As Kestrel does it: percent-escapes are decoded, but `%2F` stays as it is (an escaped slash separates no
    segments and reaches the handler as `%2F`), bytes that are not UTF-8 stay escaped, then dot segments
    are removed. A NUL makes the request bad.
    """
    raw_path = raw_path.split(b"?", 1)[0]
    if b"%" in raw_path:
        parts = re.split(rb"(%2[fF])", raw_path)
        path = "".join(_decode_part(part) if i % 2 == 0 else part.decode() for i, part in enumerate(parts))
    else:
        path = raw_path.decode("utf-8", "percent-escape")
    if "\x00" in path or not path.startswith("/"):
        return None
    return _remove_dot_segments(path) if "/." in path else path


def _decode_part(part: bytes) -> str:
    return unquote_to_bytes(part).decode("utf-8", "percent-escape")


def _escape_again(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"%{byte:02X}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error("percent-escape", _escape_again)


def _remove_dot_segments(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One `{…}` of a template."""

    name: str
    constraints: tuple[Constraint, ...] = ()
    default: str | None = None
    optional: bool = False
    catch_all: bool = False

    def accepts(self, value: str) -> bool:
        return all(constraint(value) for constraint in self.constraints)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a template: a literal, a single parameter, or a pattern that mixes both."""

    literal: str | None = None
    parameter: Parameter | None = None
    pattern: re.Pattern[str] | None = None
    parameters: tuple[Parameter, ...] = ()

    @property
    def precedence(self) -> int:
        """1 to 5, the lower the earlier it is tried (ASP.NET's RoutePrecedence for inbound matching)."""
        if self.literal is not None:
            return 1
        if self.parameter is None:
            return 2
        plain = not self.parameter.constraints
        if self.parameter.catch_all:
            return 5 if plain else 4
        return 3 if plain else 2

    def match(self, text: str) -> dict[str, str] | None:
        """The values `text` gives to this segment's parameters, or None when it does not fit."""
        if self.parameter is not None:
            return {self.parameter.name: text} if self.parameter.accepts(text) else None
        assert self.pattern is not None
        found = self.pattern.match(text)
        if found is None:
            return None
        values = {parameter.name: found.group(i + 1) for i, parameter in enumerate(self.parameters)}
        return values if all(p.accepts(values[p.name]) for p in self.parameters) else None


def parse_template(template: str) -> tuple[Segment, ...]:
    """The segments of a route template; raises AppLoadError saying what is wrong with it."""
    parts = _split_outside_braces(template.strip("/"), "/")
    segments = tuple(_parse_segment(part, template) for part in parts if part or len(parts) > 1)
    for segment in segments[:-1]:
        if segment.parameter is not None and (segment.parameter.catch_all or segment.parameter.optional):
            raise AppLoadError(f"route {template!r}: only the last segment may be optional or a catch-all")
    names = [p.name.lower() for s in segments for p in ((s.parameter,) if s.parameter else s.parameters)]
    if len(names) != len(set(names)):
        raise AppLoadError(f"route {template!r} names a parameter twice")
    return segments


def _parse_segment(text: str, template: str) -> Segment:
    if not text:
        raise AppLoadError(f"route {template!r} has an empty segment")
    pieces = _pieces(text, template)
    if len(pieces) == 1:
        only = pieces[0]
        return Segment(literal=only.lower()) if isinstance(only, str) else Segment(parameter=only)
    parameters = tuple(piece for piece in pieces if isinstance(piece, Parameter))
    if any(parameter.catch_all or parameter.optional for parameter in parameters):
        raise AppLoadError(f"route {template!r}: {text!r} mixes text with an optional or catch-all parameter")
    source = "".join(f"({'.+'})" if isinstance(piece, Parameter) else re.escape(piece) for piece in pieces)
    return Segment(pattern=re.compile(f"^{source}$", re.IGNORECASE | re.DOTALL), parameters=parameters)


def _pieces(text: str, template: str) -> list[str | Parameter]:
    """Literal texts and parameters of one segment; `{{` and `}}` stand for the braces themselves."""
    pieces: list[str | Parameter] = []
    literal, position = "", 0
    while position < len(text):
        pair = text[position : position + 2]
        if pair in ("{{", "}}"):
            literal, position = literal + pair[0], position + 2
        elif text[position] == "{":
            end = _closing_brace(text, position, template)
            if literal:
                pieces.append(literal)
            pieces.append(_parse_parameter(text[position + 1 : end], template))
            literal, position = "", end + 1
        elif text[position] == "}":
            raise AppLoadError(f"route {template!r} has a closing brace without an opening one")
        else:
            literal, position = literal + text[position], position + 1
    return [*pieces, literal] if literal else pieces


def _closing_brace(text: str, start: int, template: str) -> int:
    position = start + 1
    while position < len(text):
        if text[position : position + 2] in ("{{", "}}"):
            position += 2
        elif text[position] == "}":
            return position
        else:
            position += 1
    raise AppLoadError(f"route {template!r} has an opening brace without a closing one")


def _parse_parameter(text: str, template: str) -> Parameter:
    catch_all = text.startswith("*")
    text = text.lstrip("*")
    head, default = _cut_outside_parentheses(text, "=")
    optional = default is None and head.endswith("?")
    name, *constraints = _split_outside_parentheses(head.removesuffix("?") if optional else head, ":")
    if not _PARAMETER_NAME.match(name):
        raise AppLoadError(f"route {template!r} has an invalid parameter name {name!r}")
    return Parameter(
        name=name,
        constraints=tuple(_parse_constraint(constraint, template) for constraint in constraints),
        default=default,
        optional=optional,
        catch_all=catch_all,
    )


def _parse_constraint(text: str, template: str) -> Constraint:
    match = _CONSTRAINT.match(text.replace("{{", "{").replace("}}", "}"))
    build = _CONSTRAINTS.get(match["name"].lower()) if match else None
    if match is None or build is None:
        raise AppLoadError(f"route {template!r}: constraint {text!r} is not known")
    try:
        return build(match["argument"])
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise AppLoadError(f"route {template!r}: constraint {text!r} has a wrong argument") from error


def _integer(value: str, bounds: tuple[int, int]) -> bool:
    return re.fullmatch(r"\s*[+-]?[0-9]+\s*", value) is not None and bounds[0] <= int(value) <= bounds[1]


def _number(value: str) -> bool:
    return re.fullmatch(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", value) is not None


def _guid(value: str) -> bool:
    try:
        uuid.UUID(value)
    except ValueError:
        return False
    return True


def _plain(test: Constraint) -> Callable[[str | None], Constraint]:
    def build(argument: str | None) -> Constraint:
        if argument is not None:
            raise ValueError("takes no argument")
        return test

    return build


def _length(argument: str) -> Constraint:
    low, _, high = argument.partition(",")
    least, most = int(low), int(high or low)
    return lambda value: least <= len(value) <= most


def _range(argument: str) -> Constraint:
    low, high = argument.split(",")
    return lambda value, bounds=(int(low), int(high)): _integer(value, bounds)


def _regex(argument: str) -> Constraint:
    pattern = re.compile(argument, re.IGNORECASE)
    return lambda value: pattern.search(value) is not None


# https://learn.microsoft.com/aspnet/core/fundamentals/routing#route-constraints
_CONSTRAINTS: dict[str, Callable[[Any], Constraint]] = {
    "int": _plain(lambda value: _integer(value, _INT32)),
    "long": _plain(lambda value: _integer(value, _INT64)),
    "bool": _plain(lambda value: value.lower() in ("true", "false")),
    "guid": _plain(_guid),
    "decimal": _plain(_number),
    "double": _plain(_number),
    "float": _plain(_number),
    "alpha": _plain(lambda value: re.fullmatch(r"[a-zA-Z]*", value) is not None),
    "required": _plain(lambda value: bool(value)),
    "length": _length,
    "minlength": lambda argument: lambda value, least=int(argument): len(value) >= least,
    "maxlength": lambda argument: lambda value, most=int(argument): len(value) <= most,
    "min": lambda argument: lambda value, bounds=(int(argument), _INT64[1]): _integer(value, bounds),
    "max": lambda argument: lambda value, bounds=(_INT64[0], int(argument)): _integer(value, bounds),
    "range": _range,
    "regex": _regex,
}


def _split_outside_braces(text: str, separator: str) -> list[str]:
    return _split(text, separator, "{", "}")


def _split_outside_parentheses(text: str, separator: str) -> list[str]:
    return _split(text, separator, "(", ")")


def _split(text: str, separator: str, opening: str, closing: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character == opening:
            depth += 1
        elif character == closing:
            depth = max(0, depth - 1)
        elif character == separator and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _cut_outside_parentheses(text: str, separator: str) -> tuple[str, str | None]:
    head, *rest = _split_outside_parentheses(text, separator)
    return head, separator.join(rest) if rest else None


@dataclass(slots=True)
class _Node(Generic[T]):
    """What may follow a matched path: literals, parameter segments by precedence, and ends by method."""

    literals: dict[str, "_Node[T]"] = field(default_factory=dict)
    parameters: list[tuple[Segment, "_Node[T]"]] = field(default_factory=list)
    catch_alls: list[tuple[Parameter, list["_End[T]"]]] = field(default_factory=list)
    ends: list["_End[T]"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _End(Generic[T]):
    methods: frozenset[str] | None
    target: T
    defaults: dict[str, str]


class RouteTable(Generic[T]):
    """Maps a method and a decoded path to the target registered for the best matching template."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, template: str, methods: frozenset[str] | None, target: T) -> None:
        """Register `target`; `methods` None means every method. Raises AppLoadError for a bad template."""
        segments = parse_template(template)
        defaults = {s.parameter.name: s.parameter.default for s in segments if s.parameter}
        end = _End(methods, target, {name: value for name, value in defaults.items() if value is not None})
        node = self._root
        for position, segment in enumerate(segments):
            if _may_be_left_out(segments[position:]):
                node.ends.append(end)
            if segment.parameter is not None and segment.parameter.catch_all:
                node.catch_alls.append((segment.parameter, [end]))
                node.catch_alls.sort(key=lambda entry: not entry[0].constraints)
                return
            node = _child(node, segment)
        node.ends.append(end)

    def match(self, method: str, path: str) -> tuple[T, dict[str, str]] | None:
        """The target and its route values for `path`, or None.

        A route whose methods do not include `method` does not match: the Functions host answers 404, not
        405, for a known path with the wrong method, and gives HEAD to no function that asked for GET only.
        """
        segments = path[1:].split("/")
        if segments[-1] == "":
            segments.pop()  # one trailing slash does not count
        found = _search(self._root, segments, 0, method, path)
        if found is None:
            return None
        end, values = found
        return end.target, {**end.defaults, **values} if end.defaults else values


def _may_be_left_out(rest: tuple[Segment, ...]) -> bool:
    """Whether the path may end before these segments: each is optional or has a default."""
    return all(
        s.parameter is not None
        and not s.parameter.catch_all
        and (s.parameter.optional or s.parameter.default is not None)
        for s in rest
    )


def _child(node: _Node[T], segment: Segment) -> _Node[T]:
    if segment.literal is not None:
        return node.literals.setdefault(segment.literal, _Node())
    child: _Node[T] = _Node()
    node.parameters.append((segment, child))
    node.parameters.sort(key=lambda entry: entry[0].precedence)
    return child


def _search(
    node: _Node[T], segments: list[str], position: int, method: str, path: str
) -> tuple[_End[T], dict[str, str]] | None:
    if position == len(segments):
        for end in node.ends:
            if end.methods is None or method in end.methods:
                return end, {}
    else:
        text = segments[position]
        literal = node.literals.get(text.lower())
        if literal is not None:
            found = _search(literal, segments, position + 1, method, path)
            if found is not None:
                return found
        for segment, child in node.parameters if text else ():
            values = segment.match(text)
            if values is not None:
                found = _search(child, segments, position + 1, method, path)
                if found is not None:
                    return found[0], {**values, **found[1]}
    return _search_catch_alls(node, segments, position, method, path) if node.catch_alls else None


def _search_catch_alls(
    node: _Node[T], segments: list[str], position: int, method: str, path: str
) -> tuple[_End[T], dict[str, str]] | None:
    taken = sum(len(segment) + 1 for segment in segments[:position]) + 1
    rest = path[taken:]
    for parameter, ends in node.catch_alls:
        if rest and not parameter.accepts(rest):
            continue
        for end in ends:
            if end.methods is None or method in end.methods:
                return end, {parameter.name: rest} if rest else {}
    return None
