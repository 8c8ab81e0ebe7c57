"""When a study ends before its total: the rules, and that they come to the same end however it is run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from benchmarks.simulation import simulate
from deepfake.errors import UserError
from deepfake.sweeping.constraints import parse_constraints
from deepfake.sweeping.stopping import (
    DEVIATION,
    SEEDS,
    Stopping,
    StopRule,
    chance_of_mean,
    check_rule,
    parse_rule,
    rule_notes,
)
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")

SPACE = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=40", "sweep.name=s"]


def trials_of(*values: float | None, **facts: Any) -> list[FrozenTrial]:
    """Ended trials of these values; None for a failed one, NaN for a pruned one."""
    study = optuna.create_study(direction="maximize")
    for value in values:
        state = TrialState.FAIL if value is None else TrialState.PRUNED if math.isnan(value) else TrialState.COMPLETE
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=value if state is TrialState.COMPLETE else None,
                params={"x": abs(value or 0.0) % 1 if value == value else 0.5},
                distributions={"x": FloatDistribution(0, 1)},
                user_attrs=facts,
            )
        )
    return study.trials


def end(rule: str, *values: float | None, maximize: bool = True) -> int | None:
    trials = trials_of(*values)
    return Stopping(parse_rule(rule), maximize).look(trials, len(trials))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("20 trials without 0.001", StopRule(20, 0.001)),
        ("1 trial without 0", StopRule(1, 0.0)),
        ("5 trials without a gain of 1e-3", StopRule(5, 1e-3)),
        ("terminator", StopRule(None)),
        (None, None),
    ],
)
def test_a_rule_is_written_in_words(text: str | None, rule: StopRule | None) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    "text", ["20", "0 trials without 1", "20 trials without much", "20 trials without -1", "terminater", "9 without 1"]
)
def test_other_words_are_told(text: str) -> None:
    with pytest.raises(UserError, match="is no rule"):
        parse_rule(text)


def test_so_many_trials_without_a_gain_end_a_study() -> None:
    assert end("3 trials without 0.1", 0.5, 0.4, 0.55, 0.5) == 4
    assert end("3 trials without 0.1", 0.5, 0.4, 0.55, 0.61) is None
    assert end("3 trials without 0.1", 0.5, 0.4, 0.2, 0.61, 0.61, 0.6, 0.6) == 7


def test_less_is_better_where_it_is_minimized() -> None:
    assert end("2 trials without 0.1", 0.5, 0.6, 0.7, maximize=False) == 3
    assert end("2 trials without 0.1", 0.5, 0.4, 0.3, maximize=False) is None


def test_pruned_trials_bring_no_gain_and_failed_ones_do_not_count() -> None:
    assert end("2 trials without 0.1", 0.5, math.nan, math.nan) == 3
    assert end("2 trials without 0.1", 0.5, None, None, None) is None
    assert end("2 trials without 0.1", 0.5, None, 0.4, None, 0.4) == 5


def test_nothing_ends_before_there_is_a_value() -> None:
    assert end("2 trials without 0.1", math.nan, math.nan, math.nan, None) is None
    assert end("1 trial without 0.1") is None


def test_any_gain_at_all_counts_where_zero_is_asked_for() -> None:
    assert end("2 trials without 0", 0.5, 0.5, 0.5) == 3
    assert end("2 trials without 0", 0.5, 0.5, 0.500001) is None


def test_what_breaks_constraints_is_no_gain() -> None:
    trials = trials_of(0.5, 0.9, 0.9)
    for trial in trials[1:]:
        trial.set_constraint("a <= 1", 1.0)
    assert Stopping(StopRule(2, 0.1), maximize=True).look(trials, 3) == 3


def test_trials_beyond_one_that_runs_do_not_count_yet() -> None:
    stopping, trials = Stopping(StopRule(1, 0.1), maximize=True), trials_of(0.5, 0.5, 0.5)
    assert stopping.look(trials, 1) is None
    assert stopping.look(trials, 2) == 2
    assert stopping.look(trials, 3) == 2


def test_a_study_ends_there_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = toy.multirun(tmp_path, [*SPACE, "sweep.stop_when=5 trials without 0.01"])
    values = [job.values[0] for job in result.jobs]
    assert result.status == "finished"
    assert 5 < len(values) < 40
    assert max(values[:-5]) + 0.01 > max(values)
    assert "ended: 5 trials have not brought a gain of 0.01" in " ".join(capsys.readouterr().out.split())


def test_another_start_adds_nothing_and_one_without_the_rule_goes_on(tmp_path: Path) -> None:
    rule = "sweep.stop_when=5 trials without 0.01"
    first = toy.multirun(tmp_path, [*SPACE, rule])
    again = toy.multirun(tmp_path, [*SPACE, rule])
    assert len(again.jobs) == len(first.jobs)
    assert len(toy.multirun(tmp_path, [*SPACE[:2], "sweep.n_trials=30", *SPACE[3:]]).jobs) == 30


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_in_order_it_ends_the_same_with_any_number_of_workers(tmp_path: Path, sampler: str) -> None:
    def table(workers: int, deaths: float) -> Any:
        plan = toy.make_plan(
            tmp_path / f"{workers}-{deaths}",
            sampler={"name": sampler},
            total=60,
            ordered=True,
            lag=4,
            stop_when=StopRule(6, 0.01),
        )
        return simulate(plan, workers, seed=workers, deaths=deaths).table

    one = table(1, 0.0)
    assert 6 < len(one) < 60
    assert table(3, 0.0) == one
    assert table(4, 0.05) == one


def test_workers_without_an_order_end_by_it_too(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=200, stop_when=StopRule(6, 0.01))
    assert 6 < len(simulate(plan, 4, seed=0).table) < 200


def test_several_objectives_have_no_gain(tmp_path: Path) -> None:
    several = ["sweep.objective=[a,b]", "sweep.stop_when=5 trials without 0.01"]
    with pytest.raises(UserError, match="takes one objective"):
        toy.multirun(tmp_path, [*SPACE, *several])


def test_the_terminator_is_held_to_what_it_knows() -> None:
    rule = StopRule(None)
    with pytest.raises(UserError, match="knows no constraints"):
        check_rule(rule, objectives=1, constrained=True, unconditional=True)
    with pytest.raises(UserError, match="applies to every point"):
        check_rule(rule, objectives=1, constrained=False, unconditional=False)
    check_rule(rule, objectives=1, constrained=False, unconditional=True)


def test_the_terminator_ends_what_has_found_its_best() -> None:
    # A parabola that is known exactly after a few points.
    values = [1.0 - (x - 0.3) ** 2 for x in (i / 10 % 1 for i in range(10))] + [1.0 - 1e-4 * i for i in range(35)]
    study = optuna.create_study(direction="maximize")
    points = [i / 10 for i in range(10)] + [0.3 + 0.01 * math.sqrt(i) for i in range(35)]
    for x, value in zip(points, values, strict=True):
        study.add_trial(optuna.create_trial(value=value, params={"x": x}, distributions={"x": FloatDistribution(0, 1)}))
    stopping = Stopping(StopRule(None), maximize=True)
    after = stopping.look(study.trials, len(study.trials))
    assert after is not None
    # Its median of the beginning takes thirty trials.
    assert after >= 30
    other = Stopping(StopRule(None), maximize=True)
    for ended in range(len(study.trials) + 1):
        other.look(study.trials, ended)
    assert other.after == after


def test_the_terminator_holds_its_bound_against_the_spread_over_seeds() -> None:
    trials = trials_of(*(0.5 + 1e-6 * i for i in range(25)), **{DEVIATION: 0.3, SEEDS: 3})
    assert chance_of_mean(trials) == pytest.approx(0.3 / math.sqrt(3))
    assert chance_of_mean(trials_of(0.5)) is None
    assert Stopping(StopRule(None), maximize=True).look(trials, 25) == 20


def test_nobody_asks_the_terminator_again(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=5, stop_when=StopRule(None))
    claims = toy.opened(plan)
    for _ in range(3):
        claim = toy.claimed(claims)
        claims.finish(claim, toy.completed(claim))
    toy.claimed(claims)
    assert toy.opened(plan).study.schedule.stopping.looked_at == 3


def test_a_bound_that_all_break_ends_nothing(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=12, stop_when=StopRule(2, 0.1), constraints=parse_constraints("m <= -1"))
    claims = toy.opened(plan)
    while (claim := claims.claim()) is not None:
        claims.finish(claim, toy.completed(claim))
    assert len(claims.study.trials()) == 12


def test_a_study_too_short_for_its_rule_says_so() -> None:
    (note,) = rule_notes(StopRule(20, 0.1), 20, repeated=False)
    assert "looks at 21 trials at least, and there will be 20" in note
    assert rule_notes(StopRule(20, 0.1), 22, repeated=False) == []
    assert rule_notes(StopRule(None), 30, repeated=False)
    assert rule_notes(StopRule(None), 30, repeated=True) == []
    assert rule_notes(StopRule(20, 0.1), None, repeated=False) == rule_notes(None, 1, repeated=False) == []
