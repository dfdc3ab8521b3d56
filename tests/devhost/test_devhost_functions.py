"""Loading an app: what is listed, and what is refused with a clear reason."""

import os
import subprocess
import sys

import pytest
from devhost_process import PROJECT, command, write_app

from devhost.errors import AppLoadError
from devhost.functions import load_functions

HEAD = "import azure.functions as func\nimport azure.durable_functions as df\napp = df.DFApp()\n"
TIMER = '@app.timer_trigger(schedule="0 * * * * *", arg_name="t")\n'


def refusal(folder, source):
    """What a host process says about an app it cannot serve."""
    app = write_app(folder / "app", source)
    settings = {**os.environ, "Jobs": "UseDevelopmentStorage=true"}
    done = subprocess.run(
        command(app, folder / "data"), capture_output=True, text=True, cwd=PROJECT, timeout=30, env=settings
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr


def test_functions_are_listed_with_trigger_kind_and_bindings(tmp_path):
    source = HEAD + (
        TIMER
        + '@app.queue_output(arg_name="o", queue_name="q", connection="C")\n'
        + "def tick(t: func.TimerRequest, o: func.Out[str]): ...\n"
        + '@app.activity_trigger(input_name="x")\nasync def act(x: str): ...\n'
    )
    tick, act = load_functions(write_app(tmp_path, source))
    assert (tick.name, tick.kind, tick.is_async) == ("tick", "timerTrigger", False)
    assert [binding.type for binding in tick.bindings] == ["queue", "timerTrigger"]
    assert (act.name, act.kind, act.is_async) == ("act", "activityTrigger", True)


def test_an_app_can_be_loaded_again_in_the_same_process(tmp_path):
    app = write_app(tmp_path, HEAD + TIMER + "def tick(t): ...\n")
    assert [f.name for f in load_functions(app)] == [f.name for f in load_functions(app)] == ["tick"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\n", "no app object"),
        ("import nothing_like_this\n", "nothing_like_this"),
        ("def broken(:\n", "SyntaxError"),
        (HEAD, "registers no function"),
        (HEAD + "other = func.FunctionApp()\n", "2 app objects"),
        (HEAD + TIMER + "def one(t): ...\n" + TIMER + "def One(t): ...\n", "case does not count"),
        (HEAD + (TIMER + "def one(t): ...\n") * 2, "unique"),
        (HEAD + '@app.function_name("x")\ndef one(t): ...\n', "does not have a trigger"),
        (
            HEAD + '@app.retry(strategy="fixed_delay", max_retry_count="2", delay_interval="00:00:01")\n'
            + TIMER + "def one(t): ...\n",
            "retry policies",
        ),
    ],
)  # fmt: skip
def test_an_app_that_cannot_be_loaded_says_why(tmp_path, source, reason):
    with pytest.raises(AppLoadError, match=reason):
        load_functions(write_app(tmp_path, source))


def test_a_folder_without_an_app_is_named(tmp_path):
    with pytest.raises(AppLoadError, match=r"no function_app\.py in"):
        load_functions(tmp_path)


def test_an_import_error_shows_the_apps_own_traceback(tmp_path):
    with pytest.raises(AppLoadError) as caught:
        load_functions(write_app(tmp_path, "def inner():\n    return 1 / 0\n\ninner()\n"))
    assert "line 4" in str(caught.value)
    assert "ZeroDivisionError" in str(caught.value)
    assert "importlib" not in str(caught.value)


def test_the_process_refuses_with_status_2_and_one_clear_message(tmp_path):
    said = refusal(tmp_path, "x = 1\n")
    assert said.startswith("devhost: function_app.py has no app object")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            '@app.cosmos_db_trigger(arg_name="x", container_name="c", database_name="d", connection="C")\n'
            "def f(x): ...\n",
            ["'f'", "cosmosDBTrigger"],
        ),
        (
            TIMER + '@app.table_output(arg_name="o", table_name="t", connection="C")\ndef f(t, o): ...\n',
            ["'f'", "'o'", "table"],
        ),
        (TIMER + "def f(t, extra): ...\n", ["'f'", "extra"]),
        (TIMER + "def f(): ...\n", ["'f'", "'t'"]),
        (TIMER + "def f(t: func.QueueMessage): ...\n", ["'f'", "'t'", "QueueMessage"]),
        (
            '@app.queue_trigger(arg_name="m", queue_name="q", connection="NoSuchSetting")\ndef f(m): ...\n',
            ["'f'", "'m'", "NoSuchSetting"],
        ),
        (
            '@app.queue_trigger(arg_name="m", queue_name="%NO_NAME%", connection="Jobs")\ndef f(m): ...\n',
            ["'f'", "'m'", "NO_NAME"],
        ),
        ('@app.timer_trigger(schedule="every day", arg_name="t")\ndef f(t): ...\n', ["every day"]),
        ('@app.route(route="x/{id:odd}")\ndef f(req): ...\n', ["x/{id:odd}", "odd"]),
    ],
)
def test_what_the_host_cannot_serve_is_refused_with_function_and_binding(tmp_path, source, words):
    said = refusal(tmp_path, HEAD + source)
    for word in words:
        assert word in said


def test_an_interpreter_without_the_app_folder_on_its_path_still_imports_the_apps_modules(tmp_path):
    app = write_app(tmp_path / "app", HEAD + "import sibling\n" + TIMER + "def f(t): ...\n")
    (app / "sibling.py").write_text("")
    script = (
        "from pathlib import Path; from devhost.functions import load_functions;"
        f"print(load_functions(Path({str(app)!r}))[0].name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT, timeout=30
    )
    assert done.stdout.strip() == "f", done.stderr
