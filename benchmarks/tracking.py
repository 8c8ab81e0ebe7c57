"""What a tracking server that is gone, or frozen, costs training, and whether it hears of everything afterwards.

    python -m benchmarks.tracking

Needs no data and no network; takes about four minutes on two cores. Each round trains a run against the same MLflow
server three times: while it answers, while it is stopped (SIGSTOP), and after it was killed; it is back before the run
ends.
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
from contextlib import closing, suppress
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
from deepfake.training.setup import create_fabric

ROUNDS, EPOCHS, STEPS, METRICS = 7, 6, 8, 20


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
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
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


def trained(
    server: Server, folder: Path, steps: Callable[[], None], strike: Callable[[], None], mend: Callable[[], None]
) -> float:
    """The wall seconds of a run's epochs; its server is struck before the first and mended after the last."""
    store = locate(TrackingOptions(uri=server.uri), folder)
    folder.mkdir()
    options = TrackingOptions(system_metrics_seconds=0.5)
    with track(store, "benchmark", folder.name, folder=folder, options=options) as run:
        strike()
        start = time.perf_counter()
        for epoch in range(EPOCHS):
            steps()
            run.epoch(epoch, {f"val/{number}": float(epoch) for number in range(METRICS)})
        seconds = time.perf_counter() - start
        mend()
    return seconds


def untracked(steps: Callable[[], None]) -> float:
    """The wall seconds of as many epochs that tell nobody."""
    start = time.perf_counter()
    for _ in range(EPOCHS):
        steps()
    return time.perf_counter() - start


def arrived(server: Server, folder: Path) -> float:
    """The share of the epochs' metrics that the server holds."""
    client = connect(locate(TrackingOptions(uri=server.uri), folder))
    experiment = client.get_experiment_by_name("benchmark")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    found = sum(len(client.get_metric_history(run.info.run_id, f"val/{n}")) for run in runs for n in range(METRICS))
    return found / (len(runs) * EPOCHS * METRICS)


def main() -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = create_detector(BackboneOptions(name="tiny", pretrained=False), Lstm(hidden=64), SIZE)
    fabric = create_fabric(TrainerOptions(accelerator="cpu", precision="32"))
    steps = ours(detector, make_batch(), fabric, steps=STEPS)
    steps()
    seconds: dict[str, list[float]] = {"untracked": [], "answering": [], "frozen": [], "gone": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = Server(folder)
        ways = {
            "answering": (lambda: None, lambda: None),
            "frozen": (server.freeze, server.thaw),
            "gone": (server.kill, server.start),
        }
        try:
            for number in range(ROUNDS):
                seconds["untracked"].append(untracked(steps))
                for name, (strike, mend) in ways.items():
                    seconds[name].append(trained(server, folder / f"{name}-{number}", steps, strike, mend))
            share = arrived(server, folder)
        finally:
            server.kill()
    median = {f"{name}_seconds": statistics.median(times) / EPOCHS for name, times in seconds.items()}
    rows = [
        row(
            f"epochs a second while the tracking server is {name} / {than}",
            # Of each round by itself: what else the machine does changes from one to the next.
            statistics.median(a / b for a, b in zip(seconds[base], seconds[name], strict=True)),
            ">= 0.98",
            **median,
        )
        for name in ("gone", "frozen")
        for base, than in (("answering", "answering, on this machine"), ("untracked", "without any tracking"))
    ]
    rows.append(row("metrics that arrive once the server is back / told", share, "1", runs=float(3 * ROUNDS)))
    method = (
        f"tiny + LSTM, {STEPS} steps and {METRICS} metrics an epoch, {EPOCHS} epochs a run, system metrics each 0.5 s; "
        f"{ROUNDS} rounds in turns, median of their ratios of wall seconds, one thread"
    )
    report("tracking", method, rows, machine("mlflow", "torch"))


if __name__ == "__main__":
    main()
