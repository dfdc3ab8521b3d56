"""Record the stored histories anew, on a stack of its own: ``python dev.py record``.

A running job must survive a deployment. Before a history is recorded anew because an orchestrator has
changed, raise ``defaultVersion`` in host.json, let the orchestrator ask ``context.version`` where the two
differ, and keep the older files: they are what jobs that run across the deployment have behind them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devhost.durable.store import Instance
from laptop.stack import Stack
from tests.batches.batch_service import KEY, BatchService
from tests.chaos.faults import FaultProxy
from tests.receiver import ADDRESS, Receiver, Reply
from tests.running_stack import RunningStack

from .histories import FOLDER, History, from_store

SHARD_DOCUMENTS = 100
MANY_SHARDS_DOCUMENTS = 5 * SHARD_DOCUMENTS + 20
SENTENCE = "The harbour master logged crossing {} at the north quay. "

EMBEDDING_LINE = {
    "method": "POST",
    "url": "/v1/embeddings",
    "body": {"model": "embedding", "input": "The harbour."},
}
CHAT_LINE = {
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "chat", "messages": [{"role": "user", "content": "Say hello."}]},
}
BATCH_DEPLOYMENT = """
[[models.chat.deployments]]
name = "night"
batch = true
endpoint = "{endpoint}"
deployment = "bulk-night"
api = "azure-v1"
version = "SmolLM2-135M-Instruct"
data_zone = "local"
key_setting = "BATCH_SERVICE_KEY"
"""


class Recorder:
    """Runs what is to be recorded; `scenarios` tells afterwards which instance stands for what."""

    def __init__(self, running: RunningStack, model: FaultProxy, batches: BatchService) -> None:
        self.running, self.model, self.batches = running, model, batches
        self.scenarios: dict[str, str] = {}

    def run(self) -> None:
        self._call("PUT", "/api/collections/recorded", {})
        self._webhook()
        self._job("many_shards", self._ingest(range(MANY_SHARDS_DOCUMENTS)))
        self._job("unchanged", self._ingest(range(3)))
        self._job("nothing_readable", self._post([{"id": "empty.txt", "content": " "}]))
        self.model.rate = 1.0
        job = self._ingest(range(900, 905))
        time.sleep(8)  # the first tries fail, and wait on durable timers
        self.model.rate = 0.0
        self._job("after_faults_of_the_model", job)
        self._job("one_document", self._call("DELETE", "/api/collections/recorded/documents/3.txt")["id"])
        self._job("question", self._ask())
        self._job("reindexed", self._reindex())
        self._job("reconciled", self._call("POST", "/api/reconciliations")["id"])
        self._job("erased", self._call("POST", "/api/erasures", {"source": "nowhere"})["id"])
        job = self._ingest(range(1000, 1150))
        self._call("POST", f"/api/jobs/{job}/cancel")
        self._job("cancelled", job)
        job = self._batch(600)
        self._job("batch", job)
        job = self._batch(600)
        time.sleep(1)
        self._call("POST", f"/api/jobs/{job}/cancel")
        self._job("cancelled_batch", job)
        self.run_elsewhere()
        self._job("collection", self._call("DELETE", "/api/collections/recorded")["id"])

    def run_elsewhere(self) -> None:
        """Batches that the service runs itself, one of which it refuses."""
        self.batches.faults = [("POST batches", 429), ("GET batches/", 500)]
        self._job("batch_run_elsewhere", self._batch(20, CHAT_LINE))
        self.batches.end = "failed"
        self._job("batch_refused_elsewhere", self._batch(20, CHAT_LINE))
        assert [one["status"] for one in self.batches.batches.values()] == ["completed", "failed"]

    def _webhook(self) -> None:
        """One job's end is told at the second try, and of no other."""
        receiver = Receiver(lambda _: Reply(503 if len(receiver.received) == 1 else 204))
        webhook = self._call("POST", "/api/webhooks", {"url": receiver.url})["id"]
        self.running.finished(self._post([{"id": "told.txt", "content": SENTENCE}]))
        while len(receiver.received) < 2:
            time.sleep(0.2)
        self._call("DELETE", f"/api/webhooks/{webhook}")
        self.scenarios[webhook] = "taken_at_the_second_try"

    def _call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, document = self.running.call(method, path, body, headers=headers)
        assert status < 300, document
        return document

    def _post(self, documents: list[dict[str, str]]) -> str:
        return self._call("POST", "/api/collections/recorded/ingestions", {"documents": documents})["id"]

    def _ingest(self, numbers: range) -> str:
        return self._post([{"id": f"{n}.txt", "content": SENTENCE.format(n) * 3} for n in numbers])

    def _ask(self) -> str:
        body = {
            "collections": ["recorded"],
            "messages": [{"role": "user", "content": "Who logged crossing 7?"}],
        }
        return self._call("POST", "/api/chat", body, Prefer="respond-async")["id"]

    def _reindex(self) -> str:
        return self._call("POST", "/api/collections/recorded/reindex", {"chunk_characters": 100})["id"]

    def _batch(self, lines: int, line: dict[str, Any] = EMBEDDING_LINE) -> str:
        data = "".join(f"{json.dumps({**line, 'custom_id': str(n)})}\n" for n in range(lines))
        fields = {'name="purpose"': "batch", 'name="file"; filename="in.jsonl"': data}
        parts = [f"--x\r\nContent-Disposition: form-data; {n}\r\n\r\n{v}\r\n" for n, v in fields.items()]
        form = "".join([*parts, "--x--\r\n"]).encode()
        sent = {"Content-Type": "multipart/form-data; boundary=x"}
        status, file = self.running.call("POST", "/v1/files", form, headers=sent)
        assert status == 200, file
        asked = {"input_file_id": file["id"], "endpoint": line["url"], "completion_window": "24h"}
        return self._call("POST", "/v1/batches", asked)["job_id"]

    def _job(self, scenario: str, job: str) -> None:
        self.running.finished(job, seconds=300)
        self.scenarios[job] = scenario


