"""Whole studies of the toy app: their totals, what a later start may change, and what they leave behind."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.sweeping.sweeper import SweepFailed
from deepfake.sweeping.trial import current
from tests.sweeping import toy


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than everything else."""
    if "figures" not in request.node.name:
        monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])


SPACE = ["x=interval(-2,2)", "sweep.n_trials=4", "sweep.name=s"]


def test_a_study_runs_exactly_its_total(tmp_path: Path) -> None:
    assert len(toy.multirun(tmp_path, SPACE).jobs) == 4


def test_a_second_start_adds_nothing(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE)
    assert [kind for kind, _ in (toy.multirun(tmp_path, SPACE), toy.HEARD)[1]] == ["start", "end"]


@pytest.mark.slow
def test_a_larger_total_goes_on_where_it_was(tmp_path: Path) -> None:
    first = toy.multirun(tmp_path, SPACE).jobs
    more = toy.multirun(tmp_path, [*SPACE, "sweep.n_trials=6"]).jobs
    assert [job.overrides for job in more[:4]] == [job.overrides for job in first]
    assert len(more) == 6


@pytest.mark.slow
def test_no_point_is_repeated_because_of_the_seed(tmp_path: Path) -> None:
    random = [*SPACE, "sampler=random"]
    toy.multirun(tmp_path, random)
    jobs = toy.multirun(tmp_path, [*random, "sweep.n_trials=8"]).jobs
    assert len({tuple(job.overrides) for job in jobs}) == 8


@pytest.mark.slow
def test_the_same_seed_chooses_the_same_points(tmp_path: Path) -> None:
    one = toy.multirun(tmp_path / "a", SPACE).jobs
    other = toy.multirun(tmp_path / "b", SPACE).jobs
    assert [job.overrides for job in one] == [job.overrides for job in other]


def test_a_changed_space_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE)
    with pytest.raises(UserError, match="space x was"):
        toy.multirun(tmp_path, ["x=interval(-3,2)", *SPACE[1:]])


@pytest.mark.slow
def test_a_changed_setting_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE)
    with pytest.raises(UserError, match="setting epochs was 3 and is 5"):
        toy.multirun(tmp_path, [*SPACE, "epochs=5"])


def test_without_a_name_the_same_command_finds_its_study(tmp_path: Path) -> None:
    nameless = ["x=interval(-2,2)", "sweep.n_trials=2"]
    assert toy.multirun(tmp_path, nameless).info.name == toy.multirun(tmp_path, nameless).info.name
    assert len(list(tmp_path.glob("*/study.journal"))) == 1


def test_a_failed_trial_keeps_its_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, ["fail=choice(true,false)", "sampler=grid", "sweep.n_trials=2"]).jobs
    assert sorted(job.status for job in jobs) == ["completed", "failed"]
    assert [job.reason for job in jobs if job.status == "failed"] == ["ValueError: asked to fail"]


def test_failures_in_a_row_stop_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, [*SPACE, "fail=true", "sweep.max_failures=2"])
    assert "2 trials in a row failed, the first because of ValueError: asked to fail" in capsys.readouterr().out


@pytest.mark.slow
def test_after_failures_in_a_row_the_next_start_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(SweepFailed) as caught:
            toy.multirun(tmp_path, [*SPACE, "fail=true", "sweep.max_failures=2"])
    assert caught.value.total == 4


def test_an_objective_that_no_run_logs_names_those_it_does(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)scoer: no run logs it.*did you mean 'score'"):
        toy.multirun(tmp_path, [*SPACE, "sweep.objective=scoer"])


def test_nan_is_a_failure(tmp_path: Path) -> None:
    def task(config: DictConfig) -> float:
        return float("nan") if config.batch == 16 else 1.0

    jobs = toy.multirun(tmp_path, ["batch=choice(16,32)", "sampler=grid", "sweep.n_trials=2"], task).jobs
    assert {job.reason for job in jobs} == {"score is nan", None}


def test_what_can_no_longer_win_is_told_and_again_at_the_next_start(tmp_path: Path) -> None:
    words = ["x=range(1,6)", "sampler=bruteforce", "sweep.keep=2"]

    def task(config: DictConfig) -> float:
        if config.x == 5:
            raise ValueError("failed")
        return float(config.x)

    jobs = toy.multirun(tmp_path, words, task).jobs
    ranked = sorted((job for job in jobs if job.values), key=lambda job: -job.values[0])
    lost = sorted({job.number for job in jobs} - {job.number for job in ranked[:2]})
    assert sorted(toy.BEATEN) == lost
    assert toy.HEARD[0][1].keep == 2
    toy.multirun(tmp_path, words, task)
    assert sorted(toy.BEATEN) == lost


