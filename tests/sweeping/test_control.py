"""Commands to a study from another terminal: what becomes of each, of its trial, and of those that contradict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from deepfake.compat import trial_id
from deepfake.errors import UserError
from deepfake.sweeping.agent import RunningTrial, work
from deepfake.sweeping.callbacks import PAUSED, PRUNED, Job
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.commands import DONE, PENDING, REFUSED, REPLACED, UNDERSTANDS
from deepfake.sweeping.control import Control
from deepfake.sweeping.facts import is_held
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.status import FINISHED, INTERRUPTED, RUNNING, STOPPED_STATE, status_of
from deepfake.sweeping.storage import locate, open_existing, stored_at
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import LetGo, Paused, Pruned, Taken
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened

SPACE = {
    "lr": "tag(log, interval(1e-5,1e-1))",
    "batch": "choice(16,32)",
    "model": "choice(cnn,vit)",
    "depth": {"space": "range(1,5)", "when": {"model": "vit"}},
}


@pytest.fixture(params=["journal", "sqlite"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> StudyPlan:
    """A study of six trials, by whichever storage."""
    return toy.make_plan(tmp_path, total=6, location=locate(request.param, tmp_path))


def control(plan: StudyPlan) -> Control:
    return Control(plan.location, plan.name)


def became(plan: StudyPlan) -> list[str]:
    """What became of each command."""
    return [command.status for command in control(plan).ledger.commands()]


def report(claims: Claims, claim: Claim, epoch: int = 0, value: float = 0.5, more: bool | None = True) -> str:
    """Report an epoch; what the trial was told."""
    try:
        RunningTrial(claims, claim).report(epoch, {"m": value}, more=more)
    except (Pruned, Paused) as told:
        return type(told).__name__
    return ""


def pause(claims: Claims, claim: Claim) -> None:
    claims.pause(claim, Job(claim.number, claim.overrides, PAUSED))


def died(claims: Claims) -> None:
    claims.abandon(claims.study.owner["token"], "killed")


def trial(plan: StudyPlan, number: int = 0) -> Any:
    return control(plan).trials()[number]


# ---- one trial


def test_a_running_trial_is_paused_after_its_epoch_and_stays_so_until_it_is_resumed(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    assert "after its epoch (command 1" in control(plan).pause(0)
    assert became(plan) == [PENDING]
    assert report(claims, claim) == "Paused"
    pause(claims, claim)
    assert became(plan) == [DONE]
    assert is_held(trial(plan))
    assert claimed(claims).number == 1
    assert "trial 0 goes on: a worker takes it up next" in control(plan).resume(0)
    again = claimed(claims)
    assert (again.number, again.attempt) == (0, 1)
    assert report(claims, again, 1) == ""
    assert became(plan) == [DONE, DONE]


def test_a_running_trial_is_stopped_after_its_epoch_as_one_that_was_pruned(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    report(claims, claim, 0, 0.8)
    control(plan).stop(0)
    assert report(claims, claim, 1, 0.7) == "Pruned"
    claims.finish(claim, Job(0, claim.overrides, PRUNED, metrics={"m": 0.7}))
    assert became(plan) == [DONE]
    ended = trial(plan)
    assert (ended.state, ended.value) == (TrialState.PRUNED, 0.7)
    assert ended.user_attrs["reason"].endswith("after epoch 2, best m 0.8")


def test_a_trial_that_completes_first_refuses_what_was_asked_of_it(plan: StudyPlan) -> None:
    claims = opened(plan)
    for word in ("pause", "stop"):
        claim = claimed(claims)
        getattr(control(plan), word)(claim.number)
        claims.finish(claim, completed(claim))
    assert became(plan) == [REFUSED, REFUSED]
    assert [command.why for command in control(plan).ledger.commands()] == [
        "trial 0 was complete first",
        "trial 1 was complete first",
    ]


def test_after_its_last_epoch_there_is_nothing_to_pause(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    control(plan).pause(0)
    assert report(claims, claim, more=False) == ""
    claims.finish(claim, completed(claim))
    assert became(plan) == [REFUSED]


@pytest.mark.parametrize(("word", "state"), [("pause", TrialState.RUNNING), ("stop", TrialState.PRUNED)])
def test_whoever_comes_after_a_killed_owner_does_what_was_asked(plan: StudyPlan, word: str, state: TrialState) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    report(claims, claim)
    getattr(control(plan), word)(0)
    died(claims)
    assert claimed(claims).number == 1
    assert became(plan) == [DONE]
    assert trial(plan).state is state
    assert is_held(trial(plan)) == (word == "pause")
    assert trial(plan).user_attrs.get("deaths", 0) <= 1


def test_what_nobody_runs_is_paused_and_stopped_at_once(plan: StudyPlan) -> None:
    claims = opened(plan)
    for _ in range(2):
        claim = claimed(claims)
        report(claims, claim)
        claims.release(claim)
        other = claimed(claims)
        assert other.number == claim.number
        claims.release(other)
        word = "pause" if claim.number == 0 else "stop"
        getattr(control(plan), word)(claim.number)
        assert became(plan)[-1] == DONE
    assert is_held(trial(plan, 0))
    assert trial(plan, 1).state is TrialState.PRUNED
    control(plan).stop(0)
    assert trial(plan, 0).state is TrialState.PRUNED
    assert not is_held(trial(plan, 0))


def test_a_queued_trial_that_is_stopped_teaches_the_sampler_nothing(plan: StudyPlan) -> None:
    study = control(plan_opened(plan))
    study.add(["x=0.25"])
    with pytest.raises(UserError, match="has not begun"):
        control(plan).pause(0)
    assert "had not begun" in control(plan).stop(0)
    ended = trial(plan)
    assert (ended.state, ended.params) == (TrialState.PRUNED, {"x": 0.25})
    assert "before it began" in ended.user_attrs["reason"]
    claims = opened(plan)
    assert claimed(claims).number == 1
    assert [one.state for one in claims._shown()] == [TrialState.FAIL, TrialState.RUNNING]


def plan_opened(plan: StudyPlan) -> StudyPlan:
    opened(plan)
    return plan


def test_a_later_stop_takes_the_place_of_a_pause(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    control(plan).pause(0)
    assert "instead of being paused" in control(plan).stop(0)
    assert became(plan) == [REPLACED, PENDING]
    assert report(claims, claim) == "Pruned"


def test_a_stop_that_comes_between_a_pause_and_its_record_wins(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    control(plan).pause(0)
    assert report(claims, claim) == "Paused"
    control(plan).stop(0)
    pause(claims, claim)
    assert trial(plan).state is TrialState.PRUNED
    assert became(plan) == [REPLACED, DONE]


def test_resume_takes_back_a_pause_that_was_not_done_yet(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    control(plan).pause(0)
    assert "was not paused yet" in control(plan).resume(0)
    assert became(plan) == [REPLACED, DONE]
    assert report(claims, claim) == ""


def test_one_that_was_told_to_pause_as_that_was_taken_back_goes_on(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    control(plan).pause(0)
    assert report(claims, claim) == "Paused"
    control(plan).resume(0)
    pause(claims, claim)
    assert claimed(claims).number == 0


def refused(call: Callable[..., object], *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return caught.value.message


def test_what_contradicts_is_refused(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    study = control(plan)
    assert "has no trial 7" in refused(study.pause, 7)
    assert "trial 0 is not paused" in refused(study.resume, 0)
    study.pause(0)
    assert "is to be paused already" in refused(study.pause, 0)
    study.stop(0)
    assert "is to be stopped already" in refused(study.pause, 0)
    assert "is to be stopped already" in refused(study.stop, 0)
    assert "is to be stopped" in refused(study.resume, 0)
    assert report(claims, claim) == "Pruned"
    claims.finish(claim, Job(0, [], PRUNED))
    for word in ("pause", "resume", "stop"):
        assert "trial 0 is over: it was pruned (stopped by" in refused(getattr(study, word), 0)
    other = claimed(claims)
    report(claims, other)
    claims.release(other)
    study.pause(1)
    assert "is paused already, by" in refused(study.pause, 1)
    assert became(plan) == [REPLACED, DONE, DONE]


def test_a_worker_of_an_older_version_is_not_relied_on(plan: StudyPlan) -> None:
    claims = opened(plan)
    claim = claimed(claims)
    owner = {key: value for key, value in trial(plan).user_attrs["owner"].items() if key != UNDERSTANDS}
    claims.study.set_facts(trial_id(claim.trial), {"owner": owner})
    assert "of an older version" in refused(control(plan).pause, 0)
    assert "of an older version" in refused(control(plan).stop, 0)
    assert "Workers of an older version ignore that, and go on: trial 0" in control(plan).stop_study()
    assert status_of(control(plan)).trials[0].outdated


def test_one_that_waits_at_its_rung_can_be_paused_and_waits_there_again(tmp_path: Path) -> None:
    pruner = {"name": "promote", "min_resource": 1, "reduction_factor": 2}
    plan = toy.make_plan(tmp_path, total=4, pruner=pruner, promotion=Promotion(1, 2))
    claims = opened(plan)
    for value in (0.9, 0.5):
        claim = claimed(claims)
        assert report(claims, claim, 0, value) == "Paused"
        pause(claims, claim)
    assert "waits at rung 0" in refused(control(plan).resume, 0)
    control(plan).pause(0)
    # The best would be promoted; it was paused by hand.
    assert claimed(claims).number == 2
    assert "waits at its rung again" in control(plan).resume(0)
    assert claimed(claims).number == 0


# ---- the study


def starting(plan: StudyPlan, how: str = "here", workers: int = 1) -> Claims:
    claims = opened(plan)
    claims.study.sign(how, workers)
    return claims


def test_a_study_is_stopped_after_the_epochs_of_what_runs(plan: StudyPlan) -> None:
    claims = starting(plan)
    claim = claimed(claims)
    assert "1 running trial finish" in control(plan).stop_study()
    assert "stopping already" in refused(control(plan).stop_study)
    assert claims.claim() is None
    assert status_of(control(plan)).why.startswith("stopping, as ")
    assert report(claims, claim) == "LetGo"
    claims.let_go(claim)
    assert claims.claim() is None
    assert "said so" in str(claims.study.stop_reason(claims.study.trials()))
    claims.study.sign_off("stopped")
    assert status_of(control(plan)).state == STOPPED_STATE
    later = starting(plan)
    again = claimed(later)
    assert (again.number, again.attempt) == (0, 1)
    assert report(later, again, 1) == ""
    assert status_of(control(plan)).state == RUNNING
    # Whoever was stopped stays so.
    assert claims.claim() is None


def test_who_was_killed_as_it_was_to_let_go_is_followed_by_one_that_goes_on(plan: StudyPlan) -> None:
    claims = starting(plan)
    claimed(claims)
    control(plan).stop_study()
    died(claims)
    later = starting(plan)
    claim = claimed(later)
    assert report(later, claim) == ""


def test_nobody_is_told_where_nobody_works(plan: StudyPlan) -> None:
    opened(plan)
    assert "nobody works" in refused(control(plan).stop_study)
    assert "nobody works" in refused(control(plan).workers, 2)
    for how, said in (("here", "in a terminal"), ("launched", "jobs of a launcher")):
        claims = starting(plan, how)
        assert said in refused(control(plan).workers, 2)
        claims.study.sign_off("stopped")


def test_workers_are_asked_of_the_pool_that_there_is(plan: StudyPlan) -> None:
    claims = starting(plan, "pool", 2)
    assert "3 workers instead of 2" in control(plan).workers(3)
    (asked,) = claims.study.asked("workers")
    assert asked.value == 3
    assert "is no number of workers" in refused(control(plan).workers, 0)
    claims.study.sign_off("finished")
    assert became(plan) == [REFUSED]
    assert claims.study.asked("workers") == []


def test_two_pools_are_told_apart(plan: StudyPlan) -> None:
    starting(plan, "pool", 2)
    starting(plan, "pool", 2)
    assert "several terminals" in refused(control(plan).workers, 3)


def test_a_study_whose_last_trials_are_paused_by_hand_is_left_to_people(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=1)
    claims = opened(plan)
    claim = claimed(claims)
    control(plan).pause(0)
    report(claims, claim)
    pause(claims, claim)
    trials = claims.study.trials()
    assert not claims.study.schedule.is_done(trials)
    assert "trial 0 is paused by hand" in str(claims.study.left_to_people(trials))
    # It ends instead of waiting for a person.
    work(claims, None)  # type: ignore[arg-type]


def test_failed_trials_are_tried_again(plan: StudyPlan) -> None:
    claims = opened(plan)
    for _ in range(2):
        claim = claimed(claims)
        claims.finish(claim, Job(claim.number, claim.overrides, "failed", reason="asked"))
    assert "tried again: trial 1" in control(plan).retry("1")
    assert "tried again: trial 0" in control(plan).retry("failed")
    assert "has not failed" in refused(control(plan).retry, "1")
    assert "no trial of the study has failed" in refused(control(plan).retry, "failed")
    assert "has no trial 9" in refused(control(plan).retry, "9")
    assert "names no trial" in refused(control(plan).retry, "all")
    assert [claimed(claims).number, claimed(claims).number] == [2, 3]


# ---- points


@pytest.fixture
def wide(tmp_path: Path) -> StudyPlan:
    """A study of a conditional space."""
    plan = toy.make_plan(tmp_path, total=3, space=SPACE)
    opened(plan)
    return plan


def test_a_point_is_tried_next(wide: StudyPlan) -> None:
    said = control(wide).add(["lr=3e-4", "model=vit"])
    assert said.startswith("trial 0 is to be lr=0.0003 model=vit, the sampler draws batch; ")
    claim = claimed(opened(wide))
    assert claim.overrides[0] == "lr=0.0003"
    assert {"model=vit"} < {*claim.overrides}


def test_a_point_is_cloned_and_changed(wide: StudyPlan) -> None:
    claims = opened(wide)
    control(wide).add(["lr=3e-4", "model=vit", "depth=3", "batch=32"])
    claim = claimed(claims)
    claims.finish(claim, completed(claim))
    control(wide).add(["like=0", "lr=1e-3"])
    assert claimed(claims).overrides == ["lr=0.001", "batch=32", "model=vit", "depth=3"]
    # What no longer applies is left out.
    control(wide).add(["like=0", "model=cnn"])
    assert claimed(claims).overrides == ["lr=0.0003", "batch=32", "model=cnn"]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "names no point", "add like=TRIAL"),
        (["lt=1"], "'lt', which is not swept", "lr"),
        (["lr=1"], "lr=1, which lies outside tag(log, interval(1e-05,0.1))", "one of its values"),
        (["lr=fast"], "lr=fast, which lies outside", "one of its values"),
        (["batch=24"], "outside choice(16,32)", "one of its values"),
        (["depth=3"], "depth, which applies only beside model=vit", "add that as well"),
        (["depth=3", "model=cnn"], "depth, which applies only beside model=vit", "add that as well"),
        (["lr=1e-3", "lr=1e-4"], "'lr' twice", "once"),
        (["lr"], "'lr' is no value", "key=value"),
        (["like=4"], "has no trial 4", "it has none yet"),
        (["like=best"], "has no trial best", "it has none yet"),
    ],
)
def test_what_is_no_point_is_refused(wide: StudyPlan, words: list[str], message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        control(wide).add(words)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert control(wide).trials() == []
    assert became(wide) == []


def test_a_point_that_was_tried_is_refused(wide: StudyPlan) -> None:
    claims = opened(wide)
    point = ["lr=3e-4", "model=cnn", "batch=32"]
    control(wide).add(point)
    assert "trial 0 is that point: it waits for its turn" in refused(control(wide).add, point)
    claim = claimed(claims)
    assert "trial 0 is that point: it runs" in refused(control(wide).add, point)
    claims.finish(claim, completed(claim, 0.75))
    assert "trial 0 is that point: it completed with 0.75" in refused(control(wide).add, ["like=0"])


def test_where_there_is_no_room_the_total_must_grow(wide: StudyPlan) -> None:
    claims = starting(wide)
    for rate in ("1e-2", "1e-3", "1e-4"):
        assert "a worker takes it up next" in control(wide).add([f"lr={rate}"])
    assert "with sweep.n_trials=4 tries it" in control(wide).add(["lr=1e-5"])
    claims.study.sign_off("stopped")
    assert "with sweep.n_trials=5 tries it" in control(wide).add(["lr=5e-5"])


# ---- found and read


def test_a_study_is_found_by_its_folder(plan: StudyPlan) -> None:
    opened(plan)
    assert stored_at(plan.folder, None) == plan.location
    assert stored_at(plan.folder / "elsewhere", None) is None


def test_reading_makes_nothing(tmp_path: Path) -> None:
    for word in ("journal", "sqlite"):
        folder = tmp_path / word
        folder.mkdir()
        with pytest.raises(UserError, match="there is no file"):
            open_existing(locate(word, folder))
        assert list(folder.iterdir()) == []
        plan = toy.make_plan(folder, location=locate(word, folder))
        opened(plan)
        before = {file: file.read_bytes() for file in folder.iterdir()}
        status_of(control(plan))
        assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_a_study_that_is_gone_is_told(plan: StudyPlan) -> None:
    opened(plan)
    plan.location.lock.parent.joinpath("storage.json").unlink()
    for file in plan.folder.glob("study.*"):
        file.unlink()
    assert stored_at(plan.folder, None) is None
    assert "there is no file" in refused(lambda: control(plan))


def test_a_study_of_another_version_is_told(plan: StudyPlan) -> None:
    opened(plan).study.optuna.set_user_attr("format", 99)
    assert "another version (format 99" in refused(lambda: control(plan))


def test_how_a_study_stands(plan: StudyPlan) -> None:
    claims = starting(replace(plan, total=3))
    assert status_of(control(plan)).state == RUNNING
    claim = claimed(claims)
    claims.finish(claim, completed(claim, 0.25))
    other = claimed(claims)
    report(claims, other, 0, 0.5)
    status = status_of(control(plan))
    assert (status.count, status.total, status.left, status.seconds_left) == (1, 3, "2 trials", None)
    assert (status.best[0].number, status.best[0].values, status.epochs) == (0, [0.25], 1)
    (running,) = status.trials
    assert (running.number, running.doing, running.epochs, running.value) == (1, "running", 1, 0.5)
    assert running.process == claims.study.owner["pid"]
    died(claims)
    claims.study.sign_off("interrupted")
    assert (status_of(control(plan)).state, status_of(control(plan)).trials[0].doing) == (INTERRUPTED, "let go of")
    later = starting(replace(plan, total=3))
    for _ in range(2):
        claim = claimed(later)
        later.finish(claim, completed(claim))
    later.study.sign_off("finished")
    assert status_of(control(plan)).state == FINISHED


def test_an_owner_taken_for_dead_acts_on_no_command(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper, other = opened(plan), opened(plan)
    claim = claimed(sleeper)
    control(plan).pause(0)
    monkeypatch.setattr(other.study.watch, "is_dead", lambda owner, beat: True)
    assert claimed(other).number == 1
    with pytest.raises(Taken):
        RunningTrial(sleeper, claim).report(0, {"m": 0.5}, more=True)
    assert became(plan) == [DONE]


def test_the_worker_loop_ends_once_it_is_to_leave(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=4)
    claims = opened(plan)
    claim = claimed(claims)
    claims.leaving.set()
    assert report(claims, claim) == LetGo.__name__
    claims.let_go(claim)
    work(claims, None)  # type: ignore[arg-type]
    assert [one.number for one in claims.study.trials()] == [0]
