"""Samplers and pruners by their names; no point is tried twice, for training comes out the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.samplers import PRUNERS, SAMPLERS, check_choice, create_pruner, create_sampler, sampler_notes
from deepfake.sweeping.search_space import parse_space
from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping import toy

SWEEPS = Path(__file__).parents[2] / "sweeps"


FINITE = parse_space({"a": "choice(1,2)", "b": "range(0,3)"}, [], {})


CONTINUOUS = parse_space({"a": "interval(0,1)"}, [], {})


ONE = [Objective("m")]


def settings(group: str, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((SWEEPS / group / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_a_file_that_builds(name: str) -> None:
    create_sampler(settings("sampler", name), FINITE, 0, 0)


@pytest.mark.parametrize("name", sorted(set(PRUNERS) - {"threshold"}))
def test_every_pruner_is_a_file_that_builds(name: str) -> None:
    create_pruner(settings("pruner", name))


def test_a_threshold_pruner_needs_a_threshold() -> None:
    create_pruner({**settings("pruner", "threshold"), "lower": 0.5})


def test_a_class_that_a_config_spells_out_is_not_imported() -> None:
    with pytest.raises(UserError, match="does not exist"):
        create_sampler({"name": "os.system"}, FINITE, 0, 0)


def test_an_argument_that_optuna_lacks_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'n_startup_trials'"):
        create_sampler({"name": "tpe", "n_start_trials": 3}, FINITE, 0, 0)


def test_a_value_that_optuna_refuses_is_told() -> None:
    with pytest.raises(UserError, match="refuses"):
        create_pruner({"name": "percentile", "percentile": 200})


def test_a_grid_knows_its_size() -> None:
    assert check_choice({"name": "grid"}, {"name": "none"}, FINITE, ONE) == 6


@pytest.mark.parametrize("name", ["grid", "bruteforce"])
def test_a_continuous_space_has_no_grid(name: str) -> None:
    with pytest.raises(UserError, match="is continuous"):
        check_choice({"name": name}, {"name": "none"}, CONTINUOUS, ONE)


def test_several_objectives_may_be_pruned() -> None:
    assert check_choice({"name": "tpe"}, settings("pruner", "asha"), FINITE, [*ONE, Objective("n")]) is None


def test_the_next_trial_draws_from_another_seed() -> None:
    first, second = (create_sampler({"name": "random"}, FINITE, 0, begun) for begun in (0, 1))
    assert first._rng.rng.random() != second._rng.rng.random()  # type: ignore[attr-defined]


SIXTEEN = {"x": "range(0,8)", "kind": "choice(a,b)"}


CONDITIONAL = {"kind": "choice(a,b)", "x": "range(0,3)", "y": {"space": "range(0,3)", "when": {"kind": "b"}}}


def plan_of(folder: Path, space: dict[str, Any], sampler: str, **given: Any) -> StudyPlan:
    return toy.make_plan(folder, space=space, sampler={"name": sampler}, **given)


def tried(plan: StudyPlan) -> list[str]:
    """The points of a study run to its end; x near 3 is best, which draws samplers back there."""
    claims = toy.opened(plan)
    points = []
    while (claim := claims.claim()) is not None:
        points.append(" ".join(sorted(claim.overrides)))
        x = float(dict(text.split("=") for text in claim.overrides).get("x", 0))
        value = math.exp(-abs(x - 3))
        claims.finish(claim, toy.completed(claim, value))
    return points


@pytest.mark.slow
@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_as_many_trials_as_points_are_all_points(sampler: str, tmp_path: Path) -> None:
    points = tried(plan_of(tmp_path, SIXTEEN, sampler, total=16))
    assert len(set(points)) == len(points) == 16


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_points_with_keys_left_out_are_told_apart(sampler: str, tmp_path: Path) -> None:
    points = tried(plan_of(tmp_path, CONDITIONAL, sampler, total=12))
    assert len(set(points)) == len(points) == 12


def test_a_sampler_that_sits_on_its_optimum_is_moved_on(tmp_path: Path) -> None:
    points = tried(plan_of(tmp_path, {"x": "interval(0.0,3.0)"}, "gp", total=14))
    assert len(set(points)) == 14


def test_a_point_may_be_repeated_where_that_is_asked_for(tmp_path: Path) -> None:
    points = tried(plan_of(tmp_path, SIXTEEN, "random", total=40, repeat=True))
    assert len(points) == 40
    assert len(set(points)) < 17


def test_the_steps_of_a_range_are_one_point_however_they_are_rounded(tmp_path: Path) -> None:
    points = tried(plan_of(tmp_path, {"x": "range(0.1,1.1,step=0.1)"}, "tpe", total=10))
    assert len({round(float(text.partition("=")[2]), 6) for text in points}) == 10


def test_more_trials_than_points_end_with_the_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])
        result = toy.multirun(tmp_path, ["x=range(0,3)", "batch=choice(16,32)", "sampler=tpe", "sweep.n_trials=1000"])
    shown = capsys.readouterr().out
    assert (len(result.jobs), result.status) == (6, "finished")
    assert "the space holds 6 points: there will be no more trials" in shown
    assert "all 6 points of the space have been tried" in shown


def test_every_point_is_trained_once_also_by_several_processes(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])
        result = toy.multirun(tmp_path, ["x=range(0,4)", "batch=choice(16,32)", "sampler=random", "sweep.n_jobs=2"])
    assert len({" ".join(job.overrides) for job in result.jobs}) == len(result.jobs) == 8


def test_a_point_of_the_user_leaves_the_rest_to_the_sampler(tmp_path: Path) -> None:
    claims = toy.opened(plan_of(tmp_path, SIXTEEN, "tpe", total=16))
    claims.study.enqueue([{"x": 5}])
    claim = claims.claim()
    assert claim is not None
    assert claim.overrides[0] == "x=5"


def test_what_a_sampler_of_numbers_does_with_words_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def task(config: DictConfig) -> float:
        return float(config.x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])
        space = ["x=interval(0.0,1.0)", "lr=interval(0.0,1.0)", "model=plain,deep"]
        toy.multirun(tmp_path, [*space, "sampler=cmaes", "sweep.n_trials=6"], task)
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("drawn at random") == 1
    assert "sampled independently" not in shown.out + shown.err + caplog.text
    assert sampler_notes({"name": "tpe"}, parse_space(SIXTEEN, [], {})) == []
