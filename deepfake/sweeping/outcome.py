"""A study's trials in the words of :mod:`deepfake.sweeping.observer`, and the tables and files made of them.

Writes into the sweep's folder; knows the study, but not how its trials were run.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from deepfake.sweeping.jobs import is_sweep_override
from deepfake.sweeping.observer import COMPLETED, FAILED, PRUNED, Job, Objective
from deepfake.sweeping.plan import StudyPlan
from deepfake.sweeping.space import Parameter, to_overrides

_LONG = 8
_STATUS = {TrialState.COMPLETE: COMPLETED, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


def trial_to_job(trial: FrozenTrial, parameters: Sequence[Parameter]) -> Job:
    """A finished trial as a job."""
    facts = trial.user_attrs
    chosen = {item.key: trial.params[item.key] for item in parameters if item.key in trial.params}
    return Job(
        number=trial.number,
        overrides=to_overrides(chosen),
        status=_STATUS[trial.state],
        metrics=dict(facts.get("metrics") or {}),
        run_id=facts.get("run_id"),
        run_dir=facts.get("run_dir"),
        name=facts.get("name"),
        values=list(trial.values or []) if trial.state is TrialState.COMPLETE else [],
        seconds=facts.get("seconds"),
        reason=facts.get("reason"),
    )


def finished_jobs(trials: Sequence[FrozenTrial], plan: StudyPlan) -> list[Job]:
    """All that have ended, in order."""
    return [trial_to_job(trial, plan.parameters) for trial in trials if trial.state.is_finished()]


def shown(value: float | None) -> str:
    """A metric for a person: four significant digits."""
    return "" if value is None else f"{value:.4g}"


def brief(overrides: Sequence[str]) -> str:
    """Overrides for a person: long numbers cut to four significant digits."""
    return " ".join(_cut(text) for text in overrides)


def result_table(jobs: Sequence[Job], objectives: Sequence[Objective], most: int = 10) -> Table:
    """The best jobs of a study, or its Pareto front, for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("trial", justify="right")
    for item in objectives:
        table.add_column(item.metric, justify="right", style="bold")
    table.add_column("seconds", justify="right")
    table.add_column("chosen", overflow="fold")
    for job in list(jobs)[:most]:
        seconds = "" if job.seconds is None else f"{job.seconds:.0f}"
        table.add_row(str(job.number), *map(shown, job.values), seconds, brief(job.overrides))
    return table


def spread(jobs: Sequence[Job]) -> dict[str, tuple[float, float, int]]:
    """Mean, sample standard deviation (NaN for one run) and number of runs of each metric of the completed jobs."""
    done = [job for job in jobs if job.status == COMPLETED]
    names = sorted({name for job in done for name in job.metrics})
    table = {}
    for name in names:
        values = [job.metrics[name] for job in done if math.isfinite(job.metrics.get(name, math.nan))]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else math.nan
            table[name] = (statistics.fmean(values), deviation, len(values))
    return table


def spread_table(jobs: Sequence[Job], objectives: Sequence[Objective]) -> Table:
    """The mean and spread of the objectives and of the metrics on test, for the terminal."""
    table = Table(box=None, pad_edge=False)
    for name in ("metric", "mean", "standard deviation", "runs"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    wanted = {item.metric for item in objectives}
    for name, (mean, deviation, runs) in spread(jobs).items():
        if name in wanted or (name.startswith("test/") and name.count("/") == 1):
            table.add_row(name, shown(mean), "" if math.isnan(deviation) else shown(deviation), str(runs))
    return table


def write_trials(jobs: Sequence[Job], plan: StudyPlan, folder: Path) -> Path:
    """``trials.csv``: a row per ended trial with its state, objectives, what was chosen and where its run is."""
    keys = [parameter.key for parameter in plan.parameters]
    metrics = [item.metric for item in plan.objectives]
    path = folder / "trials.csv"
    with _replacing(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "status", *metrics, *keys, "seconds", "run_id", "run_dir", "reason"])
        for job in jobs:
            chosen = dict(text.split("=", 1) for text in job.overrides)
            values = [job.metrics.get(name, "") for name in metrics]
            row = [job.number, job.status, *values, *(chosen.get(key, "") for key in keys)]
            writer.writerow([*row, job.seconds, job.run_id, job.run_dir, job.reason])
    return _replacing(path).replace(path)


def write_best(best: Job, plan: StudyPlan, loader: ConfigLoader, folder: Path) -> Path:
    """``best.yaml``: the best trial as an experiment, laid over the same config to run it again."""
    texts = [text for text in plan.fixed if not is_sweep_override(text)] + best.overrides
    groups, values = [], OmegaConf.create({})
    for text in texts:
        key, _, value = text.lstrip("+").partition("=")
        if loader.get_group_options(key):
            groups.append({f"override /{key}": value})
        else:
            OmegaConf.update(values, key, OmegaConf.create(f"value: {value}").value, force_add=True)
    body: dict[str, Any] = {"defaults": [*groups, "_self_"], **_plain(values)}
    path = folder / "best.yaml"
    scores = ", ".join(f"{o.metric} {shown(v)}" for o, v in zip(plan.objectives, best.values, strict=True))
    head = f"# @package _global_\n# Trial {best.number} of study {plan.name}: {scores}. Holds no trace of the study.\n"
    _replacing(path).write_text(head + OmegaConf.to_yaml(OmegaConf.create(body)), encoding="utf-8")
    return _replacing(path).replace(path)


def _cut(text: str) -> str:
    key, _, value = text.partition("=")
    try:
        return f"{key}={float(value):.4g}" if len(value) > _LONG and "." in value else text
    except ValueError:
        return text


def _plain(values: Any) -> Mapping[str, Any]:
    plain = OmegaConf.to_container(values)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _replacing(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
