"""What importing the app costs beyond its frameworks: CPU time of fresh processes, medians, one run."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 9
BAR = 1.3
FRAMEWORKS = "import azure.functions, azure.durable_functions, azurefunctions.extensions.http.fastapi"
APP = "import function_app; function_app.app.get_functions()"
MEASURE = "import time; {work}; print(time.process_time())"


def main(argv: list[str]) -> int:
    """Print the CPU milliseconds of both and their ratio; 1 where the bar is missed."""
    frameworks, app = [], []
    for _ in range(ROUNDS + 1):  # the first round fills the caches of the file system and is dropped
        frameworks.append(_cpu_ms(FRAMEWORKS))
        app.append(_cpu_ms(APP))
    base, own = statistics.median(frameworks[1:]), statistics.median(app[1:])
    ratio = statistics.median(b / a for a, b in zip(frameworks[1:], app[1:], strict=True))
    verdict = "PASS" if ratio <= BAR else "below"
    print(f"azure.functions + durable + FastAPI extension  {base:7.0f} ms CPU")
    print(f"function_app, all functions indexed            {own:7.0f} ms CPU")
    print(f"ratio                                          {ratio:7.2f}    bar <= {BAR}  {verdict}")
    return 0 if ratio <= BAR else 1


def _cpu_ms(work: str) -> float:
    command = [sys.executable, "-c", MEASURE.format(work=work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) * 1000
