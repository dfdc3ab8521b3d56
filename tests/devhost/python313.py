"""Finds a Python 3.13 interpreter on this machine, and the environment the tests use of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
WINDOWS = sys.platform == "win32"
# The environment of its own that `dev.py test` makes, unless the tests run on 3.13 themselves.
ENVIRONMENT = (
    Path(sys.executable)
    if sys.version_info[:2] == (3, 13)
    else PROJECT / ".venv-3.13" / ("Scripts/python.exe" if WINDOWS else "bin/python")
)
PROBE = "import sys; print(*sys.version_info[:2])"


def find_python313() -> Path | None:
    """An interpreter that really is Python 3.13: the running one, pyenv's, PATH's, or the py launcher's."""
    if sys.version_info[:2] == (3, 13):
        return Path(sys.executable)
    return next((Path(command[0]) for command in _candidates() if _is_313(command)), None) or _from_launcher()


def _candidates():
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for folder in sorted(pyenv.glob("versions/3.13*/bin/python"), reverse=True):
        yield [str(folder)]
    for name in ("python3.13", "python3", "python"):
        found = shutil.which(name)
        if found:
            yield [found]


def _is_313(command) -> bool:
    """Whether running it says so: pyenv's shims exist for versions that are not active and answer 127."""
    try:
        said = subprocess.run([*command, "-c", PROBE], capture_output=True, text=True, timeout=20)
    except OSError:
        return False
    return said.returncode == 0 and said.stdout.split() == ["3", "13"]


def _from_launcher() -> Path | None:
    launcher = shutil.which("py")
    if not launcher or not _is_313([launcher, "-3.13"]):
        return None
    said = subprocess.run(
        [launcher, "-3.13", "-c", "import sys; print(sys.executable)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(said.stdout.strip())
