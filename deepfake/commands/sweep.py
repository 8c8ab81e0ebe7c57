"""The callback of our sweeps: a parent run with its jobs nested, and a table that compares them.

The sweeper, which calls it, knows no tracking.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from deepfake.compat import set_parent
from deepfake.config import load_config, to_plain
from deepfake.errors import first_line
from deepfake.options import flatten, overrides_by_key
from deepfake.runs.console import Console
from deepfake.runs.context import read_parent, write_parent
from deepfake.runs.sweep_card import SHOWN, write_sweep_card
from deepfake.sweeping.callbacks import FAILED, PRUNED, Job, SweepInfo, SweepResult
from deepfake.tracking import tables
from deepfake.tracking.run import Origin, TrackedRun, add_failed, track
from deepfake.tracking.run_folder import write_text
from deepfake.tracking.store import locate


class Observer:
    """Called at a sweep's start, at each job's end and at its own end.

    Args:
        config: The composed config of the sweep, without the overrides of single jobs.
    """

    def __init__(self, config: DictConfig) -> None:
        values = _job_values(config)
        self._parameters = flatten(to_plain(values))
        self._config = load_config(values)
        self._store = locate(self._config.tracking, self._config.outputs)
        self._console = Console()
        self._open = ExitStack()
        self._parent: TrackedRun | None = None

    def check(self, config: DictConfig) -> None:
        """Every value of a job typed and in its range, before the first job starts."""
        load_config(_job_values(config))

    def sweep_started(self, info: SweepInfo) -> None:
        """Begin the parent run, or go on with the one that an earlier start of this sweep began."""
        of = "?" if info.total is None else str(info.total)
        swept = ", ".join(f"{key}={text}" for key, text in info.space.items())
        self._console.say(f"{info.kind} {info.name}: {of} runs over {swept or 'nothing'}")
        self._parent = self._open.enter_context(
            track(
                self._store,
                self._config.tracking.experiment or self._config.dataset.name,
                info.name,
                folder=info.folder,
                tags={"sweep": info.name, "sweep.kind": info.kind, "sweep.folder": str(info.folder)},
                options=replace(self._config.tracking, system_metrics=False),
                origin=Origin(resumed=read_parent(info.folder)),
            )
        )
        self._parent.params({**{f"space.{key}": text for key, text in info.space.items()}, **self._parameters})
        write_parent(info.folder, self._parent.id)

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        """Print a failure at once; a job that failed before it had a run of its own gets one that says why."""
        if job.status != FAILED:
            return
        chosen = " ".join(job.overrides)
        where = f"; {job.traceback}" if job.traceback else ""
        self._console.warn(f"job {job.number} ({chosen}) failed: {job.reason}{where}")
        if job.run_id is None and self._parent is not None:
            add_failed(
                self._parent,
                chosen or f"#{job.number}",
                job.reason or "it gave no reason",
                tags={"job": job.number},
                params=overrides_by_key(job.overrides),
                trace=Path(job.traceback) if job.traceback else None,
            )

    def sweep_finished(self, result: SweepResult) -> None:
        """Compare the jobs, keep the table in the parent run, and say where to look."""
        try:
            self._compare(result)
            self._keep_card(result)
        finally:
            if self._parent is not None:
                self._parent.end_children()
                self._parent.tags({"sweep.status": result.status})
            self._end_parent(result.status)
        self._console.say(f"sweep: {result.info.folder}\ncompare in the browser: {self._store.ui_command}")

    def _keep_card(self, result: SweepResult) -> None:
        try:
            card = write_sweep_card(result, job_table(result))
        except Exception as error:
            self._console.warn(f"the sweep's report card could not be written: {first_line(error)}")
            return
        if self._parent is not None:
            self._parent.files([card])

    def _end_parent(self, status: str) -> None:
        """End the parent run: as one that was cut short, if the sweep was."""
        if status != "interrupted":
            self._open.close()
            return
        with suppress(KeyboardInterrupt):
            interruption = KeyboardInterrupt()
            self._open.__exit__(type(interruption), interruption, None)

    def _compare(self, result: SweepResult) -> None:
        objective = result.info.objectives[0]
        runs = job_table(result)
        if objective.metric not in runs or runs[objective.metric].isna().all():
            self._console.warn(f"no run has {objective.metric}: there is nothing to compare")
            return
        ranked = tables.rank(runs, objective.metric, larger_is_better=objective.maximize)
        metrics = dict.fromkeys([*(item.metric for item in result.info.objectives[1:]), *SHOWN])
        shown = [metric for metric in metrics if metric in ranked and metric != objective.metric]
        columns = ["run", *[key for key in result.info.space if key in ranked], "status", objective.metric, *shown]
        columns = tables.unrepeated(ranked, columns)
        title = f"{len(ranked)} runs compared by {objective.metric}"
        self._console.table(tables.to_terminal(ranked, columns, objective.metric, title))
        folder: Path = result.info.folder
        tables.to_csv(ranked, columns, folder / "comparison.csv")
        write_text(folder / "comparison.md", tables.to_markdown(ranked, columns, objective.metric))
        if self._parent is not None:
            best = ranked.iloc[0]
            self._parent.summary({f"best/{objective.metric}": float(best[objective.metric])})
            chosen = {f"best.{key}": best[key] for key in result.info.space if key in ranked}
            # Tags, for a study that goes on may find a better one, and parameters cannot be changed.
            self._parent.tags({"best.overrides": best["overrides"], **chosen})
            self._parent.best(*(str(best[key]) if isinstance(best[key], str) else "" for key in ("run_id", "run_dir")))
            figures = [path for path in result.files if path.suffix == ".png"]
            self._parent.files(figures, "figures")
            others = [path for path in result.files if path not in figures]
            self._parent.files([folder / "comparison.csv", folder / "comparison.md", *others])


def _job_values(config: DictConfig) -> DictConfig:
    """A job's config without Hydra's node, its interpolations still resolved as if it were there."""
    values = DictConfig({key: config[key] for key in config if key != "hydra"}, flags={"allow_objects": True})
    set_parent(values, config)
    return values


def job_table(result: SweepResult) -> pd.DataFrame:
    """One row per job: its name, what was chosen for it, how it ended, and its metrics."""
    rows = []
    for job in result.jobs:
        chosen = overrides_by_key(job.overrides)
        status = {FAILED: "failed", PRUNED: "pruned"}.get(job.status, "finished")
        name = job.name or f"#{job.number}"
        rows.append(
            {
                "run": name,
                "status": status,
                "run_id": job.run_id,
                "run_dir": job.run_dir,
                "overrides": " ".join(job.overrides),
                **{key: tables.typed_value(text) for key, text in chosen.items()},
                **job.metrics,
            }
        )
    runs = pd.DataFrame(rows)
    if "best_epoch" in runs:
        runs["best_epoch"] = runs["best_epoch"].astype("Int64")
    return runs
