"""A trial's reports while its storage answers, and while it does not."""

from __future__ import annotations

import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest

from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened


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


def test_a_trial_goes_on_while_the_storage_is_away_and_all_it_reported_arrives(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    away = toy.Away(claims, monkeypatch)
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


def test_after_two_heartbeats_without_a_word_a_trial_waits(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = opened(replace(plan, heartbeat=0.0))
    claim = claimed(claims)
    away = toy.Away(claims, monkeypatch)
    running = RunningTrial(claims, claim)
    teller = threading.Thread(target=running.report, args=(0, {"m": 0.5}))
    teller.start()
    assert away.asked.wait(30)
    teller.join(0.2)
    assert teller.is_alive()
    away.back.set()
    teller.join(30)
    assert Study(plan).trials()[0].intermediate_values == {1: 0.5}


@pytest.mark.parametrize("heartbeat", [0.0, 1000.0])
def test_sigterm_ends_the_wait_for_a_study(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch, heartbeat: float) -> None:
    claims = opened(replace(plan, heartbeat=heartbeat))
    running = RunningTrial(claims, claimed(claims))
    away = toy.Away(claims, monkeypatch)
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
