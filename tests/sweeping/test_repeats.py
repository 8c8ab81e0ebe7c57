"""Points that are run over several seeds: what is run, what is told of it, and when the first seeds are enough."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from deepfake.errors import UserError
from deepfake.runs.sweep_control import lines_of, open_study
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job, SeedRun
from deepfake.sweeping.repeats import RISK, Repeats, clearly_worse, deviation, mean_metrics
from deepfake.sweeping.seed_runs import end_run, outcome
from deepfake.sweeping.status import status_of
from deepfake.sweeping.sweeper import SweepFailed
from deepfake.sweeping.trial import current
from tests.sweeping import toy

pytestmark = pytest.mark.usefixtures("no_figures")

SPACE = ["x=interval(-2,2)", "sampler=random", "sweep.n_trials=2", "sweep.name=s"]
THREE = ["sweep.repeats=3", "sweep.seed_key=seed"]
#: What the tasks below were run with: trial, seed, attempt, and which run of its point it is.
RAN: list[tuple[int, int, int, int | None]] = []
#: Seeds at which they are to fail, be interrupted or return no number.
FAILING: set[int] = set()
INTERRUPTED: set[int] = set()
NAN: set[int] = set()


@pytest.fixture(autouse=True)
def _clean() -> None:
    for one in (RAN, FAILING, INTERRUPTED, NAN):
        one.clear()


def noisy(config: DictConfig) -> dict[str, Any]:
    """Better near x = 1, and by a hundredth of the seed."""
    trial = current()
    assert trial is not None
    RAN.append((trial.number, config.seed, trial.attempt, trial.repeat))
    trial.report(0, {"score": 0.0})
    if config.seed in INTERRUPTED:
        raise KeyboardInterrupt
    if config.seed in FAILING:
        raise ValueError("asked to fail")
    score = float("nan") if config.seed in NAN else 1.0 - (config.x - 1.0) ** 2 + 0.01 * config.seed
    return {"run_id": f"{trial.number}-{config.seed}", "name": "toy", "metrics": {"score": score, "t_low": 0.0}}


def test_a_points_value_is_the_mean_over_seeds_that_follow_the_configs(tmp_path: Path) -> None:
    jobs = toy.multirun(tmp_path, [*SPACE, *THREE, "seed=5"], noisy).jobs
    assert [row[:2] for row in RAN] == [(0, 5), (0, 6), (0, 7), (1, 5), (1, 6), (1, 7)]
    x = float(jobs[0].overrides[0].removeprefix("x="))
    assert jobs[0].values == [pytest.approx(1.0 - (x - 1.0) ** 2 + 0.06)]
    assert [run.run_id for run in jobs[0].runs] == ["0-5", "0-6", "0-7"]
    assert jobs[0].run_id == "0-5"


def test_each_run_has_a_folder_of_its_own_and_knows_which_it_is(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, *THREE, "sweep.n_trials=1"], noisy)
    assert sorted(path.name for path in (tmp_path / "s" / "0").iterdir()) == ["seed-0", "seed-1", "seed-2"]
    assert [row[3] for row in RAN] == [0, 1, 2]


def test_the_table_tells_mean_spread_and_seeds(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, *THREE, "sweep.n_trials=1"], noisy)
    with (tmp_path / "s" / "trials.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["score_deviation"]) == pytest.approx(0.01)
    assert row["seeds"] == "0 1 2"


def test_another_terminal_is_told_the_spread_of_the_best(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, *THREE, "sweep.n_trials=1"], noisy)
    study = open_study(tmp_path / "s", None)
    assert study is not None
    assert " ± 0.01 over 3 seeds (trial 0)" in lines_of(status_of(study))[1]


def test_one_run_a_point_leaves_everything_as_it_was(tmp_path: Path) -> None:
    toy.multirun(tmp_path, [*SPACE, "sweep.repeats=1"], noisy)
    assert [row[3] for row in RAN] == [None, None]
    head = (tmp_path / "s" / "trials.csv").read_text().splitlines()[0]
    assert head == "trial,status,score,x,seconds,run_id,run_dir,reason,traceback"


def test_an_interrupted_point_goes_on_with_the_seed_it_was_at(tmp_path: Path) -> None:
    INTERRUPTED.add(1)
    with pytest.raises(KeyboardInterrupt):
        toy.multirun(tmp_path, [*SPACE, *THREE], noisy)
    INTERRUPTED.clear()
    RAN.clear()
    jobs = toy.multirun(tmp_path, [*SPACE, *THREE], noisy).jobs
    # The interrupted run may go on from a checkpoint, those after it begin.
    assert RAN[:3] == [(0, 1, 1, 1), (0, 2, 0, 2), (1, 0, 0, 0)]
    assert [len(job.runs) for job in jobs] == [3, 3]


def test_a_seed_that_fails_fails_its_point_and_is_alone_tried_again(tmp_path: Path) -> None:
    FAILING.add(1)
    jobs = _failed(tmp_path, [*SPACE, *THREE])
    assert [job.reason for job in jobs] == ["seed=1: ValueError: asked to fail"] * 2
    FAILING.clear()
    RAN.clear()
    jobs = toy.multirun(tmp_path, [*SPACE, *THREE, "sweep.retry=failed"], noisy).jobs
    assert [row[:2] for row in RAN] == [(2, 1), (2, 2), (3, 1), (3, 2)]
    assert [job.status for job in jobs] == [COMPLETED, COMPLETED]


def test_a_seed_without_a_number_fails_its_point(tmp_path: Path) -> None:
    NAN.add(2)
    jobs = _failed(tmp_path, [*SPACE, *THREE])
    assert {job.reason for job in jobs} == {"seed=2: score is nan"}


def test_a_swept_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed is swept"):
        toy.multirun(tmp_path, [*SPACE, *THREE, "seed=0,1"], noisy)


@pytest.mark.parametrize("other", ["pruner=promote", "sweep.fuse=4"])
def test_what_does_not_go_with_repeats_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(UserError, match=r"sweep\.repeats=3"):
        toy.multirun(tmp_path, [*SPACE, *THREE, other], noisy)


def test_an_app_that_names_no_seed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs the key that holds a run's seed"):
        toy.multirun(tmp_path, [*SPACE, "sweep.repeats=2"], noisy)


def test_a_key_that_holds_no_whole_number_is_no_seed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"counts lr on, and it is 0\.1"):
        toy.multirun(tmp_path, [*SPACE, "sweep.repeats=2", "sweep.seed_key=lr"], noisy)


def test_a_study_that_was_begun_without_repeats_is_another(tmp_path: Path) -> None:
    toy.multirun(tmp_path, SPACE, noisy)
    with pytest.raises(UserError, match=r"judged by sweep\.repeats is new"):
        toy.multirun(tmp_path, [*SPACE, *THREE], noisy)


def test_every_point_of_a_grid_is_run_over_its_seeds(tmp_path: Path) -> None:
    toy.multirun(tmp_path, ["x=0.5,1.5", "sweep.name=s", *THREE], noisy)
    assert sorted(row[:2] for row in RAN) == [(n, seed) for n in (0, 1) for seed in (0, 1, 2)]


def test_the_spread_is_told_over_the_runs_of_each_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, ["x=0.5,1.5", "sweep.name=s", "sweep.report=spread", *THREE], noisy)
    rows = list(csv.DictReader((tmp_path / "s" / "spread.csv").open()))
    told = {row["chosen"]: row for row in rows if row["metric"] == "score"}
    assert (told["x=0.5"]["runs"], told["x=0.5"]["of"]) == ("3", "3")
    assert float(told["x=1.5"]["standard_deviation"]) == pytest.approx(0.01)


def test_each_run_is_pruned_by_its_own_reports(tmp_path: Path) -> None:
    # Half of those that report 0.2 or more go on: the second point's second run falls behind, its first did not.
    values = {(0, 0): 0.5, (0, 1): 0.5, (1, 0): 0.9, (1, 1): 0.1}

    def task(config: DictConfig) -> dict[str, Any]:
        trial = current()
        assert trial is not None
        RAN.append((trial.number, config.seed, 0, trial.repeat))
        score = values[trial.number, config.seed]
        trial.report(0, {"score": score})
        return {"metrics": {"score": score}}

    pruned = ["pruner=median", "sweep.pruner.n_startup_trials=0", "sweep.pruner.n_warmup_steps=0"]
    result = toy.multirun(tmp_path, [*SPACE, *pruned, "sweep.repeats=2", "sweep.seed_key=seed"], task)
    assert [job.status for job in result.jobs] == [COMPLETED, PRUNED]
    assert [row[:2] for row in RAN] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_workers_share_points_that_are_run_over_seeds(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, repeats=Repeats("seed", 0, 2))
    one, other = toy.opened(plan), toy.opened(plan)
    claims = [toy.claimed(one), toy.claimed(other)]
    for number, (owner, claim) in enumerate(zip((one, other), claims, strict=True)):
        assert outcome(owner, claim) is None
        second = end_run(owner, claim, toy.completed(claim, 1.0 + number), epochs=3)
        done = end_run(owner, second, toy.completed(claim, 2.0 + number), epochs=4)
        owner.finish(done, _outcome(owner, done))
    trials = one.study.trials()
    assert [trial.value for trial in trials] == [1.5, 2.5]
    # Epochs of all runs count as progress.
    assert [trial.user_attrs["progress"] for trial in trials] == [7, 7]


def test_a_process_that_died_between_the_last_run_and_the_end_leaves_nothing_to_run(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, repeats=Repeats("seed", 0, 2))
    dying = toy.opened(plan)
    claim = toy.claimed(dying)
    for _ in range(2):
        claim = end_run(dying, claim, toy.completed(claim), epochs=0)
    dying.abandon(dying.study.owner["token"], "killed")
    later = toy.opened(plan)
    job = outcome(later, toy.claimed(later))
    assert job is not None
    assert job.status == COMPLETED


def test_a_point_that_is_clearly_worse_is_run_over_no_more_seeds(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, total=4, repeats=Repeats("seed", 0, 3))
    claims = toy.opened(plan)
    for values in ([0.90, 0.91, 0.92], [0.88, 0.90, 0.89], [0.91, 0.89, 0.90]):
        claim = toy.claimed(claims)
        for value in values:
            assert outcome(claims, claim) is None
            claim = end_run(claims, claim, toy.completed(claim, value), epochs=1)
        claims.finish(claim, _outcome(claims, claim))
    claim = toy.claimed(claims)
    claim = end_run(claims, claim, toy.completed(claim, 0.5), epochs=1)
    job = _outcome(claims, claim)
    assert (job.status, job.reason) == (PRUNED, "clearly worse than the best by 1 of 3 seeds")


def test_several_objectives_are_run_over_all_seeds(tmp_path: Path) -> None:
    def task(config: DictConfig) -> list[float]:
        RAN.append((0, config.seed, 0, None))
        return [config.x, -config.x]

    both = ["sweep.objective=[a,b]", "sweep.direction=[maximize,minimize]"]
    result = toy.multirun(tmp_path, [*SPACE, *THREE, *both, "sweep.n_trials=3"], task)
    assert len(RAN) == 9
    assert all(len(job.values) == 2 for job in result.jobs)


def test_ends_of_intervals_are_left_out_of_the_mean() -> None:
    runs = [SeedRun(seed, {"a": seed, "a_low": 0.0, "a_high": 1.0, "b": 2.0 * seed}) for seed in (1, 2)]
    assert mean_metrics(runs) == {"a": 1.5, "b": 3.0}
    assert mean_metrics(runs, ["a_low"]) == {"a": 1.5, "a_low": 0.0, "b": 3.0}
    assert deviation(runs[:1], "a") is None


@pytest.mark.parametrize("noise", ["normal", "heavy", "by_seed"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_best_point_is_hardly_ever_dropped(noise: str, count: int) -> None:
    # Twenty points that are all as good: whichever comes last is as hard to tell from the best as can be.
    draw, studies, points = np.random.default_rng(count), 600, 20
    dropped = 0
    for _ in range(studies):
        table = draw.standard_normal((points, count))
        if noise == "heavy":
            table = draw.standard_t(4, (points, count))
        if noise == "by_seed":
            table += 2.0 * draw.standard_normal(count)
        others = table[:-1].tolist()
        dropped += any(clearly_worse(table[-1, :k].tolist(), others, maximize=True) for k in range(1, count))
    assert dropped / studies <= RISK


def test_what_is_far_behind_is_dropped() -> None:
    draw = np.random.default_rng(0)
    dropped = 0
    for _ in range(200):
        others = draw.standard_normal((10, 3)).tolist()
        dropped += clearly_worse((draw.standard_normal(1) - 8.0).tolist(), others, maximize=True)
    assert dropped >= 190


def test_nothing_is_dropped_while_the_spread_is_not_known() -> None:
    assert not clearly_worse([-100.0], [[1.0, 1.1, 1.2]], maximize=True)


def test_where_seeds_change_nothing_the_first_tells() -> None:
    others = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    assert clearly_worse([1.5], others, maximize=True)
    assert not clearly_worse([2.0], others, maximize=True)
    assert not clearly_worse([0.5], others, maximize=False)


def _failed(folder: Path, overrides: list[str]) -> list[Job]:
    with pytest.raises(SweepFailed) as failure:
        toy.multirun(folder, overrides, noisy)
    assert all(job.status == FAILED for job in failure.value.jobs)
    return failure.value.jobs


def _outcome(claims: Any, claim: Any) -> Job:
    job = outcome(claims, claim)
    assert isinstance(job, Job)
    return job
