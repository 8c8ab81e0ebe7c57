"""What may differ between two starts of a study, the code they run, and shipped searches, which fit the config."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepfake.hydra_app import register_resolvers
from deepfake.installation import CONF, SWEEPS
from deepfake.sweeping.study_plan import StudyPlan, code_state, differences
from tests.sweeping import toy

SPACE = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=4", "sweep.name=s"]


pytestmark = pytest.mark.usefixtures("no_figures")


def test_a_setting_that_came_with_an_update_is_no_change() -> None:
    assert differences({"setting": {"a": "1"}}, {"setting": {"a": "1", "b": "2"}}) == []


def test_a_key_that_left_the_space_is_a_change() -> None:
    assert differences({"space": {"a": "1"}}, {"space": {}}) == ["space a is gone"]


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


SEARCHES = sorted(path.stem for path in (SWEEPS / "search").glob("*.yaml"))


def planned(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> StudyPlan:
    """The plan of a study that is not run."""
    plans: list[StudyPlan] = []

    class PlanKnownError(Exception):
        """Ends the sweep once its plan is known."""

    def keep(runner: object, plan: StudyPlan, *_: object) -> None:
        plans.append(plan)
        raise PlanKnownError

    monkeypatch.setattr("deepfake.sweeping.runner.run_study", keep)
    register_resolvers()
    with pytest.raises(PlanKnownError):
        toy.multirun(folder, overrides, conf=CONF)
    return plans[0]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_shipped_search_fits_the_config(search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, monkeypatch, f"search={search}")
    assert plan.name.endswith("_demo")
    assert plan.total >= 5


def test_what_is_swept_on_the_command_line_joins_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, monkeypatch, "search=lr_batch", "model=cnn_lstm,cnn_gru")
    assert "model" in [parameter.key for parameter in plan.parameters]


def test_what_is_set_on_the_command_line_leaves_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, monkeypatch, "search=lr_batch", "trainer.batch_size=32")
    assert "trainer.batch_size" not in [parameter.key for parameter in plan.parameters]


def test_another_data_set_is_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        planned(tmp_path, monkeypatch, "search=seeds", f"dataset={name}", "dataset.root=x").name
        for name in ("images", "videos")
    }
    assert len(names) == 2
