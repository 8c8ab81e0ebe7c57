"""What a sweep came to: trials counted by state, tables and files. Knows no tracking."""

from __future__ import annotations

import bisect
import csv
import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from deepfake.errors import UserError, naming
from deepfake.files import appearing
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PRUNED, Job, Objective
from deepfake.sweeping.jobs import is_sweep_override
from deepfake.sweeping.search_space import Parameter, all_points, to_overrides
from deepfake.sweeping.study_plan import StudyPlan

#: On a trial: the number of the failed one that it tries again.
RETRY_OF = "retry_of"


class Tally:
    """Which trials have ended, each looked at once: what has ended does not change.

    Args:
        began: Only what ended from then on, in seconds since the epoch, counts as this start's.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        # All trials below this place have ended and are counted; beyond it some are.
        self._first_open = 0
        self._beyond: set[int] = set()
        self._recent: list[tuple[float, int, FrozenTrial]] = []
        self._known = 0
        self.mistake: UserError | None = None
        #: The numbers of failed trials that were tried again under another number.
        self.superseded: set[int] = set()

    def count(self, trials: Sequence[FrozenTrial]) -> int:
        """How many of the study's trials, all of them in order, have ended and are not tried again."""
        for trial in trials[self._known :]:
            if RETRY_OF in trial.user_attrs:
                self.superseded.add(int(trial.user_attrs[RETRY_OF]))
        self._known = len(trials)
        for place in range(self._first_open, len(trials)):
            if place not in self._beyond and trials[place].state.is_finished():
                self._beyond.add(place)
                self._look_at(trials[place])
        while self._first_open in self._beyond:
            self._beyond.remove(self._first_open)
            self._first_open += 1
        return self._first_open + len(self._beyond) - len(self.superseded)

    def open(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those that have not ended."""
        return [trial for trial in trials[self._first_open :] if not trial.state.is_finished()]

    def failures_in_a_row(self) -> list[FrozenTrial]:
        """The latest of this start's trials, as far back as they failed, in the order in which they ended."""
        row: list[FrozenTrial] = []
        for _, _, trial in reversed(self._recent):
            if trial.state is not TrialState.FAIL:
                break
            row.append(trial)
        return row[::-1]

    def _look_at(self, trial: FrozenTrial) -> None:
        ended = float(trial.user_attrs.get("ended", 0))
        if ended < self._began:
            return
        bisect.insort(self._recent, (ended, trial.number, trial), key=lambda entry: entry[:2])
        if self.mistake is None and "mistake" in trial.user_attrs:
            self.mistake = UserError(*trial.user_attrs["mistake"])


def steps_of(trial: FrozenTrial) -> int:
    """How far a trial has come, in epochs that it told of."""
    return max(len(trial.intermediate_values), int(trial.user_attrs.get("progress", 0)))


def superseded(trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of failed trials that were tried again under another number."""
    return {int(trial.user_attrs[RETRY_OF]) for trial in trials if RETRY_OF in trial.user_attrs}


def standing(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count: all but those tried again under another number."""
    gone = superseded(trials)
    return [trial for trial in trials if trial.number not in gone] if gone else list(trials)


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
        traceback=facts.get("traceback"),
    )


def finished_jobs(trials: Sequence[FrozenTrial], plan: StudyPlan) -> list[Job]:
    """All that have ended and count, in order: a failed trial that was tried again is not among them."""
    return [trial_to_job(trial, plan.parameters) for trial in standing(trials) if trial.state.is_finished()]


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


@dataclass(frozen=True)
class Spread:
    """One metric over the runs that differ in their seed alone.

    Attributes:
        chosen: What they have in common, of what is swept.
        mean: Over the completed runs that have the metric.
        deviation: The sample's; NaN for one run.
        runs: How many those are.
        of: How many there are, or are to be, in all.
    """

    metric: str
    chosen: str
    mean: float
    deviation: float
    runs: int
    of: int


def spread(jobs: Sequence[Job], plan: StudyPlan) -> list[Spread]:
    """Mean and deviation of each metric over each group of runs that differ in nothing but the key ``seed``.

    Ends of intervals are left out: their mean is the end of no interval.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_but_seed(job.overrides), []).append(job)
    planned: Counter[str] = Counter()
    if plan.points is not None and plan.points == plan.total:
        planned.update(_but_seed(to_overrides(point)) for point in all_points(plan.parameters) or ())
    names = {name for job in jobs if job.status == COMPLETED for name in job.metrics}
    table = []
    for metric in sorted(name for name in names if not _is_end(name, names)):
        for chosen, members in groups.items():
            done = [job.metrics.get(metric, math.nan) for job in members if job.status == COMPLETED]
            values = [value for value in done if math.isfinite(value)]
            if values:
                deviation = statistics.stdev(values) if len(values) > 1 else math.nan
                of = max(len(members), planned[chosen])
                table.append(Spread(metric, chosen, statistics.fmean(values), deviation, len(values), of))
    return table


def spread_table(found: Sequence[Spread], objectives: Sequence[Objective]) -> Table:
    """The mean and spread of the objectives and of the metrics on test, for the terminal: a row per group."""
    table = Table(box=None, pad_edge=False)
    several = len({row.chosen for row in found}) > 1
    for name in ("metric", *(["chosen"] if several else []), "mean", "standard deviation", "runs"):
        table.add_column(name, justify="left" if name in ("metric", "chosen") else "right")
    wanted = {item.metric for item in objectives}
    for row in found:
        if row.metric in wanted or (row.metric.startswith("test/") and row.metric.count("/") == 1):
            deviation = "" if math.isnan(row.deviation) else shown(row.deviation)
            group = [brief(row.chosen.split(" "))] if several else []
            table.add_row(row.metric, *group, shown(row.mean), deviation, f"{row.runs} of {row.of}")
    return table


def write_spread(found: Sequence[Spread], folder: Path) -> Path:
    """``spread.csv``: a row per metric and group."""
    path = folder / "spread.csv"
    with appearing(path) as half, naming(path), half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "chosen", "mean", "standard_deviation", "runs", "of"])
        for row in found:
            deviation = "" if math.isnan(row.deviation) else row.deviation
            writer.writerow([row.metric, row.chosen, row.mean, deviation, row.runs, row.of])
    return path


def write_trials(trials: Sequence[FrozenTrial], plan: StudyPlan, folder: Path) -> Path:
    """``trials.csv``: a row per ended trial with its state, objectives, what was chosen and where its run is."""
    again = {trial.user_attrs[RETRY_OF]: trial.number for trial in trials if RETRY_OF in trial.user_attrs}
    keys = [parameter.key for parameter in plan.parameters]
    metrics = [item.metric for item in plan.objectives]
    path = folder / "trials.csv"
    with appearing(path) as half, naming(path), half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "status", *metrics, *keys, "seconds", "run_id", "run_dir", "reason", "traceback"])
        for job in (trial_to_job(trial, plan.parameters) for trial in trials if trial.state.is_finished()):
            chosen = dict(text.split("=", 1) for text in job.overrides)
            values = [job.metrics.get(name, "") for name in metrics]
            row = [job.number, job.status, *values, *(chosen.get(key, "") for key in keys)]
            reason = f"{job.reason}; tried again as trial {again[job.number]}" if job.number in again else job.reason
            writer.writerow([*row, job.seconds, job.run_id, job.run_dir, reason, job.traceback])
    return path


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
    with appearing(path) as half, naming(path):
        half.write_text(head + OmegaConf.to_yaml(OmegaConf.create(body)), encoding="utf-8")
    return path


def _but_seed(overrides: Sequence[str]) -> str:
    return " ".join(text for text in overrides if text.lstrip("+").partition("=")[0] != "seed")


def _is_end(name: str, names: Collection[str]) -> bool:
    stem, _, end = name.rpartition("_")
    return end in ("low", "high") and f"{stem}_low" in names and f"{stem}_high" in names


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
