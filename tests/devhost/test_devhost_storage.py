"""Queue, blob and timer triggers, and storage outputs, of a real host over a real storage server."""

import base64
import contextlib
import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobServiceClient
from azure.storage.queue import QueueServiceClient
from devhost_process import APPS, eventually, running_host

from devhost.state import ListenerState, TimerStatus


class Storage:
    """Names of its own in the storage account, and what the app noted about its runs."""

    def __init__(self, account, folder):
        self.folder = folder
        unique = uuid.uuid4().hex[:8]
        self.names = {
            name: f"{name.split('_')[0].lower()}-{unique}"
            for name in (
                "JOBS_QUEUE",
                "TEXTS_QUEUE",
                "RELAY_QUEUE",
                "RESULTS_QUEUE",
                "IN_CONTAINER",
                "OUT_CONTAINER",
            )
        }
        self.queues = QueueServiceClient.from_connection_string(account)
        self.blobs = BlobServiceClient.from_connection_string(account)
        self.blobs.create_container(self.names["OUT_CONTAINER"])
        self.settings = {
            **self.names,
            "AzureWebJobsStorage": account,
            "Jobs": account,
            "TIMER_SCHEDULE": "*/2 * * * * *",
            "RUNS_FILE": str(folder / "runs.jsonl"),
        }

    def running(self, **settings):
        return running_host(APPS / "storage", self.folder / "data", {**self.settings, **settings})

    def runs(self, **wanted):
        file = self.folder / "runs.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if wanted.items() <= line.items()]

    def send(self, queue, *bodies, raw=False):
        client = self.queues.get_queue_client(self.names[queue])
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            message = text if raw else base64.b64encode(text.encode()).decode()
            try:
                client.send_message(message)
            except ResourceNotFoundError:
                with contextlib.suppress(ResourceExistsError):
                    client.create_queue()
                client.send_message(message)

    def messages(self, queue):
        """The decoded messages of a queue, without taking them."""
        client = self.queues.get_queue_client(self.names.get(queue, queue))
        try:
            return [message.content for message in client.peek_messages(32)]
        except ResourceNotFoundError:
            return []

    def decoded(self, queue):
        return [base64.b64decode(content).decode() for content in self.messages(queue)]

    def left(self, queue):
        properties = self.queues.get_queue_client(self.names[queue]).get_queue_properties()
        return properties.approximate_message_count

    def upload(self, name, content):
        container = self.blobs.get_container_client(self.names["IN_CONTAINER"])
        with contextlib.suppress(ResourceExistsError):
            container.create_container()
        container.upload_blob(name, content, overwrite=True)

    def output(self, name):
        try:
            client = self.blobs.get_blob_client(self.names["OUT_CONTAINER"], name)
            return client.download_blob().readall().decode()
        except ResourceNotFoundError:
            return None


@pytest.fixture
def storage(storage_account, tmp_path):
    return Storage(storage_account, tmp_path)


@pytest.fixture(scope="module")
def shared(storage_account, tmp_path_factory):
    """One storage and one host for the tests that do not stop it."""
    storage = Storage(storage_account, tmp_path_factory.mktemp("storage"))
    with storage.running() as host:
        yield storage, host


def test_a_message_runs_its_function_once_with_metadata_and_output(shared):
    storage, host = shared
    storage.send("JOBS_QUEUE", {"id": "first"})
    assert eventually(lambda: storage.output("first")) == "done first"
    (run,) = storage.runs(job="first")
    assert run["tries"] == 1
    assert run["has_receipt"]
    assert run["message_id"]
    assert run["inserted"].startswith("20")
    assert run["invocation"] in host.log


def test_a_str_annotation_gets_the_text_of_the_message(shared):
    storage, _ = shared
    storage.send("TEXTS_QUEUE", "grüße")
    assert eventually(lambda: storage.runs(text="grüße"))[0]["kind"] == "str"


