"""Claiming and finishing from several processes' points of view, each an open study of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.search_space import choose
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import Taken
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened


def test_two_processes_never_claim_one_trial(plan: StudyPlan) -> None:
    assert [claimed(opened(plan)).number, claimed(opened(plan)).number] == [0, 1]


def test_no_more_is_claimed_than_the_total(plan: StudyPlan) -> None:
    claims = opened(plan)
    claimed(claims), claimed(claims)
    assert claims.claim() is None
    assert not claims.study.schedule.is_done(claims.study.trials())


def died(claims: Claims) -> list[int]:
    """As the pool says it of a worker that was killed."""
    return claims.abandon(claims.study.owner["token"], "killed")


def test_a_trial_whose_process_keeps_dying_fails_with_that_reason(plan: StudyPlan) -> None:
    claims = opened(plan)
    for _ in range(2):
        assert claimed(claims).number == 0
        assert died(claims) == [0]
    assert claimed(claims).number == 1
    assert (
        claims.study.trials()[0].user_attrs["reason"] == "its process died 2 times without finishing an epoch: killed"
    )


def test_a_trial_that_gets_on_between_deaths_is_never_given_up(plan: StudyPlan) -> None:
    claims = opened(plan)
    for epoch in range(6):
        claim = claimed(claims)
        RunningTrial(claims, claim).report(epoch, {"m": 0.5})
        died(claims)
    assert (claimed(claims).number, len(claims.study.trials()[0].intermediate_values)) == (0, 6)


def test_progress_counts_where_there_is_nothing_to_judge(plan: StudyPlan) -> None:
    two = replace(plan, objectives=[Objective("m"), Objective("n")])
    claims = opened(two)
    for epoch in range(4):
        claim = claimed(claims)
        RunningTrial(claims, claim).report(epoch, {"m": 0.5, "n": 0.5})
        died(claims)
    assert claimed(claims).number == 0


def test_epochs_told_again_are_no_progress(plan: StudyPlan) -> None:
    claims = opened(plan)
    for _ in range(3):
        claim = claimed(claims)
        RunningTrial(claims, claim).report(0, {"m": 0.5})
        died(claims)
    assert claimed(claims).number == 1


def test_an_interruption_is_not_held_against_a_trial(plan: StudyPlan) -> None:
    claims = opened(plan)
    for attempt in range(5):
        claim = claimed(claims)
        assert (claim.number, claim.attempt) == (0, attempt)
        claims.release(claim)


def test_a_trial_that_loses_its_device_twice_has_failed(plan: StudyPlan) -> None:
    claims = opened(plan)
    assert [claims.lose(claimed(claims), "gone"), claims.lose(claimed(claims), "gone")] == [False, True]
    assert claimed(claims).number == 1
    assert claims.study.trials()[0].user_attrs["reason"] == "gone; so it did in a fresh process"


def test_a_lost_device_between_which_a_trial_got_on_counts_anew(plan: StudyPlan) -> None:
    claims = opened(plan)
    for epoch in range(3):
        claim = claimed(claims)
        RunningTrial(claims, claim).report(epoch, {"m": 0.5})
        assert not claims.lose(claim, "gone")


@pytest.fixture
def taken(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> tuple[Claims, Claim, Claims, Claim]:
    """A study and its claim, and another that has taken the trial up, having seen no sign of life."""
    sleeper, other = opened(plan), opened(plan)
    before = claimed(sleeper)
    with monkeypatch.context() as silence:
        silence.setattr(other.study.watch, "is_dead", lambda owner, heartbeat: True)
        now = claimed(other)
    assert now.number == before.number
    return sleeper, before, other, now


def test_an_owner_taken_for_dead_reports_nothing_more(taken: tuple[Claims, Claim, Claims, Claim]) -> None:
    sleeper, before, other, now = taken
    for say in (lambda run: run.report(0, {"m": 9.0}), lambda run: run.identify(run_id="r"), lambda run: run.hold()):
        with pytest.raises(Taken):
            say(RunningTrial(sleeper, before))
    RunningTrial(other, now).report(0, {"m": 0.5})
    trial = other.study.trials()[0]
    assert (trial.intermediate_values, trial.user_attrs.get("run_id")) == ({1: 0.5}, None)


def test_an_owner_taken_for_dead_neither_ends_nor_lets_go_nor_beats(taken: tuple[Claims, Claim, Claims, Claim]) -> None:
    sleeper, before, other, now = taken
    sleeper.finish(before, completed(before, 9.0))
    sleeper.release(before)
    assert not sleeper.lose(before, "gone")
    assert not sleeper.send_heartbeat(before)
    assert other.send_heartbeat(now)
    other.finish(now, completed(now, 0.5))
    assert other.study.trials()[0].value == 0.5


def test_an_owner_that_took_its_own_trial_up_again_holds_the_later_claim_only(plan: StudyPlan) -> None:
    claims = opened(plan)
    first = claimed(claims)
    claims.release(first)
    again = claimed(claims)
    assert (claims.holds(first), claims.holds(again)) == (False, True)


def test_a_trial_taken_up_while_the_storage_was_away_is_dropped_when_it_is_back(
    taken: tuple[Claims, Claim, Claims, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, before, other, _ = taken
    away = toy.Away(sleeper, monkeypatch)
    running = RunningTrial(sleeper, before)
    running.report(0, {"m": 9.0})
    away.back.set()
    with pytest.raises(Taken):
        running.settle()
    with pytest.raises(Taken):
        running.report(1, {"m": 9.0})
    assert other.study.trials()[0].intermediate_values == {}


def test_a_claim_that_an_outage_cut_short_is_found_again(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = opened(plan)
    answers = [OSError("away")]

    def choose_once(*given: object) -> dict[str, float]:
        if answers:
            raise answers.pop()
        return choose(*given)

    monkeypatch.setattr("deepfake.sweeping.claims.choose", choose_once)
    assert claimed(claims).number == 0
    assert len(claims.study.trials()) == 1


def test_a_trial_that_another_process_ended_stays_as_it_ended(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    claims.finish(claim, completed(claim, 0.5))
    claims.finish(claim, completed(claim, 0.9))
    assert claims.study.trials()[0].value == 0.5
