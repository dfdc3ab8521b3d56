"""A service with a Batch API on Azure's wire. Each look at a batch moves it one state on."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "key-of-the-batch-service"
ROOT = "/openai/v1/"
ENDS = ("completed", "failed", "expired", "cancelled")


class BatchService:
    """What the service does may be set; what it was asked may be read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reset()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                service.serve(self)

            do_POST = do_DELETE = do_GET

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port: int = self.server.server_address[1]

    def reset(self) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.inputs: list[bytes] = []  # of every file that was handed in
        self.calls: list[str] = []
        self.faults: list[tuple[str, int]] = []  # "METHOD path" and status of the next such request
        self.runs = True  # whether a batch gets beyond in_progress by itself
        self.end = "completed"
        self.reasons: list[dict[str, Any]] = []  # of one that has failed
        self.unanswered: set[str] = set()  # custom ids as the service has them
        self.refused: set[str] = set()
        self.hides = False  # whether what was made is in no list yet
        self.hangs = ""  # "METHOD path" of requests that are worked on and never answered

    def start(self) -> BatchService:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, call: str) -> int:
        return sum(one.startswith(call) for one in self.calls)

    def serve(self, http: BaseHTTPRequestHandler) -> None:
        length = int(http.headers.get("content-length") or 0)
        body = http.rfile.read(length)
        url = urlsplit(http.path)
        call = f"{http.command} {url.path.removeprefix(ROOT)}"
        with self.lock:
            self.calls.append(call)
            fault = next((fault for fault in self.faults if call.startswith(fault[0])), None)
            if fault:
                self.faults.remove(fault)
                status, answer = fault[1], {"error": {"code": str(fault[1]), "message": "injected"}}
            elif http.headers.get("api-key") != KEY:
                status, answer = 401, {"error": {"code": "401", "message": "no access"}}
            else:
                status, answer = self.answer(http, call, parse_qs(url.query), body)
        while self.hangs and call == self.hangs:
            time.sleep(0.05)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            http.send_response(status)
            http.send_header("content-length", str(len(data)))
            if status == 429:
                http.send_header("retry-after", "1")
            http.end_headers()
            http.wfile.write(data)
        except OSError:
            http.close_connection = True  # whoever asked was killed

    def answer(self, http: Any, call: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        method, _, path = call.partition(" ")
        match method, path.split("/"):
            case "POST", ["files"]:
                return 200, self._take_file(http.headers["content-type"], body)
            case "GET", ["files"]:
                return 200, {"data": [self._shown(name) for name in self.files], "has_more": False}
            case "GET", ["files", name, "content"] if name in self.files:
                return 200, self.files[name]["data"]
            case "DELETE", ["files", name] if name in self.files:
                del self.files[name]
                return 200, {"id": name, "deleted": True}
            case "POST", ["batches"]:
                return 200, self._create(json.loads(body))
            case "GET", ["batches"]:
                return self._list(query)
            case "GET", ["batches", name] if name in self.batches:
                return 200, self._moved(self.batches[name])
            case "POST", ["batches", name, "cancel"] if name in self.batches:
                self.batches[name]["status"] = "cancelling"
                return 200, self.batches[name]
        return 404, {"error": {"code": "404", "message": "nothing there"}}

    def _take_file(self, content_type: str, body: bytes) -> dict[str, Any]:
        boundary = content_type.partition("boundary=")[2].encode()
        fields = {}
        for part in body.split(b"--" + boundary)[1:-1]:
            head, _, data = part.partition(b"\r\n\r\n")
            fields[head.partition(b'name="')[2].partition(b'"')[0]] = (head, data.removesuffix(b"\r\n"))
        assert fields[b"purpose"][1] == b"batch"
        head, data = fields[b"file"]
        self.inputs.append(data)
        return self._keep(head.partition(b'filename="')[2].partition(b'"')[0].decode(), data)

    def _keep(self, filename: str, data: bytes) -> dict[str, Any]:
        name = f"file-{len(self.calls)}-{len(self.files)}"
        self.files[name] = {"filename": filename, "data": data}
        return self._shown(name)

    def _shown(self, name: str) -> dict[str, Any]:
        file = self.files[name]
        size = len(file["data"])
        return {"id": name, "bytes": size, "filename": file["filename"], "status": "processed"}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["endpoint"] == "/chat/completions"
        assert asked["input_file_id"] in self.files
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            **asked,
            "id": name,
            "status": "validating",
            "created_at": int(time.time()),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        return self.batches[name]

    def _list(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        newest = [] if self.hides else [*reversed(self.batches.values())]
        after = query.get("after", [""])[0]
        first = next((i + 1 for i, one in enumerate(newest) if one["id"] == after), 0)
        return 200, {"data": newest[first : first + 2], "has_more": len(newest) > first + 2}

    def _moved(self, batch: dict[str, Any]) -> dict[str, Any]:
        match batch["status"]:
            case "validating" if self.end == "failed":
                batch |= {"status": "failed", "errors": {"object": "list", "data": self.reasons}}
            case "validating":
                batch["status"] = "in_progress"
            case "in_progress" if self.runs:
                self._finish(batch, self.end)
                batch["becomes"], batch["status"] = self.end, "finalizing"
            case "cancelling":
                self._finish(batch, "cancelled")
                batch["status"] = "cancelled"
            case "finalizing":
                batch["status"] = batch["becomes"]
        return batch

    def _finish(self, batch: dict[str, Any], end: str) -> None:
        output, errors = [], []
        for raw in self.files[batch["input_file_id"]]["data"].splitlines():
            line = json.loads(raw)
            assert line["url"] == "/chat/completions"
            assert line["body"]["model"] == "bulk-night"
            name = line["custom_id"]
            if name in self.unanswered:
                if end in ("expired", "cancelled"):
                    error = {"code": f"batch_{end}", "message": "too late"}
                    errors.append({"custom_id": name, "response": None, "error": error})
                continue
            refused = name in self.refused
            body = {"error": {"code": "bad", "message": "no"}} if refused else _completion(line["body"])
            response = {"status_code": 400 if refused else 200, "request_id": "x", "body": body}
            told = {"id": "x", "custom_id": name, "response": response, "error": None}
            (errors if refused else output).append(told)
        for kind, lines in (("output", output), ("error", errors)):
            if lines:
                # In no order, and the first one twice: who reads must not rely on either.
                data = b"".join(json.dumps(one).encode() + b"\n" for one in [lines[0], *reversed(lines)])
                batch[f"{kind}_file_id"] = self._keep(f"{kind}.jsonl", data)["id"]
        counts = {"total": len(output) + len(errors), "completed": len(output), "failed": len(errors)}
        batch["request_counts"] = counts


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": body["messages"][-1]["content"]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": usage}
