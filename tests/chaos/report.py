"""The report of a campaign: what was injected, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .plan import End, Life
from .workload import Ledger

if TYPE_CHECKING:
    from .machine import Machine

SHOWN_FAULTS = 40
KINDS = ("lost", "doubled", "orphan", "mixed")


@dataclass
class Report:
    seed: int
    machine: Machine
    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    retried: Counter[str] = field(default_factory=Counter)
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def good(self) -> bool:
        return not self.faults and not self.missed

    def lived(self, life: Life, reached: bool) -> None:
        """A life is over. A fail point that was not reached is no kill at that point."""
        if life.end is End.KILL:
            self.kills += 1
        elif life.end is End.POINT and reached:
            self.points[life.point] += 1
        elif life.end is End.POINT:
            self.missed.append(life.point)

    def failed(self, kind: str, reasons: Sequence[str]) -> None:
        """A job has failed and said so, and was retried."""
        self.retried[f"{kind}: {', '.join(reasons)}"] += 1

    def lines(self) -> Iterator[str]:
        """The table: workload, what was injected, what was found, each fault in a sentence."""
        yield ", ".join(f"{number} {name}" for name, number in sorted(self.ledger.counts.items()))
        yield ", ".join(f"{figure:.1f} {name}" for name, figure in self.figures.items())
        yield f"injected: {self.kills} random kills, {len(self.points)} fail points"
        yield from (f"  {line}" for line in self.machine.figures())
        yield from (f"  retried, having failed as {name}: {n}" for name, n in self.retried.most_common())
        if self.missed:
            yield f"fail points that were not reached: {', '.join(self.missed)}"
        found = {kind: sum(kind in fault for fault in self.faults) for kind in KINDS}
        others = sum(not any(kind in fault for kind in KINDS) for fault in self.faults)
        yield (
            "found: " + ", ".join(f"{number} {kind}" for kind, number in found.items()) + f", {others} other"
        )
        counted = Counter(self.faults).most_common(SHOWN_FAULTS)
        yield from (f"  {fault} ({number} times)" for fault, number in counted)
