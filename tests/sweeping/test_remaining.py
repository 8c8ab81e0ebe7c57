"""What is left of a study: by whom it is worked on, and where nothing can be said."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from deepfake.sweeping import keeping_alive
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.budget import Budget
from deepfake.sweeping.callbacks import COMPLETED, PAUSED, Job
from deepfake.sweeping.control import Control
from deepfake.sweeping.facts import SPENT
from deepfake.sweeping.keeping_alive import Turn
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.remaining import Terms, remaining
from deepfake.sweeping.runner import Display
from deepfake.sweeping.status import FINISHED, status_of
from deepfake.sweeping.trial import Paused
from tests.sweeping import toy
from tests.sweeping.toy import claimed, opened


def ended(seconds: float) -> FrozenTrial:
    return create_trial(value=1.0, user_attrs={"seconds": seconds})


def runs(spent: float, since: float) -> FrozenTrial:
    facts = {SPENT: spent, "owner": {"since": since}}
    return create_trial(state=TrialState.RUNNING, user_attrs=facts)


def paused() -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, user_attrs={"owner": None, "paused": 0})


def test_trials_that_share_a_worker_take_its_time_one_by_one() -> None:
    running = [runs(30.0, since=0.0) for _ in range(4)]
    terms = Terms(total=14, budget=None, promotes=False, workers=1, fuse=4)
    words, seconds = remaining([*(ended(60.0) for _ in range(6)), *running], running, terms, now=120.0)
    assert words == "8 trials"
    assert seconds == pytest.approx((360.0, 360.0), rel=0.05)


def test_those_who_work_alone_count_from_when_they_began() -> None:
    running = [runs(0.0, since=90.0), runs(0.0, since=90.0)]
    terms = Terms(total=8, budget=None, promotes=False, workers=2)
    _, seconds = remaining([*(ended(60.0) for _ in range(6)), *running], running, terms, now=120.0)
    assert seconds == pytest.approx((30.0, 30.0), rel=0.1)


def test_a_trials_share_is_its_own_turn_and_its_part_of_what_is_trained_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(keeping_alive.time, "monotonic", lambda: now[0])
    turn = Turn()
    claims = opened(toy.make_plan(tmp_path, fuse=4))
    running = RunningTrial(claims, claimed(claims), turn)
    for among, lasts in ((1, 5.0), (4, 40.0)):
        turn.begin(among)
        now[0] += lasts
        turn.end()
        now[0] += 1000.0
    turn.begin(2)
    now[0] += 6.0
    assert running.seconds == 18.0
    assert running.counts_time


def test_of_a_promoting_study_those_are_left_that_are_still_to_begin() -> None:
    terms = Terms(total=6, budget=None, promotes=True, workers=1)
    trials = [ended(60.0), paused(), paused()]
    assert remaining(trials, [], terms, now=0.0) == ("3 trials, and those that are promoted", None)
    trials += [runs(0.0, 0.0), paused(), paused()]
    assert remaining(trials, [], terms, now=0.0) == ("those that run, and those that are promoted", None)
    assert remaining([*trials[:3], *[paused()] * 3], [], terms, now=0.0) == ("those that are promoted", None)


def test_of_a_finished_study_nothing_is_left_though_some_are_paused(tmp_path: Path) -> None:
    claims = opened(toy.make_plan(tmp_path, total=2, promotion=Promotion(1, 3, 0)))
    claims.study.sign("here", 1)
    claim = claimed(claims)
    with pytest.raises(Paused):
        RunningTrial(claims, claim).report(0, {"m": 0.5}, more=True)
    claims.pause(claim, Job(claim.number, [], PAUSED))
    assert status_of(Control(claims.plan.location, "s")).left == "1 trial, and those that are promoted"
    claims.study.sign_off("finished")
    status = status_of(Control(claims.plan.location, "s"))
    assert (status.state, status.left) == (FINISHED, "")


def test_a_sweeps_own_line_says_a_range_once_five_trials_have_ended(tmp_path: Path) -> None:
    display = Display(toy.make_plan(tmp_path, total=12), 1, live=False, console=Console(file=io.StringIO()))
    claims = opened(toy.make_plan(tmp_path, total=12))
    said = []
    for seconds in (60.0, 600.0, 60.0, 600.0, 60.0):
        claim = claimed(claims)
        job = Job(claim.number, [], COMPLETED, metrics={"m": 1.0}, values=[1.0], seconds=seconds)
        claims.finish(claim, job)
        said.append(display.summary(claims.study.trials()))
    assert not any("left" in line for line in said[:4])
    assert said[4].split(", ")[-1].endswith(" left")
    assert " to " in said[4].split(", ")[-1]


def test_a_sweeps_own_line_says_nothing_where_trials_are_promoted(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=12, promotion=Promotion(1, 3, 0))
    display = Display(plan, 1, live=False, console=Console(file=io.StringIO()))
    assert " left" not in display.summary([ended(60.0) for _ in range(6)])


def test_a_budget_in_hours_lasts_as_long_as_the_workers_share_it() -> None:
    terms = Terms(total=None, budget=Budget(3600.0, in_epochs=False), promotes=False, workers=2, fuse=8)
    assert remaining([ended(1800.0)], [], terms, now=0.0) == ("0.5 hours of trials", (900.0, 900.0))
