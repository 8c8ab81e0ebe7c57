"""What a tracking server that is gone, or frozen, costs training, and whether it hears of everything afterwards.

    python -m benchmarks.tracking

Needs no data and no network; takes about three minutes on two cores. Three runs train in turns, epoch by epoch, beside
epochs that nobody is told of: one against an MLflow server that answers, one against a stopped one (SIGSTOP), one
against a killed one. All servers are back before the runs end.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import torch

from benchmarks.measure import machine, report, row
from benchmarks.step import SIZE, make_batch, ours
from deepfake.models.detector import create_detector
from deepfake.models.options import BackboneOptions, Lstm
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.store import connect, locate
from deepfake.training.options import TrainerOptions
from deepfake.training.runtime import create_fabric

EPOCHS, STEPS, METRICS = 30, 4, 20


class Server:
    """``mlflow server`` on one port and one store, however often it is started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        command += ["--artifacts-destination", str(self._folder / "served")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()  # noqa: S310 - its own server
                return
            if self._process.poll() is not None:
                raise RuntimeError((self._folder / "server.log").read_text())
            time.sleep(0.2)

    def freeze(self) -> None:
        """Let it answer nothing."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it answer again."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Be rid of it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def in_epochs(servers: dict[str, Server], folder: Path, steps: Callable[[], None]) -> dict[str, list[float]]:
    """The wall seconds of each epoch, told to each server and to nobody, in turns."""
    seconds: dict[str, list[float]] = {"untracked": [], **{name: [] for name in servers}}
    with ExitStack() as runs:
        tell: dict[str, Callable[[int, dict[str, float]], None]] = {"untracked": lambda epoch, metrics: None}
        for name, server in servers.items():
            store = locate(TrackingOptions(uri=server.uri), folder)
            tell[name] = runs.enter_context(track(store, "benchmark", name, folder=folder / name)).epoch
        servers["frozen"].freeze()
        servers["gone"].kill()
        for epoch in range(EPOCHS):
            for name, call in tell.items():
                start = time.perf_counter()
                steps()
                call(epoch, {f"val/{number}": float(epoch) for number in range(METRICS)})
                seconds[name].append(time.perf_counter() - start)
        servers["frozen"].thaw()
        servers["gone"].start()
    return seconds


def arrived(server: Server, folder: Path) -> float:
    """The share of the epochs' metrics that the server holds."""
    client = connect(locate(TrackingOptions(uri=server.uri), folder))
    experiment = client.get_experiment_by_name("benchmark")
    (run,) = client.search_runs([experiment.experiment_id])
    return sum(len(client.get_metric_history(run.info.run_id, f"val/{n}")) for n in range(METRICS)) / (EPOCHS * METRICS)


def main() -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = create_detector(BackboneOptions(name="tiny", pretrained=False), Lstm(hidden=64), SIZE)
    fabric = create_fabric(TrainerOptions(accelerator="cpu", precision="32"))
    steps = ours(detector, make_batch(), fabric, steps=STEPS)
    steps()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        servers: dict[str, Server] = {}
        try:
            for name in ("answering", "frozen", "gone"):
                (folder / f"{name}-server").mkdir()
                servers[name] = Server(folder / f"{name}-server")
            seconds = in_epochs(servers, folder, steps)
            share = min(arrived(server, folder) for server in servers.values())
        finally:
            for server in servers.values():
                server.kill()
    median = {f"{name}_seconds": statistics.median(times) for name, times in seconds.items()}
    rows = [
        row(
            f"epochs a second while the tracking server is {name} / answering",
            # Of each epoch by itself: what else the machine does changes from one to the next.
            statistics.median(a / b for a, b in zip(seconds["answering"], seconds[name], strict=True)),
            ">= 0.98",
            **median,
        )
        for name in ("gone", "frozen")
    ]
    rows.append(row("metrics that arrive once the server is back / told", share, "1", runs=float(len(servers))))
    method = (
        f"tiny + LSTM, {STEPS} steps and {METRICS} metrics an epoch, system metrics; {EPOCHS} epochs in turns, "
        "median of their ratios of wall seconds, one thread"
    )
    report("tracking", method, rows, machine("mlflow", "torch"))


if __name__ == "__main__":
    main()
