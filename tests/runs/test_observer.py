"""What a sweep leaves in the tracking store, whichever way it ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.hydra_app import compose_config
from deepfake.runs.observer import Observer, job_table
from deepfake.sweeping.callbacks import COMPLETED, FAILED, Job, Objective, SweepInfo, SweepResult
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.run_folder import WEIGHTS, RunFolder
from deepfake.tracking.search import find_run
from deepfake.tracking.store import connect, locate


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all: making its tables takes seconds."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An experiment for each test."""
    return re.sub(r"\W", "_", request.node.name)


@pytest.fixture
def observer(outputs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Observer:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Observer(compose_config([f"tracking.experiment={name}"]))


@pytest.fixture
def info(tmp_path: Path) -> SweepInfo:
    return SweepInfo("tried", "grid", tmp_path / "tried", 2, [Objective("val/roc_auc")], space={"seed": "1,2"})


@pytest.fixture
def runs(outputs: Path, name: str) -> Callable[[], list[Any]]:
    """Called, the runs in the test's experiment."""

    def search() -> list[Any]:
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")
        return list(client.search_runs([client.get_experiment_by_name(name).experiment_id]))

    return search


@pytest.mark.parametrize(
    ("ended", "status"), [("finished", "FINISHED"), ("stopped", "FINISHED"), ("interrupted", "KILLED")]
)
def test_the_parent_run_ends_as_the_sweep_did(
    observer: Observer, info: SweepInfo, runs: Callable[[], list[Any]], ended: str, status: str
) -> None:
    observer.sweep_started(info)
    observer.sweep_finished(SweepResult(info, [], [], ended))
    (run,) = runs()
    assert run.info.status == status
    assert run.data.tags["sweep.status"] == ended


def test_a_job_that_failed_before_its_run_began_is_recorded_with_its_reason(
    observer: Observer, info: SweepInfo, runs: Callable[[], list[Any]]
) -> None:
    observer.sweep_started(info)
    job = Job(1, ["seed=2"], FAILED, reason="the disk is gone")
    observer.job_finished(info, job)
    observer.sweep_finished(SweepResult(info, [job], [], "finished"))
    parent, child = sorted(runs(), key=lambda run: "mlflow.parentRunId" in run.data.tags)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.info.status, child.data.tags["failure"], child.data.params) == (
        "FAILED",
        "the disk is gone",
        {"seed": "2"},
    )


def test_the_traceback_of_a_job_that_failed_before_its_run_began_is_kept_with_it(
    observer: Observer, info: SweepInfo, runs: Callable[[], list[Any]], tmp_path: Path
) -> None:
    (tmp_path / "traceback.txt").write_text("Traceback: the disk is gone")
    observer.sweep_started(info)
    job = Job(1, ["seed=2"], FAILED, reason="gone", traceback=str(tmp_path / "traceback.txt"))
    observer.job_finished(info, job)
    observer.sweep_finished(SweepResult(info, [job], [], "finished"))
    (child,) = (run for run in runs() if "mlflow.parentRunId" in run.data.tags)
    kept = Path(child.info.artifact_uri.removeprefix("file://")) / "traceback.txt"
    assert kept.read_text() == "Traceback: the disk is gone"


def test_a_job_with_a_run_of_its_own_gets_no_second(
    observer: Observer, info: SweepInfo, runs: Callable[[], list[Any]]
) -> None:
    observer.sweep_started(info)
    observer.job_finished(info, Job(1, ["seed=2"], FAILED, run_id="known", reason="NaN"))
    observer.sweep_finished(SweepResult(info, [], [], "finished"))
    assert len(runs()) == 1


def test_rates_are_numbers_that_a_table_can_round_and_epochs_whole(info: SweepInfo) -> None:
    jobs = [Job(0, ["optimizer.lr=0.00012345678", "trainer.batch_size=16"], COMPLETED, {"best_epoch": 3.0})]
    (row,) = job_table(SweepResult(info, jobs, jobs, "finished")).to_dict("records")
    assert (row["optimizer.lr"], row["trainer.batch_size"], str(row["best_epoch"])) == (0.00012345678, "16", "3")


def test_a_value_out_of_range_is_refused(observer: Observer) -> None:
    with pytest.raises(UserError, match=r"trainer\.batch_size"):
        observer.check(compose_config(["trainer.batch_size=0"]))


