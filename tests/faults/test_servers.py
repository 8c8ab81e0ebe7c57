"""Servers that stop, freeze or answer late while runs and studies need them: nothing waits, nothing is lost.

The tracking server of MLflow, a PostgreSQL database as the tracking store, and one as the storage of a study; struck
at the start, in mid-run and at the end; with one worker and with eight.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import PROJECT
from tests.end_to_end.conftest import SMALL, Command, command, outputs
from tests.servers import Postgres, Proxy, TrackingServer

pytestmark = pytest.mark.slow

__all__ = ["command", "outputs"]  # fixtures

SERVERS, FAULTS, MOMENTS, WORKERS = (
    ("mlflow", "tracking-database", "storage"),
    ("stopped", "frozen", "slow", "cut"),
    ("start", "middle", "end"),
    (1, 8),
)
#: Without ``--full``: one of each kind and moment, those of one worker.
SAMPLE = {
    ("mlflow", "frozen", "start", 1),
    ("tracking-database", "stopped", "middle", 1),
    ("storage", "frozen", "middle", 1),
    ("storage", "stopped", "end", 1),
}
EPOCHS = 12
TRIALS = {1: 3, 8: 8}
#: Seconds within which a run that goes on at all gets from one sign of life to the next, on a machine in use.
PATIENCE = 400.0
#: Seconds within which SIGTERM is obeyed: three for each server, and what ending takes processes on a machine in use.
OBEYED = {1: 20, 8: 45}
#: Seconds that a slow server takes for each answer; of a database hundreds are asked for before a run has begun.
SLOW = {"mlflow": 0.5, "tracking-database": 0.1, "storage": 0.1}


def _cases() -> list[tuple[str, str, str, int]]:
    # A connection that is there is not cut: at the end there is none to make.
    cases = list(product(SERVERS, FAULTS[:3], MOMENTS, WORKERS))
    return cases + list(product(SERVERS, FAULTS[3:], MOMENTS[:2], WORKERS[:1]))


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    found = TrackingServer(tmp_path_factory.mktemp("server"))
    yield found
    found.thaw()
    found.kill()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    found = Postgres(tmp_path_factory.mktemp("postgres"))
    found.start()
    yield found
    found.thaw()
    found.stop()


@dataclass
class Stricken:
    """A server of a case, how it is reached, and how it is struck and mended."""

    kind: str
    fault: str
    name: str
    server: TrackingServer | Postgres
    proxy: Proxy

    @property
    def address(self) -> str:
        port = self.proxy.port if self.fault in ("slow", "cut") else self.server.port
        return (
            f"http://127.0.0.1:{port}" if isinstance(self.server, TrackingServer) else self.server.at(port, self.name)
        )

    def strike(self) -> None:
        if self.fault == "slow":
            self.proxy.delay = SLOW[self.kind]
        elif self.fault == "cut":
            self.proxy.cut = True
        else:
            (self.server.stop if self.fault == "stopped" else self.server.freeze)()

    def mend(self) -> None:
        self.proxy.delay, self.proxy.cut = 0.0, False
        if self.fault == "stopped":
            self.server.start()
        elif self.fault == "frozen":
            self.server.thaw()

    def asked(self, query: str) -> list[tuple[Any, ...]]:
        return (
            self.server.asked(query) if isinstance(self.server, TrackingServer) else self.server.asked(query, self.name)
        )


@pytest.fixture
def stricken(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], Stricken]]:
    """Makes the server of a case; a database's has a database of its own for it."""
    proxies = []

    def make(kind: str, fault: str) -> Stricken:
        name = f"case{time.monotonic_ns()}"
        server = request.getfixturevalue("tracking" if kind == "mlflow" else "postgres")
        if isinstance(server, Postgres):
            server.create(name)
        proxies.append(Proxy(server.port))
        return Stricken(kind, fault, name, server, proxies[-1])

    yield make
    for proxy in proxies:
        proxy.close()


