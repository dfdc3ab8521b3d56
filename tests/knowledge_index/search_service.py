"""A small search service over real HTTP: strict about what arrives, answers from memory.

It holds what `wire/operations.json` recorded: paths, the API version, headers and body keys. Whatever
else the adapter sends is answered with 400, so that a test of the adapter fails.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from .odata_subset import ODataError, compile_filter

WIRE = json.loads((Path(__file__).parent / "wire" / "operations.json").read_text(encoding="utf-8"))
KEY = "contract-key"
RRF_K = 60


class Refused(Exception):
    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class SearchService:
    def __init__(self) -> None:
        self.indexes: dict[str, dict[str, Any]] = {}
        self.documents: dict[str, dict[str, dict[str, Any]]] = {}
        self.requests: list[tuple[str, dict[str, Any] | None]] = []
        self.authorizations: list[str | None] = []
        self.max_actions = 1000
        self.refuse: Callable[[str], Refused | None] = lambda operation: None
        self.item_result: Callable[[str], str] = lambda key: "item_created"
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        try:
            operation, index = self._recognise(request)
            body = await request.json() if request.can_read_body else None
            self.requests.append((operation, body))
            self._check(operation, request, body)
            if refusal := self.refuse(operation):
                raise refusal
            return getattr(self, f"_{operation}")(index, body)
        except Refused as refused:
            error = {"error": {"code": "", "message": str(refused)}}
            return web.json_response(error, status=refused.status, headers=refused.headers)
        except ODataError as error:
            return web.json_response({"error": {"code": "", "message": f"Invalid: {error}"}}, status=400)

    def _recognise(self, request: web.Request) -> tuple[str, str]:
        if request.query.get("api-version") != WIRE["api_version"]:
            raise Refused(400, "api-version")
        for name, operation in WIRE["operations"].items():
            pattern = re.escape(operation["path"]).replace(re.escape("{index}"), "([a-z0-9-]+)")
            found = re.fullmatch(pattern, request.path)
            if found and request.method == operation["method"]:
                return name, found[1]
        raise Refused(400, f"no operation {request.method} {request.path}")

    def _check(self, name: str, request: web.Request, body: dict[str, Any] | None) -> None:
        operation = WIRE["operations"][name]
        self.authorizations.append(request.headers.get("Authorization"))
        if request.headers.get("api-key") != KEY and "Authorization" not in request.headers:
            raise Refused(403, "key")
        for header, value in operation["headers"].items():
            if request.headers.get(header) != value:
                raise Refused(400, f"header {header}: {request.headers.get(header)}")
        required = set(operation.get("required", ()))
        keys = set(body or {})
        if not required <= keys <= required | set(operation.get("optional", ())):
            raise Refused(400, f"body keys {sorted(keys)}")

    def _get_index(self, index: str, body: Any) -> web.Response:
        return web.json_response(self._definition(index))

    def _definition(self, index: str) -> dict[str, Any]:
        if index not in self.indexes:
            message = WIRE["missing_index"]["body"]["error"]["message"].replace("{index}", index)
            raise Refused(WIRE["missing_index"]["status"], message)
        return self.indexes[index]

    def _create_or_update_index(self, index: str, body: dict[str, Any]) -> web.Response:
        if body["name"] != index or sum(bool(field.get("key")) for field in body["fields"]) != 1:
            raise Refused(400, "definition")
        self.indexes[index] = body
        self.documents.setdefault(index, {})
        return web.json_response(body, status=201)

    def _index_documents(self, index: str, body: dict[str, Any]) -> web.Response:
        fields = {field["name"]: field for field in self._definition(index)["fields"]}
        if len(body["value"]) > self.max_actions:
            raise Refused(413, "too large")
        results = []
        for action in body["value"]:
            kind = action.pop("@search.action")
            key = action["id"]
            if not re.fullmatch(r"[A-Za-z0-9-=][A-Za-z0-9_=-]{0,1023}", key):
                raise Refused(400, f"key {key}")
            if kind == "delete":
                self.documents[index].pop(key, None)
                results.append({"key": key, **WIRE["item_deleted"]})
                continue
            if kind != "upload" or set(action) != set(fields):
                raise Refused(400, f"document fields {sorted(set(action) ^ set(fields))}")
            vector = action["vector"]
            if vector is not None and len(vector) != fields["vector"]["dimensions"]:
                raise Refused(400, "vector dimensions")
            outcome = self.item_result(key)
            if outcome == "item_created":
                self.documents[index][key] = action
            results.append({"key": key, **WIRE[outcome]})
        status = 200 if all(result["status"] for result in results) else 207
        return web.json_response({"value": results}, status=status)

    def _search(self, index: str, body: dict[str, Any]) -> web.Response:
        fields = {field["name"]: field for field in self._definition(index)["fields"]}
        self._check_filter_fields(body["filter"], fields)
        admits = compile_filter(body["filter"])
        admitted = [item for item in self.documents[index].values() if admits(item)]
        ranked = _ranked(body, admitted)
        answer: dict[str, Any] = {}
        if body.get("count"):
            answer["@odata.count"] = len(ranked)
        if body.get("facets"):
            answer["@search.facets"] = {
                name.split(",")[0]: _facet(name.split(",")[0], admitted, fields) for name in body["facets"]
            }
        skip = body.get("skip", 0)
        page = ranked[skip : skip + body["top"]]
        selected = [name for name in body.get("select", "").split(",") if name]
        answer["value"] = [
            {"@search.score": score, **_semantic(body), **{name: item[name] for name in selected}}
            for item, score in page
        ]
        return web.json_response(answer)

    def _check_filter_fields(self, text: str, fields: dict[str, Any]) -> None:
        without_text = re.sub(r"'(?:[^']|'')*'", "''", text)
        for name, field in fields.items():
            if re.search(rf"\b{name}\b", without_text) and not field.get("filterable"):
                raise Refused(400, f"{name} is not filterable")


def _semantic(body: dict[str, Any]) -> dict[str, Any]:
    if body.get("queryType") != "semantic":
        return {}
    if body.get("semanticConfiguration") != "default" or body.get("captions") != "extractive":
        raise Refused(400, "semantic")
    return {"@search.rerankerScore": 2.5, "@search.captions": [{"text": "cap", "highlights": "<em>cap</em>"}]}


def _ranked(body: dict[str, Any], admitted: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    rankings = []
    text = body.get("search")
    if text not in (None, "*"):
        words = set(re.findall(r"\w+", text.lower()))
        scored = [(len(words & set(re.findall(r"\w+", item["text"].lower()))), item) for item in admitted]
        rankings.append([item for score, item in sorted(scored, key=lambda pair: -pair[0]) if score])
    for query in body.get("vectorQueries", []):
        if set(query) != set(WIRE["vector_query"]) or body.get("vectorFilterMode") != "preFilter":
            raise Refused(400, f"vector query {sorted(query)}")
        near = [item for item in admitted if item["vector"] is not None]
        near.sort(key=lambda item: -_cosine(query["vector"], item["vector"]))
        rankings.append(near[: query["k"]])
    if not rankings:
        if body.get("orderby") == "id asc":
            admitted = sorted(admitted, key=lambda item: item["id"])
        return [(item, 1.0) for item in admitted]
    scores: Counter[str] = Counter()
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item["id"]] += 1 / (RRF_K + rank)  # type: ignore[assignment]
    by_id = {item["id"]: item for item in admitted}
    return [(by_id[key], float(score)) for key, score in scores.most_common()]


def _facet(name: str, admitted: list[dict[str, Any]], fields: dict[str, Any]) -> list[dict[str, Any]]:
    if not fields[name].get("facetable"):
        raise Refused(400, f"{name} is not facetable")
    counts: Counter[Any] = Counter()
    for item in admitted:
        counts.update(item[name] if isinstance(item[name], list) else [item[name]])
    return [{"value": value, "count": count} for value, count in counts.items()]


def _cosine(left: list[float], right: list[float]) -> float:
    product = sum(a * b for a, b in zip(left, right, strict=True))
    lengths = sum(a * a for a in left) * sum(b * b for b in right)
    return product / lengths**0.5 if lengths else 0.0
