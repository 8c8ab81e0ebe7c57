"""Pruning where Optuna knows none: of several objectives by the first, of each run of a point by its own reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from optuna.trial import TrialState

from deepfake.sweeping.callbacks import PAUSED, PRUNED, Job, Objective
from deepfake.sweeping.judging import record, reports_of, should_prune
from deepfake.sweeping.repeats import Repeats
from deepfake.sweeping.samplers import PRUNERS, create_promotion
from deepfake.sweeping.seed_runs import end_run
from deepfake.sweeping.trial import current
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")

BOTH = [Objective("m"), Objective("cost", maximize=False)]
EAGER: dict[str, dict[str, Any]] = {
    "median": {"n_startup_trials": 1, "n_warmup_steps": 0},
    "percentile": {"percentile": 50.0, "n_startup_trials": 1},
    "asha": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "max_resource": 9, "reduction_factor": 3},
    "threshold": {"lower": 0.3},
    "patient": {"patience": 0},
    "wilcoxon": {"p_threshold": 0.4, "n_startup_steps": 2},
}


def run(folder: Path, pruner: str, objectives: list[Objective], maximize: bool = True) -> list[int]:
    """How many epochs each of twelve trials had, every other one of which is bad throughout."""
    settings = {"name": pruner, **EAGER.get(pruner, {})}
    claims = toy.opened(toy.make_plan(folder, total=12, pruner=settings, objectives=objectives))
    epochs = []
    for number in range(12):
        claim = toy.claimed(claims)
        level = (0.9 if number % 2 == 0 else 0.1) + 0.001 * number
        level = level if maximize else 1.0 - level
        pruned = False
        for step in range(1, 10):
            pruned = claims.report(claim, {step: level if pruner != "patient" else level / step})
            if pruned:
                break
        epochs.append(step)
        values = [level] + [0.5] * (len(objectives) - 1)
        job = Job(claim.number, claim.overrides, PRUNED) if pruned else _completed(claim, values, objectives)
        claims.finish(claim, job)
    return epochs


@pytest.mark.parametrize("pruner", sorted(EAGER))
def test_several_objectives_are_pruned_as_the_first_alone_would_be(tmp_path: Path, pruner: str) -> None:
    assert run(tmp_path / "both", pruner, BOTH) == run(tmp_path / "one", pruner, BOTH[:1])


def test_several_objectives_are_promoted_as_the_first_alone_would_be(tmp_path: Path) -> None:
    def course(folder: Path, objectives: list[Objective]) -> list[tuple[int, int, str]]:
        settings = {"name": "promote", "min_resource": 1, "reduction_factor": 2}
        plan = toy.make_plan(folder, total=6, pruner=settings, objectives=objectives)
        plan = replace(plan, promotion=create_promotion(settings, objectives, waits=False))
        claims, seen = toy.opened(plan), []
        while (claim := claims.claim()) is not None:
            first = len(claims.study.trials()[claim.number].intermediate_values) + 1
            level, end = (claim.number * 5 % 7) / 10, None
            for step in range(first, 9):
                if (end := claims.report(claim, {step: level + step / 100})) is not None:
                    break
            seen.append((claim.number, step, "ended" if end is None else end.__name__))
            if end is None:
                claims.finish(claim, _completed(claim, [level] * len(objectives), objectives))
            else:
                claims.pause(claim, Job(claim.number, claim.overrides, PAUSED))
        return seen

    one = course(tmp_path / "one", BOTH[:1])
    assert {how for _, _, how in one} == {"Paused", "ended"}
    assert course(tmp_path / "both", BOTH) == one


def test_every_pruner_is_among_them() -> None:
    assert set(EAGER) | {"none", "promote"} >= set(PRUNERS)


def test_the_first_objectives_direction_counts(tmp_path: Path) -> None:
    ways = [Objective("m", maximize=False), Objective("cost")]
    assert min(run(tmp_path, "median", ways, maximize=False)[1:]) < 9


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "nsga3", "random"])
def test_samplers_go_on_after_pruned_trials(tmp_path: Path, sampler: str) -> None:
    def task(config: DictConfig) -> dict[str, Any]:
        trial = current()
        assert trial is not None
        for epoch in range(4):
            trial.report(epoch, {"a": float(config.x) * (epoch + 1), "b": 1.0})
        return {"metrics": {"a": float(config.x), "b": -float(config.x)}}

    fast = {"tpe": ["sweep.sampler.n_startup_trials=3"], "gp": ["sweep.sampler.n_startup_trials=3"]}.get(sampler, [])
    both = ["sweep.objective=[a,b]", "sweep.direction=[maximize,minimize]", f"sampler={sampler}", *fast]
    eager = ["pruner=median", "sweep.pruner.n_startup_trials=1", "sweep.pruner.n_warmup_steps=0"]
    result = toy.multirun(tmp_path, ["x=interval(0,1)", "sweep.n_trials=12", *both, *eager], task)
    states = [job.status for job in result.jobs]
    assert len(states) == 12
    assert states.count(PRUNED) >= 2
    assert result.best


def test_a_pruned_trial_of_several_objectives_has_no_values(tmp_path: Path) -> None:
    pruner = {"name": "threshold", "lower": 0.5}
    claims = toy.opened(toy.make_plan(tmp_path, pruner=pruner, objectives=BOTH))
    claim = toy.claimed(claims)
    assert claims.report(claim, {1: 0.1})
    claims.finish(claim, Job(claim.number, claim.overrides, PRUNED))
    (trial,) = claims.study.trials()
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.PRUNED, None, {1: 0.1})


@pytest.mark.parametrize("pruner", ["median", "asha", "hyperband"])
def test_each_run_of_a_point_climbs_its_own_rungs(tmp_path: Path, pruner: str) -> None:
    plan = toy.make_plan(
        tmp_path, total=12, pruner={"name": pruner, **EAGER[pruner]}, repeats=Repeats("seed", 0, 2), seed=1
    )
    claims = toy.opened(plan)
    ended = []
    for number in range(12):
        claim = toy.claimed(claims)
        # The odd ones are good with their first seed alone.
        pruned = any(claims.report(claim, {step: 0.9 + 0.001 * number}) for step in range(1, 10))
        if not pruned:
            claim = end_run(claims, claim, toy.completed(claim, 0.9), epochs=9)
            level = 0.9 + 0.001 * number if number % 2 == 0 else 0.1
            pruned = any(claims.report(claim, {step: level}) for step in range(1, 10))
        ended.append(pruned)
        claims.finish(claim, Job(claim.number, claim.overrides, PRUNED) if pruned else toy.completed(claim, 0.9))
    assert not any(ended[::2])
    assert all(ended[3::2]) if pruner != "hyperband" else any(ended[3::2])


def test_a_later_runs_reports_are_kept_apart(tmp_path: Path) -> None:
    claims = toy.opened(toy.make_plan(tmp_path, repeats=Repeats("seed", 0, 3), pruner={"name": "median"}))
    claim = toy.claimed(claims)
    claims.report(claim, {1: 0.5, 2: 0.6})
    claim = end_run(claims, claim, toy.completed(claim), epochs=2)
    claims.report(claim, {1: 0.7})
    (trial,) = claims.study.trials()
    assert trial.intermediate_values == {1: 0.5, 2: 0.6}
    assert reports_of(trial.user_attrs, 1) == {1: 0.7}
    assert trial.user_attrs["progress"] == 3


def test_one_objective_and_one_run_are_optunas_own(tmp_path: Path) -> None:
    claims = toy.opened(toy.make_plan(tmp_path, pruner={"name": "threshold", "lower": 0.5}))
    claim = toy.claimed(claims)
    record(claim.trial, 1, 0.1)
    assert should_prune(claim.trial) == claim.trial.should_prune() is True


def _completed(claim: Any, values: list[float], objectives: list[Objective]) -> Job:
    metrics = {item.metric: value for item, value in zip(objectives, values, strict=True)}
    return Job(claim.number, claim.overrides, toy.COMPLETED, metrics=metrics, values=values)