def test_of_points_that_were_all_asked_for_none_is_less_than_another(tmp_path: Path) -> None:
    def task(config: DictConfig) -> float:
        return float(config.x)

    toy.multirun(tmp_path, ["x=1,2,3,4,5", "sweep.name=grid"], task)
    assert (toy.BEATEN, toy.HEARD[0][1].keep) == ([], None)
    toy.multirun(tmp_path, ["x=1,2,3,4,5", "sweep.keep=3"], task)
    assert (len(toy.BEATEN), toy.HEARD[0][1].keep) == (2, 3)


def test_pruning_ends_a_bad_trial_early(tmp_path: Path) -> None:
    seen: list[int] = []

    def task(config: DictConfig) -> float:
        trial = current()
        assert trial is not None
        for epoch in range(4):
            trial.report(epoch, {"score": float(config.x)})
            seen.append(config.x)
        return float(config.x)

    points = "[{x: 3}, {x: 2}, {x: 1}]"
    prune = ["pruner=median", "sweep.pruner.n_startup_trials=2", "sweep.pruner.n_warmup_steps=0"]
    jobs = toy.multirun(tmp_path, ["x=range(1,4)", "sweep.n_trials=3", f"sweep.enqueue={points}", *prune], task).jobs
    assert [job.status for job in jobs] == ["completed", "completed", "pruned"]
    assert 1 not in seen


def test_conditional_keys_appear_only_where_they_apply(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, ["search=conditional", "sampler=bruteforce"]).jobs
    assert sorted(" ".join(job.overrides) for job in jobs) == [
        "model=deep model.depth=1",
        "model=deep model.depth=2",
        "model=deep model.depth=3",
        "model=plain",
    ]


def test_a_key_the_config_lacks_is_named_with_its_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no key 'model.width' beside model=deep"):
        toy.multirun(tmp_path, ["model=choice(plain,deep)", "model.width=interval(1,2)"])


def test_a_choice_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'plain'"):
        toy.multirun(tmp_path, ["model=plian,deep", "x=interval(0,1)"])


def test_several_objectives_end_in_a_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def task(config: DictConfig) -> dict[str, Any]:
        return {"metrics": {"score": config.x, "cost": config.x + (5 if config.seed else 0)}}

    both = ["sweep.objective=[score,cost]", "sweep.direction=[maximize,minimize]"]
    result = toy.multirun(tmp_path, ["x=range(0,3)", "seed=0,1", "sweep.n_trials=6", "sampler=grid", *both], task)
    assert sorted(job.values for job in result.best) == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert "the Pareto front" in capsys.readouterr().out


def test_a_timeout_starts_no_further_trial(tmp_path: Path) -> None:
    result = toy.multirun(tmp_path, [*SPACE, "sweep.timeout=0.001"])
    assert result.status == "stopped"
    assert len(result.jobs) < 4


def test_a_grid_needs_lists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x=interval.* is continuous"):
        toy.multirun(tmp_path, [*SPACE, "sampler=grid"])


def test_nothing_to_search_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to search"):
        toy.multirun(tmp_path, ["sweep.n_trials=3"])


def test_an_interrupted_trial_is_run_again_under_its_number(tmp_path: Path) -> None:
    def task(config: DictConfig) -> float:
        if not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            raise KeyboardInterrupt
        attempts.append(current().attempt)  # type: ignore[union-attr]
        return 1.0

    attempts: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        toy.multirun(tmp_path, SPACE, task)
    assert len(toy.multirun(tmp_path, SPACE, task).jobs) == 4
    assert attempts == [1, 0, 0, 0]


def test_the_best_trial_is_an_experiment_of_its_own(tmp_path: Path) -> None:
    result = toy.multirun(tmp_path, ["model=choice(deep,plain)", "x=interval(0,2)", "sweep.n_trials=3", "batch=32"])
    text = next(path for path in result.files if path.name == "best.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    assert "override /model: " in text
    assert "batch: 32" in text
    assert "sweep" not in text


def test_the_folder_holds_a_table_and_figures(tmp_path: Path) -> None:
    names = {path.name for path in toy.multirun(tmp_path, SPACE).files}
    assert {"trials.csv", "best.yaml", "history.png", "timeline.png", "intermediate_values.png"} <= names


def test_seeds_end_in_mean_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, ["seed=range(0,3)", "sweep.n_trials=3", "sampler=grid", "sweep.report=spread"])
    assert "standard deviation" in capsys.readouterr().out


RANDOM = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=4", "sweep.name=s"]


GRID = ["x=range(0,5)", "sampler=grid", "sweep.name=s", "sweep.max_failures=null"]


