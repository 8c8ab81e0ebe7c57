"""No point is tried twice: training comes out the same, so that a repetition is waste."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from deepfake.sweeping.samplers import SAMPLERS, sampler_notes
from deepfake.sweeping.search_space import all_points, count_points, parse_space
from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping import toy

SIXTEEN = {"x": "range(0,8)", "kind": "choice(a,b)"}
CONDITIONAL = {"kind": "choice(a,b)", "x": "range(0,3)", "y": {"space": "range(0,3)", "when": {"kind": "b"}}}


def plan(folder: Path, space: dict[str, Any], sampler: str, **given: Any) -> StudyPlan:
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


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_as_many_trials_as_points_are_all_points(sampler: str, tmp_path: Path) -> None:
    points = tried(plan(tmp_path, SIXTEEN, sampler, total=16))
    assert len(set(points)) == len(points) == 16


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_points_with_keys_left_out_are_told_apart(sampler: str, tmp_path: Path) -> None:
    points = tried(plan(tmp_path, CONDITIONAL, sampler, total=12))
    assert len(set(points)) == len(points) == 12


def test_a_sampler_that_sits_on_its_optimum_is_moved_on(tmp_path: Path) -> None:
    points = tried(plan(tmp_path, {"x": "interval(0.0,3.0)"}, "gp", total=14))
    assert len(set(points)) == 14


def test_a_point_may_be_repeated_where_that_is_asked_for(tmp_path: Path) -> None:
    points = tried(plan(tmp_path, SIXTEEN, "random", total=40, repeat=True))
    assert len(points) == 40
    assert len(set(points)) < 17


def test_the_steps_of_a_range_are_one_point_however_they_are_rounded(tmp_path: Path) -> None:
    points = tried(plan(tmp_path, {"x": "range(0.1,1.1,step=0.1)"}, "tpe", total=10))
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
    claims = toy.opened(plan(tmp_path, SIXTEEN, "tpe", total=16))
    claims.study.enqueue([{"x": 5}])
    claim = claims.claim()
    assert claim is not None
    assert claim.overrides[0] == "x=5"


@pytest.mark.parametrize(
    ("space", "count"),
    [(SIXTEEN, 16), (CONDITIONAL, 12), ({"x": "interval(0.0,1.0)"}, None)],
)
def test_points_are_counted(space: dict[str, Any], count: int | None) -> None:
    parameters = parse_space(space, [], {})
    assert count_points(parameters) == count
    assert count is None or len(all_points(parameters) or ()) == count


def test_a_space_of_very_many_points_is_not_counted_out() -> None:
    assert count_points(parse_space(dict.fromkeys("abc", "range(0,100000)"), [], {})) is None


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
