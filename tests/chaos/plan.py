"""The plan of a campaign: what each life of the host has to bear, and how it ends, from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

# Of the lives that end at random, this share has to bear something besides.
STRAINED_SHARE = 0.25
# One host in so many is stopped past its lease instead: each such life takes half a minute.
KILLS_PER_PAUSE = 40
# How long a host lives before a random kill: from the middle of its start to the middle of some ingestions.
LIFE_SECONDS = (0.05, 2.5)
# A strain has to be felt before the life ends.
STRAINED_SECONDS = (1.5, 4.0)
# Most hosts are killed while they serve, some while they start.
SERVED_SHARE = 0.8
# A point is passed so often at the most before the host dies there; those of reindexings only once.
PASSES_MAX = 4
RARE = "reindex."


class Strain(StrEnum):
    NONE = ""
    STORAGE = "storage"
    MODELS = "models"
    DISK = "disk"
    AHEAD = "clock-ahead"
    BEHIND = "clock-behind"


class End(StrEnum):
    KILL = "kill"
    POINT = "point"
    PAUSE = "pause"


# What a campaign can be told to inject beside kills and fail points.
PAUSE = End.PAUSE.value
FAULTS = (*(strain.value for strain in Strain if strain), PAUSE)


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the host. ``seconds`` count from its start, or from when it serves if it is ``served``.

    ``point`` is where it is killed, or stopped, at the given pass; a host that is stopped at no point is
    stopped after its seconds.
    """

    end: End
    strain: Strain = Strain.NONE
    point: str = ""
    passes: int = 1
    seconds: float = 0.0
    served: bool = True


def plan(
    seed: int, kills: int, points: Sequence[str], faults: Sequence[str], stop_points: Sequence[str] = ()
) -> list[Life]:
    """Lives in a random order: ``kills`` that end at random, one for each point, and pauses among them."""
    random = Random(f"{seed}/plan")
    strains = [Strain(fault) for fault in faults if fault != PAUSE]
    random.shuffle(strains)
    lives = [Life(End.POINT, point=point, passes=_passes(random, point)) for point in points]
    strained = max(len(strains), round(kills * STRAINED_SHARE)) if strains else 0
    for number in range(kills):
        if number < strained:
            strain = strains[number % len(strains)]
            lives.append(Life(End.KILL, strain, seconds=random.uniform(*STRAINED_SECONDS)))
        else:
            served = random.random() < SERVED_SHARE
            lives.append(Life(End.KILL, seconds=random.uniform(*LIFE_SECONDS), served=served))
    if PAUSE in faults:
        for _ in range(max(1, kills // KILLS_PER_PAUSE)):
            point = random.choice(["", *stop_points])
            seconds = random.uniform(*LIFE_SECONDS)
            lives.append(Life(End.PAUSE, point=point, passes=_passes(random, point), seconds=seconds))
    random.shuffle(lives)
    return lives


def _passes(random: Random, point: str) -> int:
    return 1 if point.startswith(RARE) else random.randint(1, PASSES_MAX)
