"""Signs of life beside a job, and how it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.sweeping import agent
from deepfake.sweeping.agent import OVERDUE_STATUS, Heartbeat, RunningTrial
from deepfake.sweeping.claims import Claim
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import Overdue, Taken
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened

PATIENCE = 30.0


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    return toy.make_plan(tmp_path, heartbeat=0.01)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """SIGINT as in a terminal, wherever the suite was started from."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def run_until_stopped(heart: Heartbeat) -> None:
    """A job that never comes to its end, and swallows every error."""
    end = time.monotonic() + PATIENCE
    with heart:
        while time.monotonic() < end:
            try:
                threading.Event().wait(PATIENCE)
            except Exception:
                continue
    pytest.fail("nothing stopped it")


def test_signs_of_life_are_seen_by_others(plan: StudyPlan) -> None:
    claims, other = opened(plan), opened(plan)
    seen = set()
    with Heartbeat(claims, claimed(claims)):
        while len(seen) < 3:
            seen.add(other.study.trials()[0].user_attrs.get("beat"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_overdue_job_is_stopped_wherever_it_is(plan: StudyPlan) -> None:
    claims = opened(replace(plan, trial_timeout=0.05))
    heart = Heartbeat(claims, claimed(claims))
    with pytest.raises(Overdue, match=r"sweep\.trial_timeout: it ran for more than 0\.05 s"):
        run_until_stopped(heart)
    assert isinstance(heart.stopped, Overdue)
    assert claims.study.trials()[0].state.name == "FAIL"


def test_a_job_that_does_not_let_itself_be_stopped_ends_its_process(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_GRACE_SECONDS", 0.01)
    claims = opened(replace(plan, trial_timeout=0.05))
    claim = claimed(claims)
    ended: list[int] = []
    over = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        over.set()

    def job() -> None:
        # Beside the main thread nothing can be raised, as inside of a library that does not come back.
        with Heartbeat(claims, claim, end):
            over.wait(PATIENCE)

    beside = threading.Thread(target=job)
    beside.start()
    beside.join(PATIENCE)
    assert ended == [OVERDUE_STATUS]
    assert "trial_timeout" in claims.study.trials()[0].user_attrs["reason"]


def test_a_process_taken_for_dead_stops_at_once(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper, other = opened(plan), opened(plan)
    claim = claimed(sleeper)
    monkeypatch.setattr(other.study.watch, "is_dead", lambda owner, heartbeat: True)
    assert claimed(other).number == claim.number
    with pytest.raises(Taken):
        run_until_stopped(Heartbeat(sleeper, claim))
    assert "beat" not in other.study.trials()[0].user_attrs


def test_signs_of_life_go_on_after_an_outage(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    real, left = claims.send_heartbeat, [3]
    beaten = threading.Event()

    def beat(claim: Claim) -> bool:
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError("away")
        beaten.set()
        return real(claim)

    monkeypatch.setattr(claims, "send_heartbeat", beat)
    with Heartbeat(claims, claim) as heart:
        assert beaten.wait(PATIENCE)
    assert heart.stopped is None


def test_ctrl_c_is_still_ctrl_c(plan: StudyPlan) -> None:
    claims = opened(plan)
    heart = Heartbeat(claims, claimed(claims))
    with heart, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert heart.stopped is None


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
