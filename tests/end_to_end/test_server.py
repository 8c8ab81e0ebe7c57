"""A real tracking server that is frozen, or killed, while a run trains."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests import PROJECT
from tests.end_to_end.conftest import SMALL, Command

pytestmark = pytest.mark.slow

EPOCHS = 12


class Server:
    """``mlflow server`` on a store in a folder; a second one of the same folder serves the same runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", str(folder / "served")]
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 120
        while not self._healthy():
            assert time.monotonic() < end, (folder / "server.log").read_text()
            time.sleep(0.2)

    def _healthy(self) -> bool:
        with suppress(OSError):
            urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            return True
        return False

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()

    def asked(self, query: str) -> list[tuple]:
        with closing(sqlite3.connect(self.folder / "server.db")) as database:
            return database.execute(query).fetchall()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    yield found
    found.signal(signal.SIGCONT)
    found.kill()


class Training:
    """``train.py`` on its own, its lines read as they come."""

    def __init__(self, server: Server, outputs: Path) -> None:
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(outputs), "PYTHONUNBUFFERED": "1"}
        words = [*SMALL, f"trainer.epochs={EPOCHS}", "name=far", f"tracking.uri={server.uri}"]
        self._errors = (server.folder / "train.err").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "train.py", *words],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self._process.stdout is not None
        self._lines = self._process.stdout

    def until(self, beginning: str) -> str:
        """The first line that begins so."""
        line = next((line for line in self._lines if " ".join(line.split()).startswith(beginning)), None)
        assert line is not None, f"it never said {beginning!r}"
        return line.strip()

    def end(self) -> int:
        self._lines.read()
        return self._process.wait()


def check_all_arrived(server: Server, folder: Path) -> None:
    assert server.asked("SELECT name, status FROM runs") == [("far", "FINISHED")]
    assert server.asked("SELECT DISTINCT step FROM metrics WHERE key = 'val/loss' ORDER BY step") == [
        (epoch,) for epoch in range(EPOCHS)
    ]
    assert server.asked("SELECT COUNT(*) FROM metrics WHERE key = 'val/loss'") == [(EPOCHS,)]
    assert server.asked("SELECT COUNT(*) FROM metrics WHERE key = 'test/accuracy'") == [(1,)]
    assert len(server.asked("SELECT model_id FROM logged_models")) == 1
    assert len(list((server.folder / "served").rglob("best.safetensors"))) == 1
    assert not (folder / "unsent").exists()


def test_training_goes_on_while_the_server_is_frozen_and_all_arrives(server: Server, outputs: Path) -> None:
    training = Training(server, outputs)
    training.until("epoch 3/")
    server.signal(signal.SIGSTOP)
    training.until(f"epoch {EPOCHS}/")
    server.signal(signal.SIGCONT)
    folder = Path(training.until("run:").removeprefix("run:").strip())
    assert training.end() == 0
    check_all_arrived(server, folder)
    # One sample more than those of the frozen seconds.
    assert server.asked("SELECT COUNT(*) > 1 FROM metrics WHERE key = 'system/cpu_utilization_percentage'") == [(1,)]


def test_what_a_killed_server_did_not_get_is_synced_to_a_new_one(
    server: Server, outputs: Path, command: Command
) -> None:
    training = Training(server, outputs)
    training.until("epoch 3/")
    server.kill()
    folder = Path(training.until("run:").removeprefix("run:").strip())
    assert training.end() == 0
    assert (folder / "metrics.json").is_file()
    assert server.asked("SELECT status FROM runs") == [("RUNNING",)]
    again = Server(server.folder)
    try:
        done = command("-m", "deepfake.cli", "sync", str(folder), f"tracking.uri={again.uri}")
        assert done.returncode == 0, done.stderr
        check_all_arrived(again, folder)
        nothing = command("-m", "deepfake.cli", "sync", f"tracking.uri={again.uri}")
        assert (nothing.returncode, "nothing is left" in nothing.stdout) == (0, True), nothing.stdout
    finally:
        again.kill()
