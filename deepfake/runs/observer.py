"""The callback of our sweeps: a parent run with its jobs nested, and a table that compares them.

The sweeper, which calls it, knows no tracking.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from deepfake.compat import set_parent
from deepfake.config import load_config, to_plain
from deepfake.errors import first_line, masked
from deepfake.installation import TRAIN
from deepfake.options import flatten, is_under, overrides_by_key
from deepfake.runs.console import Console
from deepfake.runs.context import read_parent, write_parent
from deepfake.runs.sweep_card import (
    DEVIATION,
    PLACES,
    SEEDS,
    SHOWN,
    bounded,
    rank_jobs,
    with_spread,
    write_sweep_card,
)
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PAUSED, PRUNED, Job, SweepInfo, SweepResult, notify
from deepfake.sweeping.repeats import deviation
from deepfake.tracking import tables
from deepfake.tracking.names import grid_name, plain, run_name, short_keys, study_name
from deepfake.tracking.notes import MOST_ROWS, SweepFacts
from deepfake.tracking.run import Origin, TrackedRun, add_failed, clean_name, name_runs, track
from deepfake.tracking.run_folder import write_text
from deepfake.tracking.store import connect, locate
from deepfake.tracking.view import COMPARED
from deepfake.tracking.weights import Forgetter, Forgotten, References

#: From one round of deleting weights to the next: each asks the store who refers to any.
_ROUND_SECONDS = 10.0
#: So many runs whose weights could not be deleted are named.
_MOST_LEFT = 3


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
        self._forgetter: Forgetter | None = None
        self._beaten: list[Job] = []
        self._next_round = 0.0
        hydra = OmegaConf.select(config, "hydra", default={})
        self._choices = {group: str(name) for group, name in _of(hydra, "runtime.choices", {}).items() if name}
        self._typed = [*_of(hydra, "overrides.hydra", []), *_of(hydra, "overrides.task", [])]

    def check(self, config: DictConfig) -> None:
        """Every value of a job typed and in its range, before the first job starts."""
        load_config(_job_values(config))

    def sweep_started(self, info: SweepInfo) -> None:
        """Begin the parent run, or go on with the one that an earlier start of this sweep began."""
        swept = ", ".join(f"{key}={text}" for key, text in info.space.items())
        self._console.say(f"{info.kind} {info.name}: {_runs(info)} over {swept or 'nothing'}")
        name = self._name(info)
        self._parent = self._open.enter_context(
            track(
                self._store,
                self._config.tracking.experiment or self._config.dataset.name,
                name,
                folder=info.folder,
                tags={"sweep": info.name, "sweep.kind": info.kind, "sweep.folder": str(info.folder)},
                options=replace(self._config.tracking, system_metrics=False),
                origin=Origin(resumed=read_parent(info.folder)),
            )
        )
        space = {f"space.{key}": text for key, text in info.space.items()}
        self._parent.params({**space, **{key: v for key, v in self._parameters.items() if not _is_swept(key, info)}})
        keys = [clean_name(key.lstrip("+")) for key in info.space]
        self._parent.compares(keys, info.objectives[0].metric, info.objectives[0].maximize)
        if info.resumed:
            # There may be more trials to come than the last time.
            self._parent.renamed(name)
        self._parent.note(self._facts(info).begun(_last_table(info)))
        told_by = [*info.space, *([info.seed_key] if info.seed_key else [])]
        write_parent(info.folder, self._parent.id, [key.lstrip("+") for key in told_by])
        if self._thins(info) and self._config.tracking.keep_weights == "best":
            self._console.say(f"weights are kept of {_kept(info)} (sweep.keep); tracking.keep_weights=all keeps all")

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        """Print a failure at once; a job that failed before it had a run of its own gets one that says why."""
        if job.status != FAILED:
            return
        chosen = " ".join(job.overrides)
        where = f"; {job.traceback}" if job.traceback else ""
        self._console.warn(f"job {job.number} ({chosen}) failed: {job.reason}{where}")
        if job.run_id is None and self._parent is not None:
            choices = overrides_by_key(job.overrides)
            # A model brings its own name, which a job that was never composed does not have.
            base = plain(choices.get("model", self._config.name))
            add_failed(
                self._parent,
                run_name(base, choices, info.space) if choices else f"#{job.number}",
                job.reason or "it gave no reason",
                tags={"job": job.number},
                params={key: plain(text) for key, text in choices.items()},
                trace=Path(job.traceback) if job.traceback else None,
            )

    def jobs_beaten(self, info: SweepInfo, jobs: Sequence[Job]) -> None:
        """Let go of the weights of runs that can no longer be among the sweep's best, where that is asked for."""
        if not self._thins(info):
            return
        self._beaten += jobs
        if time.monotonic() >= self._next_round:
            self._forget(info)
            self._next_round = time.monotonic() + _ROUND_SECONDS

    def runs_named(self, info: SweepInfo) -> dict[str, str]:
        """The ids of the sweep's runs by their folders, once what was kept of them is sent."""
        return {} if self._parent is None else name_runs(self._store, self._parent, info.folder)

    def sweep_finished(self, result: SweepResult) -> None:
        """Compare the jobs, keep the table in the parent run, and say where to look."""
        if self._beaten:
            notify("which weights may go", lambda: self._forget(result.info))
        self._tell_forgotten()
        try:
            self._compare(result)
            self._keep_card(result)
        finally:
            if self._parent is not None:
                self._parent.end_children()
                # A process that was killed first could not say that its run is paused, or was stopped by somebody.
                told = (job for job in result.jobs if job.status in (PRUNED, PAUSED) and job.reason and job.run_id)
                self._parent.settle({str(job.run_id): job.status for job in told})
                self._parent.tags({"sweep.status": result.status})
            self._end_parent(result.status)
        shown = self._store.ui_command(result.info.name)
        self._console.say(f"sweep: {result.info.folder}\ncompare in the browser: {shown}")

    def _thins(self, info: SweepInfo) -> bool:
        return info.keep is not None and self._config.tracking.keep_weights != "all"

    def _forget(self, info: SweepInfo) -> None:
        if self._forgetter is None:
            self._forgetter = Forgetter(connect(self._store), self._store, self._config.outputs)
        forget, references = self._forgetter.forget, References(self._forgetter.client, self._config.outputs)
        how = self._config.tracking.keep_weights
        kept = "none of its runs" if how == "none" else _kept(info)
        why = f"sweep {info.name} keeps the weights of {kept} (tracking.keep_weights={how})"

        def settled(job: Job) -> bool:
            # What a failed point's other seeds came to counts on where it is tried again.
            others = [] if job.status == FAILED else job.runs
            runs = {run.run_dir: run.run_id for run in others} | {job.run_dir: job.run_id}
            places = {Path(place) if place else info.folder / str(job.number): one for place, one in runs.items()}
            done = [forget(one, place, why, references) for place, one in places.items()]
            return all(done)

        # A server that has not heard of a run's end yet is asked again after the next one.
        self._beaten = [job for job in self._beaten if not settled(job)]

    def _tell_forgotten(self) -> None:
        found = self._forgetter.total if self._forgetter is not None else Forgotten()
        if found.runs:
            runs = "1 run" if found.runs == 1 else f"{found.runs} runs"
            self._console.say(f"the weights of {runs} that were beaten are deleted, {found.freed / 1e6:.1f} MB freed")
        for line in found.left[:_MOST_LEFT]:
            self._console.warn(line)
        if len(found.left) > _MOST_LEFT:
            self._console.warn(f"the weights of {len(found.left) - _MOST_LEFT} more runs are left")

    def _name(self, info: SweepInfo) -> str:
        """What the parent run is called; its reference, the tag ``sweep``, is another."""
        if info.kind == "grid":
            return grid_name(info.space) or info.name
        model = self._choices.get("model", self._config.name)
        return study_name(self._choices.get("search"), model, info.space, info.total)

    def _facts(self, info: SweepInfo) -> SweepFacts:
        assert self._parent is not None
        runs = _runs(info)
        swept = ", ".join(f"{key}={text}" for key, text in info.space.items()) or "nothing"
        command = masked(shlex.join(["-m", *(text for text in self._typed if not text.startswith("hydra.mode="))]))
        return SweepFacts(
            name=info.name,
            run_id=self._parent.id,
            experiment=self._parent.experiment,
            command=f"{TRAIN} {command}",
            objective=info.objectives[0].metric,
            what=f"{runs} over `{swept}`",
        )

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
            if self._parent is not None:
                self._parent.note(self._facts(result.info).ended(result.status, runs, []))
            return
        ranked = rank_jobs(runs, objective)
        beside = [item.metric for item in result.info.objectives[1:]]
        metrics = dict.fromkeys([*beside, *bounded(result.info), *SHOWN])
        shown = [metric for metric in metrics if metric in ranked and metric != objective.metric]
        chosen_for = [key for key in result.info.space if key in ranked]
        places = [name for name in PLACES if name in ranked]
        every = ["run", *chosen_for, "status", *places, objective.metric, *shown]
        every = with_spread(every, objective.metric, ranked)
        # A name says what was chosen, which has columns of its own.
        columns = tables.unrepeated(ranked, every[1:] if chosen_for else every)
        title = f"{len(ranked)} runs compared by {objective.metric}"
        self._console.table(tables.to_terminal(ranked, columns, objective.metric, title))
        folder: Path = result.info.folder
        tables.to_csv(ranked, list(dict.fromkeys(["run", *columns])), folder / "comparison.csv")
        write_text(folder / "comparison.md", tables.to_markdown(ranked, columns, objective.metric))
        if self._parent is not None:
            best = ranked.iloc[0]
            if best["status"] == "finished":
                self._parent.summary({f"best/{objective.metric}": float(best[objective.metric])})
                chosen = {f"best.{key}": best[key] for key in result.info.space if key in ranked}
                if result.best and result.best[0].runs:
                    chosen["best.runs"] = " ".join(run.run_id or run.run_dir or "" for run in result.best[0].runs)
                # Tags, for a study that goes on may find a better one, and parameters cannot be changed.
                self._parent.tags({"best.overrides": best["overrides"], **chosen})
                self._parent.best(
                    *(str(best[key]) if isinstance(best[key], str) else "" for key in ("run_id", "run_dir"))
                )
            headlines = [name for name in COMPARED if name in ranked]
            note = self._facts(result.info).ended(
                result.status, ranked, list(dict.fromkeys([*headlines, objective.metric]))
            )
            self._parent.note(note)
            figures = [path for path in result.files if path.suffix == ".png"]
            self._parent.files(figures, "figures")
            others = [path for path in result.files if path not in figures]
            self._parent.files([folder / "comparison.csv", folder / "comparison.md", *others])


