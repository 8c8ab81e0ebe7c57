"""Claiming and finishing from several processes' points of view, each an open study of its own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.callbacks import FAILED, Job, Objective
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.heartbeat import Watch
from deepfake.sweeping.search_space import choose, parse_space
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan, differences
from deepfake.sweeping.trial import Taken
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return toy.make_plan(tmp_path, retries=1)


def test_two_processes_never_claim_one_trial(plan: StudyPlan) -> None:
    assert [claimed(opened(plan)).number, claimed(opened(plan)).number] == [0, 1]


def test_no_more_is_claimed_than_the_total(plan: StudyPlan) -> None:
    claims = opened(plan)
    claimed(claims), claimed(claims)
    assert claims.claim() is None
    assert not claims.study.schedule.is_done(claims.study.trials())


def test_the_reported_epochs_of_an_earlier_attempt_are_kept(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    RunningTrial(claims, claim).report(0, {"m": 0.25})
    claims.release(claim)
    again = claimed(claims)
    RunningTrial(claims, again).report(0, {"m": 0.75})
    assert (again.number, again.attempt, claims.study.trials()[0].intermediate_values) == (0, 1, {1: 0.25})


def test_what_an_earlier_attempt_said_of_its_run_is_known(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    RunningTrial(claims, claim).identify(run_id="abc")
    claims.release(claim)
    assert RunningTrial(claims, claimed(claims)).identity == {"run_id": "abc"}


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


class Away:
    """A study's storage that does not answer until it is told to."""

    def __init__(self, claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.back = threading.Event(), threading.Event()
        usual: Callable[..., bool] = claims.report

        def report(*arguments: Any) -> bool:
            self.asked.set()
            assert self.back.wait(30)
            return usual(*arguments)

        monkeypatch.setattr(claims, "report", report)
        monkeypatch.setattr("deepfake.sweeping.agent._ANSWER_SECONDS", 0.01)


def test_a_trial_goes_on_while_the_storage_is_away_and_all_it_reported_arrives(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    away = Away(claims, monkeypatch)
    running = RunningTrial(claims, claim)
    running.identify(run_id="r")
    for epoch in range(5):
        running.hold()
        running.report(epoch, {"m": float(epoch)})
    assert away.asked.is_set()
    assert Study(plan).trials()[0].intermediate_values == {}
    away.back.set()
    running.settle()
    (trial,) = Study(plan).trials()
    assert trial.intermediate_values == {epoch + 1: float(epoch) for epoch in range(5)}
    assert trial.user_attrs["run_id"] == "r"


def test_a_trial_taken_up_while_the_storage_was_away_is_dropped_when_it_is_back(
    taken: tuple[Claims, Claim, Claims, Claim], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper, before, other, _ = taken
    away = Away(sleeper, monkeypatch)
    running = RunningTrial(sleeper, before)
    running.report(0, {"m": 9.0})
    away.back.set()
    with pytest.raises(Taken):
        running.settle()
    with pytest.raises(Taken):
        running.report(1, {"m": 9.0})
    assert other.study.trials()[0].intermediate_values == {}


def test_after_two_heartbeats_without_a_word_a_trial_waits(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = opened(replace(plan, heartbeat=0.0))
    claim = claimed(claims)
    away = Away(claims, monkeypatch)
    running = RunningTrial(claims, claim)
    teller = threading.Thread(target=running.report, args=(0, {"m": 0.5}))
    teller.start()
    assert away.asked.wait(30)
    teller.join(0.2)
    assert teller.is_alive()
    away.back.set()
    teller.join(30)
    assert Study(plan).trials()[0].intermediate_values == {1: 0.5}


def test_what_is_told_to_end_waits_moments_for_the_storage_and_knows_what_it_saw_last(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.sweeping.study._LAST_SECONDS", 0.05)
    claims = opened(plan)
    claim = claimed(claims)
    seen = claims.study.trials()
    back = threading.Event()
    asked: list[object] = []
    monkeypatch.setattr(claims, "_holds", lambda claim: (asked.append(claim), back.wait(30)))
    monkeypatch.setattr(claims.study, "read_trials", lambda: (asked.append("trials"), back.wait(30)))
    claims.release(claim)
    # It was silent once, and is not waited for again.
    assert claims.study.last_trials() == seen
    assert asked == [claim]
    back.set()


@pytest.mark.parametrize("heartbeat", [0.0, 1000.0])
def test_sigterm_ends_the_wait_for_a_study(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch, heartbeat: float) -> None:
    claims = opened(replace(plan, heartbeat=heartbeat))
    running = RunningTrial(claims, claimed(claims))
    away = Away(claims, monkeypatch)
    monkeypatch.setattr("deepfake.sweeping.agent._ANSWER_SECONDS", 1000.0)
    wishes: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, frame: wishes.append(number))

    def end() -> None:
        away.asked.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    try:
        threading.Thread(target=end).start()
        # Past its lease it may be another's, and then nothing more may be done in its name.
        with nullcontext() if heartbeat else pytest.raises(KeyboardInterrupt):
            running.report(0, {"m": 0.5})
        assert wishes == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)
        away.back.set()


def test_a_trial_is_written_in_few_appends(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = opened(plan)
    appends: list[int] = []
    monkeypatch.setattr("deepfake.sweeping.journal.os.fsync", appends.append)
    claim = claimed(claims)
    running = RunningTrial(claims, claim)
    running.identify(run_id="r", run_dir="d", name="n")
    for epoch in range(3):
        running.report(epoch, {"m": 0.5})
    claims.finish(claim, replace(completed(claim), run_id="r", run_dir="d", name="n", seconds=1.0))
    # Beginning, choosing, naming the run, three epochs, the end; Optuna alone appends six and one for each parameter.
    assert len(appends) == 7
    assert Study(plan).trials()[0].user_attrs["seconds"] == 1.0


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


def test_silence_during_an_outage_kills_nobody() -> None:
    now = [0.0]
    watch = Watch(clock=lambda: now[0])
    owner = {"host": "elsewhere", "pid": 1, "started": 0.0, "token": "t", "supervisor": None, "heartbeat": 1.0}
    assert not watch.is_dead(owner, 1.0)
    now[0] = 10.0
    watch.forgive()
    assert not watch.is_dead(owner, 1.0)
    now[0] = 20.0
    assert watch.is_dead(owner, 1.0)


def test_another_storage_under_the_same_name_is_refused(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    with pytest.raises(UserError, match=r"kept in study\.journal, and sweep\.storage=.*study\.db is another") as caught:
        Study(replace(plan, location=locate("sqlite", tmp_path)))
    assert "sweep.storage=journal" in caught.value.hint
    assert not (tmp_path / "study.db").exists()


def test_another_storage_is_refused_in_a_folder_of_before_it_was_kept(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    (tmp_path / "storage.json").unlink()
    with pytest.raises(UserError, match="is another"):
        Study(replace(plan, location=locate("sqlite", tmp_path)))
    Study(plan)
    assert (tmp_path / "storage.json").exists()


def test_the_same_storage_written_in_another_way_goes_on(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    assert Study(replace(plan, location=locate(str(tmp_path / "study.journal"), tmp_path))).resumed


def test_a_study_refused_for_its_space_does_not_bind_the_folder(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    elsewhere = replace(plan, folder=tmp_path / "new", parameters=parse_space({"x": "interval(0,2)"}, [], {}))
    with pytest.raises(UserError, match="begun differently"):
        Study(elsewhere)
    assert not (tmp_path / "new" / "storage.json").exists()


def test_a_trial_that_another_process_ended_stays_as_it_ended(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    claims.finish(claim, completed(claim, 0.5))
    claims.finish(claim, completed(claim, 0.9))
    assert claims.study.trials()[0].value == 0.5


def test_failures_of_an_earlier_start_do_not_stop_this_one(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"))
    again = opened(replace(plan, max_failures=1, began=plan.began + 1000))
    assert again.study.schedule.stop_reason(again.study.trials()) is None


def test_a_mistake_stops_all_processes(plan: StudyPlan) -> None:
    claims, other = opened(plan), opened(plan)
    claim = claimed(claims)
    claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"), UserError("wrong", "do better"))
    assert other.claim() is None
    assert str(other.study.schedule.mistake) == "error: wrong\nhint: do better"


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