@pytest.fixture
def mend(tmp_path: Path) -> Callable[[DictConfig], float]:
    """A task that fails where x is 1 or 3 until the file ``mended`` is there, and counts how often it is called."""
    calls = tmp_path / "calls"

    def task(config: DictConfig) -> float:
        with calls.open("a") as file:
            file.write(f"{config.x}\n")
        if config.x in (1, 3) and not (tmp_path / "mended").exists():
            raise ValueError("asked to fail")
        return float(config.x)

    return task


def called(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().split()


@pytest.mark.slow
def test_failed_trials_are_tried_again(tmp_path: Path, mend: Any) -> None:
    toy.multirun(tmp_path, GRID, mend)
    (tmp_path / "mended").touch()
    result = toy.multirun(tmp_path, [*GRID, "sweep.retry=failed"], mend)
    assert sorted(" ".join(job.overrides) for job in result.jobs) == [f"x={x}" for x in range(5)]
    assert {job.status for job in result.jobs} == {"completed"}
    assert len(called(tmp_path)) == 7


@pytest.mark.slow
def test_what_failed_is_said_with_the_key_that_tries_it_again(
    tmp_path: Path, mend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.multirun(tmp_path, GRID, mend)
    capsys.readouterr()
    toy.multirun(tmp_path, GRID, mend)
    shown = capsys.readouterr().out
    assert "5 of 5 trials have ended, 2 of them failed: sweep.retry=failed" in shown
    assert len(called(tmp_path)) == 5


@pytest.mark.slow
def test_one_number_is_tried_again_once(tmp_path: Path, mend: Any) -> None:
    first = toy.multirun(tmp_path, GRID, mend)
    number = next(job.number for job in first.jobs if job.status == "failed")
    (tmp_path / "mended").touch()
    for _ in range(2):
        result = toy.multirun(tmp_path, [*GRID, f"sweep.retry={number}"], mend)
    assert [job.status for job in result.jobs].count("failed") == 1
    assert len(called(tmp_path)) == 6


@pytest.mark.slow
def test_what_fails_again_can_be_tried_again(tmp_path: Path, mend: Any) -> None:
    toy.multirun(tmp_path, GRID, mend)
    for _ in range(2):
        result = toy.multirun(tmp_path, [*GRID, "sweep.retry=failed"], mend)
    assert len(result.jobs) == 5
    assert len(called(tmp_path)) == 9


def test_a_trial_that_has_not_failed_is_not_tried_again(tmp_path: Path, mend: Any) -> None:
    result = toy.multirun(tmp_path, GRID, mend)
    number = next(job.number for job in result.jobs if job.status == "completed")
    with pytest.raises(UserError, match=f"trial {number} has not failed"):
        toy.multirun(tmp_path, [*GRID, f"sweep.retry={number}"], mend)
    with pytest.raises(UserError, match="trial 99 has not failed"):
        toy.multirun(tmp_path, [*GRID, "sweep.retry=[99]"], mend)


def test_what_is_left_of_a_stopped_grid_is_tried_beside_what_failed(tmp_path: Path, mend: Any) -> None:
    stopped = [*GRID[:3], "sweep.max_failures=1"]
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, stopped, mend)
    (tmp_path / "mended").touch()
    result = toy.multirun(tmp_path, [*GRID, "sweep.retry=failed"], mend)
    assert sorted(" ".join(job.overrides) for job in result.jobs) == [f"x={x}" for x in range(5)]


def test_the_table_keeps_both_and_says_which_is_which(tmp_path: Path, mend: Any) -> None:
    toy.multirun(tmp_path, GRID, mend)
    toy.multirun(tmp_path, [*GRID, "sweep.retry=failed"], mend)
    rows = list(csv.DictReader((tmp_path / "s" / "trials.csv").open()))
    assert len(rows) == 7
    assert sum("tried again as trial" in row["reason"] for row in rows) == 2


def test_retry_takes_failed_or_numbers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names no trials"):
        toy.multirun(tmp_path, [*GRID, "sweep.retry=all"])


def test_a_failed_trial_keeps_its_traceback(tmp_path: Path, mend: Any, capsys: pytest.CaptureFixture[str]) -> None:
    job = next(job for job in toy.multirun(tmp_path, GRID, mend).jobs if job.status == "failed")
    assert job.traceback == str(tmp_path / "s" / str(job.number) / "traceback.txt")
    text = Path(job.traceback).read_text()
    assert "Traceback (most recent call last)" in text
    assert "ValueError: asked to fail" in text
    assert "traceback.txt)" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "s" / "trials.csv").open()))
    assert rows[job.number]["traceback"] == job.traceback


def test_a_grids_failed_job_keeps_its_traceback(tmp_path: Path, mend: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SweepFailed) as caught:
        toy.multirun(tmp_path, ["x=0,1"], mend)
    file = tmp_path / "sweep" / "1" / "traceback.txt"
    assert "ValueError: asked to fail" in file.read_text()
    assert str(file) in str(caught.value)


