"""Tables, files and figures of a study; mean and spread over runs that differ in their seed alone."""

from __future__ import annotations

import csv
import math
import statistics
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, TrialState, create_trial

from deepfake.sweeping import results
from deepfake.sweeping.callbacks import COMPLETED, FAILED, Job, Objective
from deepfake.sweeping.promotion import Promotion
from deepfake.sweeping.results import draw_study, spread, spread_table
from deepfake.sweeping.search_space import parse_space
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.sweeper import SweepFailed
from tests.sweeping import toy

OBJECTIVE = [Objective("score")]


SCORES = {("plain", 0): 0.5, ("plain", 1): 0.7, ("deep", 0): 0.9, ("deep", 1): 0.8}


def job(number: int, model: str, seed: int, status: str = COMPLETED, **metrics: float) -> Job:
    return Job(number, [f"model={model}", f"seed={seed}"], status, metrics=metrics)


@pytest.fixture
def plan(tmp_path: Path) -> StudyPlan:
    space = {"model": "choice(plain,deep)", "seed": "range(0,3)"}
    return toy.make_plan(tmp_path, space=space, objectives=OBJECTIVE, total=6, points=6, sampler={"name": "grid"})


def test_different_models_are_different_groups(plan: StudyPlan) -> None:
    jobs = [job(n, model, seed, score=value) for n, ((model, seed), value) in enumerate(SCORES.items())]
    rows = {row.chosen: row for row in spread(jobs, plan)}
    assert rows.keys() == {"model=plain", "model=deep"}
    assert rows["model=deep"].mean == pytest.approx(0.85)
    assert rows["model=plain"].deviation == pytest.approx(statistics.stdev([0.5, 0.7]))


def test_what_failed_or_is_to_come_counts_among_all(plan: StudyPlan) -> None:
    jobs = [job(0, "plain", 0, score=0.5), job(1, "plain", 1, FAILED), job(2, "deep", 0, score=0.9)]
    assert [(row.runs, row.of) for row in spread(jobs, plan)] == [(1, 3), (1, 3)]


def test_a_metric_that_is_not_a_number_in_a_run_is_not_counted(plan: StudyPlan) -> None:
    jobs = [job(0, "plain", 0, score=math.nan), job(1, "plain", 1, score=0.25)]
    (row,) = spread(jobs, plan)
    assert (row.mean, row.runs) == (0.25, 1)
    assert math.isnan(row.deviation)


def test_the_ends_of_an_interval_have_no_mean(plan: StudyPlan) -> None:
    metrics = {"test/roc_auc": 0.8, "test/roc_auc_low": 0.6, "test/roc_auc_high": 0.9}
    metrics |= {"test/roc_auc_delong_low": 0.6, "test/roc_auc_delong_high": 0.9, "test/flow": 1.0}
    assert [row.metric for row in spread([job(0, "plain", 0, **metrics)], plan)] == ["test/flow", "test/roc_auc"]


def test_the_table_has_a_row_per_group(plan: StudyPlan) -> None:
    jobs = [job(n, model, seed, score=value) for n, ((model, seed), value) in enumerate(SCORES.items())]
    table = spread_table(spread(jobs, plan), OBJECTIVE)
    assert [str(column.header) for column in table.columns] == [
        "metric",
        "chosen",
        "mean",
        "standard deviation",
        "runs",
    ]
    assert list(table.columns[1].cells) == ["model=plain", "model=deep"]
    assert list(table.columns[4].cells) == ["2 of 3", "2 of 3"]


def test_a_study_over_models_and_seeds_ends_in_a_row_for_each_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.sweeping.runner.draw_study", lambda *_: [])

    def task(config: DictConfig) -> dict[str, Any]:
        if config.model.name == "plain" and config.seed == 1:
            raise ValueError("asked to fail")
        return {"metrics": {"score": {"plain": 0.5, "deep": 0.9}[config.model.name]}}

    # Nothing but sweep.report makes a study of this grid.
    with pytest.raises(SweepFailed):
        toy.multirun(tmp_path, ["model=plain,deep", "seed=range(0,3)", "sweep.report=spread"], task)
    result = toy.HEARD[-1][1]
    assert "5 of 6 runs completed" in capsys.readouterr().out
    file = next(path for path in result.files if path.name == "spread.csv")
    rows = {row["chosen"]: row for row in csv.DictReader(file.open())}
    assert [(float(row["mean"]), row["runs"], row["of"]) for _, row in sorted(rows.items())] == [
        (0.9, "3", "3"),
        (0.5, "2", "3"),
    ]


