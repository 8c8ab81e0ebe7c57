"""What a sweep tells whoever listens: its start, each job's end, its own end.

Knows neither who listens nor what they keep: a listener is named by its dotted path in the sweeper's config.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from deepfake.errors import UserError, of_a_place

log = logging.getLogger(__name__)

#: In a sweep's folder: held while a listener is told of the start and the end, and while files are written.
LOCK = "sweep.lock"
COMPLETED, PRUNED, FAILED = "completed", "pruned", "failed"


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
    ``resumed`` says that an earlier process began this very sweep in the same folder.
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


@dataclass(frozen=True)
class Job:
    """One finished job: what was chosen for it and what came back.

    ``values`` are the objectives in their order (empty unless the job completed), ``reason`` says why it failed,
    ``traceback`` is the file that holds its exception.
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


@dataclass(frozen=True)
class SweepResult:
    """How it ended: ``status`` is finished, stopped (time or failures) or interrupted.

    ``best`` holds one job for a single objective, the Pareto front for several, nothing when none completed.
    ``files`` are the tables and figures written into the sweep's folder.
    """

    info: SweepInfo
    jobs: list[Job]
    best: list[Job]
    status: str
    files: list[Path] = field(default_factory=list)

    @property
    def failed(self) -> list[Job]:
        """The jobs that failed, in order."""
        return [job for job in self.jobs if job.status == FAILED]


class SweepObserver(Protocol):
    """A listener. Start and end are told under a lock of the sweep's folder, so that two terminals take turns."""

    def check(self, config: DictConfig) -> None:
        """Before anything starts, with the composed config of a job to come: refuse it by raising UserError."""

    def sweep_started(self, info: SweepInfo) -> None:
        """Before the first job."""

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        """After each job that this process started, in the order in which they end."""

    def sweep_finished(self, result: SweepResult) -> None:
        """After the last job, also when the sweep was stopped or interrupted."""


class Silent:
    """Listens to nothing."""

    def check(self, config: DictConfig) -> None:
        """Anything goes."""

    def sweep_started(self, info: SweepInfo) -> None:
        """Nothing to do."""

    def job_finished(self, info: SweepInfo, job: Job) -> None:
        """Nothing to do."""

    def sweep_finished(self, result: SweepResult) -> None:
        """Nothing to do."""


def create_observer(path: str | None, config: Any) -> SweepObserver:
    """The listener named in the sweeper's config, given the composed config of the sweep.

    A config may come from anywhere, so it names a listener of this package or of the app that runs, which are imported
    already; nothing else is imported or called for it.

    Raises:
        UserError: There is no such class, or it is no listener.
    """
    if path is None:
        return Silent()
    module, _, name = path.rpartition(".")
    own = module.startswith("deepfake.")
    try:
        kind = getattr(importlib.import_module(module) if own else sys.modules[module], name)
    except (ImportError, AttributeError, KeyError) as error:
        raise UserError(
            f"hydra.sweeper.observer={path!r} is no class of this package or of the app that runs: {error}",
            "give module.Class, or null",
        ) from error
    needed = ("sweep_started", "job_finished", "sweep_finished")
    if not isinstance(kind, type) or not all(callable(getattr(kind, method, None)) for method in needed):
        raise UserError(
            f"hydra.sweeper.observer={path!r} is no listener", f"it needs {', '.join(needed)}, or give null"
        )
    listener: SweepObserver = kind(config)
    return listener


def tell(what: str, call: Callable[[], None]) -> None:
    """Call a listener; its own trouble is reported and never ends the sweep."""
    try:
        call()
    except Exception as error:
        mistake = error if isinstance(error, UserError) else of_a_place(error)
        if mistake is None:
            log.exception("the sweep goes on, but %s could not be recorded", what)
        else:
            log.warning("the sweep goes on, but %s could not be recorded: %s; %s", what, mistake.message, mistake.hint)
