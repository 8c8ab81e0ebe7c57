"""Mean and spread over runs that differ in their seed alone; other runs are other groups."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from deepfake.sweeping.callbacks import COMPLETED, FAILED, Job, Objective
from deepfake.sweeping.results import spread, spread_table
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
