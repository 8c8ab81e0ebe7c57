"""Claiming and finishing from several processes' points of view, each an open study of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.grammar import parse_space
from deepfake.sweeping.observer import COMPLETED, FAILED, Job, Objective
from deepfake.sweeping.plan import StudyPlan, differences
from deepfake.sweeping.running import RunningTrial
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study import Claim, Study


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return StudyPlan(
        name="s",
        folder=tmp_path,
        location=locate("journal", tmp_path),
        parameters=parse_space({"x": "interval(0,1)"}, [], {}),
        objectives=[Objective("m")],
        fixed=[],
        total=2,
        sampler={"name": "random"},
        pruner={"name": "none"},
        retries=1,
    )


def claimed(study: Study) -> Claim:
    claim = study.claim()
    assert claim is not None
    return claim


def done(claim: Claim, value: float = 1.0) -> Job:
    return Job(claim.number, claim.overrides, COMPLETED, metrics={"m": value}, values=[value])


def test_two_processes_never_claim_one_trial(plan: StudyPlan) -> None:
    assert [claimed(Study(plan)).number, claimed(Study(plan)).number] == [0, 1]


def test_no_more_is_claimed_than_the_total(plan: StudyPlan) -> None:
    study = Study(plan)
    claimed(study), claimed(study)
    assert study.claim() is None
    assert not study.is_done()


def test_the_reported_epochs_of_an_earlier_attempt_are_kept(plan: StudyPlan) -> None:
    study = Study(plan)
    claim = claimed(study)
    RunningTrial(study, claim).report(0, {"m": 0.25})
    study.release(claim)
    again = claimed(study)
    RunningTrial(study, again).report(0, {"m": 0.75})
    assert (again.number, again.attempt, study.trials()[0].intermediate_values) == (0, 1, {1: 0.25})


def test_what_an_earlier_attempt_said_of_its_run_is_known(plan: StudyPlan) -> None:
    study = Study(plan)
    claim = claimed(study)
    RunningTrial(study, claim).identify(run_id="abc")
    study.release(claim)
    assert RunningTrial(study, claimed(study)).identity == {"run_id": "abc"}


def test_a_trial_whose_process_keeps_dying_fails_with_that_reason(plan: StudyPlan) -> None:
    study = Study(plan)
    for _ in range(2):
        study.release(claimed(study))
    assert claimed(study).number == 1
    assert study.trials()[0].user_attrs["reason"] == "its process died 2 times"


def test_a_trial_that_another_process_ended_stays_as_it_ended(plan: StudyPlan) -> None:
    study = Study(plan)
    claim = claimed(study)
    study.finish(claim, done(claim, 0.5))
    study.finish(claim, done(claim, 0.9))
    assert study.trials()[0].value == 0.5


def test_failures_of_an_earlier_start_do_not_stop_this_one(plan: StudyPlan) -> None:
    study = Study(plan)
    claim = claimed(study)
    study.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"))
    again = Study(replace(plan, max_failures=1, began=plan.began + 1000))
    assert again.stop_reason(again.trials()) is None


def test_a_mistake_stops_all_processes(plan: StudyPlan) -> None:
    study, other = Study(plan), Study(plan)
    claim = claimed(study)
    study.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"), UserError("wrong", "do better"))
    assert other.claim() is None
    assert str(other.mistake(other.trials())) == "error: wrong\nhint: do better"


def test_a_study_of_a_newer_program_is_told(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("deepfake.sweeping.study.FORMAT", 2)
        Study(plan)
    with pytest.raises(UserError, match="another version"):
        Study(plan)


def test_a_setting_that_came_with_an_update_is_no_change() -> None:
    assert differences({"setting": {"a": "1"}}, {"setting": {"a": "1", "b": "2"}}) == []


def test_a_key_that_left_the_space_is_a_change() -> None:
    assert differences({"space": {"a": "1"}}, {"space": {}}) == ["space a is gone"]
