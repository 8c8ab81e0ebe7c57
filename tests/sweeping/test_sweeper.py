"""What ``-m`` does: a grid in Hydra's order, a study where one is asked for, and the keys of other sweepers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import SweepResult
from deepfake.sweeping.sweeper import SweepFailed
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")


def test_every_combination_runs_in_hydras_order(tmp_path: Path) -> None:
    result = toy.multirun(tmp_path, ["x=0,1", "batch=16,32"])
    assert [job.overrides for job in result.jobs] == [
        ["x=0", "batch=16"],
        ["x=0", "batch=32"],
        ["x=1", "batch=16"],
        ["x=1", "batch=32"],
    ]


def test_a_range_is_a_list(tmp_path: Path) -> None:
    assert len(toy.multirun(tmp_path, ["seed=range(0,3)"]).jobs) == 3


def test_a_group_is_swept(tmp_path: Path) -> None:
    names: list[str] = []

    def note(config: DictConfig) -> float:
        names.append(config.model.name)
        return 0.0

    toy.multirun(tmp_path, ["model=plain,deep"], note)
    assert names == ["plain", "deep"]


def test_without_anything_to_sweep_one_job_runs(tmp_path: Path) -> None:
    assert len(toy.multirun(tmp_path, ["x=0.5"]).jobs) == 1


def test_the_best_job_is_known(tmp_path: Path) -> None:
    assert toy.multirun(tmp_path, ["x=0,1,2"]).best[0].number == 1


def test_a_failed_job_does_not_stop_the_others(tmp_path: Path) -> None:
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, ["fail=true,false", "x=0,1"])
    assert [job.status for kind, job in toy.HEARD if kind == "job"] == ["failed", "failed", "completed", "completed"]


def test_a_failure_ends_with_status_1(tmp_path: Path) -> None:
    with pytest.raises(SweepFailed) as caught:
        toy.multirun(tmp_path, ["fail=true,false"])
    assert caught.value.code == 1


def test_failed_jobs_are_listed_with_their_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, ["fail=true,false"])
    shown = capsys.readouterr().err
    assert "1 of 2 jobs failed" in shown
    assert "#0 fail=True: ValueError: asked to fail" in shown


def test_the_listener_hears_start_jobs_and_end_in_order(tmp_path: Path) -> None:
    toy.multirun(tmp_path, ["x=0,1"])
    assert [kind for kind, _ in toy.HEARD] == ["start", "job", "job", "end"]


def test_the_listener_is_told_what_is_swept_and_what_is_fixed(tmp_path: Path) -> None:
    toy.multirun(tmp_path, ["x=0,1", "batch=32", "sweep.objective=score"])
    info = toy.HEARD[0][1]
    assert info.space == {"x": "0,1"}
    assert info.total == 2
    assert [text for text in info.overrides if not text.startswith("folder")] == ["batch=32"]


def test_each_job_has_a_folder_of_its_own(tmp_path: Path) -> None:
    toy.multirun(tmp_path, ["x=0,1"])
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["0", "1"]


def test_a_broken_job_is_refused_before_any_runs(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="lrr"):
        toy.multirun(tmp_path, ["x=0,1", "lrr=3"])
    assert toy.HEARD == [] or toy.HEARD[0][1].folder != tmp_path / "sweep"


def test_a_config_edited_meanwhile_changes_no_later_job(tmp_path: Path) -> None:
    conf = Path(shutil.copytree(toy.CONF, tmp_path / "conf"))
    widths: list[int] = []

    def edit(config: DictConfig) -> float:
        widths.append(config.model.width)
        (conf / "model" / "plain.yaml").write_text("# @package model\nname: plain\nwidth: 99\n")
        return 0.0

    toy.multirun(tmp_path, ["x=0,1"], edit, conf)
    assert widths == [4, 4]


def test_an_unknown_sweep_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.n_trials"):
        toy.multirun(tmp_path, ["x=0,1", "+sweep.n_trial=3"])


@pytest.mark.parametrize(
    "asked", ["sweep.name=named", "sampler=grid", "pruner=median", "sweep.report=spread", "sweep.storage=sqlite"]
)
def test_what_only_a_study_heeds_makes_a_study_of_a_grid(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])
    result = toy.multirun(tmp_path, ["x=range(0,2)", "batch=16,32", asked])
    assert (result.info.kind, len(result.jobs)) == ("study", 4)
    # It goes on: nothing is left.
    assert [kind for kind, _ in (toy.multirun(tmp_path, ["x=range(0,2)", "batch=16,32", asked]), toy.HEARD)[1]] == [
        "start",
        "end",
    ]


@pytest.mark.parametrize("asked", ["sweep.objective=score", "sweep.direction=minimize", "sweep.n_jobs=1"])
def test_what_a_grid_heeds_leaves_it_a_grid(asked: str, tmp_path: Path) -> None:
    assert toy.multirun(tmp_path, ["x=0,1", asked]).info.kind == "grid"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["x=0,1", "sweep.n_jobs=1,2"], "sweep.n_jobs"),
        (["search=conditional", "sweep.n_trials=2,3"], "sweep.n_trials"),
        (["x=0,1", "sweep.sampler.seed=range(1,3)"], "sweep.sampler.seed"),
        (["x=0,1", "sampler=random,tpe"], "sampler"),
        (["x=0,1", "pruner=none,median"], "pruner"),
        (["search=null,conditional", "x=0"], "search"),
        (["+sweep.params={sweep.n_trials: 'choice(2,3)'}"], "sweep.n_trials"),
        (["+sweep.params={hydra.verbose: 'choice(true,false)'}"], "hydra.verbose"),
    ],
)
def test_what_says_how_runs_are_chosen_is_not_searched(words: list[str], key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf": {key} says how runs are chosen, and cannot itself be searched") as caught:
        toy.multirun(tmp_path, words)
    assert caught.value.hint == "give one value"
    assert not toy.HEARD
    assert not list(tmp_path.iterdir())


def test_batches_are_of_a_grid_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a study has no batches"):
        toy.multirun(tmp_path, ["x=0,1", "sampler=grid", "hydra.sweeper.max_batch_size=1"])


def test_a_job_does_not_record_how_it_was_chosen(tmp_path: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    seen: list[list[str]] = []

    def note(config: DictConfig) -> float:
        seen.append(list(HydraConfig.get().overrides.task))
        return 0.0

    toy.multirun(tmp_path, ["x=0", "sweep.objective=score"], note)
    assert not [text for text in seen[0] if text.startswith("sweep")]


# The example of hydra-optuna-sweeper, with one word changed.
SPHERE = """
defaults:
  - override hydra/sweeper: deepfake
  - override hydra/sweeper/sampler: tpe
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
hydra:
  output_subdir: null
  sweep: {dir: "${folder}/sweep"}
  sweeper:
    sampler: {seed: 123}
    direction: minimize
    study_name: sphere
    storage: null
    n_trials: 12
    n_jobs: 1
    max_failure_rate: 0.0
    params:
      x: range(-5.5, 5.5, step=0.5)
      y: choice(-5 ,0 ,5)
