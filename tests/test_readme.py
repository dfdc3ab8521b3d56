"""The README's examples, run as they stand against a started stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running_stack import RunningStack

ROOT = Path(__file__).resolve().parent.parent
FENCED = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def printed(stack: RunningStack) -> list[str]:
    """What the examples print, in their order; each must succeed."""
    key = stack.key_for(stack.new_tenant())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "GROUNDWORK_URL": stack.url, "GROUNDWORK_KEY": key, "PATH": path}
    outputs = []
    for language, code in FENCED.findall((ROOT / "README.md").read_text()):
        command = ["bash", "-euc", code] if language == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        outputs.append(done.stdout)
    return outputs


def test_putting_a_document_answers_with_the_address_of_a_job(printed: list[str]) -> None:
    assert "202 Accepted" in printed[0]
    assert re.search(r"location: http://[^ ]+/api/jobs/[0-9a-f]{32}", printed[0], re.IGNORECASE)


def test_the_events_of_a_job_end_with_its_success(printed: list[str]) -> None:
    assert printed[1].rstrip().rpartition("data: ")[2].count('"state":"succeeded"') == 1


def test_search_finds_the_document_and_the_answer_streams_with_citations(printed: list[str]) -> None:
    assert '"document":"it/remote-access.html"' in printed[2].replace('": "', '":"')
    events = re.findall(r"^event: (\w+)$", printed[2], re.MULTILINE)
    assert (events[0], events[-1]) == ("sources", "done")
    assert "delta" in events
    assert "eight hours" in printed[2].rpartition("event: done")[2]


def test_the_openai_sdk_gets_the_answer_and_a_vector(printed: list[str]) -> None:
    assert "eight hours" in printed[3]
    assert printed[3].splitlines()[-1] == "384"
