"""Several runs from one command, and one run over several processes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import SMALL, Command


def _runs(outputs: Path, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


@pytest.fixture(scope="module")
def swept(command: Command) -> str:
    done = command("train.py", "-m", *SMALL, "model=cnn_lstm,cnn_gru", "tracking.experiment=multirun")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_table_compares_the_runs_and_says_how_to_open_them(swept: str) -> None:
    table = swept[swept.index("2 runs compared by val/roc_auc") :]
    assert re.search(r"Model .* Accuracy .* F1 .* ROC-AUC ", table)
    assert "cnn_lstm" in table
    assert "cnn_gru" in table
    assert re.fullmatch(r"compare in the browser: \S*deepfake ui \S+", table.splitlines()[-1])


def test_the_runs_are_nested_under_one_parent(swept: str, outputs: Path) -> None:
    runs = _runs(outputs, "multirun")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert parents[0].info.run_name == "model=cnn_lstm,cnn_gru"
    assert {run.info.run_name for run in children} == {"cnn_lstm", "cnn_gru"}
    assert {run.data.params["model"] for run in children} == {"cnn_lstm", "cnn_gru"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_failed_job_does_not_stop_the_others_and_the_status_says_so(command: Command, outputs: Path) -> None:
    done = command(
        "train.py", "-m", *SMALL, "backbone.name=no_such_model,tiny", "tracking.log_model=false",
        "tracking.experiment=failing",
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 of 2 jobs failed" in done.stderr
    assert "1 runs compared" in done.stdout or "2 runs compared" in done.stdout
    runs = _runs(outputs, "failing")
    failed = [run for run in runs if run.info.status == "FAILED"]
    assert [run.data.params["backbone.name"] for run in failed] == ["no_such_model"]
    assert failed[0].info.run_name == "cnn_lstm backbone=no_such_model"
    assert "no_such_model" in failed[0].data.tags["failure"]
    assert sorted(run.info.status for run in runs) == ["FAILED", "FINISHED", "FINISHED"]


def test_a_value_out_of_range_in_one_job_of_many_is_told_before_any_runs(command: Command, outputs: Path) -> None:
    done = command("train.py", "-m", *SMALL, "trainer.batch_size=8,0", "tracking.experiment=never")
    assert done.returncode == 2
    assert done.stderr.startswith("error: trainer.batch_size=0")
    assert not _runs(outputs, "never")


def test_a_mistake_in_one_job_of_many_is_told_before_any_runs(command: Command, outputs: Path) -> None:
    done = command("train.py", "-m", *SMALL, "model=cnn_lstm,cnn_lstn")
    assert done.returncode == 2
    assert "'cnn_lstm'" in done.stderr


def test_torchrun_trains_one_run_with_two_processes(command: Command, outputs: Path) -> None:
    # Alone, it finds a free port on this machine by itself.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = command(*launcher, "train.py", *SMALL, "name=two processes", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^run: ", done.stdout, re.MULTILINE)) == 1
    assert "cpu x 2" in done.stdout