x: 1
y: 1
z: 100
folder: ???
"""


def sphere(config: DictConfig) -> float:
    return float(config.x) ** 2 + float(config.y) ** 2


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Runs the example with further overrides, and returns what the sweeper returned."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "toy.yaml").write_text(SPHERE)

    def start(*overrides: str, text: str = SPHERE, function: Callable[[DictConfig], Any] = sphere) -> Any:
        (conf / "toy.yaml").write_text(text)
        return toy.multirun(tmp_path, ["hydra.sweeper.observer=null", *overrides], function, conf)

    return start


@pytest.mark.slow
def test_the_example_of_the_optuna_sweeper_runs(run: Callable[..., SweepResult]) -> None:
    result = run()
    assert (result.info.name, result.info.total, result.status) == ("sphere", 12, "finished")
    assert result.info.objectives[0].maximize is False
    # Of 66 points, twelve that a sampler chose.
    assert result.best[0].values[0] <= 30


@pytest.mark.slow
def test_a_number_is_called_by_no_name_of_ours(run: Callable[..., SweepResult]) -> None:
    assert [item.metric for item in run().info.objectives] == ["objective"]


@pytest.mark.slow
def test_the_app_may_name_what_its_jobs_return(run: Callable[..., SweepResult]) -> None:
    assert run("hydra.sweeper.objective=area").best[0].metrics.keys() == {"area"}


@pytest.mark.slow
def test_several_directions_are_several_numbers(run: Callable[..., SweepResult]) -> None:
    result = run(
        "hydra.sweeper.direction=[minimize,maximize]", function=lambda config: (float(config.x), float(config.y))
    )
    assert [item.metric for item in result.info.objectives] == ["objective_0", "objective_1"]
    assert len(result.jobs) == 12


@pytest.mark.slow
def test_the_command_line_wins_over_the_configs_space(run: Callable[..., SweepResult]) -> None:
    assert run("y=0").info.space.keys() == {"x"}


def test_what_is_typed_for_sweep_wins_over_a_file(run: Callable[..., SweepResult]) -> None:
    assert run("+sweep.n_trials=3").info.total == 3


def test_one_thing_said_twice_is_told(run: Callable[..., SweepResult]) -> None:
    with pytest.raises(UserError, match="say the same"):
        run("+sweep.n_trials=3", "hydra.sweeper.n_trials=4")


@pytest.mark.slow
def test_the_first_failure_ends_it_where_no_share_may_fail(run: Callable[..., SweepResult]) -> None:
    def fail(config: DictConfig) -> float:
        raise ValueError("asked to")

    with pytest.raises(SystemExit) as caught:
        run(function=fail)
    assert getattr(caught.value, "total", None) == 1


def test_params_of_values_alone_are_hydras_grid(run: Callable[..., Any]) -> None:
    text = SPHERE[: SPHERE.index("    sampler: {seed")] + "    params: {x: '1,2', y: '5,6', z: 7}\n"
    text = text.replace("  - override hydra/sweeper/sampler: tpe\n", "") + "x: 1\ny: 1\nz: 1\nfolder: ???\n"
    (jobs,) = run(text=text)
    assert [list(job.overrides[:3]) for job in jobs] == [
        ["x=1", "y=5", "z=7"],
        ["x=1", "y=6", "z=7"],
        ["x=2", "y=5", "z=7"],
        ["x=2", "y=6", "z=7"],
    ]


@pytest.mark.slow
def test_another_apps_best_trial_is_run_by_that_app(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sphere.py")])
    run()
    shown = capsys.readouterr().out
    assert "sphere.py +experiment=" in shown
    assert "train.py" not in shown