def recorded(database: Path, scenarios: dict[str, str]) -> Iterator[History]:
    """One history for each scenario's orchestration, and one for each kind of its sub-orchestrations."""
    names = ", ".join(Instance.__slots__)
    with sqlite3.connect(database) as connection:
        instances = [Instance(*row) for row in connection.execute(f"select {names} from instances")]
        by_id = {instance.id: instance for instance in instances}
        seen: set[tuple[str, str]] = set()
        for instance in sorted(instances, key=lambda instance: instance.created):
            top = by_id[instance.parent] if instance.parent else instance
            scenario = scenarios.get(top.id.partition("-")[0])
            if scenario is None or (instance.name, scenario) in seen:
                continue
            seen.add((instance.name, scenario))
            rows = connection.execute(
                "select events, asked from history where instance=? order by step", (instance.id,)
            )
            yield from_store(instance, rows.fetchall(), scenario)


def main() -> int:
    """Run, and replace the files of the present version."""
    version = json.loads((Path("host.json")).read_text())["extensions"]["durableTask"]["defaultVersion"]
    with tempfile.TemporaryDirectory() as folder:
        batches = BatchService().start()
        models = Path(folder) / "models.toml"
        night = BATCH_DEPLOYMENT.format(endpoint=f"http://127.0.0.1:{batches.port}")
        models.write_text(Path("models.local.toml").read_text() + night)
        stack = Stack(python=Path(sys.executable), folder=Path(folder), models_file=str(models))
        model = FaultProxy(f"http://127.0.0.1:{stack.port('model')}", seed=1).start()
        stack.settings = {
            "GROUNDWORK_MODEL_ENDPOINT": f"{model.url}/v1",
            "BATCH_SERVICE_KEY": KEY,
            "GROUNDWORK_OUTGOING_NETWORKS": f"{ADDRESS}/32",
        }
        stack.start()
        try:
            recorder = Recorder(RunningStack(stack), model, batches)
            recorder.run()
        finally:
            stack.stop()
            model.stop()
            batches.stop()
        for old in FOLDER.glob(f"*.{version}.*.json"):
            old.unlink()
        for history in recorded(Path(folder) / "devhost" / "durable.db", recorder.scenarios):
            history.save()
            print(history.file.name, len(history.steps), "steps", history.size_bytes, "bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
