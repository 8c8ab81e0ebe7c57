"""Studies on a local Ray: it brings much, so that CI runs these tests in an environment of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT

import pandas as pd
import pytest

from tests import PROJECT
from tests.sweeping.toy import blocked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("hydra_plugins.hydra_ray_launcher") is None, reason="pip install -e '.[ray]' brings Ray"
    ),
]

STUDY = ["x=interval(-2,2)", "sweep.name=s", "epochs=1", "sweep.n_jobs=2", "sweep.heartbeat=1"]
LOCAL = [
    "hydra/launcher=ray",
    "+hydra.launcher.ray.init.num_cpus=2",
    "+hydra.launcher.ray.init.include_dashboard=false",
]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``sweep("sweep.n_trials=5")`` starts the toy's study on a Ray of its own, in a process as a user's."""
    started: list[subprocess.Popen[str]] = []

    def start(*overrides: str, task: str = "task", where: Sequence[str] = LOCAL) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.sweeping.toy", str(tmp_path), *STUDY, *where, *overrides]
        environment = {**os.environ, "TOY_TASK": task}
        started.append(subprocess.Popen(command, cwd=PROJECT, stdout=PIPE, stderr=STDOUT, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_workers_of_ray_share_a_study(sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    assert "best of 5 trials" in _end(sweep("sweep.n_trials=5"))
    table = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert list(table["status"]) == ["completed"] * 5
    signs = [json.loads(file.read_text()) for file in (tmp_path / "s" / "workers").glob("*.json")]
    assert [sign["ended"] for sign in signs] == ["", ""]


def test_a_worker_of_ray_that_was_killed_costs_no_trial(
    sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    running = sweep("sweep.n_trials=4", "block=1")
    os.kill(blocked(tmp_path), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert "best of 4 trials" in _end(running)
    assert list(pd.read_csv(tmp_path / "s" / "trials.csv")["status"]) == ["completed"] * 4


def test_a_study_in_order_is_the_same_on_ray(sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    order = ["sampler=tpe", "sweep.sampler.n_startup_trials=2", "sweep.n_trials=6", "epochs=2", "pruner=asha"]
    order += ["sweep.pruner.min_resource=1", "sweep.ordered=true", "sweep.lag=2"]
    _end(sweep(*order))
    _end(sweep(*order, "sweep.name=alone", "sweep.n_jobs=1", where=()))
    tables = [pd.read_csv(tmp_path / name / "trials.csv") for name in ("s", "alone")]
    assert tables[0][["trial", "status", "x"]].equals(tables[1][["trial", "status", "x"]])


def test_trials_are_paused_and_promoted_on_ray(sweep: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    halving = ["sampler=random", "epochs=9", "pruner=promote", "sweep.pruner.min_resource=1"]
    _end(sweep(*halving, "sweep.budget=20", task="resumable"))
    _end(sweep(*halving, "sweep.budget=40", task="resumable"))
    assert set(pd.read_csv(tmp_path / "s" / "trials.csv")["status"]) == {"completed", "paused"}
    trained = (tmp_path / "trained").read_text().splitlines()
    assert 20 < len(trained) == len(set(trained))


def _end(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said
