"""What a sweep reports, its start, each job's end and its own end, and the callback that hears of it.

Knows no callback's work: one is named by its dotted path in the sweeper's config.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from deepfake.errors import UserError, of_a_place

log = logging.getLogger(__name__)

#: In a sweep's folder: held while a callback is called at the start and the end, and while files are written.
LOCK = "sweep.lock"
#: Likewise, from the moment that the sweep begins to be deleted.
DELETING = "deleting.json"
COMPLETED, PRUNED, FAILED = "completed", "pruned", "failed"
#: Of a trial that waits at a rung, and may be gone on with.
PAUSED = "paused"


@dataclass(frozen=True)
class Objective:
    """A metric that runs return, and which way is better."""

    metric: str
    maximize: bool = True

    @property
    def direction(self) -> str:
        """In Optuna's words."""
        return "maximize" if self.maximize else "minimize"


@dataclass(frozen=True)
class SweepInfo:
    """What is about to run.

    ``kind`` is ``grid`` or ``study``; ``total`` None where it is not known beforehand; ``overrides`` hold for
    every job; ``space`` maps each swept key to what it is swept over; ``folder`` is ``hydra.sweep.dir``.
    ``resumed`` says that an earlier process began this very sweep in the same folder. ``keep`` is how many of its best
    jobs are to be kept whole; None where every job's point was asked for, and none is less than another.
    ``constraints`` are what its best are to keep; ``seeds`` those that each job is run over, of the key ``seed_key``,
    empty where it is run once.
    """

    name: str
    kind: str
    folder: Path
    total: int | None
    objectives: list[Objective]
    overrides: list[str] = field(default_factory=list)
    space: dict[str, str] = field(default_factory=dict)
    resumed: bool = False
    storage: str | None = None
    keep: int | None = None
    constraints: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    seed_key: str | None = None


@dataclass(frozen=True)
class SeedRun:
    """One of the runs of a job that is run over several seeds."""

    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    run_dir: str | None = None
    name: str | None = None
    seconds: float | None = None
    epochs: int = 0


@dataclass(frozen=True)
class Job:
    """One job that has ended, or is paused: what was chosen for it and what came back.

    ``values`` are the objectives in their order (empty unless the job completed), ``reason`` says why it failed or
    where it waits, ``traceback`` is the file that holds its exception. In a study that promotes, ``rung`` is the
    highest that it has reached, from 0, and ``bracket`` where it began. ``feasible`` is whether it kept the sweep's
    constraints, None where there are none or that is not known. Of a job that was run over several seeds, ``runs`` are
    those that completed, in order, the numbers are their means, and ``run_id``, ``run_dir`` and ``name`` are the first
    one's.
    """

    number: int
    overrides: list[str]
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None
    run_dir: str | None = None
    name: str | None = None
    values: list[float] = field(default_factory=list)
    seconds: float | None = None
    reason: str | None = None
    traceback: str | None = None
    rung: int | None = None
    bracket: int | None = None
    feasible: bool | None = None
    runs: list[SeedRun] = field(default_factory=list)


@dataclass(frozen=True)
class SweepResult:
    """How it ended: ``status`` is finished, stopped (time or failures) or interrupted.

    ``best`` holds one job for a single objective, the Pareto front for several, nothing when none completed.
    ``files`` are the tables and figures written into the sweep's folder, ``importances`` say how much each key of a
    study mattered to the first objective, as far as that can be told.
    """

    info: SweepInfo
    jobs: list[Job]
    best: list[Job]
    status: str
    files: list[Path] = field(default_factory=list)
    importances: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[Job]:
        """The jobs that failed, in order."""
        return [job for job in self.jobs if job.status == FAILED]


class SweepCallback(Protocol):
    """What hears of a sweep. Start and end are called under a lock of the sweep's folder, one terminal at a time."""

    def check(self, config: DictConfig) -> None:
        """Before anything starts, with the composed config of a job to come: refuse it by raising UserError."""

    def sweep_started(self, info: SweepInfo) -> None:
        """Before the first job."""

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        """After each job that this process started, in the order in which they end."""

    def jobs_beaten(self, info: SweepInfo, jobs: Sequence[Job]) -> None:
        """After jobs ended that can no longer be among the best :attr:`SweepInfo.keep`, at every start for all of them.

        A callback may do without this method.
        """

    def runs_named(self, info: SweepInfo) -> Mapping[str, str]:
        """Before the end is recorded, where jobs have folders and no ``run_id``: the ids of the sweep's runs by folder.

        A callback may do without this method.
        """

    def sweep_finished(self, result: SweepResult) -> None:
        """After the last job, also when the sweep was stopped or interrupted."""


class NoCallback:
    """Does nothing."""

    def check(self, config: DictConfig) -> None:
        """Anything goes."""

    def sweep_started(self, info: SweepInfo) -> None:
        """Nothing to do."""

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        """Nothing to do."""

    def jobs_beaten(self, info: SweepInfo, jobs: Sequence[Job]) -> None:
        """Nothing to do."""

    def runs_named(self, info: SweepInfo) -> Mapping[str, str]:
        """None is known."""
        return {}

    def sweep_finished(self, result: SweepResult) -> None:
        """Nothing to do."""


def create_callback(path: str | None, config: Any) -> SweepCallback:
    """The callback that the sweeper's config names, given the composed config of the sweep.

    A config may come from anywhere, so it names a class of this package or of the app that runs, which are imported
    already; nothing else is imported or called for it.

    Raises:
        UserError: There is no such class, or it lacks a method.
    """
    if path is None:
        return NoCallback()
    module, _, name = path.rpartition(".")
    ours = module.startswith("deepfake.")
    try:
        kind = getattr(importlib.import_module(module) if ours else sys.modules[module], name)
    except (ImportError, AttributeError, KeyError) as error:
        raise UserError(
            f"hydra.sweeper.observer={path!r} is no class of this package or of the app that runs: {error}",
            "give module.Class, or null",
        ) from error
    needed = ("sweep_started", "job_finished", "sweep_finished")
    if not isinstance(kind, type) or not all(callable(getattr(kind, method, None)) for method in needed):
        raise UserError(
            f"hydra.sweeper.observer={path!r} is no callback", f"it needs {', '.join(needed)}, or give null"
        )
    callback: SweepCallback = kind(config)
    return callback


def notify(what: str, call: Callable[[], None]) -> None:
    """Call a callback; an error in it is logged and never ends the sweep."""
    try:
        call()
    except Exception as error:
        mistake = error if isinstance(error, UserError) else of_a_place(error)
        if mistake is None:
            log.exception("the sweep goes on, but %s could not be recorded", what)
        else:
            log.warning("the sweep goes on, but %s could not be recorded: %s; %s", what, mistake.message, mistake.hint)
