"""Reads Bicep templates and names their faults, with no Bicep compiler.

`parse` gives a `Template`; `faults` checks it against the rules that this project keeps: valid syntax, no
name without a declaration, modules called with exactly their parameters, no keys, no wide roles. The real
compiler knows more (types and property names) and runs beside it where it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tree_sitter
import tree_sitter_bicep
from tree_sitter import Node

_PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bicep.language()))

# Azure's built-in roles that the app needs, by the name of the variable that holds the identifier.
ROLES = {
    "storageBlobDataOwner": "b7e6dc6d-f1e8-4753-8033-0f276bb0955b",
    "storageBlobDataContributor": "ba92f5b4-2d11-453d-a403-e96b0029c9fe",
    "storageQueueDataContributor": "974c5e8b-45b9-4653-ba55-5f855dd0fb88",
    "storageTableDataContributor": "0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3",
    "cognitiveServicesOpenAIUser": "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd",
    "cognitiveServicesUser": "a97b65f3-24c7-4388-baec-2e87135dc908",
    "searchIndexDataContributor": "8ebe5a00-799e-43f5-93ac-243d3dce84a7",
    "searchServiceContributor": "7ca78c08-252a-4471-8644-bb5ff32d4ba0",
    "durableTaskDataContributor": "0ad04412-c4d5-4796-b79c-f76d14c8d402",
    "keyVaultSecretsUser": "4633458b-17de-408a-b874-0445c86b69e6",
    "monitoringMetricsPublisher": "3913510d-42f4-4e42-8a64-420c390055eb",
}

# What a resource of a type must say, whatever else it says.
REQUIRED_PROPERTIES = {
    "Microsoft.Storage/storageAccounts": {
        "properties.allowSharedKeyAccess": "false",
        "properties.allowBlobPublicAccess": "false",
        "properties.minimumTlsVersion": "'TLS1_2'",
        "properties.supportsHttpsTrafficOnly": "true",
    },
    "Microsoft.CognitiveServices/accounts": {"properties.disableLocalAuth": "true"},
    "Microsoft.Search/searchServices": {"properties.disableLocalAuth": "true"},
    "Microsoft.Web/sites": {"properties.httpsOnly": "true", "properties.siteConfig.minTlsVersion": "'1.2'"},
}

_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ROLE_DEFINITION = re.compile(r"subscriptionResourceId\('Microsoft.Authorization/roleDefinitions', (\w+)\)")
_SECRET = re.compile(r"\blist[A-Z]\w*\s*\(|\bkeys?\b|password|secret|accountKey|code=", re.IGNORECASE)
# The functions and decorators that these templates call; another one is a misspelling until it is added here.
_FUNCTIONS = {
    *(
        "empty",
        "environment",
        "guid",
        "listKeys",
        "resourceGroup",
        "string",
        "subscription",
        "subscriptionResourceId",
    ),
    *("toLower", "union", "uniqueString"),
    *("allowed", "batchSize", "description", "maxLength", "metadata", "minLength", "secure"),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter; ``required`` where it has no default."""

    name: str
    required: bool
    secure: bool


@dataclass(frozen=True)
class Resource:
    """A resource or module: its symbol, its type or path, and its body where it has one."""

    symbol: str
    type: str
    existing: bool
    body: Node | None = field(repr=False)

    def value(self, path: str) -> str | None:
        """The source of a property such as ``properties.httpsOnly``, or None where it is not set."""
        node = self.node(path)
        return _text(node) if node is not None else None

    def node(self, path: str) -> Node | None:
        """The syntax node of a property's value."""
        node = self.body
        for name in path.split("."):
            node = properties(node).get(name) if node is not None else None
        return node


@dataclass(frozen=True)
class Template:
    """One parsed Bicep file."""

    path: Path
    root: Node = field(repr=False)
    parameters: dict[str, Parameter]
    variables: dict[str, Node] = field(repr=False)
    resources: dict[str, Resource]
    modules: dict[str, Resource]
    outputs: dict[str, str]


def parse(path: Path, text: str | None = None) -> Template:
    """Parse the file at ``path``, or ``text`` as if it stood there."""
    source = path.read_text(encoding="utf-8") if text is None else text
    root = _PARSER.parse(source.encode()).root_node
    template = Template(path, root, {}, {}, {}, {}, {})
    secure = False
    for node in root.named_children:
        if node.type == "decorators":
            secure = "@secure()" in _text(node)
            continue
        _declare(template, node, secure)
        secure = False
    return template


def faults(template: Template) -> list[str]:
    """Everything that is wrong with ``template``; empty where nothing is."""
    broken = [f"syntax error in line {node.start_point.row + 1}" for node in _broken(template.root)]
    if broken:
        return broken
    checks = (_undeclared, _unused, _module_faults, _property_faults, _role_faults, _output_faults)
    return [fault for check in checks for fault in check(template)]


def properties(node: Node) -> dict[str, Node]:
    """The properties of an object, or of the object that a loop makes."""
    if node.type == "for_statement":
        node = node.named_children[-1]
    pairs = (child for child in node.named_children if child.type == "object_property")
    return {
        _text(pair.named_children[0]).strip("'"): pair.named_children[-1]
        for pair in pairs
        if len(pair.named_children) > 1
    }