def test_a_return_value_goes_to_the_queue_of_its_binding(shared):
    storage, _ = shared
    storage.send("RELAY_QUEUE", "loud")
    eventually(lambda: "LOUD" in storage.decoded("RESULTS_QUEUE"))


def test_an_http_function_sends_one_message_or_a_list_of_them(shared):
    storage, host = shared
    assert host.call("/api/enqueue", "POST", b"one").status == 202
    assert host.call("/api/enqueue-many", "POST", ["two", "three"]).status == 202
    eventually(lambda: {"one", "two", "three"} <= set(storage.decoded("RESULTS_QUEUE")))


def test_a_blob_input_is_read_by_a_route_value_and_absent_is_none(shared):
    storage, host = shared
    storage.send("JOBS_QUEUE", {"id": "stored"})
    eventually(lambda: storage.output("stored"))
    assert host.call("/api/stored/stored").text == "done stored"
    assert host.call("/api/stored/unknown").status == 404


def test_a_failing_message_is_tried_again_and_then_succeeds(shared):
    storage, _ = shared
    storage.send("JOBS_QUEUE", {"id": "twice", "failures": 1})
    assert eventually(lambda: storage.output("twice")) == "done twice"
    assert [run["tries"] for run in storage.runs(job="twice")] == [1, 2]


def test_a_poison_message_is_moved_after_the_last_try_and_its_neighbours_go_through(shared):
    storage, _ = shared
    storage.send("JOBS_QUEUE", {"id": "poison", "failures": 99}, {"id": "neighbour"})
    poison = storage.names["JOBS_QUEUE"] + "-poison"
    moved = eventually(lambda: [text for text in storage.decoded(poison) if "poison" in text])
    assert json.loads(moved[0])["id"] == "poison"
    assert [run["tries"] for run in storage.runs(job="poison")] == [1, 2, 3]
    assert storage.output("neighbour") == "done neighbour"


def test_an_undecodable_message_becomes_poison_and_the_listener_goes_on(shared):
    storage, _ = shared
    storage.send("JOBS_QUEUE", "}not base64{", raw=True)
    eventually(lambda: "}not base64{" in storage.messages(storage.names["JOBS_QUEUE"] + "-poison"))
    storage.send("JOBS_QUEUE", {"id": "after"})
    assert eventually(lambda: storage.output("after"))


def test_messages_run_at_once_up_to_batch_and_threshold(shared):
    storage, _ = shared
    storage.send("JOBS_QUEUE", *({"id": f"many{n}", "seconds": 0.3} for n in range(20)))
    eventually(lambda: all(storage.output(f"many{n}") for n in range(20)), 30)
    most = max(run["most_at_once"] for run in storage.runs() if "job" in run)
    assert 4 <= most <= 6  # batchSize 4 + newBatchThreshold 2
    eventually(lambda: storage.left("JOBS_QUEUE") == 0)


def test_a_blob_runs_its_function_once_with_name_length_and_content(shared):
    storage, _ = shared
    storage.upload("acme/deep/er/note.txt", b"hello")
    storage.upload("acme/image.png", b"no match")
    path = f"{storage.names['IN_CONTAINER']}/acme/deep/er/note.txt"
    (run,) = eventually(lambda: storage.runs(blob=path))
    assert (run["length"], run["content"]) == (5, "hello")
    assert run["uri"].endswith(path)
    time.sleep(1.5)
    assert len(storage.runs(blob=path)) == 1
    assert not [run for run in storage.runs() if "image.png" in run.get("blob", "")]


def test_an_overwritten_blob_runs_again(shared):
    storage, _ = shared
    storage.upload("acme/twice.txt", b"one")
    path = f"{storage.names['IN_CONTAINER']}/acme/twice.txt"
    eventually(lambda: storage.runs(blob=path, content="one"))
    storage.upload("acme/twice.txt", b"two")
    eventually(lambda: storage.runs(blob=path, content="two"))
    assert len(storage.runs(blob=path)) == 2


