"""What the parts of a running stack use: CPU, memory, embedding calls, the size of durable state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psutil

from laptop.stack import Stack

SAMPLE_SECONDS = 0.5


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU seconds of each part so far; the host's children, its readers and its index, are told apart."""

    def used(process: psutil.Process) -> float:
        return sum(process.cpu_times()[:2])

    def family(name: str) -> float:
        process = psutil.Process(stack.process_id(name))
        return sum(used(member) for member in (process, *process.children(recursive=True)))

    host = psutil.Process(stack.process_id("host"))
    parts = {"host": used(host), "parser": 0.0, "index": 0.0}
    for child in host.children(recursive=True):
        command = " ".join(child.cmdline())
        parts["parser" if "shared.knowledge.parsing" in command else "index"] += used(child)
    return {**parts, "storage": family("azurite"), "model": family("model host")}


def embedding_calls(stack: Stack) -> int:
    """How often the stack has asked its embedding model."""
    with (stack.folder / "logs" / "host.log").open(errors="replace") as log:
        return sum("model_call" in line and "kind=embedding" in line for line in log)


def durable_state_bytes(stack: Stack) -> int:
    """What the embedded host keeps on disk: instances with their histories, receipts of its listeners."""
    return sum(file.stat().st_size for file in (stack.folder / "devhost").rglob("*") if file.is_file())


class HostMemory:
    """``with HostMemory(stack) as memory``: the highest resident memory of the host meanwhile, in MiB."""

    def __init__(self, stack: Stack) -> None:
        self._host = psutil.Process(stack.process_id("host"))
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> HostMemory:
        self._watch.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._host.memory_info().rss / 2**20)


def in_background(work: Callable[[], Any]) -> threading.Thread:
    """Run ``work`` beside what is being measured."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


__all__ = ["HostMemory", "cpu_seconds", "durable_state_bytes", "embedding_calls", "in_background"]
