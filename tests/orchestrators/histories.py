"""Stored histories: what an orchestration was given, what happened to it, and what it asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from azure.functions.durable_functions import OrchestrationTriggerConverter
from azure.functions.meta import Datum

from devhost.durable import wire
from devhost.durable.errors import NonDeterministic
from devhost.durable.plan import Plan
from devhost.durable.store import Instance

FOLDER = Path(__file__).parent / "histories"


@dataclass(frozen=True)
class Step:
    """The events of one step, and the shape of what the orchestrator asked for after them (None: not run)."""

    events: list[dict[str, Any]]
    asked: list[Any] | None


@dataclass(frozen=True)
class History:
    """One orchestration from its start to its end; ``output`` as the SDK gave it."""

    orchestrator: str
    version: str
    scenario: str
    input: str | None
    output: Any
    steps: list[Step]

    @property
    def file(self) -> Path:
        return FOLDER / f"{self.orchestrator}.{self.version}.{self.scenario}.json"

    @property
    def size_bytes(self) -> int:
        """What a host stores of it."""
        return sum(len(wire.dumps(event)) for step in self.steps for event in step.events)

    def save(self) -> None:
        """Write the file, one step a line, so that a difference can be read."""
        head = {
            name: getattr(self, name) for name in ("orchestrator", "version", "scenario", "input", "output")
        }
        lines = ",\n  ".join(wire.dumps({"events": step.events, "asked": step.asked}) for step in self.steps)
        FOLDER.mkdir(exist_ok=True)
        self.file.write_text(f'{json.dumps(head)[:-1]}, "steps": [\n  {lines}\n]}}\n')


def load(file: Path) -> History:
    data = json.loads(file.read_text())
    return History(**{**data, "steps": [Step(**step) for step in data["steps"]]})


def every_history() -> Iterator[History]:
    for file in sorted(FOLDER.glob("*.json")):
        yield load(file)


def from_store(instance: Instance, rows: list[tuple[str, str | None]], scenario: str) -> History:
    """What the embedded engine has stored of an orchestration that has ended."""
    steps = [
        Step(json.loads(f"[{events}]"), None if asked is None else json.loads(asked))
        for events, asked in rows
    ]
    output = json.loads(instance.output) if instance.output else None
    return History(instance.name, instance.version, scenario, instance.input, output, steps)


def replay(history: History, orchestrator: Callable[[Any], str]) -> Any:
    """Run ``orchestrator`` over the history as a host does, step by step; its output.

    Raises `NonDeterministic` where it asks for anything else than the history says it had asked for.
    """
    plan, events, output = Plan(), [], None
    for step in history.steps:
        events += [wire.dumps(event) for event in step.events]
        for event in step.events:
            if event["EventType"] in wire.TASK_KEY:
                plan.settle(event["EventType"], event[wire.TASK_KEY[event["EventType"]]])
        if step.asked is None:
            continue
        state = _run(orchestrator, history, events)
        fresh = plan.adopt(state.actions)
        if fresh != step.asked:
            raise NonDeterministic(f"the history asked for {step.asked}, the replay for {fresh}")
        plan.take_work()
        output = state.output
    return output


def _run(orchestrator: Callable[[Any], str], history: History, events: list[str]) -> wire.OrchestratorState:
    context = wire.orchestration_context("recorded-1", None, history.input, events)
    argument = OrchestrationTriggerConverter.decode(Datum(context, "json"), trigger_metadata={})
    try:
        return wire.orchestrator_state(orchestrator(argument))
    except Exception as error:
        return wire.orchestrator_failure(error)