def test_a_burst_of_blobs_is_picked_up_completely(shared):
    storage, _ = shared
    names = {f"burst/{n:03}.txt" for n in range(220)}
    for name in names:
        storage.upload(name, name.encode())
    eventually(
        lambda: names == {run["content"] for run in storage.runs() if "burst" in run.get("blob", "")}, 30
    )


def test_a_poison_blob_is_tried_five_times_and_then_named_in_the_poison_queue(shared):
    storage, _ = shared
    storage.upload("acme/bad.txt", b"poison")
    in_container = storage.names["IN_CONTAINER"]

    def named():
        found = [json.loads(text) for text in storage.decoded("webjobs-blobtrigger-poison")]
        return [message for message in found if message["ContainerName"] == in_container]

    (message,) = eventually(named)
    assert message["BlobName"] == "acme/bad.txt"
    assert message["FunctionId"] == "Host.Functions.on_blob"
    time.sleep(1)
    assert len(storage.runs(content="poison")) == 5


def test_a_timer_runs_on_its_schedule_and_another_on_startup(shared):
    storage, _ = shared
    eventually(lambda: len(storage.runs(timer=True, past_due=False)) >= 2)
    (run,) = storage.runs(started=True)
    assert run["past_due"] is False
    assert set(storage.runs(timer=True)[0]["status"]) == {"Last", "Next", "LastUpdated"}


def test_a_host_warms_up_once_and_serves_though_that_fails(shared):
    storage, host = shared
    eventually(lambda: storage.runs(warmed_up="WarmUpContext"))
    storage.send("JOBS_QUEUE", {"id": "after"})
    assert eventually(lambda: storage.output("after")) == "done after"
    assert len(storage.runs(warmed_up="WarmUpContext")) == 1
    assert "told to fail" in host.log


def test_receipts_survive_a_restart(storage):
    storage.upload("acme/once.txt", b"once")
    with storage.running():
        eventually(lambda: storage.runs(content="once"))
        time.sleep(0.3)
    storage.upload("acme/later.txt", b"later")
    with storage.running():
        eventually(lambda: storage.runs(content="later"))
    assert len(storage.runs(content="once")) == 1


def test_a_message_whose_host_was_killed_is_not_lost(storage):
    """The next host gets it once the lease has run out; here it is only seen to be there."""
    storage.send("JOBS_QUEUE", {"id": "interrupted", "seconds": 60})
    with storage.running() as host:
        eventually(lambda: storage.runs(job="interrupted"))
        host.kill()
    assert storage.left("JOBS_QUEUE") == 1


def test_a_missed_run_of_a_timer_is_made_up_for_as_past_due(storage):
    daily = "0 0 3 * * *"
    state = ListenerState(storage.folder / "data" / "listeners.db")
    now = datetime.now(UTC)
    state.save_timer_status(
        "on_timer", TimerStatus(now - timedelta(2), now - timedelta(1), now - timedelta(2))
    )
    with storage.running(TIMER_SCHEDULE=daily):
        (run,) = eventually(lambda: storage.runs(timer=True))
        assert run["past_due"] is True
        eventually(lambda: state.timer_status("on_timer").next > now)
    state.close()
    with storage.running(TIMER_SCHEDULE=daily):
        time.sleep(0.5)
    assert len(storage.runs(timer=True)) == 1


def test_a_storage_server_that_is_away_at_the_start_is_waited_for(tmp_path, storage):
    away = "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=a2V5;"
    away += (
        "BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;QueueEndpoint=http://127.0.0.1:9/devstoreaccount1;"
    )
    with storage.running(AzureWebJobsStorage=away, Jobs=away) as host:
        assert host.call("/admin/host/ping").status == 200
        eventually(lambda: "queue_unreachable" in host.log and "blob_container_unreachable" in host.log, 30)
        assert host.process.poll() is None