def test_a_study_that_goes_on_is_renamed_and_described_anew(
    outputs: Path, name: str, tmp_path: Path, runs: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    space = {"trainer.batch_size": "choice(8,16)", "optimizer.lr": "interval(1e-5,1e-2)"}

    def start(total: int, resumed: bool) -> tuple[Observer, SweepInfo]:
        info = SweepInfo("s", "study", tmp_path / "s", total, [Objective("val/roc_auc")], space=space, resumed=resumed)
        started = Observer(compose_config([f"tracking.experiment={name}", "model=cnn_gru"]))
        started.sweep_started(info)
        return started, info

    def note() -> str:
        return str(runs()[0].data.tags["mlflow.note.content"])

    observer, info = start(1, resumed=False)
    assert runs()[0].info.run_name == "batch,lr: cnn_gru, 1 trial"
    assert note().startswith("Running: 1 run over")
    chosen = ["trainer.batch_size=8", "optimizer.lr=0.0003"]
    metrics = {"val/roc_auc": 0.75, "test/accuracy": 0.5, "test/accuracy_low": 0.4, "test/accuracy_high": 0.6}
    job = Job(0, chosen, COMPLETED, metrics, run_id="a" * 32, run_dir="/r", name="cnn_gru lr=3e-4 batch=8")
    observer.sweep_finished(SweepResult(info, [job], [job], "finished"))
    (run,) = runs()
    assert f"[cnn_gru lr=3e-4 batch=8](#/experiments/{run.info.experiment_id}/runs/{'a' * 32}" in note()
    assert "0.500 [0.400, 0.600]" in note()

    observer, info = start(2, resumed=True)
    assert runs()[0].info.run_name == "batch,lr: cnn_gru, 2 trials"
    assert note().startswith("Going on: 2 runs over")
    assert "0.500 [0.400, 0.600]" in note()
    observer.sweep_finished(SweepResult(info, [job], [job], "finished"))
    assert note().startswith("**Best by ROC-AUC (val): ")
    assert [run.data.tags["sweep"] for run in runs()] == ["s"]


@pytest.fixture
def trials(outputs: Path, name: str) -> Callable[..., list[Job]]:
    """Ended trials of a study, each with weights in its folder."""

    def trials(count: int, status: str = "FINISHED") -> list[Job]:
        found = []
        for number in range(count):
            folder = RunFolder(outputs / "sweeps" / name / str(number))
            folder.best_weights.parent.mkdir()
            folder.best_weights.write_bytes(b"weights")
            store = locate(TrackingOptions(), outputs)
            with track(store, name, f"trial {number}", options=TrackingOptions(system_metrics=False)) as log:
                pass
            connect(store).update_run(log.id, status=status)
            found.append(Job(number, [], COMPLETED, values=[0.5], run_id=log.id, run_dir=str(folder.path)))
        return found

    return trials


def searched(outputs: Path, name: str, keep: int | None = 3) -> SweepInfo:
    return SweepInfo(name, "study", outputs / "sweeps" / name, 2, [Objective("val/roc_auc")], keep=keep)


def kept(jobs: list[Job]) -> list[int]:
    return [job.number for job in jobs if (Path(str(job.run_dir)) / WEIGHTS).is_file()]


def test_the_weights_of_what_was_beaten_go_and_that_is_said(
    observer: Observer, outputs: Path, name: str, trials: Callable[..., list[Job]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(observer._console, "say", said.append)
    jobs, info = trials(3), searched(outputs, name)
    observer.sweep_started(info)
    assert any("weights are kept of its best 3 (sweep.keep)" in line for line in said)
    observer.jobs_beaten(info, jobs[:2])
    assert kept(jobs) == [2]
    observer.sweep_finished(SweepResult(info, jobs, [], "finished"))
    assert any("the weights of 2 runs that were beaten are deleted" in line for line in said)
    with pytest.raises(UserError, match=f"sweep {name} keeps the weights of its best 3"):
        find_run(str(jobs[0].run_id), locate(TrackingOptions(), outputs), outputs).weights()


@pytest.mark.parametrize("asked", ["tracking.keep_weights=all", "a plain grid"])
def test_where_none_is_to_go_none_goes(
    outputs: Path, name: str, trials: Callable[..., list[Job]], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    jobs, info = trials(2), searched(outputs, name, keep=None if asked == "a plain grid" else 3)
    told = Observer(compose_config([f"tracking.experiment={name}", *([asked] if "=" in asked else [])]))
    told.sweep_started(info)
    told.jobs_beaten(info, jobs)
    assert kept(jobs) == [0, 1]
    told.sweep_finished(SweepResult(info, jobs, [], "finished"))


def test_a_run_whose_end_was_not_heard_of_is_asked_for_again(
    observer: Observer, outputs: Path, name: str, trials: Callable[..., list[Job]]
) -> None:
    jobs, info = trials(1, status="RUNNING"), searched(outputs, name)
    observer.sweep_started(info)
    observer.jobs_beaten(info, jobs)
    assert kept(jobs) == [0]
    connect(locate(TrackingOptions(), outputs)).set_terminated(str(jobs[0].run_id))
    observer.sweep_finished(SweepResult(info, jobs, [], "finished"))
    assert kept(jobs) == []


@pytest.mark.parametrize(("total", "runs"), [(None, "runs"), (1, "1 run"), (2, "2 runs")])
def test_how_many_runs_a_sweep_has_is_said_as_far_as_it_is_known(
    observer: Observer, info: SweepInfo, monkeypatch: pytest.MonkeyPatch, total: int | None, runs: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr("deepfake.runs.console.Console.say", lambda _, text: said.append(text))
    observer.sweep_started(replace(info, total=total))
    observer.sweep_finished(SweepResult(info, [], [], "stopped"))
    assert said[0] == f"grid tried: {runs} over seed=1,2"
