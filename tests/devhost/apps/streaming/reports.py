"""A blueprint, as apps keep their capabilities in modules."""

import azure.functions as func
from azurefunctions.extensions.http.fastapi import JSONResponse, Request

reports = func.Blueprint()


@reports.function_name("ReadReport")
@reports.route(route="reports/{id:int:min(1)}", methods=["GET"])
async def read_report(req: Request) -> JSONResponse:
    return JSONResponse({"id": req.path_params["id"]})


@reports.route(route="reports/latest", methods=["GET"])
async def latest_report(req: Request) -> JSONResponse:
    return JSONResponse({"id": "latest"})
