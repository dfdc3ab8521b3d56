"""The console's files and the contract of the API: all that is served without a key."""

from __future__ import annotations

import mimetypes

import azure.durable_functions as df
from azurefunctions.extensions.http.fastapi import JSONResponse, Response

from functions.http import Call, route
from functions.openapi import contract
from shared.config import APP_ROOT
from shared.errors import NotFound

blueprint = df.Blueprint()

WEB = APP_ROOT / "web"
# Nothing but the app's own files runs or is fetched: model output and documents are untrusted.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@route(blueprint, "GET", "/{ignored:maxlength(0)?}", role=None)
async def console(call: Call) -> Response:
    """The console."""
    return _file("index.html")


@route(blueprint, "GET", "/console/{*file}", role=None)
async def console_file(call: Call) -> Response:
    """A file of the console."""
    return _file(call.path("file"))


@route(blueprint, "GET", "/openapi.json", role=None)
async def openapi(call: Call) -> Response:
    """The contract of this API."""
    return JSONResponse(contract())


def _file(name: str) -> Response:
    try:
        path = (WEB / name).resolve()
        known = path.is_relative_to(WEB) and path.is_file() and path.suffix != ".md"
    except (OSError, ValueError):  # names that no file system takes: too long, with NUL
        raise NotFound("file") from None
    if not known:
        raise NotFound("file", name)
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if path.suffix == ".js":
        media_type = "text/javascript"
    return Response(path.read_bytes(), media_type=media_type, headers=HEADERS)
