"""The command line, run as a person runs it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract_service import KEY, Scripted, Service, events, problem
from test_client_answers import ANSWER, STREAM
from test_client_jobs import status

from client import Groundwork
from client.cli import ask, ingest_folder, main
from client.folders import documents_in
from client.models import JobStatus, Progress, Stage
from client.terminal import Terminal, duration, plain, progress_text

PROJECT = Path(__file__).parents[2]


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def command(service: Service, *arguments: str) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    code = main(arguments, {"GROUNDWORK_URL": service.url, "GROUNDWORK_API_KEY": KEY}, out, errors)
    return code, out.getvalue(), errors.getvalue()


def script_ingestion(service: Service, final: str = "partial") -> None:
    service.on("GET /api/collections/new", problem(404, "not_found"))
    service.on("PUT /api/collections/new", Scripted(201, {"name": "new"}))
    service.on("POST /api/collections/new/ingestions", Scripted(202, status("queued")))
    stream = events(
        ("status", status("running", 2)), ("status", status(final, 4, counts={"indexed": 1, "failed": 1}))
    )
    service.on("GET /api/jobs/j1/events", Scripted(parts=[stream]))
    items = [
        {"id": "bad.pdf", "state": "failed", "code": "no_text", "message": "Pages without text."},
        {"id": "a.md", "state": "indexed", "version": 1, "chunks": 7},
    ]
    service.on("GET /api/jobs/j1/result", Scripted(body={"items": items, "next": None}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "hr/a.md", "hr/.draft.md", ".git/config"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)
    return tmp_path


def test_a_folder_s_files_are_named_by_their_path_and_hidden_ones_left_out(folder: Path) -> None:
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    assert [one.id for one in documents_in([folder, folder / "b.txt"])] == ["b.txt", "hr/a.md", "b.txt"]
    with pytest.raises(FileNotFoundError):
        list(documents_in([folder / "none"]))


def test_ingesting_a_folder_makes_the_collection_and_tells_each_outcome(
    service: Service, groundwork: Groundwork, folder: Path
) -> None:
    script_ingestion(service)
    out = io.StringIO()
    final = ingest_folder(groundwork, folder, "new", out=out)
    assert final.state == "partial"
    lines = out.getvalue().splitlines()
    assert lines[0] == "accepted as job j1"
    assert f"{service.url}/api/jobs/j1" in lines[1]
    table = [line.split() for line in lines[-3:]]
    assert table[0] == ["document", "state", "version", "chunks", "note"]
    assert table[1] == ["a.md", "indexed", "1", "7"]
    assert table[2][:3] == ["bad.pdf", "failed", "no_text:"]
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_a_terminal_sees_one_progress_line_that_is_rewritten(
    service: Service, groundwork: Groundwork, folder: Path
) -> None:
    script_ingestion(service)
    screen = Screen()
    ingest_folder(groundwork, folder, "new", out=screen)
    assert "\rrunning  ████████████░░░░░░░░░░░░ 2/4 documents · 2/s · parsed 2/4" in screen.getvalue()


def test_an_ingestion_with_failures_exits_with_one(service: Service, folder: Path) -> None:
    script_ingestion(service)
    assert command(service, "ingest", str(folder), "--collection", "new")[0] == 1
    script_ingestion(service, "succeeded")
    assert command(service, "ingest", str(folder), "--collection", "new")[0] == 0


def test_asking_shows_the_answer_and_what_it_cites(service: Service, groundwork: Groundwork) -> None:
    service.on("POST /api/chat", Scripted(parts=[STREAM]))
    out = io.StringIO()
    assert ask(groundwork, "When?", ["a"], out=out).found
    assert out.getvalue().splitlines() == [
        ANSWER["text"],
        "[1] travel.md, page 2, Travel",
        '    "book early"',
        "no model, quote, retrieve 12 ms",
    ]


def test_an_answer_that_was_not_found_says_so_and_exits_with_one(service: Service) -> None:
    answer = {"text": "The documents do not say.", "found": False, "citations": []}
    service.on("POST /api/chat", Scripted(parts=[events(("done", answer))]))
    code, out, _ = command(service, "ask", "Why?", "--collection", "a")
    assert code == 1
    assert out.splitlines() == ["The documents do not say.", "not found in the documents"]


def test_an_error_names_code_and_correlation_id_and_no_traceback(service: Service) -> None:
    service.on("GET /api/jobs/j1", problem(404, "not_found", "There is no job 'j1'."))
    code, out, errors = command(service, "job", "j1")
    assert (code, out) == (1, "")
    assert errors == "error: not_found (404): There is no job 'j1'. [correlation id c0ffee00c0ffee00]\n"


def test_without_a_key_nothing_is_called(service: Service) -> None:
    errors = io.StringIO()
    assert main(["collections"], {"GROUNDWORK_URL": service.url}, io.StringIO(), errors) == 2
    assert "GROUNDWORK_API_KEY" in errors.getvalue()
    assert service.seen == []


def test_a_document_cannot_drive_the_terminal(service: Service, groundwork: Groundwork) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\u202egpj.exe"
    citation = {"number": 1, "document": f"{hostile}.md", "quote": hostile}
    answer = {"text": hostile, "found": True, "citations": [citation], "model": hostile}
    service.on("POST /api/chat", Scripted(parts=[events(("delta", {"text": hostile}), ("done", answer))]))
    out = io.StringIO()
    ask(groundwork, "When?", ["a"], out=out)
    assert "owned" in out.getvalue()
    assert not set(out.getvalue()) & set("\x1b\x07\u202e")


def test_lists_show_documents_collections_jobs_and_hits(service: Service) -> None:
    record = {"id": "a.pdf", "state": "failed", "error": {"code": "no_text", "message": "None."}}
    service.on("GET /api/collections/a/documents", Scripted(body={"items": [record], "next": None}))
    service.on("GET /api/collections", Scripted(body={"items": [{"name": "a", "description": "All"}]}))
    service.on("GET /api/jobs", Scripted(body={"items": [status("running"), status("failed")], "next": "x"}))
    service.on(
        "POST /api/collections/a/search", Scripted(body={"hits": [{"document": "a.md", "text": "Hi"}]})
    )
    assert "no_text: None." in command(service, "documents", "--collection", "a")[1]
    assert "All" in command(service, "collections")[1]
    assert command(service, "jobs", "--limit", "1")[1].count("j1") == 1
    assert " 1. a.md" in command(service, "search", "hi", "--collection", "a")[1]


def test_progress_is_told_only_as_far_as_it_is_known() -> None:
    assert progress_text(None) == ""
    assert progress_text(Progress()) == ""
    assert progress_text(Progress(3, None, "documents")) == "3 documents"
    stages = (Stage("parsed", 2, 4), Stage("embedded"))
    text = progress_text(Progress(1, 4, "documents", stages, 0.5, 6.0), blocks=False)
    assert text == "######.................. 1/4 documents, 6 s left, 0.5/s, parsed 2/4"


def test_the_bar_moves_before_the_first_document_is_through() -> None:
    stages = (Stage("read", 4, 4), Stage("embed", 5, 10), Stage("publish", 0, 4))
    assert progress_text(Progress(0, 4, "documents", stages)).startswith(
        "█" * 12 + "░" * 12 + " 0/4 documents"
    )


def test_progress_in_a_log_is_rare() -> None:
    out = io.StringIO()
    terminal = Terminal(out)
    for done in range(100):
        terminal.progress(JobStatus("j", state="running", progress=Progress(done, 100, "documents")))
    terminal.progress(JobStatus("j", state="succeeded", progress=Progress(100, 100, "documents")))
    assert len(out.getvalue().splitlines()) == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59.4, "59 s"), (59.6, "1 min 0 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 0 min")],
)
def test_durations_change_their_unit_at_the_full_one(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_text_keeps_lines_and_tabs() -> None:
    assert plain("a\tb\nc\x00\x1b\x9bd\r") == "a\tb\ncd"


def test_the_module_runs_in_an_environment_that_has_only_the_standard_library(service: Service) -> None:
    service.on("GET /api/collections", Scripted(body={"items": [{"name": "über"}]}))
    result = subprocess.run(
        [sys.executable, "-S", "-m", "client", "--url", service.url, "--key", KEY, "collections"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"?ber" in result.stdout
