"""Microsoft's Python worker and this host agree on the same app: indexing, HTTP, streams, Durable.

The worker library needs Python 3.13, so it runs in a process of its own, in the environment that
`python dev.py test` makes from the same lock.
"""

import json
import subprocess

import pytest
from azure.functions.decorators.utils import StringifyEnumJsonEncoder
from azure.functions.durable_functions import OrchestrationTriggerConverter
from azure.functions.meta import Datum
from devhost_process import APPS, running_host
from python313 import ENVIRONMENT, PROJECT, find_python313

from devhost.durable import wire
from devhost.durable.wire import EventType
from devhost.functions import load_functions
from devhost.host import Host
from devhost.keys import HostKeys
from devhost.settings import HostOptions

APP = APPS / "streaming"
EPISODE = PROJECT / "tests" / "devhost" / "worker_episode.py"
CALLS = {
    "json": {
        "function": "hello",
        "method": "POST",
        "path": "/hello/bob?x=1",
        "params": {"name": "bob"},
        "body": "hi",
    },
    "stream": {"function": "events", "method": "GET", "path": "/events/5", "params": {"count": "5"}},
    "plain": {"function": "plain_value", "method": "GET", "path": "/plain", "params": {}},
    "nothing": {"function": "nothing", "method": "GET", "path": "/nothing", "params": {}},
    "failure": {"function": "fails", "method": "GET", "path": "/fails", "params": {}},
    "blueprint": {"function": "ReadReport", "method": "GET", "path": "/reports/7", "params": {"id": "7"}},
}
ACTIVITIES = {
    "sync activity": {"function": "double", "as": "json", "input": "21"},
    "async activity": {"function": "double_async", "as": "json", "input": '{"value": 4}'},
}


STARTED = [
    wire.event(EventType.ORCHESTRATOR_STARTED, 0.0),
    wire.event(EventType.EXECUTION_STARTED, 0.0, Name="add_up", Version="", Input=json.dumps([1, 2])),
]
FINISHED = [
    wire.event(EventType.ORCHESTRATOR_STARTED, 1.0),
    wire.completed(0, "2", 1.0),
    wire.completed(1, "4", 1.0),
]


def episode(*events):
    """What the engine sends an orchestrator with that history."""
    return wire.orchestration_context("fixed", None, json.dumps(json.dumps([1, 2])), events)


EPISODES = {
    "first episode": {"function": "add_up", "as": "string", "input": episode(*STARTED)},
    "last episode": {"function": "add_up", "as": "string", "input": episode(*STARTED, *FINISHED)},
}


@pytest.fixture(scope="module")
def worker():
    """What Microsoft's worker indexed and answered."""
    if find_python313() is None:
        pytest.skip("no Python 3.13 on this machine: the worker library needs it")
    assert ENVIRONMENT.is_file(), f"no environment at {ENVIRONMENT}: run `python dev.py test`, which makes it"
    steps = json.dumps({**CALLS, **ACTIVITIES, **EPISODES})
    done = subprocess.run(
        [str(ENVIRONMENT), str(EPISODE), str(APP)],
        input=steps,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=PROJECT,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, f"{done.stdout}\n{done.stderr}"
    return json.loads(lines[-1].removeprefix("ANSWER "))


@pytest.fixture(scope="module")
def functions():
    return {function.name: function for function in load_functions(APP)}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with running_host(APP, tmp_path_factory.mktemp("parity")) as host:
        yield host


def test_both_index_the_same_functions_with_the_same_bindings(worker, functions):
    ours = {
        name: [
            json.loads(json.dumps(b.get_dict_repr(), cls=StringifyEnumJsonEncoder)) for b in function.bindings
        ]
        for name, function in functions.items()
    }
    theirs = {name: item["bindings"] for name, item in worker["functions"].items()}
    assert ours == theirs
    assert len(ours) == 22


@pytest.mark.parametrize("call", CALLS)
def test_both_answer_an_http_call_alike(worker, host, call):
    step, theirs = CALLS[call], worker["answers"][call]
    ours = host.call(step["path"], step["method"], step.get("body", "").encode() or None)
    assert (ours.status, ours.headers["content-type"], ours.text) == (
        theirs["status"],
        theirs["type"],
        theirs["body"],
    )


@pytest.mark.parametrize("name", ACTIVITIES)
async def test_both_run_an_activity_alike(worker, tmp_path, name):
    step, keys = ACTIVITIES[name], HostKeys("m", "d", "s")
    ours = Host(APP, tmp_path, HostOptions(), {}, keys, "http://127.0.0.1:1")
    result = await ours.invoke_activity(ours.function(step["function"]), step["input"], {})
    assert {"result": result} == worker["answers"][name]


@pytest.mark.parametrize("name", EPISODES)
def test_both_replay_an_orchestrator_alike(worker, functions, name):
    step = EPISODES[name]
    function = functions[step["function"]]
    context = OrchestrationTriggerConverter.decode(Datum(step["input"], step["as"]), trigger_metadata={})
    ours = OrchestrationTriggerConverter.encode(function.user_function(context), expected_type=None).value
    theirs = worker["answers"][name]["result"]
    assert json.loads(ours) == json.loads(theirs)
    assert json.loads(ours)["isDone"] is (name == "last episode")
    assert json.loads(ours).get("output") == (6 if name == "last episode" else None)


def test_a_shim_that_answers_127_is_no_interpreter(tmp_path, monkeypatch):
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    for name in ("python3", "python"):
        (tmp_path / name).symlink_to(shim)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr("sys.version_info", (3, 12, 0))
    assert find_python313() is None