def _kept(info: SweepInfo) -> str:
    """Which of a sweep's runs keep their weights."""
    return "its Pareto front" if len(info.objectives) > 1 else f"its best {info.keep}"


def _of(hydra: Any, key: str, default: Any) -> Any:
    """A part of Hydra's own node, which a config that was composed without Hydra's app lacks."""
    found = OmegaConf.select(hydra, key) if isinstance(hydra, DictConfig) else None
    return default if found is None else OmegaConf.to_container(found, resolve=False)


def _is_swept(key: str, info: SweepInfo) -> bool:
    """Whether a key of the config is another one in each job: it is swept, or a group that brings it is."""
    swept = {name.lstrip("+") for name in info.space}
    brought = ("backbone", "head", "name") if "model" in swept else ()
    return key.endswith("_target_") or is_under(key, [*swept, *brought])


def _last_table(info: SweepInfo) -> str:
    """The comparison at the last end of a sweep that goes on."""
    file = info.folder / "comparison.md"
    if not info.resumed or not file.is_file():
        return ""
    head, *rows = file.read_text(encoding="utf-8").split("\n")
    return "\n".join([head, *rows[: 1 + MOST_ROWS]])


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
        status = "finished" if job.status == COMPLETED else job.status
        if job.feasible is False:
            status = tables.INFEASIBLE
        name = _point_name(result.info, job) or f"#{job.number}"
        rows.append(
            {
                "run": name,
                "status": status,
                "run_id": job.run_id,
                "run_dir": job.run_dir,
                "overrides": " ".join(job.overrides),
                **{key: tables.typed_value(text) for key, text in chosen.items()},
                **({} if job.bracket is None else {"rung": job.rung, "bracket": job.bracket}),
                **job.metrics,
                **_spread(result.info, job),
            }
        )
    runs = pd.DataFrame(rows)
    for name in set(PLACES) & set(runs.columns):
        # Some have reached none.
        runs[name] = runs[name].astype("Int64")
    if "best_epoch" in runs and not result.info.seeds:
        runs["best_epoch"] = runs["best_epoch"].astype("Int64")
    return runs


def _point_name(info: SweepInfo, job: Job) -> str | None:
    """What a job is called; one that was run over several seeds has the name of its first run but for the seed."""
    if not job.runs or job.name is None or info.seed_key is None:
        return job.name
    called = short_keys([*info.space, info.seed_key])[info.seed_key]
    return job.name.removesuffix(f" {called}={job.runs[0].seed}")


def _spread(info: SweepInfo, job: Job) -> dict[str, Any]:
    """The columns of a job that was run over several seeds."""
    if not info.seeds:
        return {}
    spread = deviation(job.runs, info.objectives[0].metric)
    return {DEVIATION: math.nan if spread is None else spread, SEEDS: " ".join(str(run.seed) for run in job.runs)}


def _runs(info: SweepInfo) -> str:
    """How many a sweep is to have, as far as that is known: ``12 runs``."""
    return "runs" if info.total is None else f"{info.total} run{'' if info.total == 1 else 's'}"
