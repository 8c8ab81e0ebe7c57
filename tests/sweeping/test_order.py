"""Ordered studies come out the same whoever runs them; what that asks of samplers, pruners and later starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.simulation import Row, simulate, table
from deepfake.errors import UserError
from deepfake.sweeping.agent import RunningTrial
from deepfake.sweeping.order import LAG, Order
from deepfake.sweeping.pool import worker_environment
from deepfake.sweeping.samplers import PRUNERS, SAMPLERS, SamplerKind, check_ordered
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.trial import Pruned
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened

SWEEPS = Path(__file__).parents[2] / "sweeps"
#: A continuous space with words among it, one of numbers, a finite one and one of which parts apply sometimes.
MIXED = {"x": "interval(0.0,1.0)", "y": "interval(0.0,1.0)", "kind": "choice(aa,b,cccc)"}
NUMBERS = {"x": "interval(0.0,1.0)", "y": "interval(0.0,1.0)"}
FINITE = {"x": "range(0.0,1.0,step=0.1)", "kind": "choice(aa,b,cccc)"}
CONDITIONAL = {"kind": "choice(aa,b)", "x": "interval(0.0,1.0)", "z": {"space": "range(0,50)", "when": {"kind": "b"}}}
SPACES = {"cmaes": NUMBERS, "grid": FINITE, "bruteforce": FINITE}
#: So that they leave their first, random trials behind within a few.
EARLY: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "cmaes": {"popsize": 4},
    "nsga2": {"population_size": 4},
    "nsga3": {"population_size": 4},
}
ASHA = {"name": "asha", "min_resource": 1, "reduction_factor": 2}


def settings(group: str, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((SWEEPS / group / f"{name}.yaml").read_text()))


def ordered_plan(folder: Path, sampler: str = "tpe", pruner: str = "asha", **given: Any) -> StudyPlan:
    plan: dict[str, Any] = {
        "space": SPACES.get(sampler, MIXED),
        "sampler": {**settings("sampler", sampler), **EARLY.get(sampler, {})},
        "pruner": {**settings("pruner", pruner), **({"min_resource": 1} if pruner == "asha" else {})},
        "total": 12,
        "ordered": True,
        "lag": 3,
        "retries": 1000,
    }
    if pruner == "threshold":
        plan["pruner"]["lower"] = 0.3
    return toy.make_plan(folder, **{**plan, **given})


def outcome(folder: Path, workers: int, seed: int, deaths: float = 0.0, fails: int = 0, **given: Any) -> list[Row]:
    return simulate(ordered_plan(folder, **given), workers, seed, deaths=deaths, fails=fails, epochs=4).table


def test_a_study_is_the_same_with_one_worker_and_with_three_that_die(tmp_path: Path) -> None:
    alone, together = outcome(tmp_path / "1", 1, 0), outcome(tmp_path / "3", 3, 1, deaths=0.1)
    assert together == alone
    assert {"COMPLETE", "PRUNED"} <= {row[1] for row in alone}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(("storage", "total"), [("journal", 24), ("sqlite", 7)])
def test_a_study_is_the_same_with_more_workers_than_are_kept_busy(storage: str, total: int, tmp_path: Path) -> None:
    tables = []
    for workers in (1, 6):
        folder = tmp_path / str(workers)
        given = {"location": locate(storage, folder), "total": total}
        tables.append(outcome(folder, workers, workers, deaths=0.05, **given))
    assert tables[1] == tables[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"tpe"}))
def test_every_sampler_that_says_so_draws_in_order(sampler: str, tmp_path: Path) -> None:
    assert SAMPLERS[sampler].ordered
    alone = outcome(tmp_path / "1", 1, 0, sampler=sampler)
    assert outcome(tmp_path / "4", 4, 1, deaths=0.1, sampler=sampler) == alone
    assert len({str(row[2]) for row in alone}) == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("pruner", sorted(name for name, kind in PRUNERS.items() if kind.ordered and name != "asha"))
def test_every_pruner_that_says_so_judges_in_order(pruner: str, tmp_path: Path) -> None:
    alone = outcome(tmp_path / "1", 1, 0, pruner=pruner, space=CONDITIONAL)
    assert outcome(tmp_path / "4", 4, 1, deaths=0.1, pruner=pruner, space=CONDITIONAL) == alone


@pytest.mark.slow
def test_failed_trials_keep_their_place(tmp_path: Path) -> None:
    alone = outcome(tmp_path / "1", 1, 0, fails=3, max_failures=None)
    assert outcome(tmp_path / "4", 4, 1, fails=3, max_failures=None) == alone
    assert [row[0] for row in alone if row[1] == "FAIL"] != []


@pytest.mark.slow
def test_points_of_the_user_and_second_tries_are_in_order_too(tmp_path: Path) -> None:
    tables = []
    for workers in (1, 4):
        plan = ordered_plan(tmp_path / str(workers), max_failures=None, total=8)
        study = Study(plan)
        study.enqueue([{"x": 0.25}, {"x": 0.75, "kind": "b"}])
        simulate(plan, workers, workers, epochs=4, fails=4)
        later = replace(plan, total=10)
        study = Study(later)
        assert study.retry("failed")
        study.enqueue([{"x": 0.5}])
        tables.append(simulate(later, workers, workers, epochs=4, fails=4).table)
    assert tables[1] == tables[0]
    assert [row[2]["x"] for row in tables[0]][:2] == [0.25, 0.75]


def test_a_trial_begins_once_all_that_it_may_know_is_known(tmp_path: Path) -> None:
    claims = opened(ordered_plan(tmp_path))
    first, second, third = (claimed(claims) for _ in range(3))
    assert claims.claim() is None
    for claim in (second, third):
        claims.finish(claim, completed(claim))
    assert claims.claim() is None
    claims.finish(first, completed(first))
    assert [claimed(claims).number for _ in range(3)] == [3, 4, 5]


@pytest.mark.parametrize(("sampler", "pruner", "waits"), [("random", "none", False), ("random", "asha", True)])
def test_who_looks_at_no_results_never_waits(sampler: str, pruner: str, waits: bool, tmp_path: Path) -> None:
    claims = opened(ordered_plan(tmp_path, sampler, pruner, lag=1))
    assert claimed(claims).number == 0
    assert (claims.claim() is None) is waits


def test_a_dead_ones_trial_comes_before_waiting(tmp_path: Path) -> None:
    claims, other = (opened(ordered_plan(tmp_path, lag=1)) for _ in range(2))
    claimed(claims)
    assert other.claim() is None
    other.abandon(claims.study.owner["token"], "killed")
    claim = claimed(other)
    assert (claim.number, claim.attempt) == (0, 1)


@pytest.mark.slow
def test_a_draw_that_was_cut_short_comes_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = []
    for name, short in (("a", False), ("b", True)):
        claims = opened(ordered_plan(tmp_path / name, "qmc", "none"))
        for number in range(3):
            if short and number:
                with monkeypatch.context() as patch:
                    patch.setattr("deepfake.sweeping.claims.choose", _dies)
                    with pytest.raises(SystemExit):
                        claims.claim()
                # Nobody goes past a trial whose point is not known yet.
                assert opened(claims.plan).claim() is None
                claims.abandon(claims.study.owner["token"], "killed")
                claims = opened(claims.plan)
            claim = claimed(claims)
            assert claim.number == number
            claims.finish(claim, completed(claim))
        points.append([row[2] for row in table(claims.study)])
    assert points[0] == points[1]


def _dies(*_: object) -> None:
    raise SystemExit(1)


def test_a_verdict_outlives_who_heard_it(tmp_path: Path) -> None:
    claims = opened(toy.make_plan(tmp_path, pruner={"name": "threshold", "lower": 0.5}))
    running = RunningTrial(claims, claimed(claims))
    running.report(0, {"m": 0.9})
    with pytest.raises(Pruned):
        running.report(1, {"m": 0.1})
    # Killed before it could say that it ended; training goes on from the epoch before.
    claims.abandon(claims.study.owner["token"], "killed")
    again = RunningTrial(claims, claimed(claims))
    again.report(0, {"m": 0.9})
    with pytest.raises(Pruned) as pruned:
        again.report(1, {"m": 0.1})
    assert pruned.value.epoch == 1


def test_a_trial_waits_for_its_verdict_however_long_that_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ordered in (False, True):
        claims = opened(ordered_plan(tmp_path / str(ordered), ordered=ordered, lag=None))
        away = toy.Away(claims, monkeypatch)
        running = RunningTrial(claims, claimed(claims))
        monkeypatch.setattr(running, "_wait_for", _noting(running, away))
        running.report(0, {"m": 0.5})
        running.settle()
        # Its storage came back only for the one that waited without limit.
        assert away.back.is_set()
        monkeypatch.undo()


def _noting(running: RunningTrial, away: toy.Away) -> Any:
    """The wait, with a storage that comes back where somebody waits in earnest."""
    usual = running._wait_for

    def wait(condition: Any, seconds: float) -> None:
        if not condition() and seconds == float("inf"):
            away.back.set()
        usual(condition, seconds)
        if not running._claims.waits_for_verdicts:
            away.back.set()

    return wait


def test_a_study_is_held_to_the_order_it_was_begun_in(tmp_path: Path) -> None:
    plan = ordered_plan(tmp_path)
    opened(plan)
    assert opened(replace(plan, ordered=None, lag=None)).study.order == Study(plan).order
    with pytest.raises(UserError, match=r"begun with sweep\.lag=3, and sweep\.lag=4"):
        opened(replace(plan, lag=4))
    with pytest.raises(UserError, match=r"begun in order, and sweep\.ordered=false"):
        opened(replace(plan, ordered=False, lag=None))


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("seed", 1, r"sweep\.seed=0, and sweep\.seed=1"),
        ("repeat", True, r"sweep\.repeat=false, and sweep\.repeat=true"),
        ("sampler", {"name": "random"}, r"sampler=tpe \(multivariate=true, .*\), and sampler=random"),
        ("pruner", {"name": "none"}, r"pruner=asha \(min_resource=1, .*\), and pruner=none"),
    ],
)
def test_who_draws_and_judges_in_order_stays(key: str, value: Any, shown: str, tmp_path: Path) -> None:
    plan = ordered_plan(tmp_path)
    opened(plan)
    with pytest.raises(UserError, match=shown):
        opened(replace(plan, **{key: value}))
    free = ordered_plan(tmp_path / "free", ordered=None, lag=None)
    opened(free)
    opened(replace(free, **{key: value}))


@pytest.mark.usefixtures("no_figures")
def test_trials_that_are_trained_together_are_in_no_order(tmp_path: Path) -> None:
    given = ["x=interval(0.0,1.0)", "sweep.n_trials=1", "sweep.name=s"]
    with pytest.raises(UserError, match=r"sweep\.fuse=2 trains together what runs at the same time"):
        toy.multirun(tmp_path, [*given, "sweep.fuse=2", "sweep.ordered=true"])
    toy.multirun(tmp_path, [*given, "sweep.ordered=true"])
    with pytest.raises(UserError, match=r"begun in order, and sweep\.fuse=2 trains together"):
        toy.multirun(tmp_path, [*given, "sweep.fuse=2"])


def test_a_study_that_was_begun_in_no_order_gets_none(tmp_path: Path) -> None:
    plan = ordered_plan(tmp_path, ordered=None, lag=None)
    assert opened(plan).study.order is None
    with pytest.raises(UserError, match=r"begun in no order, and sweep\.ordered=true"):
        opened(replace(plan, ordered=True))
    with pytest.raises(UserError, match=r"begun in no order, and sweep\.lag=4 is") as caught:
        opened(replace(plan, ordered=True, lag=4))
    assert "sweep.ordered" not in str(caught.value)


def test_threads_are_the_studys_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("deepfake.sweeping.order.available_cores", lambda: 16)
    plan = ordered_plan(tmp_path, lag=None)
    assert opened(plan).study.order == Order(LAG, 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    claims = opened(plan)
    assert RunningTrial(claims, claimed(claims)).threads == 4
    assert worker_environment(0, 8, [], {"OMP_NUM_THREADS": "3"}, 4)["OMP_NUM_THREADS"] == "4"
    assert worker_environment(0, 8, [], {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"
    assert opened(ordered_plan(tmp_path / "other")).study.order == Order(3, 3)


def test_workers_that_will_wait_are_told_of(tmp_path: Path) -> None:
    plan = ordered_plan(tmp_path)
    order = Order(8, 1)
    assert len(order.notes(4, plan)) == 1
    assert "sweep.lag=10 keeps them busy" in order.notes(5, plan)[1]
    assert len(order.notes(5, ordered_plan(tmp_path, "random", "none"))) == 1


def test_one_that_goes_by_timing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "gp", SamplerKind(SAMPLERS["gp"].create, ordered=False))
    with pytest.raises(UserError, match="sampler=gp goes by what runs at the same time") as refused:
        check_ordered({"name": "gp"}, ASHA)
    assert "tpe" in refused.value.hint
    assert "gp" not in refused.value.hint


@pytest.mark.usefixtures("no_figures")
def test_a_lag_alone_asks_for_an_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy.multirun(tmp_path, ["x=interval(0.0,1.0)", "sweep.n_trials=3", "sweep.lag=2"])
    assert "in order, sweep.lag=2" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"sweep\.lag=2 is of an ordered study"):
        toy.multirun(tmp_path, ["x=interval(0.0,1.0)", "sweep.n_trials=3", "sweep.lag=2", "sweep.ordered=false"])
