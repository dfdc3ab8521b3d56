"""An app of classic requests with queue, blob and timer triggers, as the tests of the host serve it.

Every run leaves a JSON line in the file named by RUNS_FILE, which is what the tests look at.
"""

import asyncio
import json
import os
import threading
import typing

import azure.functions as func
from azure.functions.warmup import WarmUpContext

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
lock = threading.Lock()
at_once = {"now": 0, "most": 0}


def note(**fields):
    with lock, open(os.environ["RUNS_FILE"], "a", encoding="utf-8") as file:
        file.write(json.dumps(fields) + "\n")


@app.route(route="enqueue", methods=["POST"])
@app.queue_output(arg_name="message", queue_name="%RESULTS_QUEUE%", connection="AzureWebJobsStorage")
def enqueue(req: func.HttpRequest, message: func.Out[str]) -> func.HttpResponse:
    message.set(req.get_body().decode())
    return func.HttpResponse(status_code=202)


@app.route(route="enqueue-many", methods=["POST"])
@app.queue_output(arg_name="message", queue_name="%RESULTS_QUEUE%", connection="AzureWebJobsStorage")
def enqueue_many(
    req: func.HttpRequest,
    message: func.Out[typing.List[str]],  # noqa: UP006  the SDK does not take list[str]
) -> func.HttpResponse:
    message.set(req.get_json())
    return func.HttpResponse(status_code=202)


@app.route(route="stored/{name}", methods=["GET"])
@app.blob_input(arg_name="blob", path="%OUT_CONTAINER%/{name}", connection="AzureWebJobsStorage")
def stored(req: func.HttpRequest, blob: func.InputStream) -> func.HttpResponse:
    if blob is None:
        return func.HttpResponse("absent", status_code=404)
    return func.HttpResponse(blob.read())


@app.queue_trigger(arg_name="message", queue_name="%JOBS_QUEUE%", connection="Jobs")
@app.blob_output(arg_name="copy", path="%OUT_CONTAINER%/{id}", connection="AzureWebJobsStorage")
async def on_job(message: func.QueueMessage, copy: func.Out[bytes], context: func.Context) -> None:
    job = message.get_json()
    at_once["now"] += 1
    at_once["most"] = max(at_once["most"], at_once["now"])
    note(
        job=job["id"],
        tries=message.dequeue_count,
        message_id=message.id,
        inserted=message.insertion_time.isoformat(),
        has_receipt=bool(message.pop_receipt),
        invocation=context.invocation_id,
        most_at_once=at_once["most"],
    )
    try:
        await asyncio.sleep(job.get("seconds", 0))
    finally:
        at_once["now"] -= 1
    if message.dequeue_count <= job.get("failures", 0):
        raise ValueError("told to fail")
    copy.set(f"done {job['id']}".encode())


@app.queue_trigger(arg_name="message", queue_name="%TEXTS_QUEUE%", connection="AzureWebJobsStorage")
def on_text(message: str) -> None:
    note(text=message, kind=type(message).__name__)


@app.queue_trigger(arg_name="message", queue_name="%RELAY_QUEUE%", connection="AzureWebJobsStorage")
@app.queue_output(arg_name="$return", queue_name="%RESULTS_QUEUE%", connection="AzureWebJobsStorage")
def relay(message: func.QueueMessage) -> str:
    return message.get_body().decode().upper()


@app.blob_trigger(
    arg_name="blob", path="%IN_CONTAINER%/{tenant}/{name}.txt", connection="AzureWebJobsStorage"
)
def on_blob(blob: func.InputStream) -> None:
    content = blob.read().decode()
    note(blob=blob.name, length=blob.length, content=content, uri=blob.uri, metadata=blob.metadata)
    if content == "poison":
        raise ValueError("told to fail")


@app.timer_trigger(schedule="%TIMER_SCHEDULE%", arg_name="timer", run_on_startup=False)
def on_timer(timer: func.TimerRequest) -> None:
    note(timer=True, past_due=timer.past_due, status=timer.schedule_status)


@app.timer_trigger(schedule="0 0 0 1 1 *", arg_name="timer", run_on_startup=True)
def on_start(timer: func.TimerRequest) -> None:
    note(started=True, past_due=timer.past_due)


@app.warm_up_trigger(arg_name="instance")
async def warmup(instance: WarmUpContext) -> None:
    note(warmed_up=type(instance).__name__)
    raise RuntimeError("told to fail")
