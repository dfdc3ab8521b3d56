"""The host as a process: settings, addresses, signals, classic requests and time limits."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from devhost_process import APPS, PROJECT, command, eventually, running_host, write_app

APP = """
import asyncio, os, time
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

@app.route(route="setting/{name}")
def setting(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(f"{os.environ.get(req.route_params['name'])} in {os.path.basename(os.getcwd())}")

@app.route(route="sleep/{seconds}")
async def sleep(req: func.HttpRequest) -> func.HttpResponse:
    await asyncio.sleep(float(req.route_params["seconds"]))
    return func.HttpResponse("slept")

@app.route(route="block/{seconds}")
def block(req: func.HttpRequest) -> func.HttpResponse:
    time.sleep(float(req.route_params["seconds"]))
    return func.HttpResponse("blocked")

@app.route(route="echo/{name}", methods=["POST"])
def echo(req: func.HttpRequest) -> func.HttpResponse:
    import json
    seen = {"name": req.route_params["name"], "query": dict(req.params), "body": req.get_json(),
            "header": req.headers.get("X-Custom"), "path": req.url.split("/", 3)[3]}
    response = func.HttpResponse(json.dumps(seen), status_code=201, mimetype="application/json")
    response.headers.add("Set-Cookie", "a=1; Path=/")
    response.headers.add("Set-Cookie", "b=2; HttpOnly")
    return response

@app.route(route="text")
def text(req: func.HttpRequest) -> str:
    return "just text"
"""
posix_signals = pytest.mark.skipif(sys.platform == "win32", reason="a child process gets no POSIX signals")


@pytest.fixture
def app(tmp_path):
    return write_app(tmp_path / "app", APP, '{"version": "2.0", "functionTimeout": "00:00:01"}')


@pytest.fixture
def patient_app(tmp_path):
    return write_app(tmp_path / "app", APP)


def in_background(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_local_settings_are_app_settings_and_the_environment_wins(app, tmp_path):
    (app / "local.settings.json").write_text('{"Values": {"FIRST": "file", "SECOND": "file"}}')
    with running_host(app, tmp_path / "data", {"SECOND": "environment"}) as host:
        assert host.call("/api/setting/FIRST").text == "file in app"
        assert host.call("/api/setting/SECOND").text == "environment in app"


def test_a_classic_request_carries_all_its_parts_and_the_response_too(app, tmp_path):
    with running_host(app, tmp_path / "data") as host:
        headers = {"X-Custom": "yes", "Content-Type": "application/json"}
        answer = host.call("/api/echo/x%20y?a=1&a=2&empty=", "POST", {"k": ["ü"]}, headers)
        assert answer.status == 201
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == {
            "name": "x y",
            "query": {"a": "1,2"},
            "body": {"k": ["ü"]},
            "header": "yes",
            "path": "api/echo/x%20y?a=1&a=2&empty=",
        }
        assert host.call("/api/text").text == "just text"


def test_both_cookies_of_a_classic_response_are_set(app, tmp_path):
    with running_host(app, tmp_path / "data") as host, host.connect() as connection:
        head = b"POST /api/echo/z HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n"
        connection.sendall(head + b"{}")
        head = b"".join(iter(lambda: connection.recv(65536), b"")).decode().lower()
        assert head.count("set-cookie:") == 2
        assert "b=2; httponly" in head


def test_the_default_home_page_answers_at_the_root_unless_it_is_disabled(app, tmp_path):
    with running_host(app, tmp_path / "data") as host:
        assert host.call("/").status == 200
    with running_host(app, tmp_path / "data", {"AzureWebJobsDisableHomepage": "true"}) as host:
        assert host.call("/").status == 204


def test_a_taken_port_is_one_clear_message_and_status_2(app, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            command(app, tmp_path / "data", "--port", port),
            capture_output=True,
            text=True,
            cwd=PROJECT,
            timeout=30,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"devhost: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr


def test_keys_survive_a_restart_and_belong_to_the_owner_alone(app, tmp_path):
    with running_host(app, tmp_path / "data") as host:
        first = host.keys
    with running_host(app, tmp_path / "data") as host:
        assert host.keys == first
        if sys.platform != "win32":
            assert os.stat(tmp_path / "data" / "keys.json").st_mode & 0o077 == 0


def test_a_function_that_takes_too_long_is_ended_with_a_log_line(app, tmp_path):
    with running_host(app, tmp_path / "data") as host:
        assert host.call("/api/sleep/0.5").status == 200
        assert host.call("/api/sleep/5").status == 500
        assert host.call("/api/block/2").status == 500
        lines = [line for line in host.log.splitlines() if "function_timed_out" in line]
        assert len(lines) == 2
        assert "limit_seconds=1" in lines[0]


@posix_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_functions_end_and_takes_no_new_ones(patient_app, tmp_path, number):
    with running_host(patient_app, tmp_path / "data") as host:
        thread, results = in_background(lambda: host.call("/api/sleep/1"))
        eventually(lambda: host.status()["runningInvocations"] == 1)
        host.process.send_signal(number)
        eventually(lambda: host.call("/api/text").status == 503, 2)
        thread.join()
        assert results[0].text == "slept"
        assert host.process.wait(timeout=10) == 0


@posix_signals
def test_event_streams_are_closed_when_the_host_stops(tmp_path):
    with running_host(APPS / "streaming", tmp_path / "data") as host, host.connect() as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        host.process.terminate()
        assert host.process.wait(timeout=8) == 0
        assert "Traceback" not in host.log


@posix_signals
def test_a_second_signal_quits_at_once(patient_app, tmp_path):
    with running_host(patient_app, tmp_path / "data") as host:
        thread, _ = in_background(lambda: _ignore_errors(lambda: host.call("/api/sleep/8")))
        eventually(lambda: host.status()["runningInvocations"] == 1)
        host.process.terminate()
        time.sleep(0.2)
        host.process.send_signal(signal.SIGINT)
        assert host.process.wait(timeout=3) == 128 + signal.SIGINT
        thread.join()


def _ignore_errors(work):
    try:
        return work()
    except OSError:
        return None
