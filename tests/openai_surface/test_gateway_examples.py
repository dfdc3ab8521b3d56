"""The programs of docs/gateway-or-direct.md, as they stand there, over a pool with a broken deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_service import ScriptedService

from laptop import environment

ROOT = environment.ROOT
PROGRAMS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "gateway-or-direct.md").read_text(), re.S | re.M
)
CATALOGUE = """
[models.chat]
kind = "chat"
context_tokens = 2000
max_output_tokens = 50
"""
DEPLOYMENT = """
[[models.chat.deployments]]
name = "{name}"
endpoint = "${{MODELS}}"
deployment = "{deployment}"
api = "openai"
version = "1"
data_zone = "eu"
priority = {priority}
"""


@pytest.mark.parametrize("program", PROGRAMS, ids=["langchain", "semantic-kernel"])
def test_a_program_of_the_documentation_runs(
    stack: object, service: ScriptedService, tmp_path: Path, program: str
) -> None:
    python = environment.ensure_clients(Path(sys.executable))
    broken = DEPLOYMENT.format(name="broken", deployment="down", priority=0)
    whole = DEPLOYMENT.format(name="whole", deployment="echo", priority=1)
    (tmp_path / "models.toml").write_text(CATALOGUE + broken + whole)
    service.requests.clear()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MODELS": service.url}
    ended = subprocess.run(
        [str(python), "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout == "Whole answer.\nStreamed answer [1]."
    assert [request["model"] for request in service.requests][:2] == ["down", "echo"]
