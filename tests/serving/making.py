"""A detector that does as the bytes of a file say, and a service over it that answers on a real port."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from deepfake.serving.app import Sources, create_app
from deepfake.serving.limits import Limits
from deepfake.serving.listening import server_config
from deepfake.serving.model import File, Overlay, OverlayError


class Scripted:
    """Reads a file as a command: ``hold`` waits until it is let go, ``no_face`` and other reasons are answered with,
    ``break`` fails in scoring; anything else is scored.

    Attributes:
        batches: How many files were scored together each time.
        prepared: Names of files that were read to their end.
        let_go: What ``hold`` waits for.
        holding: Files that wait for it.
        note: Of each overlay.
    """

    name = "scripted"
    suffixes: Mapping[str, str] = {".mp4": "video", ".png": "image"}

    def __init__(self, overlays: bool = True) -> None:
        self.overlays = overlays
        self.description: dict[str, Any] = {"schema": "deepfake/predict/1", "threshold": 0.5}
        self.batches: list[int] = []
        self.prepared: list[str] = []
        self.let_go = threading.Event()
        self.holding = 0
        self.note = ""
        self.scoring = threading.Event()
        self.scoring.set()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.let_go.set()

    def restarts(self) -> int:
        return 0

    async def prepare(self, file: File) -> tuple[File, str]:
        text = file.path.read_bytes()[:20].decode("latin-1").strip()
        if text == "hold":
            self.holding += 1
            try:
                while not self.let_go.is_set():
                    await asyncio.sleep(0.01)
            finally:
                self.holding -= 1
        self.prepared.append(file.name)
        return file, text

    def answer(self, prepared: Sequence[tuple[File, str]]) -> list[dict[str, Any]]:
        self.scoring.wait(30)
        if any(text == "break" for _, text in prepared):
            raise RuntimeError("/secret/place is broken")
        self.batches.append(len(prepared))
        return [self._result(file, text) for file, text in prepared]

    def _result(self, file: File, text: str) -> dict[str, Any]:
        result: dict[str, Any] = {"path": str(file.path), "kind": file.kind, "class": None, "score": None}
        if text in ("no_face", "too_short", "timeout", "crashed"):
            told = f"seen in {file.path}; dataset.file_timeout= gives more"
            return {**result, "probability": None, "confidence": None, "reason": {"code": text, "detail": told}}
        score = float("nan") if text == "nan" else 0.9
        confidence = None if text == "raw" else 0.8
        said = {"class": "FAKE", "score": score, "probability": confidence, "confidence": confidence}
        return {**result, **said, "reason": None}

    async def overlay(self, file: File) -> Overlay:
        if b"unpainted" in file.path.read_bytes():
            raise OverlayError("nothing to paint")
        path = file.folder / "overlay.mp4"
        path.write_bytes(b"0123456789")
        return Overlay(path, [{"seconds": 0.0, "score": 0.9, "face": 0}], self.note)


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a fault."""
        return str(self.json["error"]["code"])


@dataclass
class Served:
    """A service that answers."""

    port: int
    model: Any
    folder: Path
    server: uvicorn.Server
    app: Any

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            told = {key.lower(): value for key, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def send(self, *contents: bytes, name: str = "clip.mp4", to: str = "/v2/predict", **fields: str) -> Reply:
        """Upload files of one name."""
        body, kind = form([("file", name, content) for content in contents], fields)
        return self.ask("POST", to, body, {"Content-Type": kind})

    def tell(self, value: Any, to: str = "/v2/predict") -> Reply:
        """Send JSON, or bytes that are said to be it."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", to, body, {"Content-Type": "application/json"})

    def raw(self, data: bytes = b"") -> socket.socket:
        """A connection on which something was said."""
        made = socket.create_connection(("127.0.0.1", self.port), 30)
        made.sendall(data)
        return made

    def leftovers(self) -> list[str]:
        """Folders of requests that are still there."""
        return [path.name for path in self.folder.glob("request-*")]

    def metric(self, line: str) -> float:
        """A number of ``/metrics``; 0 where it is not there."""
        lines = self.get("/metrics").body.decode().splitlines()
        return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(f"{line} ")), 0.0)


def form(files: Sequence[tuple[str, str, bytes]], fields: Mapping[str, str] | None = None) -> tuple[bytes, str]:
    """A form and its type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for field, name, content in files
    ]
    parts += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


@contextmanager
def serving(
    folder: Path, model: Any = None, limits: Limits | None = None, sources: Sources | None = None
) -> Iterator[Served]:
    """A service on a port of its own, ended with the block."""
    folder.mkdir(exist_ok=True)
    answering, limits = model or Scripted(), limits or Limits(workers=2)
    bound = socket.create_server(("127.0.0.1", 0))
    app = create_app(answering, folder, limits, sources)
    server = uvicorn.Server(server_config(app, limits))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield Served(bound.getsockname()[1], answering, folder, server, app)
    finally:
        server.should_exit = True
        if isinstance(answering, Scripted):
            answering.let_go.set()
            answering.scoring.set()
        thread.join(30)
        assert not thread.is_alive()


def until(condition: Any, seconds: float = 20) -> bool:
    """Whether something becomes so in time."""
    event, end = threading.Event(), seconds
    while end > 0:
        if condition():
            return True
        event.wait(0.02)
        end -= 0.02
    return bool(condition())
