"""Many jobs in one process: it grows by nothing, and no job meets what another left behind."""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import locale
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.basecontainer import BaseContainer
from safetensors.torch import load_file

from tests import PROJECT

pytestmark = pytest.mark.slow

#: The smallest run that goes through every stage.
TINY = ["demo.people=8", "demo.seconds=0.5", "dataset.size=32", "dataset.frames=4", "dataset.clips=1"]
TINY += ["trainer.epochs=1", "trainer.batch_size=8", "head.hidden=16", "tracking.log_model=false"]
_WATCH = "RELIABILITY_WATCH"


class Watch(Callback):
    """Hydra's own hook: notes what a job meets when it starts, a line each. It imports nothing that is not there."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        me = psutil.Process()
        note = {
            "memory": me.memory_full_info().uss,
            "threads": me.num_threads(),
            **descriptors(),
            "children": len(me.children(recursive=True)),
            "exit calls": atexit._ncallbacks(),
            "temporary files": len(os.listdir(tempfile.gettempdir())),
            "state": surroundings(),
        }
        with open(os.environ[_WATCH], "a") as file:
            file.write(json.dumps(note) + "\n")


def descriptors() -> dict[str, int]:
    """Open files, and among them connections to the tracking database.

    Its pool opens one for each thread that writes at the same moment, and keeps it: how soon that happens is chance.
    """
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            targets.append(os.readlink(link))
    connections = sum("mlflow.db" in target for target in targets)
    return {"descriptors": len(targets) - connections, "connections": connections}


def surroundings() -> dict[str, Any]:
    """Everything that a process has one of, so that a job could leave it changed for the next, as JSON."""
    known: dict[str, Any] = {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "module path": sys.path,
        "signals": {str(number): repr(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()},
        "warnings": [repr(one) for one in warnings.filters],
        "logging": {name: _logger(one) for name, one in _loggers().items() if one.handlers or one.level},
        "logging off": logging.root.manager.disable,
        "hooks": [repr(hook).split(" at ")[0] for hook in (sys.excepthook, threading.excepthook, sys.unraisablehook)],
        "streams": [type(stream).__name__ for stream in (sys.stdout, sys.stderr)],
        "python threads": sorted(one.name for one in threading.enumerate()),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if "RLIMIT_" in name},
        "locale": locale.setlocale(locale.LC_ALL),
        "collector": [gc.isenabled(), gc.get_threshold(), len(gc.callbacks)],
        "hydra": GlobalHydra.instance().is_initialized(),
        "resolvers": sorted(BaseContainer._resolvers),
    }
    for name, look in (("torch", _torch), ("numpy", _numpy), ("matplotlib.pyplot", _pyplot), ("mlflow", _mlflow)):
        if name in sys.modules:
            known[name] = look(sys.modules[name])
    return known


def _loggers() -> dict[str, logging.Logger]:
    found = {name: one for name, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    return {"": logging.root, **found}


def _logger(one: logging.Logger) -> list[Any]:
    handlers = [[type(handler).__name__, handler.level, len(handler.filters)] for handler in one.handlers]
    return [one.level, handlers, len(one.filters), one.propagate, one.disabled]


def _torch(torch: Any) -> list[Any]:
    cudnn = torch.backends.cudnn
    return [
        *(torch.get_num_threads(), torch.get_num_interop_threads(), str(torch.get_default_dtype())),
        *(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        *(torch.utils.deterministic.fill_uninitialized_memory, torch.get_float32_matmul_precision()),
        *(cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        *(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        *(str(torch.get_default_device()), torch.is_anomaly_enabled()),
    ]


def _numpy(numpy: Any) -> list[Any]:
    return [numpy.geterr(), repr(numpy.get_printoptions())]


def _pyplot(pyplot: Any) -> list[Any]:
    settings = {key: repr(value) for key, value in pyplot.rcParams.items()}
    return [hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(), pyplot.get_fignums()]


def _mlflow(mlflow: Any) -> list[Any]:
    return [mlflow.active_run() is None, mlflow.get_tracking_uri()]


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep of many jobs in one process.

    Attributes:
        notes: Of each job, what :class:`Watch` saw.
        folder: The sweep's.
    """

    notes: list[dict[str, Any]]
    folder: Path

    def growth(self, what: str) -> tuple[float, float]:
        """How many there are early on and at the end.

        Early on is the second tenth: every library is loaded by then, and what a process keeps of the last few data
        sets is full. Medians, since a single look may fall before or after a collection of garbage.
        """
        counts = [note[what] for note in self.notes]
        tenth = max(2, len(counts) // 10)
        return median(counts[tenth : 2 * tenth]), median(counts[-tenth:])


def run(arguments: Sequence[str], folder: Path) -> Path:
    """One command in a process of its own; returns the file of its notes."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    variables = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    variables |= {"DEEPFAKE_OUTPUTS": str(folder.parent / "outputs"), "TMPDIR": str(scratch), "COLUMNS": "160"}
    variables |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", _WATCH: str(folder / "notes.jsonl")}
    watch = "+hydra.callbacks.watch._target_=tests.faults.test_growth.Watch"
    done = subprocess.run(
        [sys.executable, "train.py", *arguments, *TINY, watch],
        cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    return folder / "notes.jsonl"


def sweep(arguments: Sequence[str], name: str, place: Path) -> Sweep:
    """A sweep of one process, with what each of its jobs met."""
    notes = run(["-m", f"hydra.sweep.dir={place / name / 'jobs'}", *arguments], place / name)
    return Sweep([json.loads(line) for line in notes.read_text().splitlines()], place / name / "jobs")


def digests(folder: Path) -> dict[str, str]:
    """Of what a run came to: its weights, its metrics but for times, its predictions."""
    (weights,) = folder.rglob("best.safetensors")
    # Of the tensors: notes in a file's head are written in any order.
    tensors = load_file(weights)
    found = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    predictions = pd.read_parquet(next(folder.rglob("predictions.parquet")))
    found["predictions"] = hashlib.sha256(predictions.to_csv(index=False).encode()).hexdigest()
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found | {name: repr(value) for name, value in metrics.items() if not name.endswith(("_seconds", "_ms"))}


def holds(told: Sweep, jobs: int, most: float) -> str:
    """Assert that a sweep grew by nothing and left nothing behind; its figures in a line."""
    assert len(told.notes) == jobs
    early, late = told.growth("memory")
    assert late <= early * (1 + most), f"{early / 1e6:.0f} MB, then {late / 1e6:.0f} MB"
    for what in ("threads", "descriptors", "children", "exit calls", "temporary files"):
        # The first jobs load libraries and open what is kept open, such as the last two data sets.
        counts = [note[what] for note in told.notes[max(5, jobs // 10) :]]
        assert max(counts) == min(counts), f"{what}: {counts}"
    assert max(note["connections"] for note in told.notes) <= 5
    return f"memory {late / early - 1:+.1%} of {early / 1e6:.0f} MB, threads and descriptors +0"


def changed(told: Sweep) -> dict[str, list[int]]:
    """What a job met otherwise than the third did, and which; the first two load libraries and set them up."""
    first, found = told.notes[2]["state"], {}
    for what in first:
        jobs = [number for number, note in enumerate(told.notes) if number > 2 and note["state"][what] != first[what]]
        found |= {what: jobs} if jobs else {}
    return found


def test_a_grid_of_many_jobs(full: bool, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    seeds = 50 if full else 2
    points = [f"seed=range({seeds})", "model=cnn_lstm,cnn_gru", "trainer.deterministic=true,false"]
    told = sweep(points, "grid", tmp_path)
    figures = holds(told, 4 * seeds, 0.05 if full else 0.50)
    left = changed(told)
    # Every job sets torch to what it needs before it draws anything: it meets the last one's choice of algorithms.
    assert set(left) <= {"torch"}, left
    for number in (4 * seeds - 1, 5) if full else (5,):
        words = [f"seed={number // 4}", f"model={('cnn_lstm', 'cnn_gru')[number // 2 % 2]}"]
        words += [f"trainer.deterministic={('true', 'false')[number % 2]}"]
        alone = tmp_path / f"alone{number}"
        run([*words, f"hydra.run.dir={alone / 'run'}"], alone)
        (together,) = (path for path in told.folder.iterdir() if path.name.split("_")[0] == str(number))
        assert digests(together) == digests(alone / "run"), number
    record_property("growth", figures)
    print(f"a grid of {len(told.notes)} jobs in one process: {figures}")


def test_a_study_of_many_trials(full: bool, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    trials = 200 if full else 8
    space = ["sampler=random", "optimizer.lr=interval(0.0001,0.01)", f"sweep.n_trials={trials}"]
    told = sweep(space, "study", tmp_path)
    figures = holds(told, trials, 0.05 if full else 0.50)
    assert changed(told) == {}
    record_property("growth", figures)
    print(f"a study of {len(told.notes)} trials in one process: {figures}")
