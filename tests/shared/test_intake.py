"""The intake of events: bounded by what has not ended, never stopped for good."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from shared.errors import StorageUnavailable
from shared.intake import LOOK_JOBS, LOOK_SECONDS, OPEN_JOBS_MAX, PATIENCE_SECONDS, Intake
from shared.jobs import Job, Kind, State


def job(number: int, state: State = State.RUNNING) -> Job:
    return Job("t", f"{number:04d}", Kind.INGESTION, state, "", "c", "queue", 1, 0.0, 0.0)


class World:
    """Jobs and a clock of their own; ``end_at`` are the times at which jobs end."""

    def __init__(self) -> None:
        self.now = 0.0
        self.jobs: dict[str, Job | None] = {}
        self.looks = 0
        self.broken = False
        self.awaited: list[tuple[float, asyncio.Event]] = []
        self.intake = Intake(self.find, clock=lambda: self.now, sleep=self.sleep)

    async def find(self, _: str, name: str) -> Job | None:
        self.looks += 1
        if self.broken:
            raise StorageUnavailable
        return self.jobs[name]

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        for moment, reached in self.awaited:
            if self.now >= moment:
                reached.set()
        await asyncio.sleep(0)

    async def until(self, moment: float) -> None:
        self.awaited.append((moment, reached := asyncio.Event()))
        await reached.wait()

    def begin(self, number: int) -> None:
        self.jobs[f"{number:04d}"] = job(number)
        self.intake.begun(job(number))

    def end(self, number: int) -> None:
        name = f"{number:04d}"
        self.jobs[name] = replace(job(number), state=State.FAILED)


async def test_events_pass_until_too_many_of_their_jobs_run() -> None:
    world = World()
    for number in range(OPEN_JOBS_MAX):
        await world.intake.room()
        world.begin(number)
    assert (world.now, world.looks) == (0.0, 0)
    assert world.intake.full


async def test_an_event_waits_until_one_of_the_oldest_jobs_has_ended() -> None:
    world = World()
    for number in range(OPEN_JOBS_MAX):
        world.begin(number)
    waiting = asyncio.ensure_future(world.intake.room())
    await world.until(3 * LOOK_SECONDS)
    assert not waiting.done()
    assert world.looks <= 4 * LOOK_JOBS
    world.end(1)
    await waiting
    assert world.now < 6 * LOOK_SECONDS
    assert not world.intake.full


async def test_many_that_wait_look_no_more_often_than_one() -> None:
    world = World()
    for number in range(OPEN_JOBS_MAX):
        world.begin(number)
    waiting = [asyncio.ensure_future(world.intake.room()) for _ in range(20)]
    await world.until(100 * LOOK_SECONDS)
    assert world.looks <= (100 + 1) * LOOK_JOBS
    world.jobs = dict.fromkeys(world.jobs)  # removed by now
    await asyncio.gather(*waiting)
    assert world.now < PATIENCE_SECONDS


async def test_jobs_that_do_not_end_only_slow_events_down() -> None:
    world = World()
    for number in range(OPEN_JOBS_MAX):
        world.begin(number)
    await world.intake.room()
    assert PATIENCE_SECONDS <= world.now < PATIENCE_SECONDS + 2 * LOOK_SECONDS
    world.broken = True
    await world.intake.room()
    assert world.now < 2 * PATIENCE_SECONDS + 4 * LOOK_SECONDS


async def test_the_same_job_counts_once() -> None:
    world = World()
    for _ in range(OPEN_JOBS_MAX):
        world.begin(1)
    assert not world.intake.full