class Run:
    """``train.py`` at work: a single run, or a study with workers."""

    def __init__(self, folder: Path, outputs: Path, name: str, workers: int, *more: str, study: bool) -> None:
        self.name, self.workers = name, workers
        self.trials = TRIALS[workers] if study else 1
        self.epochs = EPOCHS if not study else 2
        words = [*SMALL, f"trainer.epochs={self.epochs}", f"tracking.experiment={name}", "tracking.log_model=false"]
        words += ["tracking.system_metrics_seconds=0.5", *more]
        if study:
            words = ["-m", *words, "optimizer.lr=interval(1e-4,1e-2)", f"sweep.n_trials={self.trials}"]
            words += [f"sweep.n_jobs={workers}", f"sweep.name={name}", "sampler=random"]
        else:
            words += [f"hydra.run.dir={outputs}/runs/{name}", f"name={name}"]
        self.folder = outputs / ("sweeps" if study else "runs") / name
        self._words, self._errors, self._output = words, folder / "errors.txt", folder / "output.txt"
        self._outputs = outputs
        self.begin()

    def begin(self) -> None:
        """Start it, for the first time or again."""
        environment = {**os.environ, "DEEPFAKE_OUTPUTS": str(self._outputs), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        self._began = time.monotonic()
        with self._errors.open("ab") as errors, self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "train.py", *self._words], cwd=PROJECT, env=environment, stdout=output, stderr=errors
            )

    @property
    def told(self) -> str:
        return self._output.read_text() + self._errors.read_text()

    def until(self, what: str, reached: Callable[[], bool]) -> None:
        """Wait until something is so; fail where the process ends before, or nothing comes of it."""
        end = time.monotonic() + PATIENCE
        while not reached():
            assert self._process.poll() is None, f"it ended before {what}:\n{self.told}"
            assert time.monotonic() < end, f"it was held, there was no {what}:\n{self.told}"
            time.sleep(0.05)

    def begun(self) -> int:
        """How many runs have begun to train."""
        return len(list(self.folder.glob("**/overrides.yaml")))

    def trained(self) -> int:
        """How many runs have done all their epochs and written what came out."""
        return len(list(self.folder.glob("**/metrics.json")))

    def epoch(self) -> int:
        """The last epoch that a run on its own has told of."""
        return max([0, *map(int, re.findall(r"^epoch +(\d+)/", self._output.read_text(), re.MULTILINE))])

    def until_struck(self, moment: str) -> None:
        """Wait until the moment at which the server is to go."""
        if self.trials == 1:
            epoch = 3 if moment == "middle" else self.epochs
            self.until(f"epoch {epoch}", lambda: self.epoch() >= epoch)
        elif moment == "middle":
            self.until("first trials", lambda: self.begun() >= min(self.workers, self.trials) or self.trained() > 0)
        else:
            self.until("last trial", lambda: self.begun() == self.trials and self.trained() >= self.trials - 1)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Leave nothing behind, whatever became of the test."""
        if self._process.poll() is None:
            for process in (*psutil.Process(self._process.pid).children(recursive=True), self._process):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()

    def end(self) -> int:
        """How it ended; and it has left no process."""
        children = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        status = self._process.wait(PATIENCE)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        return status

    def runs(self) -> list[Path]:
        """The folders of its runs that were tracked."""
        return sorted(path.parent for path in self.folder.glob("**/history.json"))

    def seconds(self) -> float:
        return time.monotonic() - self._began


@pytest.fixture
def begin(outputs: Path, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """``begin(server, workers, *words, study=…)`` starts a run that needs the server."""
    begun = []

    def start(server: Stricken, workers: int, *words: str, study: bool) -> Run:
        place = f"sweep.storage={server.address}" if server.kind == "storage" else f"tracking.uri={server.address}"
        begun.append(Run(tmp_path, outputs, server.name, workers, place, *words, study=study))
        return begun[-1]

    yield start
    for run in begun:
        run.kill()


def _sync(command: Command, run: Run, server: Stricken) -> None:
    done = command("-m", "deepfake.cli", "sync", str(run.folder), f"tracking.uri={server.address}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(run.folder.glob("**/unsent"))


def _check_tracked(asked: Callable[[str], list[tuple[Any, ...]]], run: Run, study: bool) -> None:
    """Every number of every epoch of every run is there, once; and no run is said to be running."""
    mine = f"runs r JOIN experiments e ON r.experiment_id = e.experiment_id WHERE e.name = '{run.name}'"
    states = Counter(dict(asked(f"SELECT r.status, COUNT(*) FROM {mine} GROUP BY r.status")))
    assert states == Counter({"FINISHED": run.trials + study}), states
    folders = {
        folder: uuid
        for uuid, folder in asked(
            "SELECT t.run_uuid, t.value FROM tags t WHERE t.key = 'run_dir' AND t.run_uuid IN "
            f"(SELECT r.run_uuid FROM {mine})"
        )
    }
    assert len(run.runs()) == run.trials == len(folders)
    for folder in run.runs():
        kept = json.loads((folder / "history.json").read_text())
        wanted = Counter((key, step) for step, row in enumerate(kept) for key in row if row[key] is not None)
        wanted = Counter({pair: count for pair, count in wanted.items() if pair[0].startswith(("train/", "val/"))})
        rows = asked(f"SELECT key, step FROM metrics WHERE run_uuid = '{folders[str(folder)]}'")
        found = Counter((key, int(step)) for key, step in rows)
        assert len(kept) == run.epochs
        assert {pair: found[pair] for pair in wanted} == dict(wanted)
        assert found["test/accuracy", 0] == 1
        assert any(key.startswith("system/") for key, _ in found)


def _check_counted(server: Stricken, run: Run) -> None:
    """Every trial has ended well, once."""
    trials = server.asked("SELECT number, CAST(state AS VARCHAR) FROM trials ORDER BY number")
    assert [number for number, _ in trials] == list(range(run.trials))
    assert {state for _, state in trials} <= {"COMPLETE", "PRUNED"}, trials
    reported = "SELECT COUNT(*) FROM trial_intermediate_values"
    assert server.asked(reported) == [(run.trials * run.epochs,)]


def _own_store(outputs: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    def asked(query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(outputs / "mlflow.db", timeout=60)) as database:
            return database.execute(query).fetchall()

    return asked


@pytest.mark.parametrize("case", _cases(), ids=lambda case: "-".join(map(str, case)))
def test_a_server_that_is_away(
    case: tuple[str, str, str, int],
    full: bool,
    stricken: Callable[[str, str], Stricken],
    begin: Callable[..., Run],
    outputs: Path,
    command: Command,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    if not full and case not in SAMPLE:
        pytest.skip("--full strikes in every way")
    kind, fault, moment, workers = case
    server = stricken(kind, fault)
    study = kind == "storage" or workers > 1
    refused = False
    if moment == "start":
        server.strike()
    try:
        cpu = os.times()
        run = begin(server, workers, study=study)
        if moment == "start" and fault in ("stopped", "frozen"):
            _check_refused(run, cpu)
            assert run.trained() == 0
        elif moment == "start":
            status = run.end()
            # A connection that is cut may be the first, without which nothing begins.
            assert status == 0 or (fault == "cut" and status == 2 and "error: " in run.told), run.told
            refused = status == 2
        else:
            run.until_struck(moment)
            server.strike()
            if moment == "middle":
                # What has begun is trained to its end before the server is back; what only tracks holds nothing.
                begun = run.begun() if kind == "storage" else run.trials
                run.until("end of training", lambda: run.trained() >= begun)
    finally:
        server.mend()
    if moment == "start" and (refused or fault in ("stopped", "frozen")):
        if workers > 1:
            # That it runs once the server is there is every other case of eight workers.
            assert not run.runs()
            return
        run.begin()
    if moment != "start" or refused or fault in ("stopped", "frozen"):
        assert run.end() == 0, run.told
    if kind == "storage":
        _check_counted(server, run)
        _check_tracked(_own_store(outputs), run, study=True)
    else:
        _sync(command, run, server)
        _check_tracked(server.asked, run, study)
    record_testsuite_property("-".join(map(str, case)), f"all arrived, {run.seconds():.0f} s")


def _check_refused(run: Run, before: os.times_result) -> None:
    """A start that cannot begin ends in two lines, and it does not keep anybody waiting."""
    status = run.end()
    after = os.times()
    # Imports take what the machine gives; what is asked here is how long it waited.
    own = after.children_user + after.children_system - before.children_user - before.children_system
    assert status == 2, run.told
    assert "error: " in run.told
    assert "Traceback" not in run.told
    assert run.seconds() - own < 30, run.seconds()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", SERVERS)
def test_sigterm_while_the_server_is_frozen(
    kind: str,
    workers: int,
    full: bool,
    stricken: Callable[[str, str], Stricken],
    begin: Callable[..., Run],
    outputs: Path,
    command: Command,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    if not full:
        pytest.skip("--full strikes in every way")
    server = stricken(kind, "frozen")
    study = kind == "storage" or workers > 1
    run = begin(server, workers, "trainer.epochs=100000", study=study)
    try:
        run.until("begun runs", lambda: run.epoch() >= 2 if not study else run.begun() >= workers)
        server.strike()
        run.stop()
        asked = time.monotonic()
        assert run.end() == 130, run.told
        took = time.monotonic() - asked
        assert took < OBEYED[workers]
    finally:
        server.mend()
    if kind != "storage":
        _sync(command, run, server)
    states = (_own_store(outputs) if kind == "storage" else server.asked)(
        f"SELECT DISTINCT r.status FROM runs r JOIN experiments e ON r.experiment_id = e.experiment_id "
        f"WHERE e.name = '{run.name}'"
    )
    assert ("RUNNING",) not in states
    record_testsuite_property(f"SIGTERM, {kind}, {workers} workers", f"obeyed in {took:.1f} s")


def test_the_best_of_a_sweep_is_named_by_sync_where_its_server_never_heard_of_it(
    full: bool, stricken: Callable[[str, str], Stricken], begin: Callable[..., Run], command: Command
) -> None:
    if not full:
        pytest.skip("--full strikes in every way")
    server = stricken("mlflow", "stopped")
    run = begin(server, 1, study=True)
    try:
        run.until("parent run", lambda: (run.folder / "multirun.yaml").is_file() and run.begun() > 0)
        server.strike()
        assert run.end() == 0, run.told
    finally:
        server.mend()
    _sync(command, run, server)
    tags = dict(
        server.asked(
            "SELECT t.key, t.value FROM tags t JOIN runs r ON r.run_uuid = t.run_uuid JOIN experiments e "
            f"ON r.experiment_id = e.experiment_id WHERE e.name = '{run.name}' AND t.key LIKE 'best.run%'"
        )
    )
    best = f"SELECT run_uuid FROM tags WHERE key = 'run_dir' AND value = '{tags['best.run_dir']}'"
    assert server.asked(best) == [(tags["best.run_id"],)]
    assert Path(tags["best.run_dir"]).parent == run.folder
