"""Runs entities: the operations of one entity in order and in batches, many entities at once."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from azure.functions.durable_functions import EnitityTriggerConverter
from azure.functions.meta import Datum

from . import wire
from .functions import Functions
from .store import Effects, Operation, Store

log = logging.getLogger("devhost.durable")

WORKERS = 4
# How often a batch is tried whose function fails as a whole, before its callers get the error.
BATCH_TRIES = 3
BATCH_RETRY_SECONDS = 0.1
# The longest pause between tries while the database cannot be written.
STORAGE_RETRY_SECONDS = 10.0

EntityKey = tuple[str, str]


class Entities:
    """The entity workers. `apply` receives what a committed batch left to do elsewhere."""

    def __init__(
        self,
        functions: Functions,
        call: Callable[..., Any],
        store: Store,
        apply: Callable[[Effects], None],
        batch: int,
        clock: Callable[[], float],
    ) -> None:
        self._functions = functions
        self._call = call
        self._store = store
        self._apply = apply
        self._batch = batch
        self._clock = clock
        self._queue: asyncio.Queue[EntityKey] = asyncio.Queue()
        self._queued: set[EntityKey] = set()
        self._busy: set[EntityKey] = set()
        self._missed: set[EntityKey] = set()
        self._tries: dict[EntityKey, int] = {}
        self._beyond: dict[EntityKey, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._pool: ThreadPoolExecutor | None = None
        self.batches = 0

    def start(self, entities: list[EntityKey]) -> None:
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="entity")
        self._tasks = [asyncio.create_task(self._work()) for _ in range(WORKERS)]
        for entity in entities:
            self.wake(entity)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pool:
            self._pool.shutdown(wait=True)

    def wake(self, entity: EntityKey) -> None:
        if entity not in self._queued:
            self._queued.add(entity)
            self._queue.put_nowait(entity)

    async def _work(self) -> None:
        while True:
            entity = await self._queue.get()
            self._queued.discard(entity)
            if entity in self._busy:
                self._missed.add(entity)
                continue
            self._busy.add(entity)
            try:
                while operations := await self._call(self._store.operations, *entity, self._batch):
                    await self._run(entity, operations)
                    self._tries.pop(entity, None)
            except Exception as error:
                self._failed(entity, error)
            finally:
                self._busy.discard(entity)
                if entity in self._missed:
                    self._missed.discard(entity)
                    self.wake(entity)

    async def _run(self, entity: EntityKey, operations: list[Operation]) -> None:
        name, key = entity
        if entity in self._beyond:
            await self._refuse(entity, operations, self._beyond[entity])
            del self._beyond[entity]
            return
        function = self._functions.entity(name)
        if function is None:
            await self._refuse(entity, operations, self._functions.missing(name, "entity"))
            return
        batch = [{"name": o.operation, "input": o.input, "isSignal": o.caller is None} for o in operations]
        context = wire.entity_context(name, key, await self._call(self._store.entity, name, key), batch)
        argument = EnitityTriggerConverter.decode(Datum(context, "json"), trigger_metadata={})
        text = await asyncio.get_running_loop().run_in_executor(self._pool, function.user_function, argument)
        result = json.loads(text)
        self.batches += 1
        at = self._clock()
        answers = [
            (operation, wire.entity_response(operation.request, answer["result"], answer["isError"], at))
            for operation, answer in zip(operations, result["results"], strict=True)
        ]
        state = result["entityState"] if result["entityExists"] else None
        signals = [_signal(signal) for signal in result.get("signals") or []]
        self._apply(await self._call(self._store.finish_operations, entity, state, answers, signals, at))

    def _failed(self, entity: EntityKey, error: Exception) -> None:
        """The whole batch failed: try again; in the end its callers get the error."""
        tries = self._tries[entity] = self._tries.get(entity, 0) + 1
        log.error("durable.entity_failed", exc_info=error, extra={"entity": entity[0], "try": tries})
        if tries >= BATCH_TRIES and not isinstance(error, sqlite3.OperationalError):
            self._beyond[entity] = f"Entity '{entity[0]}' failed: {type(error).__name__}: {error}"
        pause = min(BATCH_RETRY_SECONDS * 2 ** (tries - 1), STORAGE_RETRY_SECONDS)
        asyncio.get_running_loop().call_later(pause, self.wake, entity)

    async def _refuse(self, entity: EntityKey, operations: list[Operation], reason: str) -> None:
        at = self._clock()
        answer = wire.dumps(reason)
        answers = [(o, wire.entity_response(o.request, answer, is_error=True, at=at)) for o in operations]
        state = await self._call(self._store.entity, *entity)
        self._apply(await self._call(self._store.finish_operations, entity, state, answers, [], at))


def _signal(signal: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """A signal that an entity sent: (name, key, request id, operation, input)."""
    target = signal["target"]
    payload = signal.get("input")
    encoded = payload if isinstance(payload, str) else wire.dumps(payload)
    return target["name"].lower(), target["key"], str(uuid.uuid4()), signal["name"], wire.dumps(encoded)
