"""What a later start of a study may change, and what it does with failed trials, new points and other code."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.sweeping.storage import open_storage
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import code_state, differences
from deepfake.sweeping.sweeper import SweepFailed
from deepfake.sweeping.trial import current
from tests.sweeping import toy

SPACE = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=4", "sweep.name=s"]
GRID = ["x=range(0,5)", "sampler=grid", "sweep.name=s", "sweep.max_failures=null"]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])


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


# ---- what failed


def test_failed_trials_are_tried_again(tmp_path: Path, mend: Any) -> None:
    toy.multirun(tmp_path, GRID, mend)
    (tmp_path / "mended").touch()
    result = toy.multirun(tmp_path, [*GRID, "sweep.retry=failed"], mend)
    assert sorted(" ".join(job.overrides) for job in result.jobs) == [f"x={x}" for x in range(5)]
    assert {job.status for job in result.jobs} == {"completed"}
    assert len(called(tmp_path)) == 7


def test_what_failed_is_said_with_the_key_that_tries_it_again(
    tmp_path: Path, mend: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.multirun(tmp_path, GRID, mend)
    capsys.readouterr()
    toy.multirun(tmp_path, GRID, mend)
    shown = capsys.readouterr().out
    assert "5 of 5 trials have ended, 2 of them failed: sweep.retry=failed" in shown
    assert len(called(tmp_path)) == 5


def test_one_number_is_tried_again_once(tmp_path: Path, mend: Any) -> None:
    first = toy.multirun(tmp_path, GRID, mend)
    number = next(job.number for job in first.jobs if job.status == "failed")
    (tmp_path / "mended").touch()
    for _ in range(2):
        result = toy.multirun(tmp_path, [*GRID, f"sweep.retry={number}"], mend)
    assert [job.status for job in result.jobs].count("failed") == 1
    assert len(called(tmp_path)) == 6


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


# ---- tracebacks


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


# ---- points to try first


def test_a_point_added_later_is_taken_once(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE)
    added = [*SPACE, "sweep.n_trials=6", "sweep.enqueue=[{x: 0.777}]"]
    jobs = toy.multirun(tmp_path, added).jobs
    assert jobs[4].overrides == ["x=0.777"]
    jobs = toy.multirun(tmp_path, [*added, "sweep.n_trials=8"]).jobs
    assert [job.overrides for job in jobs].count(["x=0.777"]) == 1


def test_another_studys_points_added_later_are_taken_once(tmp_path: Path) -> None:
    toy.multirun(tmp_path, ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=2", "sweep.name=t"])
    toy.multirun(tmp_path, SPACE)
    borrowed = [*SPACE, "sweep.n_trials=6", "sweep.from=t"]
    jobs = toy.multirun(tmp_path, borrowed).jobs
    theirs = {job.overrides[0] for job in jobs[4:6]}
    # A better one there by the next start is not asked for again.
    toy.multirun(
        tmp_path, ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=3", "sweep.name=t", "sweep.enqueue=[{x: 1.0}]"]
    )
    more = toy.multirun(tmp_path, [*borrowed, "sweep.n_trials=7"]).jobs
    assert [job.overrides[0] for job in more if job.overrides[0] in theirs] == [job.overrides[0] for job in jobs[4:6]]
    assert more[6].overrides != ["x=1.0"]


def test_a_point_for_which_there_is_no_room_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, SPACE)
    toy.multirun(tmp_path, [*SPACE, "sweep.enqueue=[{x: 0.777}]"])
    assert "sweep.n_trials=5 tries them all" in capsys.readouterr().out


def test_what_was_fixed_there_completes_a_borrowed_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, [*SPACE, "batch=64", "model=deep"])
    space = ["x=interval(-2,2)", "batch=choice(16,64)", "model=plain,deep", "sweep.name=t", "sweep.n_trials=3"]
    jobs = toy.multirun(tmp_path, [*space, "sweep.from=s"]).jobs
    assert all({"batch=64", "model=deep"} <= set(job.overrides) for job in jobs)
    assert "batch=64 was fixed there, and its points are completed with it" in capsys.readouterr().out


def test_a_point_whose_fixed_value_lies_outside_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, [*SPACE, "batch=48"])
    space = ["x=interval(-2,2)", "batch=choice(16,64)", "sweep.name=t", "sweep.n_trials=2", "sweep.seed=9"]
    theirs = {job.overrides[0] for job in toy.multirun(tmp_path, [*SPACE, "batch=48"]).jobs}
    jobs = toy.multirun(tmp_path, [*space, "sweep.from=s"]).jobs
    assert not theirs & {job.overrides[0] for job in jobs}
    assert "was run with batch=48, outside choice(16,64), and is left out" in capsys.readouterr().out


def test_settings_that_differ_from_the_other_studys_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.multirun(tmp_path, [*SPACE, "epochs=5"])
    toy.multirun(tmp_path, ["x=interval(-2,2)", "sweep.name=t", "sweep.n_trials=1", "sweep.from=s"])
    assert "epochs was 5 and is 3 here" in capsys.readouterr().out


# ---- what may change


def test_a_new_key_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE)
    with pytest.raises(UserError, match="setting new is new"):
        toy.multirun(tmp_path, [*SPACE, "+new=4"])


def test_a_key_that_is_no_longer_given_is_told(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, "+new=4"])
    toy.multirun(tmp_path, [*SPACE, "+new=4"])
    with pytest.raises(UserError, match="setting new is gone"):
        toy.multirun(tmp_path, SPACE)


def test_a_default_spelt_out_is_no_change(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE)
    assert len(toy.multirun(tmp_path, [*SPACE, "epochs=3"]).jobs) == 4


def test_a_key_that_says_only_where_is_no_change(tmp_path: Path) -> None:
    where = ["sweep.volatile=[folder,place]"]
    toy.multirun(tmp_path, [*SPACE, *where])
    assert len(toy.multirun(tmp_path, [*SPACE, *where, "+place=here"]).jobs) == 4


def test_a_study_begun_before_a_key_said_only_where_goes_on(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, "+root=there"])
    assert len(toy.multirun(tmp_path, [*SPACE, "sweep.places=[root]", "+root=here"]).jobs) == 4


def test_studies_without_a_name_are_told_apart_by_where_their_data_lies(tmp_path: Path) -> None:
    nameless = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=2", "sweep.places=[root]"]
    names = {toy.multirun(tmp_path, [*nameless, f"+root={root}"]).info.name for root in ("here", "there", "here")}
    assert len(names) == 2


def _reads(config: DictConfig) -> float:
    """A task whose data says what it is by its place."""
    trial = current()
    assert trial is not None
    trial.agree("the data", Path(config.root).read_text())
    return float(config.x)


def test_two_machines_share_a_study_where_their_data_is_the_same(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(content)
    space = ["x=interval(-2,2)", "sampler=random", "sweep.name=s", "sweep.places=[root]"]
    toy.multirun(tmp_path, [*space, f"+root={tmp_path}/a", "sweep.n_trials=2"], _reads)
    assert len(toy.multirun(tmp_path, [*space, f"+root={tmp_path}/b", "sweep.n_trials=3"], _reads).jobs) == 3
    with pytest.raises(UserError, match="the data is not what the study's other trials had"):
        toy.multirun(tmp_path, [*space, f"+root={tmp_path}/c", "sweep.n_trials=5"], _reads)
    # Nothing was lost by it: the trial is free again, and its refused fact is forgotten.
    ended = toy.multirun(tmp_path, [*space, f"+root={tmp_path}/a", "sweep.n_trials=5"], _reads)
    assert [job.status for job in ended.jobs] == ["completed"] * 5


def test_a_study_that_kept_no_overrides_refuses_an_addition_alone() -> None:
    before, now = {"setting": {"a": "1"}}, {"setting": {"a": "1", "b.c": "2"}}
    assert differences(before, now, None, ["b=x"]) == []
    assert differences(before, now, None, ["+b.c=2"]) == ["setting b.c is new"]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def app(tmp_path: Path) -> Callable[[str], Callable[..., Any]]:
    """Writes a task into a repository of its own and commits it; called with its body."""
    folder = tmp_path / "app"
    folder.mkdir()
    git(folder, "init", "-q")

    def write(body: str, commit: bool = True) -> Callable[..., Any]:
        (folder / "app.py").write_text(f"def task(config):\n    return {body}\n")
        if commit:
            git(folder, "add", "."), git(folder, "commit", "-q", "-m", body)
        namespace: dict[str, Any] = {}
        exec(compile((folder / "app.py").read_text(), str(folder / "app.py"), "exec"), namespace)
        function: Callable[..., Any] = namespace["task"]
        return function

    return write


def test_changed_code_is_told_with_both_commits(tmp_path: Path, app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    task = app("float(config.x)")
    first = code_state(task)["commit"]
    toy.multirun(tmp_path, SPACE, task)
    assert "the code" not in capsys.readouterr().out
    task = app("float(config.x) + 100")
    second = code_state(task)["commit"]
    toy.multirun(tmp_path, [*SPACE, "sweep.n_trials=6"], task)
    toy.multirun(tmp_path, [*SPACE, "sweep.n_trials=6"], task)
    shown = capsys.readouterr().out
    assert first != second
    assert shown.count(f"commit {first[:10]}; now commit {second[:10]}") == 2


def test_the_same_code_is_not_told(tmp_path: Path, app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    task = app("float(config.x)")
    for total in (4, 6):
        toy.multirun(tmp_path, [*SPACE, f"sweep.n_trials={total}"], task)
    assert "the code" not in capsys.readouterr().out


def test_uncommitted_changes_are_another_state(app: Any) -> None:
    clean = code_state(app("1.0"))
    changed = code_state(app("2.0", commit=False))
    assert changed["commit"] == clean["commit"]
    assert "changes" in changed
    assert "changes" not in clean


def test_a_file_in_no_repository_is_known_by_its_content(tmp_path: Path, app: Any) -> None:
    task = app("1.0")
    (tmp_path / "app" / ".git").rename(tmp_path / "gone")
    (tmp_path / "app" / "app.py").write_text("def task(config):\n    return 1.0\n# more\n")
    state = code_state(task)
    assert "commit" not in state
    assert state["file"] != code_state(test_uncommitted_changes_are_another_state)["file"]


def test_the_code_is_kept_with_the_study(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, code={"version": "1"})
    claims = toy.opened(plan)
    assert claims.study.note_code() is None
    claims.claim()
    assert Study(replace(plan, code={"version": "2"})).note_code() is not None
    kept = optuna.load_study(study_name="s", storage=open_storage(plan.location)).user_attrs["code"]
    assert '"1"' in kept
    assert '"2"' in kept
