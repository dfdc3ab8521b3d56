"""Drives an app with Microsoft's own worker library; prints what it indexed and answered as one JSON line.

Run by the parity test with a Python 3.13 interpreter: `worker_episode.py APP_DIR < requests.json`. The worker
speaks protobuf messages with a host process; here plain objects stand in for the messages, and this script
for the host.
"""

import asyncio
import json
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace


class Message(SimpleNamespace):
    """Any protobuf message: holds what it is given."""


class TypedData(Message):
    """A value in the worker protocol: exactly one of its fields is set."""

    def WhichOneof(self, _group):
        return next(iter(vars(self)), None)


class Input(Message):
    def WhichOneof(self, _group):
        return "data"


class StatusResult(Message):
    Success, Failure = 1, 0


class BindingInfo(Message):
    inout, out, undefined = 2, 1, 0


class Protos:
    """Stand-ins for the generated classes, by name."""

    TypedData, StatusResult, BindingInfo = TypedData, StatusResult, BindingInfo

    def __getattr__(self, name):
        return type(name, (Message,), {})


def request_of(kind, **fields):
    properties = {"host": "127.0.0.1", "protos": Protos()}
    return Message(request=Message(**{kind: Message(**fields)}), properties=properties)


async def main(app_dir, wanted):
    sys.path.insert(0, app_dir)
    from azure_functions_runtime import handle_event

    init = await handle_event.worker_init_request(
        request_of("worker_init_request", capabilities={}, function_app_directory=app_dir)
    )
    if init.result.status != StatusResult.Success:
        raise SystemExit(f"the worker did not index the app: {init.result.exception.message}")
    metadata = await handle_event.functions_metadata_request(request_of("functions_metadata_request"))
    functions = {item.name: item for item in metadata.function_metadata_results}
    worker = Worker(handle_event, functions, init.capabilities["HttpUri"])
    await worker.wait_for_http()
    answers = {}
    for name, step in wanted.items():
        answers[name] = await (worker.http(step) if "path" in step else worker.durable(step))
    return {
        "functions": {
            name: {
                "bindings": [json.loads(raw) for raw in item.raw_bindings],
                "directions": {key: info.direction for key, info in item.bindings.items()},
            }
            for name, item in functions.items()
        },
        "answers": answers,
    }


class Worker:
    def __init__(self, handle_event, functions, address):
        self._handle_event, self._functions, self._address = handle_event, functions, address

    async def wait_for_http(self):
        port = int(self._address.rpartition(":")[2])
        for _ in range(100):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return
        raise SystemExit("the worker's HTTP server did not start")

    async def http(self, step):
        """One HTTP call: the invocation over the protocol, the request itself through the worker's proxy."""
        invocation_id = f"call-{step['path']}"
        call = asyncio.create_task(asyncio.to_thread(self._fetch, step, invocation_id))
        http = Message(
            method=step["method"],
            url=step["path"],
            headers={},
            query={},
            params=step["params"],
            body=TypedData(),
        )
        invoked = await self._invoke(step["function"], invocation_id, TypedData(http=http))
        return {**(await call), "succeeded": invoked.result.status == StatusResult.Success}

    def _fetch(self, step, invocation_id):
        body = step["body"].encode() if step.get("body") else None
        headers = {"x-ms-invocation-id": invocation_id}
        request = urllib.request.Request(self._address + step["path"], body, headers, method=step["method"])
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return {
                    "status": response.status,
                    "type": response.headers["content-type"],
                    "body": response.read().decode(),
                }
        except urllib.error.HTTPError as error:
            return {
                "status": error.code,
                "type": error.headers["content-type"],
                "body": error.read().decode(),
            }

    async def durable(self, step):
        """One activity, or one episode of an orchestrator: JSON text in, JSON text or an error out."""
        invoked = await self._invoke(
            step["function"], f"durable-{step['function']}", TypedData(**{step["as"]: step["input"]})
        )
        if invoked.result.status != StatusResult.Success:
            return {"error": invoked.result.exception.message}
        value = invoked.return_value
        return {"result": getattr(value, value.WhichOneof("data"))}

    async def _invoke(self, function, invocation_id, data):
        item = self._functions[function]
        trigger = next(b for b in map(json.loads, item.raw_bindings) if b["type"].endswith("Trigger"))
        return await self._handle_event.invocation_request(
            request_of(
                "invocation_request",
                invocation_id=invocation_id,
                function_id=item.function_id,
                input_data=[Input(name=trigger["name"], data=data)],
                trigger_metadata={},
                trace_context=Message(trace_parent="", trace_state="", attributes={}),
                retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
            )
        )


if __name__ == "__main__":
    answer = asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
    print("ANSWER " + json.dumps(answer, default=str))