SPACE = parse_space(
    {"model": "choice(a,b)", "lr": "tag(log,interval(0.1,1))", "d": {"space": "range(1,4)", "when": {"model": "b"}}},
    [],
    {},
)


def figure_plan(folder: Path, objectives: int = 1) -> StudyPlan:
    aims = [Objective(f"m{number}") for number in range(objectives)]
    return StudyPlan("s", folder, locate("journal", folder), SPACE, aims, [], 3, {"name": "tpe"}, {"name": "none"})


def trial(number: int, values: list[float] | None, **params: object) -> FrozenTrial:
    kinds = {item.key: item.distribution for item in SPACE if item.key in params}
    state = TrialState.COMPLETE if values else TrialState.FAIL
    made = create_trial(state=state, values=values, params=dict(params), distributions=kinds)
    made.number = number
    return made


def test_conditional_keys_and_failures_are_drawn(tmp_path: Path) -> None:
    trials = [trial(0, [0.5], model="a", lr=0.2), trial(1, [0.6], model="b", lr=0.5, d=2), trial(2, None)]
    names = {path.stem for path in draw_study(trials, figure_plan(tmp_path), tmp_path)}
    assert names == {"history", "timeline", "parallel_coordinates", "importance"}


def test_equal_values_are_drawn(tmp_path: Path) -> None:
    trials = [trial(number, [0.5], model="a", lr=0.2) for number in range(2)]
    assert (tmp_path / "parallel_coordinates.png") in draw_study(trials, figure_plan(tmp_path), tmp_path)


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    trials = [trial(0, [0.5, 1.0], model="a", lr=0.2), trial(1, [0.6, 0.5], model="a", lr=0.3)]
    assert (tmp_path / "pareto_front.png") in draw_study(trials, figure_plan(tmp_path, 2), tmp_path)


def test_paused_trials_and_their_rungs_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial(number, [0.5 + number / 10], model="a", lr=0.2 + number / 10) for number in range(2)]
    waits = trial(2, None, model="b", lr=0.5, d=2)
    waits.state, waits.datetime_complete = TrialState.RUNNING, None
    waits.user_attrs = {"owner": None, "paused": 1, "paused_at": 1e9}
    waits.intermediate_values = {1: 0.25, 2: 0.5}
    drawn: list[Any] = []
    usual = results._intermediate_values
    monkeypatch.setattr(results, "_intermediate_values", lambda *given: drawn.append(usual(*given)) or drawn[-1])
    halved = replace(figure_plan(tmp_path), promotion=Promotion(1, 2))
    files = {path.stem for path in draw_study([*trials, waits], halved, tmp_path)}
    assert {"intermediate_values", "timeline", "history"} <= files
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["paused"]
    assert [text.get_text() for text in drawn[0].texts] == ["rung 0", "rung 1"]


def test_nothing_completed_is_nothing_drawn(tmp_path: Path) -> None:
    assert draw_study([trial(0, None)], figure_plan(tmp_path), tmp_path) == []


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_drawing_leaves_pyplot_as_it_was(tmp_path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    backend, settings, figures = matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums()
    trials = [trial(number, [0.5 + number / 10], model="a", lr=0.2 + number / 10) for number in range(3)]
    trials[0].intermediate_values = {1: 0.25, 2: 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = {path.stem for path in draw_study(trials, figure_plan(tmp_path), tmp_path)}
    assert names == {"history", "timeline", "parallel_coordinates", "importance", "intermediate_values"}
    assert (matplotlib.get_backend(), dict(matplotlib.rcParams), pyplot.get_fignums()) == (backend, settings, figures)
