"""Claiming, heartbeats and finishing from several processes' points of view, each an open study of its own."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake.sweeping import keeping_alive
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.callbacks import FAILED, Job, Objective
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.keeping_alive import OVERDUE_STATUS, Heartbeat, Turn
from deepfake.sweeping.search_space import choose, parse_space
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import Overdue, Taken
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


def half_known(plan: StudyPlan, **given: object) -> Claims:
    """A study that has completed both points with x = 1, of which the user asks for one more."""
    space = parse_space({"x": "range(0,3)", "kind": "choice(a,b)"}, [], {})
    claims = opened(replace(plan, parameters=space, total=6, **given))
    claims.study.enqueue([{"x": 1, "kind": "a"}, {"x": 1, "kind": "b"}, {"x": 1}])
    for value in (0.25, 0.5):
        claim = claimed(claims)
        claims.finish(claim, replace(completed(claim, value), run_id=f"run{value}", metrics={"m": value, "n": 7.0}))
    return claims


@pytest.mark.parametrize("ordered", [None, True])
def test_a_point_that_was_completed_is_told_and_not_run_again(plan: StudyPlan, ordered: bool | None) -> None:
    claims = half_known(plan, ordered=ordered, lag=1 if ordered else None)
    assert claimed(claims).number == 3
    first, told = (next(t for t in claims.study.trials() if t.params.get("kind") == kind) for kind in "ab")
    again = claims.study.trials()[2]
    known = first if again.params == first.params else told
    assert (again.state.name, again.values, again.params) == ("COMPLETE", known.values, known.params)
    kept = ("run_id", "metrics")
    assert [again.user_attrs[key] for key in kept] == [known.user_attrs[key] for key in kept]
    assert again.user_attrs["same_as"] == known.number


def test_a_point_is_run_again_where_that_is_asked_for(plan: StudyPlan) -> None:
    assert claimed(half_known(plan, repeat=True)).number == 2


def test_a_point_that_failed_or_still_runs_is_not_known(plan: StudyPlan) -> None:
    claims = opened(plan)
    claims.study.enqueue([{"x": 0.5}])
    failed = claimed(claims)
    claims.finish(failed, Job(0, failed.overrides, FAILED, reason="no"))
    claims.study.retry("failed")
    again = claimed(claims)
    assert (again.number, again.overrides) == (1, failed.overrides)


def test_a_trial_that_another_process_ended_stays_as_it_ended(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    claims.finish(claim, completed(claim, 0.5))
    claims.finish(claim, completed(claim, 0.9))
    assert claims.study.trials()[0].value == 0.5


PATIENCE = 30.0


@pytest.fixture
def brisk(tmp_path: Path) -> StudyPlan:
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


def test_signs_of_life_are_seen_by_others(brisk: StudyPlan) -> None:
    claims, other = opened(brisk), opened(brisk)
    seen = set()
    with Heartbeat(claims, claimed(claims)):
        while len(seen) < 3:
            seen.add(other.study.trials()[0].user_attrs.get("beat"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_overdue_job_is_stopped_wherever_it_is(brisk: StudyPlan) -> None:
    claims = opened(replace(brisk, trial_timeout=0.05))
    heart = Heartbeat(claims, claimed(claims))
    with pytest.raises(Overdue, match=r"sweep\.trial_timeout: it ran for more than 0\.05 s"):
        run_until_stopped(heart)
    assert isinstance(heart.stopped, Overdue)
    assert claims.study.trials()[0].state.name == "FAIL"


def test_a_job_that_does_not_let_itself_be_stopped_ends_its_process(
    brisk: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping_alive, "_GRACE_SECONDS", 0.01)
    claims = opened(replace(brisk, trial_timeout=0.05))
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


def overdue_beside_others(claims: Claims, turn: Turn, ended: list[int], overdue: Callable[[], None]) -> None:
    """A job that shares its process and has taken too long; ``overdue`` says what happens then."""
    over = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        over.set()

    def job() -> None:
        with Heartbeat(claims, claim, end, turn=turn) as heart:
            toy.wait_for(lambda: heart.stopped is not None)
            overdue()
            toy.wait_for(lambda: over.is_set() or turn.since is None)

    claim = claimed(claims)
    beside = threading.Thread(target=job)
    beside.start()
    beside.join(PATIENCE)


def test_while_others_have_their_turn_an_overdue_job_ends_no_process(
    brisk: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    enough = threading.Event()

    class Waiting(Turn):
        def silence(self, stopped_at: float) -> float:
            asked.append(super().silence(stopped_at))
            if len(asked) == 3:
                enough.set()
            return asked[-1]

    monkeypatch.setattr(keeping_alive, "_GRACE_SECONDS", 0.01)
    claims, ended = opened(replace(brisk, trial_timeout=0.05)), list[int]()
    overdue_beside_others(claims, Waiting(), ended, lambda: None if enough.wait(PATIENCE) else pytest.fail("unasked"))
    assert (ended, set(asked)) == ([], {0.0})
    assert claims.study.trials()[0].state.name == "FAIL"


def test_an_overdue_job_that_hangs_in_its_own_turn_ends_the_process(
    brisk: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping_alive, "_GRACE_SECONDS", 0.01)
    claims, ended = opened(replace(brisk, trial_timeout=0.05)), list[int]()
    turn = Turn()
    overdue_beside_others(claims, turn, ended, turn.begin)
    assert ended == [OVERDUE_STATUS]


def test_an_overdue_job_is_interrupted_in_its_own_turn(brisk: StudyPlan) -> None:
    claims = opened(replace(brisk, trial_timeout=0.05))
    heart = Heartbeat(claims, claimed(claims), turn=Turn())
    with pytest.raises(Overdue):
        run_until_stopped(heart)


def test_an_overdue_job_interrupts_no_other_of_its_process(brisk: StudyPlan) -> None:
    slow, lasting = opened(replace(brisk, trial_timeout=0.05)), opened(brisk)
    first, second = (Heartbeat(claims, claimed(claims), turn=Turn()) for claims in (slow, lasting))
    with first, second:
        toy.wait_for(lambda: first.stopped is not None)
        toy.wait_for(lambda: slow.study.trials()[0].state.name == "FAIL")
    assert second.stopped is None


def test_a_process_taken_for_dead_stops_at_once(brisk: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper, other = opened(brisk), opened(brisk)
    claim = claimed(sleeper)
    monkeypatch.setattr(other.study.watch, "is_dead", lambda owner, heartbeat: True)
    assert claimed(other).number == claim.number
    with pytest.raises(Taken):
        run_until_stopped(Heartbeat(sleeper, claim))
    assert "beat" not in other.study.trials()[0].user_attrs


def test_signs_of_life_go_on_after_an_outage(brisk: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = opened(brisk)
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


def test_ctrl_c_is_still_ctrl_c(brisk: StudyPlan) -> None:
    claims = opened(brisk)
    heart = Heartbeat(claims, claimed(claims))
    with heart, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert heart.stopped is None
