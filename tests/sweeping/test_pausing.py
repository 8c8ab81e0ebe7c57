"""Studies that pause and promote: jobs that go on from where they were, under kills and budgets, by several owners."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import UserError
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.budget import Budget, parse_budget
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PAUSED, Job
from deepfake.sweeping.claims import Claim, Claims
from deepfake.sweeping.facts import PAUSED as RUNG
from deepfake.sweeping.facts import UNTIL, is_paused, steps_of
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.storage import locate, open_storage
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import Paused, Taken, current
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened


@pytest.fixture(autouse=True)
def _no_figures(no_figures: None) -> None:
    """Drawing takes longer than everything else."""


EPOCHS = 9
HALVING = ["pruner=promote", "sweep.pruner.min_resource=1", "sweep.pruner.reduction_factor=3"]
PLAIN = ["x=interval(0,1)", "sampler=random", "sweep.name=s", f"epochs={EPOCHS}"]
STUDY = [*PLAIN, *HALVING]


def study(folder: Path, *more: str, function: Any = toy.resumable) -> Any:
    return toy.multirun(folder, [*STUDY, *more], function)


def uninterrupted(x: float) -> float:
    """What the number comes to that the job trains."""
    weight = x
    for epoch in range(EPOCHS):
        weight = toy.trained_further(weight, epoch)
    return weight


def trained(folder: Path) -> Counter[tuple[int, int]]:
    """How often each epoch of each trial was trained."""
    lines = (folder / "trained").read_text().splitlines()
    return Counter((int(number), int(epoch)) for number, epoch in map(str.split, lines))


def trials_of(folder: Path) -> list[FrozenTrial]:
    storage = open_storage(locate("journal", folder / "s"))
    return optuna.load_study(study_name="s", storage=storage).get_trials()


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "s" / "trials.csv").open()))


def check_completed(result: Any) -> None:
    """They came out as if nothing had interrupted them."""
    done = [job for job in result.jobs if job.status == "completed"]
    assert done
    assert all(job.metrics["weight"] == uninterrupted(job.metrics["score"]) for job in done)


def check_ends_agree(folder: Path, result: Any) -> None:
    """The same, and none waits that should have gone on."""
    check_completed(result)
    trials = trials_of(folder)
    for rung, epochs in enumerate((1, 3)):
        reached = [trial for trial in trials if steps_of(trial) >= epochs]
        best = sorted(reached, key=lambda trial: -trial.intermediate_values[epochs])[: len(reached) // 3]
        assert best
        assert not any(is_paused(trial) and trial.user_attrs[RUNG] == rung for trial in best)


def test_each_epoch_is_trained_once_and_what_completes_is_that_of_uninterrupted_trials(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=12")
    assert result.status == "finished"
    counts = trained(tmp_path)
    assert set(counts.values()) == {1}
    check_ends_agree(tmp_path, result)
    told = table(tmp_path)
    assert len(told) == 12
    assert {row["status"] for row in told} == {"completed", "paused"}
    for row in told:
        epochs = sum(number == int(row["trial"]) for number, _ in counts)
        assert (int(row["epochs"]), row["bracket"], row["rung"]) == (epochs, "0", str(round(math.log(epochs, 3))))
        assert (row["reason"] == f"at rung {row['rung']}, after epoch {epochs}") == (row["status"] == "paused")


@pytest.mark.slow
def test_more_trials_let_others_rise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {job.number: job.status for job in study(tmp_path, "sweep.n_trials=6").jobs}
    assert "resumable: the same command with a larger sweep.n_trials goes on" in capsys.readouterr().out
    result = study(tmp_path, "sweep.n_trials=21")
    assert "6 trials have ended" not in capsys.readouterr().out
    assert set(trained(tmp_path).values()) == {1}
    check_ends_agree(tmp_path, result)
    assert len(result.jobs) == 21
    risen = [job.number for job in result.jobs if before.get(job.number) == "paused" and job.status == "completed"]
    risen += [row["trial"] for row in table(tmp_path) if before.get(int(row["trial"])) and int(row["epochs"]) > 1]
    assert risen


def test_a_second_start_adds_nothing(tmp_path: Path) -> None:
    study(tmp_path, "sweep.n_trials=6")
    before = trained(tmp_path)
    assert study(tmp_path, "sweep.n_trials=6").status == "finished"
    assert trained(tmp_path) == before


@pytest.mark.slow
def test_a_budget_counts_epochs_and_a_larger_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for budget in (20, 60):
        result = study(tmp_path, f"sweep.budget={budget}")
        spent = trained(tmp_path).total()
        # What was begun last goes on to its rung.
        assert budget <= spent < budget + 6
        assert f"spent: {spent} of {budget} epochs" in capsys.readouterr().out
        assert result.status == "finished"
    assert set(trained(tmp_path).values()) == {1}
    assert result.info.total is None
    check_completed(result)
    assert len(result.jobs) > 20


def test_with_a_budget_a_typed_total_is_a_limit_too(tmp_path: Path) -> None:
    assert len(study(tmp_path, "sweep.budget=1000", "sweep.n_trials=4").jobs) == 4


@pytest.mark.parametrize("budget", ["0", "-3", "2.5", "soon", "0h", "[1]", "true"])
def test_what_is_no_budget_is_told(tmp_path: Path, budget: str) -> None:
    with pytest.raises(UserError, match=r"sweep\.budget"):
        study(tmp_path, f"sweep.budget={budget}")
    assert not (tmp_path / "s" / "study.journal").exists()


def test_a_budget_below_the_first_rung_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.budget=3 epochs take no trial to its first rung, at 4"):
        study(tmp_path, "sweep.budget=3", "sweep.pruner.min_resource=4")


def test_a_budget_that_begins_without_end_is_no_reason_to_wait(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.pruner\.eager=false promotes once all trials have begun"):
        study(tmp_path, "sweep.budget=30", "sweep.pruner.eager=false")


@pytest.mark.parametrize(
    ("given", "eager"),
    [
        (["sweep.n_trials=9"], False),
        (["sweep.n_trials=9", "sweep.timeout=1h"], True),
        (["sweep.budget=30"], True),
        (["sweep.n_trials=9", "sweep.pruner.eager=true"], True),
    ],
    ids=str,
)
def test_all_begin_first_where_their_number_alone_ends_the_study(tmp_path: Path, given: list[str], eager: bool) -> None:
    study(tmp_path, *given)
    numbers = [int(line.split()[0]) for line in (tmp_path / "trained").read_text().splitlines()]
    begun = [number for place, number in enumerate(numbers) if number not in numbers[:place]]
    # Whether one is gone on with before the last one has begun.
    again = next(place for place, number in enumerate(numbers) if place and number < numbers[place - 1])
    assert (numbers.index(begun[-1]) > again) is eager


def test_a_budget_counts_without_promotion(tmp_path: Path) -> None:
    result = toy.multirun(tmp_path, [*PLAIN, "sweep.budget=20"])
    assert (len(result.jobs), result.status) == (3, "finished")


def test_hours_are_read_as_such() -> None:
    assert parse_budget("4h") == Budget(4 * 3600, in_epochs=False)
    assert parse_budget("400") == parse_budget(400) == Budget(400, in_epochs=True)


def test_a_job_that_cannot_go_on_is_refused_at_its_first_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pruner=promote pauses trials") as caught:
        study(tmp_path, "sweep.n_trials=5", function=toy.task)
    assert "more=" in caught.value.hint
    assert [trial.state for trial in trials_of(tmp_path)] == [TrialState.FAIL]


def test_a_wrong_argument_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pruner=promote refuses its settings: reduction_factor=1 is no whole number"):
        study(tmp_path, "sweep.pruner.reduction_factor=1")
    with pytest.raises(UserError, match="pruner=promote takes no 'max_resource'"):
        study(tmp_path, "+sweep.pruner.max_resource=9")


def ends_early(config: DictConfig) -> dict[str, Any]:
    """Patience runs out after the second epoch."""
    trial = current()
    assert trial is not None
    for epoch in range(trial.attempt and 2, 2):
        trial.report(epoch, {"score": config.x}, more=epoch == 0)
    return {"metrics": {"score": config.x}}


def test_a_trial_that_ends_before_its_rung_completes(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=4", "sweep.pruner.min_resource=3", function=ends_early)
    assert [job.status for job in result.jobs] == ["completed"] * 4


def test_a_trial_that_ends_at_its_rung_completes(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=4", "sweep.pruner.min_resource=2", function=ends_early)
    assert [job.status for job in result.jobs] == ["completed"] * 4


def sometimes(config: DictConfig) -> dict[str, Any]:
    """Below 0.2 it fails in its second epoch, below 0.5 it reports what is no number."""
    trial = current()
    assert trial is not None
    for epoch in range(trial.attempt, EPOCHS):
        if config.x < 0.2:
            raise ValueError("asked to fail")
        trial.report(epoch, {"score": math.nan if config.x < 0.5 else config.x}, more=epoch + 1 < EPOCHS)
    return {"metrics": {"score": config.x}}


@pytest.mark.slow
def test_what_is_no_number_waits_for_ever_and_failures_are_told(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=20", "sweep.max_failures=null", function=sometimes)
    for job in result.jobs:
        x = float(job.overrides[0].partition("=")[2])
        if x < 0.5:
            assert (job.status, "at rung 0" in (job.reason or "")) == (("failed", False) if x < 0.2 else (PAUSED, True))
    assert any(job.status == "completed" for job in result.jobs)
    again = study(tmp_path, "sweep.n_trials=20", "sweep.max_failures=null", "sweep.retry=failed")
    assert {job.status for job in again.jobs} == {"completed", PAUSED}


def silent(config: DictConfig) -> dict[str, Any]:
    """Never reports the objective as it goes."""
    trial = current()
    assert trial is not None
    for epoch in range(EPOCHS):
        trial.report(epoch, {"other": 1.0}, more=epoch + 1 < EPOCHS)
    return {"metrics": {"score": config.x}}


def test_where_there_is_nothing_to_judge_nothing_is_paused(tmp_path: Path) -> None:
    assert [job.status for job in study(tmp_path, "sweep.n_trials=3", function=silent).jobs] == ["completed"] * 3


@pytest.mark.slow
def test_time_that_is_over_pauses_and_the_same_command_goes_on(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=12", "sweep.timeout=0.001")
    assert result.status == "stopped"
    result = study(tmp_path, "sweep.n_trials=12")
    assert result.status == "finished"
    check_ends_agree(tmp_path, result)


def test_another_pruner_later_takes_paused_trials_to_their_end(tmp_path: Path) -> None:
    study(tmp_path, "sweep.n_trials=6")
    result = toy.multirun(tmp_path, [*PLAIN, "sweep.n_trials=6", "pruner=none"], toy.resumable)
    assert [job.status for job in result.jobs] == ["completed"] * 6
    assert set(trained(tmp_path).values()) == {1}


@pytest.mark.slow
def test_brackets_begin_with_more_epochs(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=24", "sweep.pruner.brackets=3")
    told = table(tmp_path)
    assert {row["bracket"] for row in told} == {"0", "1", "2"}
    for row in told:
        assert int(row["epochs"]) in {"0": (1, 3, 9), "1": (3, 9), "2": (9,)}[row["bracket"]]
    assert all(row["status"] == "completed" for row in told if row["bracket"] == "2")
    assert result.status == "finished"


@pytest.mark.slow
def test_workers_side_by_side_train_no_epoch_twice(tmp_path: Path) -> None:
    result = study(tmp_path, "sweep.n_trials=20", "sweep.n_jobs=2")
    assert result.status == "finished"
    assert set(trained(tmp_path).values()) == {1}
    check_ends_agree(tmp_path, result)


# ---- owners


@pytest.fixture
def halved(tmp_path: Path) -> StudyPlan:
    """Rungs at 1, 2 and 4 epochs, one in two goes on; four trials."""
    pruner = {"name": "promote", "min_resource": 1, "reduction_factor": 2}
    return toy.make_plan(tmp_path, total=4, pruner=pruner, promotion=Promotion(1, 2))


def go(claims: Claims, claim: Claim, values: Sequence[float], first: int = 0) -> bool:
    """Report epochs; whether the trial was paused at one, its state saved."""
    running = RunningTrial(claims, claim)
    try:
        for epoch, value in enumerate(values, start=first):
            running.report(epoch, {"m": value}, more=True)
    except Paused:
        return True
    return False


def pause(claims: Claims, claim: Claim) -> None:
    claims.pause(claim, Job(claim.number, claim.overrides, PAUSED, seconds=1.0))


def paused(claims: Claims) -> list[int]:
    return [trial.number for trial in claims.study.trials() if is_paused(trial)]


def died(claims: Claims) -> list[int]:
    return claims.abandon(claims.study.owner["token"], "killed")


def waiting(claims: Claims, *values: float) -> None:
    """So many trials that wait at the lowest rung."""
    for value in values:
        claim = claimed(claims)
        assert go(claims, claim, [value])
        pause(claims, claim)


def test_the_best_of_its_rung_goes_on_at_once_and_under_its_number(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.5)
    claim = claimed(claims)
    assert not go(claims, claim, [0.9])
    assert go(claims, claim, [0.9], first=1)
    assert steps_of(claims.study.trials()[1]) == 2


def test_two_processes_never_promote_one_trial(halved: StudyPlan) -> None:
    claims, other = opened(halved), opened(halved)
    waiting(claims, 0.9, 0.5)
    assert claimed(claims).number == 0
    assert [claimed(other).number, claimed(other).number, other.claim()] == [2, 3, None]


def test_a_promoted_trial_is_begun_again_with_a_further_attempt(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.9, 0.5)
    claim = claimed(claims)
    assert (claim.number, claim.attempt, claims.study.trials()[0].user_attrs[UNTIL]) == (0, 1, 2)


def test_one_killed_before_its_pause_was_recorded_is_paused_by_the_next(halved: StudyPlan) -> None:
    claims = opened(halved)
    claim = claimed(claims)
    assert go(claims, claim, [0.9])
    assert died(claims) == [0]
    assert claimed(claims).number == 1
    assert paused(claims) == [0]


def test_one_killed_as_it_was_promoted_goes_on_to_the_same_rung(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.9, 0.5)
    for attempt in (1, 2, 3):
        claim = claimed(claims)
        assert (claim.number, claim.attempt) == (0, attempt)
        assert claims.study.trials()[0].user_attrs[UNTIL] == 2
        died(claims)


def test_one_killed_after_it_was_let_past_is_not_paused(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.5)
    claim = claimed(claims)
    assert not go(claims, claim, [0.9])
    died(claims)
    again = claimed(claims)
    assert (again.number, again.attempt) == (1, 1)
    # Its state had not been saved: the epoch is told again, and judged no more.
    assert not go(claims, again, [0.9])
    assert go(claims, again, [0.9], first=1)


def test_one_killed_after_its_last_epoch_is_taken_up_to_end(halved: StudyPlan) -> None:
    claims = opened(halved)
    claim = claimed(claims)
    RunningTrial(claims, claim).report(0, {"m": 0.5}, more=False)
    died(claims)
    assert claimed(claims).number == 0


def test_an_interrupted_trial_goes_on_before_others_begin(halved: StudyPlan) -> None:
    claims = opened(replace(halved, promotion=Promotion(2, 2)))
    claim = claimed(claims)
    assert not go(claims, claim, [0.9])
    claims.release(claim)
    assert claimed(claims).number == 0


def test_an_owner_taken_for_dead_pauses_nothing(halved: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper, other = opened(replace(halved, promotion=Promotion(2, 2))), opened(halved)
    claim = claimed(sleeper)
    monkeypatch.setattr(other.study.watch, "is_dead", lambda owner, heartbeat: True)
    assert claimed(other).number == claim.number
    pause(sleeper, claim)
    assert paused(other) == []
    with pytest.raises(Taken):
        go(sleeper, claim, [0.9])


def test_a_study_waits_while_one_runs_that_may_let_others_rise(halved: StudyPlan) -> None:
    claims = opened(replace(halved, total=2))
    waiting(claims, 0.9)
    last = claimed(claims)
    assert claims.claim() is None
    assert not claims.study.schedule.is_done(claims.study.trials())
    assert go(claims, last, [0.5])
    pause(claims, last)
    assert not claims.study.schedule.is_done(claims.study.trials())
    risen = claimed(claims)
    assert risen.number == 0
    assert go(claims, risen, [0.9], first=1)
    pause(claims, risen)
    # None has completed, so the best goes on to its end.
    assert not claims.study.schedule.is_done(claims.study.trials())
    last = claimed(claims)
    assert last.number == 0
    claims.finish(last, Job(0, last.overrides, COMPLETED, values=[0.9]))
    assert claims.study.schedule.is_done(claims.study.trials())
    assert claims.claim() is None


def test_a_study_does_not_end_without_a_result(halved: StudyPlan) -> None:
    claims = opened(replace(halved, total=2, promotion=Promotion(1, 3)))
    waiting(claims, 0.5, 0.9)
    for first, more in ((1, 2), (3, 6)):
        claim = claimed(claims)
        assert claim.number == 1
        assert claims.claim() is None
        assert go(claims, claim, [0.9] * more, first=first)
        pause(claims, claim)
    claim = claimed(claims)
    claims.finish(claim, completed(claim))
    assert claims.claim() is None
    assert claims.study.schedule.is_done(claims.study.trials())


def test_all_begin_before_one_is_promoted_where_that_is_asked_for(halved: StudyPlan) -> None:
    claims = opened(replace(halved, promotion=Promotion(1, 2, eager=False)))
    waiting(claims, 0.5, 0.9, 0.7)
    last = claimed(claims)
    assert last.number == 3
    assert go(claims, last, [0.6])
    pause(claims, last)
    assert [claimed(claims).number, claimed(claims).number] == [1, 2]


def test_older_programs_take_a_paused_trial_to_its_end(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.9, 0.5)
    # One that knows of no promotion sees a trial that somebody let go of.
    older = opened(replace(halved, promotion=None, pruner={"name": "none"}))
    claim = claimed(older)
    assert (claim.number, claim.attempt) == (0, 1)
    assert not go(older, claim, [0.9] * 5, first=1)
    assert claimed(claims).number == 2
    older.finish(claim, completed(claim))
    assert paused(claims) == [1]


def test_rungs_may_differ_between_starts(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.9, 0.5)
    # Below the lowest rung nobody waits: both go on to it first.
    higher = opened(replace(halved, promotion=Promotion(3, 2)))
    for number in (0, 1):
        claim = claimed(higher)
        assert (claim.number, higher.study.trials()[number].user_attrs[UNTIL]) == (number, 3)
        assert go(higher, claim, [0.5, 0.5], first=1)
        pause(higher, claim)
    assert claimed(higher).number == 0


def test_a_pause_is_no_failure_in_a_row(halved: StudyPlan) -> None:
    claims = opened(replace(halved, max_failures=2))
    for number in range(3):
        claim = claimed(claims)
        if number == 1:
            assert go(claims, claim, [0.9])
            pause(claims, claim)
        else:
            claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"))
    assert claims.study.schedule.stop_reason(claims.study.trials()) is None


def test_a_budget_counts_what_runs_up_to_its_rung(halved: StudyPlan) -> None:
    claims = opened(replace(halved, total=None, promotion=Promotion(2, 2), budget=Budget(4, in_epochs=True)))
    first, second = claimed(claims), claimed(claims)
    assert claims.claim() is None
    assert not claims.study.schedule.is_done(claims.study.trials())
    assert go(claims, first, [0.9, 0.9])
    # The better of two now, but nothing is left.
    assert go(claims, second, [1.0, 1.0])
    pause(claims, first)
    pause(claims, second)
    assert claims.claim() is None
    assert claims.study.schedule.is_done(claims.study.trials())
    more = opened(replace(claims.plan, budget=Budget(5, in_epochs=True)))
    assert claimed(more).number == 1


def test_epochs_told_again_after_a_kill_count_once(halved: StudyPlan) -> None:
    budget = Budget(100, in_epochs=True)
    claims = opened(replace(halved, budget=budget, promotion=Promotion(4, 2)))
    for _ in range(3):
        claim = claimed(claims)
        assert not go(claims, claim, [0.9, 0.9])
        died(claims)
    assert budget.spent(claims.study.trials()) == 2


def test_hours_add_up_over_attempts(halved: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("deepfake.sweeping.agent.time.monotonic", lambda: now[0])
    budget = Budget(100.0, in_epochs=False)
    claims = opened(replace(halved, budget=budget, promotion=Promotion(4, 2)))
    for attempt in range(3):
        running = RunningTrial(claims, claimed(claims))
        now[0] += 20
        running.report(attempt, {"m": 0.9}, more=True)
        now[0] += 7
        died(claims)
    # What was not reported any more is not known.
    assert budget.spent(claims.study.trials()) == 60
    assert not budget.is_spent(claims.study.trials())
    assert budget.describe(claims.study.trials()) == "0.0167 of 0.02778 hours"


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_pauses_and_promotions_reach_every_storage(halved: StudyPlan, storage: str) -> None:
    claims = opened(replace(halved, location=locate(storage, halved.folder)))
    waiting(claims, 0.5, 0.4)
    claim = claimed(claims)
    assert (claim.number, paused(claims)) == (0, [1])
    assert go(claims, claim, [0.5], first=1)
    pause(claims, claim)
    assert paused(opened(claims.plan)) == [0, 1]


def test_a_failed_trial_that_is_tried_again_counts_once_at_a_rung(halved: StudyPlan) -> None:
    claims = opened(replace(halved, total=9))
    for value in (0.5, 0.6):
        claim = claimed(claims)
        go(claims, claim, [value])
        claims.finish(claim, Job(claim.number, claim.overrides, FAILED, reason="r"))
    claims.study.retry("failed")
    waiting(claims, 0.5)
    # Alone at its rung, as the failed ones count no more.
    assert claimed(claims).number == 3


@pytest.mark.parametrize(
    ("asked", "word"), [(["pruner=promote"], "pruner=promote goes by"), (["sweep.budget=9"], "sweep.budget=9 is spent")]
)
def test_no_order_is_kept_of_what_goes_by_the_moment(tmp_path: Path, asked: list[str], word: str) -> None:
    with pytest.raises(UserError, match=word):
        toy.multirun(tmp_path, [*PLAIN, *asked, "sweep.ordered=true"], toy.resumable)


def test_a_study_begun_in_order_promotes_nothing(halved: StudyPlan) -> None:
    opened(replace(halved, promotion=None, pruner={"name": "none"}, ordered=True))
    with pytest.raises(UserError, match="begun in order, and pruner=promote goes by what runs at once"):
        opened(halved)


def test_samplers_see_a_paused_trial_as_pruned(halved: StudyPlan) -> None:
    claims = opened(halved)
    waiting(claims, 0.5)
    claim = claimed(claims)
    shown = claim.trial.study.get_trials(deepcopy=False)
    assert [trial.state for trial in shown] == [TrialState.PRUNED, TrialState.RUNNING]
    assert (shown[0].intermediate_values, shown[0].datetime_complete is None) == ({1: 0.5}, False)
    assert claims.study.trials()[0].state is TrialState.RUNNING
