"""Cost of orchestration on the embedded engine: fan-outs of no-op activities through the unmodified SDK.

`python dev.py bench orchestrate`. Each fan-out runs on an engine and a database of its own; the figure is the
median of several runs. CPU time is that of this process, which is engine, SDK and activities together.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devhost.durable import DurableOptions, Engine
from devhost.functions import load_functions

FAN_OUTS = (500, 5_000, 10_000)
RUNS = 3
# The bars of the project: activities a second, cost relative to the smallest fan-out, history per activity.
BAR_PER_SECOND = 1_000
BAR_RATIO = 1.2
BAR_HISTORY_BYTES = 1_024
# A fan-out costs two replays, whatever its width.
BAR_REPLAYS = 2
# The concurrency that host.json sets for the app.
CONCURRENT_ACTIVITIES = 10


# An orchestrator that fans out as wide as its input says, over an activity that does nothing.
APP = """
import azure.durable_functions as df

app = df.DFApp()

@app.activity_trigger(input_name="x")
async def nothing(x: int) -> int:
    return x

@app.orchestration_trigger(context_name="context")
def fan_out(context: df.DurableOrchestrationContext):
    width = context.get_input()
    results = yield context.task_all([context.call_activity("nothing", i) for i in range(width)])
    return len(results)
"""


@dataclass(frozen=True, slots=True)
class Figures:
    width: int
    per_second: float
    cpu_ms: float
    replays: int
    history_bytes: float


async def measure(width: int, directory: Path) -> Figures:
    options = DurableOptions(max_concurrent_activities=CONCURRENT_ACTIVITIES)
    (directory / "function_app.py").write_text(APP)
    engine = Engine(load_functions(directory), directory / f"{width}-{time.monotonic_ns()}.db", options)
    await engine.start()
    try:
        await _fan_out(engine, 3)
        before = (await engine.stats())["replays"]
        cpu, wall = time.process_time(), time.perf_counter()
        instance_id = await _fan_out(engine, width)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        replays = (await engine.stats())["replays"] - before
        stored, _ = await engine.history_size(instance_id)
    finally:
        await engine.stop()
    return Figures(width, width / wall, cpu * 1000 / width, replays, stored / width)


async def _fan_out(engine: Engine, width: int) -> str:
    instance_id = await engine.start_instance("fan_out", None, json.dumps(json.dumps(width)))
    instance = await engine.wait(instance_id, 300)
    if instance.output != str(width):
        raise RuntimeError(f"the fan-out of {width} ended {instance.status}: {instance.output}")
    return instance_id


def median(runs: list[Figures]) -> Figures:
    def middle(value: Callable[[Figures], float]) -> float:
        return statistics.median(value(run) for run in runs)

    return Figures(
        runs[0].width,
        middle(lambda run: run.per_second),
        middle(lambda run: run.cpu_ms),
        max(run.replays for run in runs),
        middle(lambda run: run.history_bytes),
    )


def table(rows: list[Figures]) -> tuple[str, bool]:
    """The printed table, and whether every figure is within its bar."""
    lines = [
        f"{'fan-out':>8}  {'activities/s':>26}  {'CPU ms each':>11}  {'ratio to ' + str(rows[0].width):>22}"
        f"  {'replays':>16}  {'history bytes each':>26}"
    ]
    passed = True
    for row in rows:
        ratio = row.cpu_ms / rows[0].cpu_ms
        checks = (
            row.per_second >= BAR_PER_SECOND,
            ratio <= BAR_RATIO,
            row.replays <= BAR_REPLAYS,
            row.history_bytes < BAR_HISTORY_BYTES,
        )
        marks = ["PASS" if check else "below" for check in checks]
        passed = passed and all(checks)
        lines.append(
            f"{row.width:>8,}  {f'{row.per_second:,.0f} (>= {BAR_PER_SECOND:,}) {marks[0]}':>26}"
            f"  {row.cpu_ms:>11.3f}  {f'{ratio:.2f} (<= {BAR_RATIO}) {marks[1]}':>22}"
            f"  {f'{row.replays} (<= {BAR_REPLAYS}) {marks[2]}':>16}"
            f"  {f'{row.history_bytes:,.0f} (< {BAR_HISTORY_BYTES:,}) {marks[3]}':>26}"
        )
    return "\n".join(lines), passed


def main(argv: list[str]) -> int:
    """Print the table; 0 when every figure is within its bar, 1 when one is below."""
    parser = argparse.ArgumentParser(prog="orchestrate", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=RUNS, help="runs for each fan-out, of which the median counts"
    )
    parser.add_argument("--widths", type=int, nargs="+", default=list(FAN_OUTS))
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK's notice about untyped payloads
    with tempfile.TemporaryDirectory() as directory:
        rows = [
            median([asyncio.run(measure(width, Path(directory))) for _ in range(arguments.runs)])
            for width in arguments.widths
        ]
    text, passed = table(rows)
    print(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
