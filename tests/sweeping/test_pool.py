"""Worker processes: what each may use, what they share, and how they fail."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
import pytest
from omegaconf import DictConfig
from rich.console import Console

from deepfake.errors import UserError
from deepfake.sweeping.pool import visible_gpus, worker_environment
from deepfake.sweeping.runner import Display
from deepfake.sweeping.storage import locate, open_storage
from deepfake.sweeping.study import Study
from deepfake.sweeping.sweeper import SweepFailed
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")


def test_each_worker_sees_one_gpu() -> None:
    seen = [worker_environment(index, 3, ["0", "1"], {})["CUDA_VISIBLE_DEVICES"] for index in range(3)]
    assert seen == ["0", "1", "0"]


def test_only_the_gpus_given_are_shared_out() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]


def test_no_gpu_where_they_are_hidden() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_the_cpu_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.pool.available_cores", lambda: 8)
    assert worker_environment(0, 4, [], {})["OMP_NUM_THREADS"] == "2"


def test_a_number_of_threads_the_user_set_is_kept() -> None:
    assert worker_environment(0, 4, [], {"OMP_NUM_THREADS": "1"})["OMP_NUM_THREADS"] == "1"


def test_a_grid_side_by_side_tries_every_point_and_is_honest(tmp_path: Path) -> None:
    with pytest.raises(SweepFailed) as caught:
        toy.multirun(tmp_path, ["fail=true,false", "x=0,1", "epochs=1", "sweep.n_jobs=2"])
    assert (len(caught.value.jobs), caught.value.total) == (2, 4)
    assert sorted(job.overrides for kind, job in toy.HEARD if kind == "job") == [
        ["fail=false", "x=0"],
        ["fail=false", "x=1"],
        ["fail=true", "x=0"],
        ["fail=true", "x=1"],
    ]


@pytest.mark.slow
def test_workers_that_cannot_start_are_told_with_their_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.sweeping.pool.pack", lambda work: b"nonsense")
    with pytest.raises(UserError, match=r"workers cannot start: its worker ended with status 1; .*Error"):
        toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=2", "sweep.n_jobs=2"])


def test_the_live_table_shows_what_runs_and_what_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Study] = []
    monkeypatch.setattr("deepfake.sweeping.runner.Study", lambda plan: kept.append(Study(plan)) or kept[-1])
    toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=2", "sweep.name=s"])
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Display(kept[0].plan, 2, live=True, console=console) as display:
        display.refresh(kept[0].trials())
    assert "s: 2/2 ended, best score" in screen.getvalue()
    assert "completed" in screen.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("way", [["lost_by=exit"], ["lost_by=error", "sticky=true"]], ids=["exit", "broken for good"])
def test_a_trial_that_loses_its_device_fails_alone(tmp_path: Path, way: list[str]) -> None:
    jobs = toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=6", "sweep.n_jobs=2", "lose=1", *way]).jobs
    assert [job.status for job in jobs] == ["completed", "failed", *["completed"] * 4]
    assert "so it did in a fresh process" in str(jobs[1].reason)


@pytest.mark.slow
def test_workers_that_lose_their_device_whatever_they_run_end_the_sweep(tmp_path: Path) -> None:
    def lose(config: DictConfig) -> None:
        raise RuntimeError("CUDA error: no device")

    with pytest.raises(UserError, match=r"no worker can go on, each ended 3 times in mid-trial"):
        toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=20", "sweep.n_jobs=2", "sweep.name=s"], lose)
    # Each worker has spoilt one trial and half of another, and no more.
    study = optuna.load_study(study_name="s", storage=open_storage(locate("journal", tmp_path / "s")))
    assert sum(trial.state.is_finished() for trial in study.trials) <= 3


def test_a_lost_device_ends_the_terminal_and_the_same_command_goes_on(tmp_path: Path) -> None:
    study = ["x=interval(0,1)", "sweep.n_trials=3", "sweep.name=s", "lose=1"]
    for _ in range(2):
        with pytest.raises(UserError, match="the device was lost in mid-run: RuntimeError: CUDA error"):
            toy.multirun(tmp_path, study)
    jobs = toy.multirun(tmp_path, study).jobs
    assert [job.status for job in jobs] == ["completed", "failed", "completed"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_trial_that_takes_too_long_is_stopped_and_has_failed(tmp_path: Path, workers: int) -> None:
    study = ["x=interval(0,1)", "sweep.n_trials=3", "block=1", "sweep.trial_timeout=1s", f"sweep.n_jobs={workers}"]
    jobs = toy.multirun(tmp_path, study).jobs
    assert [job.status for job in jobs] == ["completed", "failed", "completed"]
    assert jobs[1].reason == "sweep.trial_timeout: it ran for more than 1 s"
