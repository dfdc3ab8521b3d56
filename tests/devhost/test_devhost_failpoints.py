"""Fail points: named in one list each, harmless where nobody listens, deadly where a setting names one."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from devhost import failpoints as host_failpoints
from devhost.errors import SettingsError
from shared import failpoints

PROJECT = Path(__file__).resolve().parents[2]
PASSED = re.compile(r'failpoints\.passed\("([a-z_.]+)"\)')
ARMED = """
import sys
from devhost import failpoints as host
from shared import failpoints
host.arm(sys.argv[1])
for _ in range(3):
    failpoints.passed("accept.kept")
    print("passed", flush=True)
"""


def passed_in(*folders: str) -> list[str]:
    sources = [path for folder in folders for path in (PROJECT / folder).rglob("*.py")]
    return [name for path in sources for name in PASSED.findall(path.read_text())]


@pytest.mark.parametrize(
    ("points", "folders"),
    [(failpoints.POINTS, ("shared", "functions")), (host_failpoints.POINTS, ("devhost",))],
)
def test_each_point_is_passed_at_one_place_and_has_a_name_of_the_list(
    points: tuple[str, ...], folders: tuple[str, ...]
):
    assert sorted(passed_in(*folders)) == sorted(points)


def test_the_app_and_the_host_mean_the_same_event():
    assert failpoints.EVENT == host_failpoints.EVENT


def armed(text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ARMED, text], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )


def test_a_process_kills_itself_at_the_given_pass():
    process = armed("accept.kept:2:kill")
    output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("passed\n", -signal.SIGKILL)


def test_a_process_stops_itself_until_it_is_continued():
    process = armed("accept.kept:1:stop")
    try:
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("passed\n" * 3, 0)


def test_a_point_that_is_not_passed_has_no_effect():
    output, _ = armed("delete.marked").communicate(timeout=30)
    assert output == "passed\n" * 3


@pytest.mark.parametrize("text", ["accept", "accept.kept:0", "accept.kept:x", "accept.kept:1:pause", "a b"])
def test_a_setting_of_another_form_is_refused(text: str):
    with pytest.raises(SettingsError, match="DEVHOST_FAIL_POINT must read POINT"):
        host_failpoints.arm(text)
