"""A sweep's page, whatever came of its runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.runs.observer import job_table
from deepfake.runs.sweep_card import new_board, rank_jobs, roc_chart, sweep_report, with_spread, write_sweep_card
from deepfake.sweeping.callbacks import (
    COMPLETED,
    FAILED,
    PAUSED,
    PRUNED,
    Job,
    Objective,
    SeedRun,
    SweepInfo,
    SweepResult,
)
from deepfake.tracking import page, tables

HOSTILE = '<script>alert("x")</script>'
NAN = float("nan")


def _job(number: int, value: float, status: str = COMPLETED, *, name: str | None = None, folder: str = "") -> Job:
    metrics = {"val/roc_auc": value, "test/roc_auc": value - 0.1, "train_seconds": 5.0}
    metrics |= {"test/roc_auc_low": value - 0.2, "test/roc_auc_high": value}
    chosen = [f"optimizer.lr={10.0 ** -(1 + number % 4)}", f"head={('gru', 'lstm')[number % 2]}"]
    values = [value, number / 10] if status == COMPLETED else []
    return Job(
        number,
        chosen,
        status,
        metrics if status != FAILED else {},
        name=name or f"run {number}",
        run_dir=folder or None,
        values=values,
        reason="the disk is gone" if status == FAILED else None,
    )


def _result(
    folder: Path,
    jobs: list[Job],
    *,
    objectives: tuple[str, ...] = ("val/roc_auc",),
    best: list[Job] | None = None,
    status: str = "finished",
    importances: dict[str, float] | None = None,
) -> SweepResult:
    info = SweepInfo(
        "tried",
        "study",
        folder,
        20,
        [Objective(name) for name in objectives],
        space={"optimizer.lr": "interval(1e-5,1e-1)", "head": "gru,lstm"},
    )
    done = [job for job in jobs if job.status == COMPLETED]
    best = best if best is not None else sorted(done, key=lambda job: -job.values[0])[:1]
    return SweepResult(info, jobs, best, status, importances=importances or {})


def _text(result: SweepResult) -> str:
    return page.report_page(sweep_report(result, job_table(result)))


def test_the_page_shows_the_leaderboard_history_keys_and_failures(tmp_path: Path) -> None:
    jobs = [_job(number, 0.5 + 0.04 * number) for number in range(8)]
    jobs += [_job(8, 0.99, PRUNED), _job(9, NAN, FAILED)]
    text = _text(_result(tmp_path, jobs, importances={"head": 0.75, "optimizer.lr": 0.25}))
    for shown in (
        "History",
        "Importance of keys",
        "Parallel coordinates",
        "ROC-AUC with intervals",
        "the disk is gone",
    ):
        assert shown in text
    assert "10 of 20 ended, 1 pruned, 1 failed" in text
    # The best is one that finished, though a pruned one had more in its last epoch.
    first = re.search(r'<tr class="best">.*?</tr>', text)
    assert first is not None
    assert "run 7" in first[0]
    assert text.index("0.75") < text.index("0.25</text>")


def test_paused_runs_are_told_with_their_rungs_and_none_is_the_best(tmp_path: Path) -> None:
    placed = [replace(_job(number, 0.5 + 0.04 * number), rung=2, bracket=0) for number in range(3)]
    placed += [replace(_job(3, 0.99, PAUSED), rung=1, bracket=1), replace(_job(4, NAN, FAILED), bracket=0)]
    text = _text(_result(tmp_path, placed))
    assert "4 of 20 ended, 0 pruned, 1 failed, 1 paused" in text
    first = re.search(r'<tr class="best">.*?</tr>', text)
    assert first is not None
    assert "run 2" in first[0]
    table = job_table(_result(tmp_path, placed))
    assert table["status"].tolist() == ["finished"] * 3 + ["paused", "failed"]
    assert table["rung"].tolist()[:4] == [2, 2, 2, 1]
    assert table["rung"].isna().tolist() == [False] * 4 + [True]
    assert table["bracket"].tolist() == [0, 0, 0, 1, 0]


def test_keys_without_told_importance_get_one_of_the_runs_themselves(tmp_path: Path) -> None:
    jobs = [_job(number, 0.9 if number % 2 else 0.5) for number in range(12)]
    text = _text(_result(tmp_path, jobs))
    assert re.search(r'aria-label="[^"]*head \d\.\d\d', text)
    assert "By fANOVA." in text


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ([], "No run has finished"),
        ([_job(0, NAN, FAILED)], "No run has finished"),
        ([_job(0, 0.6, PRUNED)], "No run has finished"),
        ([_job(0, NAN)], "No run has finished"),
        ([_job(0, 0.6)], "Only one run has finished"),
        ([_job(0, 0.6), _job(1, NAN)], "Only one run has finished"),
    ],
)
def test_a_study_with_next_to_nothing_in_it_has_a_page(tmp_path: Path, jobs: list[Job], said: str) -> None:
    text = _text(_result(tmp_path, jobs))
    assert said in text
    assert ">nan<" not in text


def test_runs_that_came_out_alike_have_no_importance_and_a_page(tmp_path: Path) -> None:
    text = _text(_result(tmp_path, [_job(number, 0.5) for number in range(6)]))
    assert "it cannot be told" in text


def test_several_objectives_have_a_pareto_front(tmp_path: Path) -> None:
    jobs = [_job(number, 0.5 + (number % 3) / 10) for number in range(6)]
    text = _text(_result(tmp_path, jobs, objectives=("val/roc_auc", "test/f1"), best=[jobs[2], jobs[5]]))
    front = re.search(r"<figcaption>Pareto front</figcaption>(.*?)</figure>", text)
    assert front is not None
    assert front[1].count('class="dot s1" cx') == 2 + 1  # and the one of the legend
    assert "best val/roc_auc" not in text


def test_runs_of_one_name_are_told_apart_and_link_to_their_pages(tmp_path: Path) -> None:
    jobs = []
    for number in range(3):
        run = tmp_path / "sweep" / str(number)
        run.mkdir(parents=True)
        page.write_page(run, "x")
        (run / "history.json").write_text(json.dumps([{"epoch": 0.0, "train/loss": number + 1.0, "val/roc_auc": 0.5}]))
        jobs.append(_job(number, 0.5 + number / 10, name="cnn", folder=str(run)))
    (tmp_path / "sweep" / "1" / "history.json").write_text("[1")
    text = _text(_result(tmp_path / "sweep", jobs))
    assert '<a href="./2/report.html">cnn #2</a>' in text
    held = json.loads(re.search(r'id="held">(.*?)</script>', text)[1])  # type: ignore[index]
    assert held["names"] == ["cnn #2", "cnn #1", "cnn #0"]
    assert [bool(path) for path in held["charts"]["metric"]] == [True, False, True]


def test_nothing_in_a_name_or_value_is_markup(tmp_path: Path) -> None:
    job = Job(0, [f"head={HOSTILE}"], COMPLETED, {"val/roc_auc": 0.5}, name=HOSTILE, values=[0.5])
    failed = Job(1, [f"head={HOSTILE}"], FAILED, name=HOSTILE, reason=HOSTILE)
    result = _result(tmp_path, [job, job, failed], importances={HOSTILE: 1.0})
    assert _text(result).count("<script") == 2


def test_the_page_is_written_anew_when_a_study_goes_on(tmp_path: Path) -> None:
    for count in (1, 3):
        jobs = [_job(number, 0.5 + number / 10) for number in range(count)]
        result = _result(tmp_path, jobs, status="stopped")
        path = write_sweep_card(result, job_table(result))
        assert path == tmp_path / "report.html"
        assert f"study of {count} runs" in path.read_text()
    assert "goes on with it" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_names_of_each_run_are_no_choice(tmp_path: Path) -> None:
    runs = pd.DataFrame(
        {"run": [f"r{n}" for n in range(40)], "seed.name": [f"n{n}" for n in range(40)], "m": np.arange(40.0)}
    )
    assert new_board(runs, ["seed.name"], "m", larger_is_better=True).importances == {}


def test_curves_of_all_runs_are_kept_small(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 5000)
    scores = {f"r{n}": generator.random(5000) for n in range(9)}
    chart, paths = roc_chart(scores, labels, list(scores))
    assert len(paths) == 9
    assert max(map(len, paths)) < 2500
    assert chart.count("data-slot") == 14


def test_what_breaks_constraints_comes_after_what_keeps_them_and_is_not_on_the_board(tmp_path: Path) -> None:
    jobs = [replace(_job(number, 0.9 - 0.1 * number), feasible=number > 1) for number in range(4)]
    result = _result(tmp_path, [*jobs, _job(4, 0.99, PRUNED)], best=jobs[2:3])
    result = replace(result, info=replace(result.info, constraints=["train_seconds <= 4"]))
    ranked = rank_jobs(job_table(result), Objective("val/roc_auc"))
    assert list(ranked["run"]) == ["run 2", "run 3", "run 0", "run 1", "run 4"]
    assert list(ranked["status"]) == ["finished", "finished", "infeasible", "infeasible", "pruned"]
    text = _text(result)
    assert "train_seconds &lt;= 4" in text
    assert "infeasible" in text


def test_where_nothing_keeps_constraints_there_is_no_best(tmp_path: Path) -> None:
    jobs = [replace(_job(number, 0.5), feasible=False) for number in range(3)]
    result = _result(tmp_path, jobs, best=[])
    result = replace(result, info=replace(result.info, constraints=["parameters <= 10"]))
    ranked = rank_jobs(job_table(result), Objective("val/roc_auc"))
    assert tables.best_place(ranked, "val/roc_auc") is None
    assert "No run keeps parameters &lt;= 10" in _text(result)


def test_a_point_over_several_seeds_is_shown_with_its_spread_under_its_own_name(tmp_path: Path) -> None:
    runs = [SeedRun(seed, {"val/roc_auc": 0.7 + 0.1 * seed}) for seed in (0, 1)]
    jobs = [replace(_job(0, 0.75, name="cnn lr=0.1 seed=0"), runs=runs), replace(_job(1, 0.6, PRUNED), runs=runs[:1])]
    result = _result(tmp_path, jobs)
    result = replace(result, info=replace(result.info, seeds=[0, 1], seed_key="seed"))
    table = job_table(result)
    assert list(table["run"]) == ["cnn lr=0.1", "run 1"]
    assert table["standard deviation"][0] == pytest.approx(0.0707, abs=1e-4)
    assert list(table["seeds"]) == ["0 1", "0"]
    shown = with_spread(["run", "val/roc_auc", "status"], "val/roc_auc", table)
    assert shown == ["run", "val/roc_auc", "standard deviation", "seeds", "status"]
    assert "its standard deviation" in _text(result)
