"""Which part may know which: read from the sources, and from what a cold start imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.config import APP_ROOT

APP = ("function_app.py", "functions", "shared")
OTHER_DEPLOYABLES = ("devhost", "modelhost", "laptop", "client", "bench", "samples", "tests")
# What a package of `shared` may import of the others; the modules of `shared` itself are open to all.
MAY_IMPORT = {
    "inferencing": {"inferencing"},
    "knowledge": {"knowledge", "inferencing"},
    "intelligence": {"intelligence", "knowledge", "inferencing"},
    "tools": {"tools", "intelligence", "knowledge", "inferencing"},
}
# Everything that costs time or memory, or that only one of the two worlds has.
HEAVY = (
    "openai",
    "azure.identity",
    "azure.search",
    "azure.storage",
    "azure.data",
    "azure.core",
    "azure.monitor",
    "opentelemetry",
    "aiohttp",
    "jwt",
    "cryptography",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "qdrant_edge",
    "pypdf",
    "pypdfium2",
    "mammoth",
    "pptx",
    "python_calamine",
    "selectolax",
    "html_to_markdown",
    "semantic_text_splitter",
    "bpe_openai",
    "charset_normalizer",
    "jinja2",
    "mcp",
)


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        path = APP_ROOT / folder
        yield from [path] if path.is_file() else path.rglob("*.py")


def imports(path: Path) -> set[str]:
    """Every module that a source names in an import, wherever in the source that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*_package(path, node.level), *filter(None, [node.module])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def _package(path: Path, level: int) -> tuple[str, ...]:
    """What ``level`` dots at the beginning of an import stand for in the module at ``path``."""
    return path.relative_to(APP_ROOT).parts[:-level] if level else ()


def imports_any(path: Path, packages: tuple[str, ...]) -> list[str]:
    return [name for name in imports(path) if name.split(".")[0] in packages]


def test_the_app_imports_no_other_deployable():
    for path in sources(*APP):
        assert imports_any(path, OTHER_DEPLOYABLES) == [], path


def test_nothing_but_the_app_itself_imports_the_edge():
    for path in sources("shared", "modelhost", "client", "laptop", "samples"):
        assert imports_any(path, ("functions", "function_app")) == [], path


def test_the_other_deployables_stand_alone():
    for folder in ("devhost", "modelhost", "client"):
        for path in sources(folder):
            others = {*OTHER_DEPLOYABLES, "shared", "functions", "function_app"} - {folder}
            assert imports_any(path, tuple(others)) == [], path


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_inside_the_domain_dependencies_point_one_way(package: str):
    for path in sources(f"shared/{package}"):
        parts = [name.split(".") for name in imports(path) if name.startswith("shared.")]
        used = {name[1] for name in parts} & MAY_IMPORT.keys()
        assert used <= MAY_IMPORT[package], path


def test_the_domains_own_modules_know_none_of_its_packages():
    for path in (APP_ROOT / "shared").glob("*.py"):
        parts = [name.split(".") for name in imports(path) if name.startswith("shared.")]
        named = {name[1] for name in parts} & MAY_IMPORT.keys()
        # telemetry writes down model calls: it may know the type of one
        allowed = {"inferencing"} if path.name == "telemetry.py" else set()
        assert named <= allowed, path


def test_the_domain_knows_no_trigger_and_no_durable_type():
    for path in sources("shared"):
        edge = [
            name
            for name in imports(path)
            if name.startswith(("azure.functions", "azure.durable_functions", "azurefunctions"))
            or name.split(".")[0] in ("starlette", "fastapi")
        ]
        assert edge == [], path


def test_the_environment_is_read_in_one_place():
    """`shared/config.py`, and the entry points of processes; nothing else asks for it."""
    readers = {"environ", "getenv", "environb"}
    for path in sources(*APP, "modelhost", "client"):
        if path == APP_ROOT / "shared" / "config.py" or path.name == "__main__.py":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not named & readers, path
        assert not imports(path) & {f"os.{name}" for name in readers}, path


def modules_after(statement: str) -> set[str]:
    """The modules that a new process has after a statement."""
    program = f"import json, sys; {statement}; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=APP_ROOT, capture_output=True, text=True, check=True
    )
    return {*json.loads(done.stdout.splitlines()[-1])}


def test_indexing_the_app_imports_nothing_heavy():
    loaded = modules_after("import function_app; function_app.app.get_functions()")
    assert "azure.durable_functions" in loaded
    # azure.durable_functions and the FastAPI extension bring these themselves
    unavoidable = modules_after(
        "import azure.functions, azure.durable_functions, azurefunctions.extensions.http.fastapi"
    )
    heavy = [
        name
        for name in loaded
        if name not in unavoidable and any(name == each or name.startswith(f"{each}.") for each in HEAVY)
    ]
    assert heavy == []


def test_no_module_has_a_name_that_says_nothing():
    for path in sources(*APP, "devhost", "modelhost", "client", "laptop"):
        assert path.stem not in ("utils", "util", "helpers", "helper", "common", "manager", "misc"), path
