"""A trial's reports while its storage answers, and while it does not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from deepfake.sweeping.agent import Member, RunningTrial, work
from deepfake.sweeping.callbacks import Job
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import current
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


class Runner:
    """Runs jobs of a few words; several at a time where the task says so."""

    def __init__(self, fails: int | None = None) -> None:
        self.groups: list[list[int]] = []
        self.fails = fails

    def run(self, overrides: list[str], number: int) -> JobReturn:
        """The job of a trial: one epoch."""
        running = current()
        assert running is not None
        running.report(0, {"m": 0.1 * number})
        result = JobReturn(status=JobStatus.COMPLETED)
        result.return_value = {"metrics": {"m": 0.1 * number}}
        if number == self.fails:
            result.status, result.return_value = JobStatus.FAILED, ValueError("asked to fail")
        return result

    def together(self, following: Callable[[], Member | None], most: int) -> None:
        """One after another, though all are begun."""
        members = []
        while len(members) < most and (member := following()) is not None:
            members.append(member)
        self.groups.append([member.claim.number for member in members])
        for member in members:
            member.run()


def several(plan: StudyPlan, runner: Runner, total: int = 5) -> list[tuple[int, str]]:
    """What became of a study whose worker runs three trials at a time."""
    plan = replace(plan, total=total, fuse=3)
    ended: list[Job] = []
    work(opened(plan), runner, finished=ended.append)  # type: ignore[arg-type]
    assert len(ended) == total
    return [(trial.number, trial.state.name) for trial in Study(plan).trials()]


def test_a_worker_runs_several_trials_at_a_time_and_each_ends_once(plan: StudyPlan) -> None:
    runner = Runner(fails=1)
    states = several(plan, runner)
    assert runner.groups == [[0, 1, 2], [3, 4]]
    assert states == [(0, "COMPLETE"), (1, "FAIL"), (2, "COMPLETE"), (3, "COMPLETE"), (4, "COMPLETE")]


def test_one_of_several_that_is_overdue_leaves_their_process_alone(plan: StudyPlan) -> None:
    class Hanging(Runner):
        def run(self, overrides: list[str], number: int) -> JobReturn:
            threading.Event().wait(toy.PATIENCE)
            pytest.fail("nothing stopped it")

    claims = opened(replace(plan, trial_timeout=0.05))
    ended: list[Job] = []
    Member(claims, Hanging(), claimed(claims), ended.append, replaceable=True, among=True).run()  # type: ignore[arg-type]
    assert [job.status for job in ended] == ["failed"]


def test_a_task_that_does_not_say_how_runs_one_trial_at_a_time(plan: StudyPlan) -> None:
    runner = Runner()
    runner.together = None  # type: ignore[assignment, method-assign]
    assert [state for _, state in several(plan, runner)] == ["COMPLETE"] * 5
    assert runner.groups == []


def test_a_trial_that_made_its_process_useless_is_not_among_others(plan: StudyPlan) -> None:
    claims = opened(replace(plan, total=5))
    claims.lose(claimed(claims), "the device was lost")
    runner = Runner()
    several(plan, runner)
    assert runner.groups == [[1, 2, 3], [4]]


def test_a_claim_that_broke_off_takes_nothing_of_what_the_process_runs(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = opened(replace(plan, total=5))
    numbers = [claimed(claims).number, claimed(claims).number]

    def broken(*_: object) -> None:
        raise ValueError("in the midst of a claim")

    with monkeypatch.context() as patched:
        patched.setattr("deepfake.sweeping.claims.choose", broken)
        with pytest.raises(ValueError, match="in the midst"):
            claims.claim()
    assert [*numbers, claimed(claims).number, claimed(claims).number] == [0, 1, 2, 3]
