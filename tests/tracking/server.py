"""A tracking server on 127.0.0.1 that keeps what it is told in memory, and hangs, fails or refuses when told to."""

from __future__ import annotations

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

#: What it does with a request: answer it, leave it without an answer, or answer with this status.
ANSWER, HANG = 0, -1


class FakeServer:
    """As much of MLflow's REST interface as a run needs.

    Attributes:
        mode: ANSWER, HANG or an HTTP status such as 503.
        runs: By id: name, status, end_time, tags, params, metrics (a set of key, value, timestamp, step).
        files: What was uploaded, by its path.
        experiment_tags: Those that were set.
        calls: The last word of each request's path that was answered with success.
        refuse: Requests whose body holds this text are answered with INVALID_PARAMETER_VALUE.
    """

    def __init__(self, port: int = 0) -> None:
        self.mode = ANSWER
        self.refuse: str | None = None
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.experiment_tags: dict[str, str] = {}
        self.over = threading.Event()
        self.hanging = threading.Semaphore(0)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.handle(self)

            def do_POST(self) -> None:
                owner.handle(self)

            def do_PUT(self) -> None:
                owner.handle(self)

            def do_PATCH(self) -> None:
                owner.handle(self)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused from now on."""
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.mode == HANG:
            self.hanging.release()
            self.over.wait()
            return
        parts = urlsplit(request.path)
        if self.mode:
            self._reply(request, self.mode, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"})
        elif self.refuse is not None and self.refuse.encode() in body:
            self._reply(request, 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "never"})
        elif "/mlflow-artifacts/" in parts.path:
            self.files[parts.path.split("/artifacts/", 1)[1]] = body
            self._reply(request, 200, {})
        else:
            word = parts.path.split("/mlflow/", 1)[-1]
            given = {**dict(parse_qsl(parts.query)), **json.loads(body or b"{}")}
            if given.get("run_id", "") not in {"", *self.runs}:
                self._reply(request, 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"})
                return
            self._reply(request, 200, self._answer(word, given))
            self.calls.append(word)

    def _reply(self, request: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _answer(self, word: str, given: dict[str, Any]) -> dict[str, Any]:
        if word == "experiments/set-experiment-tag":
            self.experiment_tags[given["key"]] = given["value"]
        experiment = {"experiment_id": "1", "name": "e", "artifact_location": "mlflow-artifacts:/1"}
        run = self.runs.get(given.get("run_id", ""))
        if word.startswith("experiments"):
            return {"experiments": [experiment], "experiment": {**experiment, "lifecycle_stage": "active"}}
        if word == "runs/create":
            made = uuid.uuid4().hex
            tags = {tag["key"]: tag["value"] for tag in given.get("tags", [])}
            start = given.get("start_time", 0)
            run = {"name": given.get("run_name"), "status": "RUNNING", "end_time": None, "start_time": start}
            self.runs[made] = {**run, "tags": tags, "params": {}, "metrics": set()}
            return {"run": self._run(made)}
        if word == "runs/search":
            return {"runs": [self._run(key) for key, run in self.runs.items() if self._matches(run, given["filter"])]}
        if run is None:
            return {}
        if word == "runs/delete":
            del self.runs[given["run_id"]]
            return {}
        if word == "runs/log-batch":
            run["tags"] |= {tag["key"]: tag["value"] for tag in given.get("tags", [])}
            run["params"] |= {param["key"]: param["value"] for param in given.get("params", [])}
            run["metrics"] |= {(m["key"], m["value"], m["timestamp"], m["step"]) for m in given.get("metrics", [])}
        elif word == "runs/update":
            run |= {"status": given.get("status", run["status"]), "end_time": given.get("end_time")}
        return {"run": self._run(given["run_id"]), "run_info": self._run(given["run_id"])["info"]}

    def _matches(self, run: dict[str, Any], condition: str) -> bool:
        told = [name for name in ("told", "mlflow.parentRunId") if name in condition]
        return not condition or any(f"'{run['tags'].get(name)}'" in condition for name in told)

    def _run(self, key: str) -> dict[str, Any]:
        run = self.runs[key]
        info = {
            "run_id": key,
            "run_uuid": key,
            "run_name": run["name"],
            "experiment_id": "1",
            "status": run["status"],
            "start_time": run["start_time"],
            "artifact_uri": f"mlflow-artifacts:/1/{key}/artifacts",
            "lifecycle_stage": "active",
        }
        tags = [{"key": key, "value": value} for key, value in run["tags"].items()]
        params = [{"key": key, "value": value} for key, value in run["params"].items()]
        return {"info": info, "data": {"tags": tags, "params": params, "metrics": []}}
