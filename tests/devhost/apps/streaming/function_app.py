"""An app of the FastAPI extension with Durable functions, as the tests of the host serve it."""

import asyncio
import logging
import time

import azure.durable_functions as df
import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Request, Response, StreamingResponse
from reports import reports

app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
app.register_functions(reports)
closed_streams = []


@app.route(route="{ignored:maxlength(0)?}", methods=["GET"])
async def root(req: Request) -> Response:
    return JSONResponse({"page": "root"})


@app.route(route="hello/{name}", methods=["GET", "POST"])
async def hello(req: Request) -> JSONResponse:
    body = (await req.body()).decode()
    return JSONResponse({"name": req.path_params["name"], "body": body, "query": dict(req.query_params)})


@app.route(route="files/{*path}", methods=["GET", "PUT"])
async def files(req: Request) -> JSONResponse:
    return JSONResponse({"path": req.path_params.get("path"), "method": req.method})


@app.route(route="sync", methods=["GET"])
def in_thread(req: Request, context: func.Context) -> JSONResponse:
    logging.info("in a thread")
    return JSONResponse({"function": context.function_name, "invocation": context.invocation_id})


@app.route(route="plain", methods=["GET"])
async def plain_value(req: Request) -> dict:
    return {"plain": True}


@app.route(route="nothing", methods=["GET"])
async def nothing(req: Request):
    return None


@app.route(route="events/{count:int}", methods=["GET"])
async def events(req: Request) -> StreamingResponse:
    async def produce():
        for number in range(int(req.path_params["count"])):
            yield f"data: {number}\n\n"

    return StreamingResponse(produce(), media_type="text/event-stream")


@app.route(route="endless", methods=["GET"])
async def endless(req: Request) -> StreamingResponse:
    async def produce():
        try:
            number = 0
            while True:
                yield f"data: {number}\n\n"
                number += 1
                await asyncio.sleep(float(req.query_params.get("pause", "0.02")))
        finally:
            closed_streams.append(req.query_params.get("id"))

    return StreamingResponse(produce(), media_type="text/event-stream")


@app.route(route="closed/{id}", methods=["GET"])
async def closed(req: Request) -> JSONResponse:
    return JSONResponse({"closed": req.path_params["id"] in closed_streams})


@app.route(route="broken-stream", methods=["GET"])
async def broken_stream(req: Request) -> StreamingResponse:
    async def produce():
        yield "data: first\n\n"
        raise RuntimeError("the secret of the stream")

    return StreamingResponse(produce(), media_type="text/event-stream")


@app.route(route="fails", methods=["GET"])
async def fails(req: Request) -> Response:
    raise RuntimeError("the secret reason")


@app.route(route="slow/{seconds}", methods=["GET"])
async def slow(req: Request) -> JSONResponse:
    await asyncio.sleep(float(req.path_params["seconds"]))
    return JSONResponse({"slept": True})


@app.route(route="slow-in-thread/{seconds}", methods=["GET"])
def slow_in_thread(req: Request) -> JSONResponse:
    time.sleep(float(req.path_params["seconds"]))
    return JSONResponse({"slept": True})


@app.route(route="keyed", methods=["GET"], auth_level=func.AuthLevel.FUNCTION)
async def keyed(req: Request) -> Response:
    return Response("open")


@app.route(route="master", methods=["GET"], auth_level=func.AuthLevel.ADMIN)
async def master(req: Request) -> Response:
    return Response("open")


@app.route(route="sums", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start_sum(req: Request, client) -> JSONResponse:
    instance = await client.start_new("add_up", None, await req.json())
    return JSONResponse({"id": instance}, status_code=202)


@app.route(route="sums/{id}", methods=["GET"])
@app.durable_client_input(client_name="client")
async def read_sum(req: Request, client) -> JSONResponse:
    status = await client.get_status(req.path_params["id"])
    return JSONResponse({"state": status.runtime_status.name, "output": status.output})


@app.orchestration_trigger(context_name="context")
def add_up(context: df.DurableOrchestrationContext):
    numbers = context.get_input()
    doubled = yield context.task_all([context.call_activity("double", number) for number in numbers])
    return sum(doubled)


@app.activity_trigger(input_name="number")
def double(number: int) -> int:
    return number * 2


@app.activity_trigger(input_name="number")
async def double_async(number: dict) -> dict:
    return {"doubled": number["value"] * 2}
