"""What an ordered study costs, and whether it comes out the same: ``python -m benchmarks.sweep ordered``.

Whole processes on jobs that sleep, one study killed ten times; and studies in pretended time, which no load disturbs.
"""

from __future__ import annotations

import csv
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy import stats

from benchmarks.simulation import Run, simulate
from benchmarks.sweep import NOTHING_HEARD, PACE, PACES, read_trials, start
from deepfake.sweeping.callbacks import Objective
from deepfake.sweeping.search_space import Parameter
from deepfake.sweeping.storage import locate
from deepfake.sweeping.study_plan import StudyPlan

#: Columns of ``trials.csv`` that differ between two runs of the same trial.
TIMES = ("seconds", "run_id", "run_dir", "traceback")
_TPE = {"name": "tpe", "multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": 10}
_ASHA = {"name": "asha", "min_resource": 3, "reduction_factor": 2}
_EPOCHS = 12


def measure() -> dict[str, Any]:
    """Whether tables are identical, and what order costs in throughput and in the best value."""
    same, paced, values = tables(), throughput(), best_values()
    reached = same["identical"] == same["of"] and paced["over_free"] >= 0.93 and values["upper"] >= 0
    return {"tables": same, "throughput": paced, "best": values, "reached": reached}


def tables(workers: Sequence[int] = (1, 2, 4, 8), trials: int = 40, deaths: int = 10) -> dict[str, Any]:
    """The same study with these numbers of workers, and once by two of which all are killed so often."""
    found = []
    for count in workers:
        with tempfile.TemporaryDirectory() as folder:
            _command(Path(folder), count, trials).wait()
            found.append(_table(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        killed = _kill(Path(folder), 2, trials, deaths)
        _command(Path(folder), 2, trials).wait()
        found.append(_table(Path(folder)))
    identical = sum(bool(table) and len(table) == trials and table == found[0] for table in found)
    pruned = sum(row["status"] == "pruned" for row in found[0])
    return {"identical": identical, "of": len(found), "trials": len(found[0]), "pruned": pruned, "killed": killed}


def throughput(workers: int = 4, trials: int = 40, seconds: float = 6.0) -> dict[str, Any]:
    """Ordered over free studies without pruning, from the first trial's start to the last one's end."""
    spans = {}
    os.environ[PACES] = "1"
    for ordered in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            _command(Path(folder), workers, trials, seconds, f"sweep.ordered={ordered}".lower(), "pruner=none").wait()
            spans[ordered] = _busy(Path(folder), workers)
    del os.environ[PACES]
    over = spans[True] / spans[False]
    return {"ordered_busy": spans[True], "free_busy": spans[False], "over_free": over}


def best_values(seeds: int = 10, trials: int = 40, workers: int = 4) -> dict[str, Any]:
    """The best value, epochs and busy fraction of ordered studies less, or over, those of free ones, in pretended time.

    The interval is Student's for the mean difference of the best value at 95 %.
    """
    runs = [[_pretended(seed, trials, workers, ordered) for ordered in (True, False)] for seed in range(seeds)]
    gaps = [_best(ordered) - _best(free) for ordered, free in runs]
    mean, error = statistics.fmean(gaps), statistics.stdev(gaps) / seeds**0.5
    half = float(stats.t.ppf(0.975, seeds - 1)) * error
    epochs = [sum(len(row[3]) for pair in runs for row in pair[side].table) for side in (0, 1)]
    busy = [statistics.fmean(pair[side].busy for pair in runs) for side in (0, 1)]
    return {
        "mean_difference": mean,
        "lower": mean - half,
        "upper": mean + half,
        "best_ordered": statistics.fmean(_best(ordered) for ordered, _ in runs),
        "epochs_over_free": epochs[0] / epochs[1],
        "busy_over_free": busy[0] / busy[1],
    }


def _pretended(seed: int, trials: int, workers: int, ordered: bool) -> Run:
    share = FloatDistribution(0, 1)
    kinds = CategoricalDistribution(["aa", "b", "cccc"])
    space = [Parameter("x", "", share), Parameter("y", "", share), Parameter("kind", "", kinds)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plan = StudyPlan("s", place, locate("journal", place), space, [Objective("m")], [], trials, _TPE, _ASHA)
        return simulate(replace(plan, seed=seed, ordered=ordered), workers, seed, epochs=_EPOCHS)


def _best(run: Run) -> float:
    return max(row[4][0] for row in run.table if row[1] == "COMPLETE")


def _command(
    outputs: Path, workers: int, trials: int, seconds: float = 0.6, *overrides: str
) -> subprocess.Popen[bytes]:
    os.environ[PACE] = str(seconds)
    space = ["optimizer.lr=interval(0.01,0.99)", "optimizer.weight_decay=interval(0.01,0.99)"]
    settings = [f"sweep.n_jobs={workers}", f"sweep.n_trials={trials}", "sweep.name=s", f"trainer.epochs={_EPOCHS}"]
    # A death counts against no trial: how many see several without an epoch between is chance.
    settings += ["sweep.retries=1000", "sampler=tpe", NOTHING_HEARD]
    order = [] if overrides else ["sweep.ordered=true", "pruner=asha"]
    return start("curve", outputs, "-m", *space, *settings, *order, *overrides)


def _kill(outputs: Path, workers: int, trials: int, times: int, seed: int = 0) -> int:
    """Start a study and kill all its processes at random moments, again and again; returns how often it had begun."""
    draw, killed = random.Random(seed), 0
    for _ in range(times):
        process = _command(outputs, workers, trials)
        before = _size(outputs)
        # The first moments go to imports: the kill comes once the study moves, then at random.
        while process.poll() is None and _size(outputs) <= before:
            time.sleep(0.1)
        time.sleep(draw.uniform(0.0, 3.0))
        killed += process.poll() is None
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            one.kill()
        process.wait()
    return killed


def _size(outputs: Path) -> int:
    journal = outputs / "sweeps" / "s" / "study.journal"
    return journal.stat().st_size if journal.exists() else 0


def _table(outputs: Path) -> list[dict[str, str]]:
    path = outputs / "sweeps" / "s" / "trials.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def _busy(outputs: Path, workers: int) -> float:
    """The fraction of the workers' time that went into trials."""
    ran = read_trials(outputs / "sweeps" / "s" / "study.journal")
    spent = sum((trial.datetime_complete - trial.datetime_start).total_seconds() for trial in ran)
    whole = max(trial.datetime_complete for trial in ran) - min(trial.datetime_start for trial in ran)
    return float(spent / (workers * whole.total_seconds()))
