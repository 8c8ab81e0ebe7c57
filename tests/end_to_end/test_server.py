"""A real tracking server that is frozen, or killed, while a run trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import PROJECT
from tests.end_to_end.conftest import SMALL, Command
from tests.servers import TrackingServer

pytestmark = pytest.mark.slow

EPOCHS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    found = TrackingServer(tmp_path)
    yield found
    found.signal(signal.SIGCONT)
    found.kill()


class Training:
    """``train.py`` on its own, its lines read as they come."""

    def __init__(self, server: TrackingServer, outputs: Path, *more: str) -> None:
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(outputs), "PYTHONUNBUFFERED": "1"}
        words = ["name=far", *SMALL, f"trainer.epochs={EPOCHS}", f"tracking.uri={server.uri}", *more]
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

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        self._lines.read()
        return self._process.wait()


def check_all_arrived(server: TrackingServer, folder: Path) -> None:
    assert server.asked("SELECT name, status FROM runs") == [("far", "FINISHED")]
    assert server.asked("SELECT DISTINCT step FROM metrics WHERE key = 'val/loss' ORDER BY step") == [
        (epoch,) for epoch in range(EPOCHS)
    ]
    assert server.asked("SELECT COUNT(*) FROM metrics WHERE key = 'val/loss'") == [(EPOCHS,)]
    assert server.asked("SELECT COUNT(*) FROM metrics WHERE key = 'test/accuracy'") == [(1,)]
    assert len(server.asked("SELECT model_id FROM logged_models")) == 1
    assert len(list((server.folder / "served").rglob("best.safetensors"))) == 1
    assert not (folder / "unsent").exists()


def test_training_goes_on_while_the_server_is_frozen_and_all_arrives(server: TrackingServer, outputs: Path) -> None:
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
    server: TrackingServer, outputs: Path, command: Command
) -> None:
    training = Training(server, outputs)
    training.until("epoch 3/")
    server.kill()
    folder = Path(training.until("run:").removeprefix("run:").strip())
    assert training.end() == 0
    assert (folder / "metrics.json").is_file()
    assert server.asked("SELECT status FROM runs") == [("RUNNING",)]
    again = TrackingServer(server.folder)
    try:
        done = command("-m", "deepfake.cli", "sync", str(folder), f"tracking.uri={again.uri}")
        assert done.returncode == 0, done.stderr
        check_all_arrived(again, folder)
        nothing = command("-m", "deepfake.cli", "sync", f"tracking.uri={again.uri}")
        assert (nothing.returncode, "nothing is left" in nothing.stdout) == (0, True), nothing.stdout
    finally:
        again.kill()


def test_sigterm_is_obeyed_while_the_server_is_frozen(server: TrackingServer, outputs: Path, command: Command) -> None:
    training = Training(server, outputs, "trainer.epochs=100000")
    training.until("epoch 2/")
    server.signal(signal.SIGSTOP)
    training.until("epoch 6/")
    training.stop()
    assert training.end() == 130
    server.signal(signal.SIGCONT)
    told = (server.folder / "train.err").read_text()
    (folder,) = {line.split("resume=")[1].strip() for line in told.splitlines() if "go on with:" in line}
    done = command("-m", "deepfake.cli", "sync", folder, f"tracking.uri={server.uri}")
    assert done.returncode == 0, done.stderr
    assert server.asked("SELECT status FROM runs") == [("KILLED",)]
    steps = server.asked("SELECT step FROM metrics WHERE key = 'val/loss' ORDER BY step")
    assert len(steps) >= 5
    assert steps == [(epoch,) for epoch in range(len(steps))]


def test_a_sweep_goes_on_without_the_server_and_all_of_it_arrives(server: TrackingServer, outputs: Path) -> None:
    training = Training(server, outputs, "tracking.log_model=false", "optimizer.lr=1e-3,2e-3,3e-3", "-m")
    training.until("epoch 2/")
    server.kill()
    for _ in range(2):
        training.until(f"epoch {EPOCHS}/")
    training.until("epoch 1/")
    server.start()
    assert training.end() == 0, (server.folder / "train.err").read_text()
    assert server.asked("SELECT status, COUNT(*) FROM runs") == [("FINISHED", 4)]
    every = "SELECT COUNT(*) FROM metrics WHERE key = 'val/loss' GROUP BY run_uuid"
    assert server.asked(every) == [(EPOCHS,)] * 3
    assert "were not sent" in (server.folder / "train.err").read_text()
