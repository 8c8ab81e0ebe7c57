"""Configs written for Hydra's basic sweeper and for hydra-optuna-sweeper, in an app that knows nothing of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import SweepResult
from deepfake.sweeping.options import join_sweeper_keys, load_options, meant, sweeper_space
from tests.sweeping import toy

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


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])


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


def test_the_example_of_the_optuna_sweeper_runs(run: Callable[..., SweepResult]) -> None:
    result = run()
    assert (result.info.name, result.info.total, result.status) == ("sphere", 12, "finished")
    assert result.info.objectives[0].maximize is False
    # Of 66 points, twelve that a sampler chose.
    assert result.best[0].values[0] <= 30


def test_a_number_is_called_by_no_name_of_ours(run: Callable[..., SweepResult]) -> None:
    assert [item.metric for item in run().info.objectives] == ["objective"]


def test_the_app_may_name_what_its_jobs_return(run: Callable[..., SweepResult]) -> None:
    assert run("hydra.sweeper.objective=area").best[0].metrics.keys() == {"area"}


def test_several_directions_are_several_numbers(run: Callable[..., SweepResult]) -> None:
    result = run(
        "hydra.sweeper.direction=[minimize,maximize]", function=lambda config: (float(config.x), float(config.y))
    )
    assert [item.metric for item in result.info.objectives] == ["objective_0", "objective_1"]
    assert len(result.jobs) == 12


def test_the_command_line_wins_over_the_configs_space(run: Callable[..., SweepResult]) -> None:
    assert run("y=0").info.space.keys() == {"x"}


def test_what_is_typed_for_sweep_wins_over_a_file(run: Callable[..., SweepResult]) -> None:
    assert run("+sweep.n_trials=3").info.total == 3


def test_one_thing_said_twice_is_told(run: Callable[..., SweepResult]) -> None:
    with pytest.raises(UserError, match="say the same"):
        run("+sweep.n_trials=3", "hydra.sweeper.n_trials=4")


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


def test_another_apps_best_trial_is_run_by_that_app(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sphere.py")])
    run()
    shown = capsys.readouterr().out
    assert "sphere.py +experiment=" in shown
    assert "train.py" not in shown


@pytest.mark.parametrize(
    ("described", "text"),
    [
        ({"type": "int", "low": 1, "high": 5}, "interval(1,5)"),
        ({"type": "int", "low": 1, "high": 9, "step": 2}, "range(1,10,2)"),
        ({"type": "float", "low": 0, "high": 1}, "interval(0.0,1.0)"),
        ({"type": "float", "low": 0.1, "high": 1, "log": True}, "tag(log,interval(0.1,1.0))"),
        ({"type": "float", "low": 0, "high": 1, "step": 0.5}, "range(0,1.25,step=0.5)"),
        ({"type": "categorical", "choices": ["a", 1, True, None]}, "choice(a,1,true,null)"),
    ],
)
def test_the_older_search_space_is_read(described: dict[str, Any], text: str) -> None:
    assert sweeper_space({"search_space": {"k": described}}) == {"k": text}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("custom_search_space", "app.configure", "sweep.params"),
        ("max_failure_rate", 0.5, "sweep.max_failures"),
        ("storag", "x", "did you mean 'sweep.storage'"),
        ("pruner", "asha", "pruner"),
    ],
)
def test_what_has_no_counterpart_names_the_key_that_does_it(key: str, value: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        join_sweeper_keys({}, {key: value}, [])
    assert told in caught.value.hint


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("cmaes", "cmaes"),
        ({"_target_": "optuna.samplers.NSGAIISampler"}, "nsga2"),
        ({"_target_": "optuna.samplers.CmaEsSampler"}, "cmaes"),
        ({"seed": 3}, "tpe"),
    ],
)
def test_a_sampler_is_known_by_its_class(value: Any, name: str) -> None:
    joined, _ = join_sweeper_keys({}, {"sampler": value}, [])
    assert joined["sampler"]["name"] == name


def test_a_samplers_seed_is_the_sweeps() -> None:
    joined, _ = join_sweeper_keys({}, {"sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 7}}, [])
    assert load_options(joined).seed == 7


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("sweep.study_name", "sweep.name"),
        ("hydra.sweeper.n_trails", None),
        ("hydra.sweeper.timeout", "sweep.timeout"),
        ("sweep.metric", "sweep.objective"),
        ("sweep.nonsense", None),
    ],
)
def test_optunas_words_name_ours(key: str, named: str | None) -> None:
    assert meant(key) == (named and f"did you mean '{named}'?")