def test_a_job_that_succeeds_leaves_no_traceback_of_an_earlier_attempt(tmp_path: Path, mend: Any) -> None:
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, ["x=1"], mend)
    (tmp_path / "mended").touch()
    toy.multirun(tmp_path, ["x=1"], mend)
    assert not (tmp_path / "sweep" / "0" / "traceback.txt").exists()


def test_the_log_of_a_worker_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, ["fail=true", "x=0,1", "sweep.n_jobs=2"])
    logs = "".join(path.read_text() for path in tmp_path.glob("*/workers/*.log"))
    assert logs.count("ValueError: asked to fail") == 2
    assert "Traceback" in logs


def test_a_point_for_which_there_is_no_room_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, RANDOM)
    toy.multirun(tmp_path, [*RANDOM, "sweep.enqueue=[{x: 0.777}]"])
    assert "sweep.n_trials=5 tries them all" in capsys.readouterr().out


def test_a_new_key_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, RANDOM)
    with pytest.raises(UserError, match="setting new is new"):
        toy.multirun(tmp_path, [*RANDOM, "+new=4"])


def test_a_key_that_is_no_longer_given_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*RANDOM, "+new=4"])
    toy.multirun(tmp_path, [*RANDOM, "+new=4"])
    with pytest.raises(UserError, match="setting new is gone"):
        toy.multirun(tmp_path, RANDOM)


def test_a_default_spelt_out_is_no_change(tmp_path: Path) -> None:
    toy.multirun(tmp_path, RANDOM)
    assert len(toy.multirun(tmp_path, [*RANDOM, "epochs=3"]).jobs) == 4


def test_a_key_that_says_only_where_is_no_change(tmp_path: Path) -> None:
    where = ["sweep.volatile=[folder,place]"]
    toy.multirun(tmp_path, [*RANDOM, *where])
    assert len(toy.multirun(tmp_path, [*RANDOM, *where, "+place=here"]).jobs) == 4


def test_a_study_begun_before_a_key_said_only_where_goes_on(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*RANDOM, "+root=there"])
    assert len(toy.multirun(tmp_path, [*RANDOM, "sweep.places=[root]", "+root=here"]).jobs) == 4


def test_studies_without_a_name_are_told_apart_by_where_their_data_lies(tmp_path: Path) -> None:
    nameless = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=2", "sweep.places=[root]"]
    names = {toy.multirun(tmp_path, [*nameless, f"+root={root}"]).info.name for root in ("here", "there", "here")}
    assert len(names) == 2


def reads_data(config: DictConfig) -> float:
    """A task whose data says what it is by its place."""
    trial = current()
    assert trial is not None
    trial.agree("the data", Path(config.root).read_text())
    return float(config.x)


def test_two_machines_share_a_study_where_their_data_is_the_same(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(content)
    space = ["x=interval(-2,2)", "sampler=random", "sweep.name=s", "sweep.places=[root]"]
    toy.multirun(tmp_path, [*space, f"+root={tmp_path}/a", "sweep.n_trials=2"], reads_data)
    assert len(toy.multirun(tmp_path, [*space, f"+root={tmp_path}/b", "sweep.n_trials=3"], reads_data).jobs) == 3
    with pytest.raises(UserError, match="the data is not what the study's other trials had"):
        toy.multirun(tmp_path, [*space, f"+root={tmp_path}/c", "sweep.n_trials=5"], reads_data)
    # Nothing was lost by it: the trial is free again, and its refused fact is forgotten.
    ended = toy.multirun(tmp_path, [*space, f"+root={tmp_path}/a", "sweep.n_trials=5"], reads_data)
    assert [job.status for job in ended.jobs] == ["completed"] * 5


def test_an_app_that_runs_one_job_at_a_time_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(toy.multirun(tmp_path, [*SPACE, "sweep.fuse=4"]).jobs) == 4
    assert "sweep.fuse=4: jobs of this app are run one at a time" in capsys.readouterr().out


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_what_is_said_at_the_end_can_be_pasted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str
) -> None:
    toy.multirun(tmp_path, [*SPACE[:1], "sweep.n_trials=1", "sweep.name='x y'", f"sweep.storage={storage}"])
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert shlex.split(said["best"])[-1].endswith("x y/best.yaml")
    (where,) = shlex.split(said["study"])[1:]
    assert where.endswith("x y/study." + ("journal" if storage == "journal" else "db"))


def test_one_trial_that_has_ended_is_told_of_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, [*SPACE[:1], "sweep.budget=3", "sweep.name=s"])
    capsys.readouterr()
    toy.multirun(tmp_path, [*SPACE[:1], "sweep.budget=4", "sweep.name=s"])
    assert "study s goes on: 1 trial has ended, 3 of 4 epochs spent" in capsys.readouterr().out
