"""A run that is killed in mid-epoch, loses its cache, is told to stop in mid-epoch, and ends as if nothing had been."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from deepfake.tracking.reproducibility import is_timing
from tests.end_to_end.conftest import TWO_EPOCHS, Command

#: Trains as ``train.py`` does, but sends itself a signal once so many optimizer steps are done.
INTERRUPTED = """
import os, runpy, sys
from deepfake.training.train_step import Updater

signal, steps = int(sys.argv[1]), int(sys.argv[2])
step, done = Updater.step, 0

def counted(*arguments):
    global done
    step(*arguments)
    done += 1
    if done == steps:
        os.kill(os.getpid(), signal)

Updater.step = counted
sys.argv = ["train.py", *sys.argv[3:]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def resumed(command: Command, outputs: Path) -> Path:
    """The folder of a run of two epochs of two batches each, whose processes ended after one epoch and a half.

    The demo and the crops are deleted after the first and made anew.
    """
    killed = command("-c", INTERRUPTED, str(int(signal.SIGKILL)), "3", *TWO_EPOCHS, "name=interrupted")
    assert killed.returncode == -signal.SIGKILL
    (folder,) = (outputs / "runs").glob("*_interrupted_*")
    shutil.rmtree(outputs / "cache")
    # It begins the second epoch again: its first batch is the first step of this process.
    asked = command("-c", INTERRUPTED, str(int(signal.SIGTERM)), "1", f"resume={folder}")
    assert asked.returncode == 130, asked.stderr
    assert "SIGTERM in epoch 2 after 1 of 2 batches; saved in" in asked.stderr
    again = re.search(r"go on with: python (train\.py) (resume=.+)$", asked.stderr, re.MULTILINE)
    assert again, asked.stderr
    done = command(again[1], again[2])
    assert done.returncode == 0, done.stderr
    assert f"run: {folder}" in done.stdout
    return folder


def test_predictions_are_those_of_an_uninterrupted_run(resumed: Path, finished: Path) -> None:
    tables = [pd.read_parquet(folder / "predictions.parquet") for folder in (finished, resumed)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


@pytest.mark.parametrize("file", ["metrics.json", "history.json"])
def test_metrics_are_those_of_an_uninterrupted_run(file: str, resumed: Path, finished: Path) -> None:
    first, second = (_compared(json.loads((folder / file).read_text())) for folder in (finished, resumed))
    assert first == second


def test_weights_are_those_of_an_uninterrupted_run(resumed: Path, finished: Path) -> None:
    first, second = (load_file(folder / "checkpoints" / "best.safetensors") for folder in (finished, resumed))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name].tobytes() != second[name].tobytes()] == []


def test_it_is_one_run_in_the_store(resumed: Path, outputs: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'interrupted'")
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "val/loss")) == 2


def _compared(kept: dict | list) -> object:
    rows = kept if isinstance(kept, list) else [kept["metrics"]]
    return [{name: value for name, value in row.items() if not is_timing(name)} for row in rows]
