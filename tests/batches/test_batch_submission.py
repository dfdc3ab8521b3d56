"""Runs of the step that hands a batch in, several at once: one batch at the service that counts."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from batch_files import jsonl, request
from batch_service import KEY, BatchService
from running_stack import RunningStack

from shared.config import StorageSettings
from shared.errors import ModelsUnavailable
from shared.files import File, Files
from shared.identity import Principal
from shared.inferencing import DeploymentCredentials, Gateway, parse_catalogue
from shared.inferencing.batch_api import BatchApi, Document, Upload
from shared.inferencing.batches import Asked, Batches, offload, submission
from shared.inferencing.batches.runs import Answerer
from shared.inferencing.wire import HttpWire
from shared.jobs import Jobs, Ticket
from shared.storage import open_storage

CATALOGUE = """
[models.bulk]
kind = "chat"
context_tokens = 4000
max_output_tokens = 100
[[models.bulk.deployments]]
name = "day"
endpoint = "http://127.0.0.1:{port}"
deployment = "bulk-day"
api = "azure-v1"
version = "1"
data_zone = "local"
[[models.bulk.deployments]]
name = "night"
batch = true
endpoint = "http://127.0.0.1:{port}"
deployment = "bulk-night"
api = "azure-v1"
version = "1"
data_zone = "local"
key_setting = "KEY"
"""


LINES = 3
TAKE_OVER_SECONDS = 0.2
NOBODY = asyncio.Event()
NOBODY.set()


class Bodies:
    """Asks a service with what the line says."""

    async def asked(self, principal: Any, endpoint: str, body: Any, **_: Any) -> dict[str, Any]:
        return dict(body)


class HeldApi(BatchApi):
    """A service's API to which a run can be held up, as a frozen host's is."""

    before_upload = before_create = after_create = NOBODY

    async def upload(self, file: Upload) -> Document:
        held, self.before_upload = self.before_upload, NOBODY
        await held.wait()
        return await super().upload(file)

    async def create(self, *asked: Any, **more: Any) -> Document:
        before, after = self.before_create, self.after_create
        self.before_create = self.after_create = NOBODY
        await before.wait()
        made = await super().create(*asked, **more)
        await after.wait()
        return made


@dataclass
class Prepared:
    """A batch that is ready to be handed in; `submit` is one run of the step, with its repetitions."""

    batches: Batches
    ticket: Ticket
    api: HeldApi

    async def submit(self) -> str:
        while True:
            try:
                return (await self.batches.offload.submit(self.ticket))["batch"]
            except ModelsUnavailable:
                await asyncio.sleep(TAKE_OVER_SECONDS)

    async def collect(self, name: str) -> None:
        for look in range(10):
            if (await self.batches.offload.poll(self.ticket, name, look))["ended"]:
                break
        assert not (await self.batches.offload.collect(self.ticket, name))["refused"]
        await self.batches.finish(self.ticket)


@pytest.fixture
async def prepared(
    own: RunningStack, batch_service: BatchService, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Prepared]:
    monkeypatch.setattr(submission, "TAKE_OVER_SECONDS", TAKE_OVER_SECONDS)
    batch_service.reset()
    settings, wire = {"KEY": KEY}, HttpWire()
    catalogue = parse_catalogue(CATALOGUE.format(port=batch_service.port), settings)
    credentials = DeploymentCredentials(settings)
    api = HeldApi(wire, credentials, catalogue.models["bulk"].batch_deployments[0])
    async with open_storage(StorageSettings(connection_string=own.storage)) as storage:
        files = Files(storage)
        batches = Batches(
            storage=storage,
            jobs=Jobs(storage),
            files=files,
            answer=cast("Answerer", Bodies()),
            gateway=Gateway(catalogue, credentials=credentials, wire=wire),
            apis=lambda _: api,
            lanes=4,
        )
        principal = Principal(own.new_tenant(), "tester")
        data = jsonl(request(f"r-{number}", model="bulk") for number in range(LINES))
        file = await put_file(files, principal, data)
        asked = Asked("/v1/chat/completions", file.id, "24h", {}, 3600)
        ticket = (await batches.create(principal, asked, job_id=uuid.uuid4().hex)).ticket
        assert (await batches.plan(ticket))["offloaded"]
        await batches.offload.prepare(ticket)
        yield Prepared(batches, ticket, api)
    await wire.close()


async def put_file(files: Files, who: Principal, data: bytes) -> File:
    name, now = f"file-{uuid.uuid4().hex}", time.time()
    writing = files.writing(who.tenant, name)
    await writing.write(data)
    await writing.close()
    return await files.register(
        File(who.tenant, name, who.user, "in.jsonl", "batch", len(data), now, now + 3600)
    )


def running(service: BatchService) -> list[str]:
    return [name for name, batch in service.batches.items() if not batch["status"].startswith("cancel")]


async def test_runs_at_the_same_moment_hand_in_one_batch(prepared: Prepared, batch_service: BatchService):
    names = await asyncio.gather(*(prepared.submit() for _ in range(5)))
    assert len(set(names)) == 1
    assert running(batch_service) == [names[0]]
    assert len(batch_service.batches) == 1


@pytest.mark.parametrize(
    ("moment", "made"), [("before_upload", 1), ("before_create", 2), ("after_create", 2)]
)
async def test_a_run_that_was_held_up_adds_no_batch_that_counts(
    prepared: Prepared, batch_service: BatchService, moment: str, made: int
):
    batch_service.hides = True  # not even the service tells of the other's
    let_go = asyncio.Event()
    setattr(prepared.api, moment, let_go)
    held = asyncio.create_task(prepared.submit())
    while getattr(prepared.api, moment) is let_go:  # noqa: ASYNC110 (until the run has come there)
        await asyncio.sleep(0.01)
    name = await prepared.submit()
    let_go.set()
    assert await held == name
    assert running(batch_service) == [name]
    assert len(batch_service.batches) == made
    await prepared.collect(name)
    assert batch_service.files == {}


async def test_a_batch_whose_request_was_not_answered_is_found(
    prepared: Prepared, batch_service: BatchService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(offload, "CREATE_SECONDS", 0.3)
    batch_service.hangs = "POST batches"
    try:
        name = await prepared.submit()
    finally:
        batch_service.hangs = ""
    assert running(batch_service) == [name]
    assert len(batch_service.batches) == 1
