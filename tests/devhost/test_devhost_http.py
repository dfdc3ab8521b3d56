"""HTTP functions behind a real host process: routing, streams, keys, failures."""

import json
import re
import time

import pytest
from devhost_process import APPS, eventually, running_host


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with running_host(APPS / "streaming", tmp_path_factory.mktemp("streaming")) as host:
        yield host


def open_stream(host, path):
    connection = host.connect()
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    return connection


def test_a_handler_gets_the_fastapi_request_with_route_values_query_and_body(host):
    answer = host.call("/hello/a%20b?x=1", "POST", b"payload")
    assert answer.json == {"name": "a b", "body": "payload", "query": {"x": "1"}}


def test_an_escaped_slash_reaches_a_catch_all_escaped(host):
    assert host.call("/files/a%2Fb/c%20d").json["path"] == "a%2Fb/c d"


def test_the_root_is_served_by_the_route_that_may_be_empty(host):
    assert host.call("/").json == {"page": "root"}


def test_blueprint_routes_follow_aspnets_precedence_and_constraints(host):
    assert host.call("/reports/latest").json == {"id": "latest"}
    assert host.call("/reports/1").json == {"id": "1"}
    assert host.call("/reports/0").status == 404
    assert host.call("/reports/x").status == 404


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("PUT", 200), ("POST", 404), ("HEAD", 404)])
def test_only_the_declared_methods_are_served(host, method, status):
    assert host.call("/files/x", method).status == status


def test_an_unknown_path_is_404_with_an_empty_body(host):
    answer = host.call("/no/such/path")
    assert (answer.status, answer.body) == (404, b"")


def test_a_path_with_a_nul_is_a_bad_request(host):
    assert host.raw("GET /hello/a%00b HTTP/1.1\nhost: x\n").startswith(b"HTTP/1.1 400")


def test_a_plain_return_value_is_encoded_as_fastapi_does(host):
    assert host.call("/plain").json == {"plain": True}


def test_a_handler_that_returns_nothing_is_a_logged_failure(host):
    assert host.call("/nothing").status == 500
    eventually(lambda: "must not return None" in host.log)


def test_a_sync_function_runs_in_a_thread_with_its_context_and_logs_under_its_invocation(host):
    seen = host.call("/sync").json
    assert seen["function"] == "in_thread"
    line = eventually(lambda: next((li for li in host.log.splitlines() if "in a thread" in li), None))
    assert "Function.in_thread.User" in line
    assert re.search(r"invocation=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", line)
    assert seen["invocation"] in host.log


def test_sync_functions_do_not_hold_up_the_loop(host):
    with open_stream(host, "/slow-in-thread/1"):
        started = time.monotonic()
        assert host.call("/").status == 200
        assert time.monotonic() - started < 1


def test_a_stream_arrives_event_by_event(host):
    answer = host.call("/events/3")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("pause", ["0.02", "30"])
def test_the_generator_of_a_stream_is_closed_when_the_client_leaves(host, pause):
    connection = open_stream(host, f"/endless?id=left-{pause}&pause={pause}")
    assert b"200 OK" in connection.recv(4096)
    assert not host.call(f"/closed/left-{pause}").json["closed"]
    connection.close()
    eventually(lambda: host.call(f"/closed/left-{pause}").json["closed"])


def test_the_generator_is_closed_also_while_it_waits_for_a_client_that_does_not_read(host):
    connection = open_stream(host, "/endless?id=slow-reader&pause=0")
    assert b"200 OK" in connection.recv(100)
    time.sleep(0.3)  # the socket's buffers fill up
    connection.close()
    eventually(lambda: host.call("/closed/slow-reader").json["closed"])


def test_a_stream_that_fails_is_cut_and_not_ended(host):
    received = host.raw("GET /broken-stream HTTP/1.1\nhost: x\n")
    assert b"data: first" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b"secret" not in received


def test_a_failing_function_answers_500_without_a_reason_and_logs_it_with_its_id(host):
    answer = host.call("/fails")
    assert (answer.status, answer.text) == (500, "Internal Server Error")
    eventually(lambda: "the secret reason" in host.log)
    line = next(li for li in host.log.splitlines() if "function_failed function=fails" in li)
    assert "invocation=" in line


def test_a_function_key_opens_function_level_by_header_or_query(host):
    keys = host.keys
    assert host.call("/keyed").status == 401
    assert host.call("/keyed?code=wrong").status == 401
    assert host.call(f"/keyed?code={keys['default']}").status == 200
    assert host.call("/keyed", headers={"x-functions-key": keys["default"]}).status == 200
    assert host.call("/keyed", headers={"x-functions-key": keys["master"]}).status == 200
    assert host.call("/keyed", headers={"x-functions-key": keys["system"]}).status == 401


def test_only_the_master_key_opens_admin_level(host):
    keys = host.keys
    assert host.call("/master", headers={"x-functions-key": keys["default"]}).status == 401
    assert host.call("/master", headers={"x-functions-key": keys["master"]}).status == 200


def test_the_admin_paths_belong_to_the_host(host):
    assert host.call("/admin/host/ping").status == 200
    keys = host.keys
    for refused in ({}, {"x-functions-key": keys["default"]}, {"x-functions-key": keys["system"]}):
        assert host.call("/admin/host/status", headers=refused).status == 401
    status = host.call("/admin/host/status", headers={"x-functions-key": keys["master"]}).json
    assert status["state"] == "Running"
    assert status["functions"]["ReadReport"] == "httpTrigger"
    assert host.call("/admin/anything").status == 404
    assert host.call("/runtime/anything").status == 404


def test_an_orchestration_runs_behind_the_apps_own_routes(host):
    started = host.call("/sums", "POST", [1, 2, 3])
    assert started.status == 202
    instance = started.json["id"]
    done = eventually(lambda: (s := host.call(f"/sums/{instance}").json)["state"] == "Completed" and s)
    assert done["output"] == 12


def test_no_key_is_ever_logged(host):
    host.call(f"/keyed?code={host.keys['default']}")
    assert not [key for key in host.keys.values() if key in host.log]


def test_websockets_are_refused(host):
    head = (
        "GET /hello/x HTTP/1.1\nhost: x\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\n"
    )
    received = host.raw(head + "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\n")
    assert b"101 Switching" not in received


def test_json_logs_are_one_object_a_line(tmp_path):
    with running_host(APPS / "streaming", tmp_path, None, "--log-format", "json") as host:
        host.call("/sync")
        host.call("/fails")
        lines = eventually(lambda: [line for line in host.log.splitlines() if "function_failed" in line])
        failed = json.loads(lines[0])
        assert failed["event"] == "function_failed"
        assert failed["function"] == "fails"
        assert "the secret reason" in failed["traceback"]
        assert all(json.loads(line)["level"] for line in host.log.splitlines())


def test_one_request_more_than_host_json_allows_is_to_come_later(tmp_path):
    allowed = {"AzureFunctionsJobHost__extensions__http__maxOutstandingRequests": "2"}
    with running_host(APPS / "streaming", tmp_path / "busy", allowed) as host:
        streams = [open_stream(host, "/endless") for _ in range(2)]
        assert all(stream.recv(1000).startswith(b"HTTP/1.1 200") for stream in streams)
        refused = host.call("/plain")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        streams.pop().close()
        assert eventually(lambda: host.call("/plain").status == 200)