def strings(node: Node) -> list[str]:
    """The plain strings of an array."""
    return [_text(child).strip("'") for child in node.named_children if child.type == "string"]


def resolve(template: Template, source: str) -> str:
    """The source of a variable's value where ``source`` is a variable's name, else ``source``."""
    return _text(template.variables[source]) if source in template.variables else source


def _declare(template: Template, node: Node, secure: bool) -> None:
    children = node.named_children
    if node.type == "parameter_declaration":
        name, has_default = _text(children[0]), any(child.type == "=" for child in node.children)
        template.parameters[name] = Parameter(name, not has_default, secure)
    elif node.type == "variable_declaration":
        template.variables[_text(children[0])] = children[-1]
    elif node.type in ("resource_declaration", "module_declaration"):
        existing = any(child.type == "existing" or _text(child) == "existing" for child in node.children)
        resource = Resource(_text(children[0]), _text(children[1]).strip("'"), existing, children[-1])
        target = template.resources if node.type == "resource_declaration" else template.modules
        target[resource.symbol] = resource
    elif node.type == "output_declaration":
        template.outputs[_text(children[0])] = _text(children[-1])


def _undeclared(template: Template) -> Iterator[str]:
    declared = {*template.parameters, *template.variables, *template.resources, *template.modules}
    for node in _walk(template.root):
        if node.type != "identifier" or not _is_reference(node):
            continue
        name, parent = _text(node), node.parent
        if parent is not None and parent.type == "call_expression" and parent.named_children[0] == node:
            known = name in _FUNCTIONS
        else:
            known = name in declared or name in _loop_names(node)
        if not known:
            yield f"line {node.start_point.row + 1}: {name} is not declared"


def _unused(template: Template) -> Iterator[str]:
    used = {_text(node) for node in _walk(template.root) if node.type == "identifier" and _is_reference(node)}
    existing = (name for name, resource in template.resources.items() if resource.existing)
    for name in (*template.parameters, *template.variables, *existing):
        if name not in used:
            yield f"{name} is declared and not used"


def _module_faults(template: Template) -> Iterator[str]:
    for symbol, call in template.modules.items():
        path = template.path.parent / call.type
        if not path.is_file():
            yield f"module {symbol}: there is no {call.type}"
            continue
        module = parse(path)
        arguments = call.node("params")
        given = set(properties(arguments)) if arguments is not None else set()
        required = {name for name, parameter in module.parameters.items() if parameter.required}
        yield from (f"module {symbol}: {name} is missing" for name in sorted(required - given))
        unknown = given - set(module.parameters)
        yield from (f"module {symbol}: it has no parameter {name}" for name in sorted(unknown))
        wanted = set(re.findall(rf"\b{symbol}\.outputs\.(\w+)", _text(template.root)))
        yield from (f"module {symbol}: no output {name}" for name in sorted(wanted - set(module.outputs)))


def _property_faults(template: Template) -> Iterator[str]:
    for resource in template.resources.values():
        required = REQUIRED_PROPERTIES.get(resource.type.partition("@")[0], {})
        for path, wanted in required.items() if not resource.existing else ():
            found = resource.value(path)
            if found != wanted:
                yield f"{resource.symbol}: {path} is {found}, not {wanted}"


def _role_faults(template: Template) -> Iterator[str]:
    for guid in _GUID.findall(_text(template.root)):
        if guid.lower() not in ROLES.values():
            yield f"{guid} is no role that the app needs"
    for name, node in template.variables.items():
        if name in ROLES and _text(node).strip("'") != ROLES[name]:
            yield f"{name} is not {ROLES[name]}"
    for resource in template.resources.values():
        if not resource.type.startswith("Microsoft.Authorization/"):
            continue
        if not resource.type.startswith("Microsoft.Authorization/roleAssignments@"):
            yield f"{resource.symbol}: only role assignments are expected, not {resource.type}"
        # Without a scope the assignment covers the whole resource group or subscription.
        if resource.value("scope") not in template.resources:
            yield f"{resource.symbol}: the role is not scoped to a single resource"
        role = _ROLE_DEFINITION.fullmatch(resource.value("properties.roleDefinitionId") or "")
        if role is None or role[1] in template.parameters:
            yield f"{resource.symbol}: the role is not one of this file's variables"


def _output_faults(template: Template) -> Iterator[str]:
    for name, source in template.outputs.items():
        used = [resolve(template, word) for word in re.findall(r"\w+", source)]
        if _SECRET.search(" ".join([source, *used])):
            yield f"output {name} may hold a secret"


def _is_reference(node: Node) -> bool:
    """Whether an identifier is read, and neither declares a name nor is a property's key."""
    parent = node.parent
    if parent is None:
        return True
    declares = parent.type.endswith("_declaration") or parent.type in ("object_property", "for_statement")
    return not (declares and parent.named_children[0] == node)


def _loop_names(node: Node) -> set[str]:
    names: set[str] = set()
    parent = node.parent
    while parent is not None:
        if parent.type == "for_statement":
            names.add(_text(parent.named_children[0]))
        parent = parent.parent
    return names


def _broken(root: Node) -> list[Node]:
    return [node for node in _walk(root) if node.type == "ERROR" or node.is_missing]


def _walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _walk(child)


def _text(node: Node) -> str:
    return (node.text or b"").decode()
