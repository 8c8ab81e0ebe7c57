"""A stand-in of the Hugging Face Hub's HTTP API on this machine: repositories made, files committed, tokens checked."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was made and uploaded.

    Attributes:
        token: That it takes.
        private: By each repository's name whether it is private.
        files: By each repository's name its files.
        asked: Method and path of each request.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.address = ""


@contextmanager
def standing_in(token: str) -> Iterator[Hub]:
    """While entered, such a server answers at ``address``."""
    hub = Hub(token)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.asked.append(f"POST {self.path}")
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._say(401, {"error": "Invalid credentials in Authorization header"})
            elif self.path == "/api/repos/create":
                self._create(json.loads(body))
            elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/preupload/main(\?.*)?", self.path):
                # What lies in Git itself comes with the commit.
                wanted = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for one in json.loads(body)["files"]
                ]
                self._say(200, {"files": wanted})
            elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main(\?.*)?", self.path):
                self._commit(found[1], body)
            else:
                self._say(404, {"error": f"no {self.path}"})

        def do_GET(self) -> None:
            hub.asked.append(f"GET {self.path}")
            found = re.match(r"/api/models/([\w.-]+/[\w.-]+)", self.path)
            if found and found[1] in hub.files:
                files = [{"rfilename": name} for name in hub.files[found[1]]]
                self._say(
                    200, {"id": found[1], "sha": "0" * 40, "siblings": files, "tags": [], "downloads": 0, "likes": 0}
                )
            else:
                self._say(404, {"error": "Repository not found"})

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('organization') or 'somebody'}/{asked['name'].rpartition('/')[2]}"
            if name in hub.files:
                self._say(409, {"error": "You already created this model repo", "url": f"{hub.address}/{name}"})
                return
            hub.private[name], hub.files[name] = (
                "private" in (asked.get("visibility"), asked.get("private") and "private"),
                {},
            )
            self._say(200, {"url": f"{hub.address}/{name}"})

        def _commit(self, name: str, body: bytes) -> None:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._say(200, {"commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})

        def _say(self, status: int, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
