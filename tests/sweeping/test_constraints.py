"""What the best must keep: how it is written, what samplers and tables see of it, and what is the best then."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from optuna.trial import TrialState

from deepfake.errors import UserError
from deepfake.runs.sweep_control import lines_of, open_study
from deepfake.sweeping.constraints import Constraint, are_kept, nearest_to_feasible, parse_constraints
from deepfake.sweeping.jobs import pick_best
from deepfake.sweeping.status import status_of
from deepfake.sweeping.views import as_begun
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")

SPACE = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=6", "sweep.name=s"]
FAST = 'sweep.constraints=["latency_ms <= 15"]'


def costly(config: DictConfig) -> dict[str, Any]:
    """The better the slower: 10 ms at x = 0, 20 at 1."""
    return {"metrics": {"score": float(config.x), "latency_ms": 10.0 + 10.0 * float(config.x)}}


@pytest.mark.parametrize(
    ("text", "metric", "at_most", "limit"),
    [
        ("latency_ms <= 20", "latency_ms", True, 20.0),
        ("parameters<=2e7", "parameters", True, 2e7),
        (" test/roc_auc >= 0.9 ", "test/roc_auc", False, 0.9),
        ("x <= -1", "x", True, -1.0),
    ],
)
def test_a_bound_is_a_metric_a_sign_and_a_number(text: str, metric: str, at_most: bool, limit: float) -> None:
    assert parse_constraints(text) == [Constraint(metric, at_most, limit)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("latency_ms < 20", "bounds no metric"),
        ("latency_ms", "bounds no metric"),
        ("20 >= latency_ms", "begins with a number"),
        ("latency_ms <= fast", "'fast' in"),
        ("latency_ms <= nan", "is no number"),
        ("latency_ms <= inf", "is no number"),
        ([20], "bounds no metric"),
        (["a <= 1", "a <= 2"], "bounds a twice"),
    ],
)
def test_another_text_is_told(given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_constraints(given)


def test_an_excess_is_a_fraction_of_the_limit() -> None:
    assert Constraint("a", True, 20.0).excess(25.0) == 0.25
    assert Constraint("a", False, 20.0).excess(25.0) == -0.25
    assert Constraint("a", True, -2.0).excess(-1.0) == 0.5
    assert Constraint("a", True, 0.0).excess(3.0) == 3.0


def test_nothing_is_kept_where_a_metric_is_not_known() -> None:
    assert are_kept(parse_constraints("a <= 1"), {"a": 1.0}) is True
    assert are_kept(parse_constraints(["a <= 1", "b >= 1"]), {"a": 0.0, "b": 0.0}) is False
    assert are_kept(parse_constraints("a <= 1"), {}) is None
    assert are_kept(parse_constraints("a <= 1"), {"a": math.nan}) is None
    assert are_kept([], {"a": 1.0}) is None


def test_the_best_is_the_best_that_keeps_them(tmp_path: Path) -> None:
    result = toy.multirun(tmp_path, [*SPACE, FAST], costly)
    kept = [job for job in result.jobs if job.metrics["latency_ms"] <= 15]
    assert 0 < len(kept) < 6
    assert result.best[0].number == max(kept, key=lambda job: job.values[0]).number
    with (tmp_path / "s" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["trial"] for row in rows if row["feasible"] == "yes"} == {str(job.number) for job in kept}
    assert all(float(row["latency_ms"]) > 15 for row in rows if row["feasible"] == "no")


def test_another_terminal_is_told_the_best_that_keeps_them(tmp_path: Path) -> None:
    result = toy.multirun(tmp_path, [*SPACE, FAST], costly)
    study = open_study(tmp_path / "s", None)
    assert study is not None
    status = status_of(study)
    assert [best.number for best in status.best] == [result.best[0].number]
    kept = sum(job.metrics["latency_ms"] <= 15 for job in result.jobs)
    assert f"constraints: kept by {kept} of 6 completed trials" in lines_of(status)


def test_where_none_keeps_them_there_is_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = toy.multirun(tmp_path, [*SPACE, 'sweep.constraints=["latency_ms <= -100"]'], costly)
    nearest = min(result.jobs, key=lambda job: job.metrics["latency_ms"])
    assert result.best == []
    study = open_study(tmp_path / "s", None)
    assert study is not None
    assert status_of(study).best == []
    assert not (tmp_path / "s" / "best.yaml").exists()
    said = f"no trial keeps latency_ms <= -100; trial {nearest.number} is nearest: latency_ms "
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "nsga3"])
def test_samplers_that_heed_them_draw_more_that_keep_them(tmp_path: Path, sampler: str) -> None:
    settings: dict[str, Any] = {"name": sampler}
    settings |= {"population_size": 8} if sampler.startswith("nsga") else {"n_startup_trials": 8}
    total = 64 if sampler.startswith("nsga") else 24

    def fraction(constraints: list[Constraint]) -> float:
        # Children have their parents' values: what evolves needs two keys, and may come to a point again.
        given = {"sampler": settings, "constraints": constraints, "total": total, "seed": 1, "repeat": True}
        space = {"x": "interval(0,1)", "y": "interval(0,1)"}
        plan = toy.make_plan(tmp_path / str(len(constraints)), space=space, **given)
        claims = toy.opened(plan)
        for _ in range(total):
            claim = toy.claimed(claims)
            x = claim.trial.params["x"]
            claims.finish(claim, replace(toy.completed(claim, x), metrics={"m": x, "cost": x}))
        late = [trial.params["x"] for trial in claims.study.trials()[total // 2 :]]
        return sum(x <= 0.26 for x in late) / len(late)

    assert fraction(parse_constraints("cost <= 0.25")) > fraction([]) + 0.2


def test_a_sampler_that_would_go_after_what_breaks_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sampler=cmaes knows no constraints"):
        toy.multirun(tmp_path, [*SPACE, FAST, "sampler=cmaes"], costly)


def test_a_sampler_that_heeds_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, [*SPACE, FAST, "sweep.n_trials=1"], costly)
    assert "sampler=random draws without regard to sweep.constraints" in " ".join(capsys.readouterr().out.split())


def test_a_metric_that_nobody_logs_ends_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run logs 'latency' of 'latency <= 20'") as mistake:
        toy.multirun(tmp_path, [*SPACE, 'sweep.constraints=["latency <= 20"]'], costly)
    assert "latency_ms" in mistake.value.hint


def test_other_constraints_are_another_study(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, FAST], costly)
    with pytest.raises(UserError, match="judged by constraint latency_ms <= 15 is gone"):
        toy.multirun(tmp_path, SPACE, costly)


def test_the_front_of_several_objectives_keeps_them(tmp_path: Path) -> None:
    both = ["sweep.objective=[score,latency_ms]", "sweep.direction=[maximize,minimize]", "sampler=nsga2"]
    result = toy.multirun(tmp_path, [*SPACE, FAST, *both], costly)
    assert {job.number for job in result.best} == {j.number for j in result.jobs if j.metrics["latency_ms"] <= 15}


def test_the_nearest_is_named_with_what_it_breaks() -> None:
    bounds = parse_constraints(["a <= 10", "b <= 10"])
    jobs = [_job(0, a=20.0, b=5.0), _job(1, a=11.0, b=12.0), _job(2, a=1.0)]
    found = nearest_to_feasible(bounds, jobs)
    assert found is not None
    assert (found[0].number, found[1]) == (1, "a 11, b 12")
    assert nearest_to_feasible(bounds, jobs[2:]) is None


def test_a_trial_whose_end_is_not_known_yet_shows_no_constraints(tmp_path: Path) -> None:
    claims = toy.opened(toy.make_plan(tmp_path, constraints=parse_constraints("m <= 0.5")))
    claim = toy.claimed(claims)
    claims.finish(claim, toy.completed(claim))
    (trial,) = claims.study.trials()
    assert trial.state is TrialState.COMPLETE
    assert trial.constraints == {"m <= 0.5": 1.0}
    assert as_begun(trial).constraints == {}


def test_what_breaks_them_is_never_the_best() -> None:
    jobs = [_job(0, feasible=False, values=[9.0]), _job(1, feasible=True, values=[1.0])]
    assert [job.number for job in pick_best(jobs, [toy.Objective("m")])] == [1]


def _job(number: int, feasible: bool | None = None, values: list[float] | None = None, **metrics: float) -> Any:
    return toy.Job(number, [], toy.COMPLETED, metrics=metrics, values=values or [], feasible=feasible)
