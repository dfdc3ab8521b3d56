"""A queue message stays hidden as long as its function runs, and comes back when its host is gone."""

import asyncio
import base64
import uuid
from contextlib import asynccontextmanager, suppress

import pytest
from azure.storage.queue import QueueClient
from devhost_process import write_app

from devhost.bindings import Bindings
from devhost.connections import Connections
from devhost.functions import load_functions
from devhost.invocation import Invoker
from devhost.plans import plan_call
from devhost.queues import QueueListener
from devhost.settings import QueueOptions

# A machine that stands still for longer than half of it loses it, as it would in earnest.
LEASE_SECONDS = 3
APP = """
import asyncio
import azure.functions as func
app = func.FunctionApp()
tries = []

@app.queue_trigger(arg_name="message", queue_name="%QUEUE%", connection="Jobs")
async def work(message: func.QueueMessage) -> None:
    tries.append(message.dequeue_count)
    await asyncio.sleep(float(message.get_body()))
"""


class Bench:
    def __init__(self, account, folder):
        self.settings = {"QUEUE": f"lease-{uuid.uuid4().hex[:8]}", "Jobs": account}
        self.queue = QueueClient.from_connection_string(account, self.settings["QUEUE"])
        self.queue.create_queue()
        (function,) = load_functions(write_app(folder, APP))
        self.plan, self.folder = plan_call(function), folder
        self.tries = function.user_function.__globals__["tries"]

    def send(self, text):
        self.queue.send_message(base64.b64encode(text.encode()).decode())

    def left(self):
        return self.queue.get_queue_properties().approximate_message_count

    @asynccontextmanager
    async def listening(self):
        connections = Connections(self.settings)
        bindings = Bindings(connections, self.settings, base64_messages=True, durable_client=str)
        invoker = Invoker({}, self.folder, None)
        options = QueueOptions(max_polling_interval_seconds=0.1)
        listener = QueueListener(
            self.plan, options, connections, bindings, invoker, lease_seconds=LEASE_SECONDS
        )
        task = asyncio.create_task(listener.listen())
        yield listener
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await connections.close()


@pytest.fixture
def bench(storage_account, tmp_path):
    return Bench(storage_account, tmp_path)


async def until(check, seconds=60):
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  the event is in another process
            await asyncio.sleep(0.05)


async def test_a_lease_is_renewed_while_the_function_runs(bench):
    bench.send(str(LEASE_SECONDS * 2.5))
    async with bench.listening():
        await until(lambda: bench.left() == 0)
    assert bench.tries == [1]


async def test_a_message_comes_back_when_its_host_is_gone(bench):
    bench.send("30")
    async with bench.listening() as listener:
        await until(lambda: bench.tries == [1])
        (running,) = listener.running
        running.cancel()
        await asyncio.wait([running])
    async with bench.listening():
        await until(lambda: bench.tries == [1, 2])


async def test_who_has_lost_the_lease_leaves_the_message_to_whoever_has_it(bench, caplog):
    bench.send(str(LEASE_SECONDS * 2))
    async with bench.listening() as listener:
        renew = listener._renew

        async def stalled(message):
            await (asyncio.sleep(60) if message.dequeue_count == 1 else renew(message))

        listener._renew = stalled
        await until(lambda: "queue_lease_lost" in caplog.text)
        # On a busy machine whoever has it may lose it as well.
        assert bench.tries[:2] == [1, 2]
        assert bench.left() == 1
        await until(lambda: bench.left() == 0)
    assert "queue_message_not_settled" not in caplog.text
