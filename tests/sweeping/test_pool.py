"""Worker processes: what each may use, what they share, and how they fail."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from deepfake.errors import UserError
from deepfake.sweeping.conduct import Display
from deepfake.sweeping.resources import visible_gpus, worker_environment
from deepfake.sweeping.study import Study
from deepfake.sweeping.sweeper import SweepFailed
from tests.sweeping import toy


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.conduct.draw_study", lambda *_: [])


def test_each_worker_sees_one_gpu() -> None:
    seen = [worker_environment(index, 3, ["0", "1"], {})["CUDA_VISIBLE_DEVICES"] for index in range(3)]
    assert seen == ["0", "1", "0"]


def test_only_the_gpus_given_are_shared_out() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]


def test_no_gpu_where_they_are_hidden() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


def test_the_cpu_is_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.resources._cores", lambda: 8)
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


def test_workers_that_cannot_start_are_told_with_their_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.sweeping.pool.pack", lambda work: b"nonsense")
    with pytest.raises(UserError, match=r"workers cannot start: its worker ended with status 1; .*Error"):
        toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=2", "sweep.n_jobs=2"])


def test_the_live_table_shows_what_runs_and_what_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Study] = []
    monkeypatch.setattr("deepfake.sweeping.conduct.Study", lambda plan: kept.append(Study(plan)) or kept[-1])
    toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=2", "sweep.name=s"])
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with Display(kept[0].plan, 2, live=True, console=console) as display:
        display.refresh(kept[0].trials())
    assert "s: 2/2 ended, best score" in screen.getvalue()
    assert "completed" in screen.getvalue()
