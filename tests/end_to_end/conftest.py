"""Running the project's commands as a user would, each in a process of its own, with outputs in a scratch folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import PROJECT
from tests.end_to_end.using import Here
from tests.forked import Forks

Command = Callable[..., subprocess.CompletedProcess[str]]

#: A demo small enough to train in seconds, through every stage a real run goes through.
SMALL = [
    "demo.people=12",
    "demo.seconds=0.5",
    "demo.size=48",
    "dataset.size=32",
    "dataset.frames=4",
    "dataset.clips=1",
    "trainer.epochs=1",
    "trainer.batch_size=8",
    "head.hidden=16",
]

#: The same with a second epoch, and no model packed for serving.
TWO_EPOCHS = [*SMALL, "trainer.epochs=2", "tracking.log_model=false", "tracking.system_metrics=false"]


@pytest.fixture(scope="session")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One outputs folder for the whole session: the demo is made and prepared once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="session")
def command(outputs: Path, forks: Forks) -> Command:
    """``command("train.py", "model=cnn", ...)`` runs it from the project's folder and returns what it printed.

    Our own commands run in forks unless they are to be ``fresh``; others, ``command("-c", ...)`` say, are started.
    """

    def run(*arguments: str, fresh: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        # Sums come out in another order with another number of threads, and both kinds of process are compared.
        variables = {"COLUMNS": "160", "OMP_NUM_THREADS": "1", **environment}
        if (words := _ours(arguments)) and not fresh:
            ended = forks(*words, limit=900, **{"outputs": outputs, **variables})
            return subprocess.CompletedProcess(arguments, ended.status, ended.stdout, ended.stderr)
        variables = {**os.environ, "DEEPFAKE_OUTPUTS": str(outputs), **variables}
        variables.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env=variables,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    return run


def _ours(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if arguments[:2] == ("-m", "deepfake.cli"):
        return arguments[2:]
    return arguments if arguments[0].endswith(".py") else ()


@pytest.fixture(scope="session")
def finished(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run named ``once``, moved away: where it was trained only the tracking store knows it."""
    done = command("train.py", *TWO_EPOCHS, "name=once")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return Path(shutil.move(found[1], tmp_path_factory.mktemp("moved") / "once"))


@pytest.fixture(scope="session")
def kept(command: Command) -> Path:
    """The folder of a run named ``kept``, which nothing may change: it is evaluated and predicts."""
    done = command("train.py", *SMALL, "dataset.clips=2", "name=kept")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return Path(found[1])


@pytest.fixture
def here(outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """``here("predict", …)`` runs a verb in this process."""
    return Here(outputs, monkeypatch, capsys)
