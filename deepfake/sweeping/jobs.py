"""Runs one job inside this process and turns what it returned into a :class:`Job`.

Knows how Hydra composes and runs a job; neither what the job trains nor which study asked for it.
"""

from __future__ import annotations

import math
import numbers
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf, open_dict

from deepfake.compat import job_outcome
from deepfake.errors import UserError
from deepfake.files import appearing
from deepfake.options import split_override
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PAUSED, PRUNED, Job, Objective
from deepfake.sweeping.trial import Paused, Pruned

T = TypeVar("T")

#: In a failed job's folder: its exception, with where it came from.
TRACEBACK = "traceback.txt"
#: The attribute of a task function that says how several of its jobs are run at the same time.
_TOGETHER = "runs_together"
#: Overrides that say how runs are chosen; what a job records does not hold them, so that a rerun is no study.
_SWEEP_KEYS = ("sweep", "search", "sampler", "pruner")
#: How a launcher refuses a job, and the keys that say what is asked for.
_REFUSALS = {
    "generic resource": "gpus_per_node (null where the cluster names no GPUs), or gres",
    "invalid partition": "partition",
    "Invalid account": "account, or partition",
    "Invalid qos": "qos",
    "time limit is invalid": "timeout_min",
    "Memory specification": "mem_gb (null where the cluster does not share out memory)",
    "CPU count per node": "cpus_per_task",
    "node configuration is not available": "cpus_per_task, mem_gb or gpus_per_node",
}


class Member(Protocol):
    """One of several jobs that a process runs at the same time."""

    @property
    def alone(self) -> bool:
        """Whether it is to share nothing with the others."""

    def run(self) -> None:
        """Run it to its end; what it raises ends the others too."""

    def stopped(self) -> BaseException | None:
        """What it is to be stopped by, if it is: raised where it gives way to others."""

    def begin_turn(self, among: int = 1) -> None:
        """Be told that it runs from now on, or is trained with others: so many with itself."""

    def end_turn(self) -> None:
        """Be told that it waits for others."""


#: Runs jobs, so many at a time, until there are no more: given what gives the next one, None where there is none now.
Together = Callable[[Callable[[], Member | None], int], None]


def runs_together(name: str) -> Callable[[T], T]:
    """Say of a task function how several of its jobs are run at the same time, for ``sweep.fuse``.

    Args:
        name: The dotted path of a :data:`Together`, which is imported once it is needed.
    """

    def mark(task: T) -> T:
        setattr(task, _TOGETHER, name)
        return task

    return mark


@dataclass(frozen=True)
class JobRunner:
    """Everything a job needs besides its overrides."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    @property
    def together(self) -> Together | None:
        """How the task runs several of its jobs at the same time in one process, if it says."""
        name = getattr(self.task, _TOGETHER, None)
        return None if name is None else get_method(name)

    @property
    def folder(self) -> Path:
        """The sweep's folder, absolute."""
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    @property
    def hydra_overrides(self) -> list[str]:
        """Hydra's own overrides as written; some interpolate what only a job has."""
        return [str(text) for text in OmegaConf.to_container(self.config.hydra.overrides.hydra, resolve=False) or ()]

    def create_launcher(self) -> Launcher:
        """The launcher that ``hydra/launcher`` names, for this task."""
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.task, config=self.config
        )

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of a job, as the launchers make it; raises Hydra's and OmegaConf's own errors."""
        return self.context.config_loader.load_sweep_config(self.config, list(overrides))

    def run(self, overrides: Sequence[str], number: int, part: str | None = None) -> JobReturn:
        """Compose and run one job here; its exception comes back inside the return value.

        Args:
            part: The folder within the job's for one of several runs that it consists of.
        """
        config = self.compose(overrides)
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
            config.hydra.sweep.dir = str(self.folder)
            if part is not None:
                place = OmegaConf.to_container(config.hydra.sweep, resolve=False)
                config.hydra.sweep.subdir = f"{place['subdir']}/{part}"  # type: ignore[call-overload, index]
            config.hydra.overrides.task = [text for text in config.hydra.overrides.task if not is_sweep_override(text)]
        result = run_job(
            task_function=self.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self.context,
        )
        folder = job_folder(result)
        outcome = job_outcome(result)
        if isinstance(outcome, (Pruned, Paused)):
            _drop_frames(outcome)
        elif result.status is JobStatus.FAILED and not is_interruption(outcome):
            keep_traceback(outcome, folder)
            return result
        if folder is not None:
            # Of an earlier attempt.
            (folder / TRACEBACK).unlink(missing_ok=True)
        return result


def job_folder(result: JobReturn) -> Path | None:
    """The folder that Hydra made for a job."""
    place = OmegaConf.select(result.hydra_cfg, "hydra.runtime.output_dir") if result.hydra_cfg is not None else None
    return None if place is None else Path(str(place))


def keep_traceback(error: object, folder: Path | None) -> Path | None:
    """Write an exception into a job's folder, and let go of what its frames hold, perhaps a whole model.

    Returns:
        The file, or None where it cannot be written: that must not hide the failure itself.
    """
    if folder is None or not isinstance(error, BaseException):
        return None
    path = folder / TRACEBACK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with appearing(path) as partial_file:
            partial_file.write_text(
                "".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace"
            )
    except OSError:
        return None
    finally:
        _drop_frames(error)
    return path


def is_sweep_override(text: str) -> bool:
    """Whether an override says how runs are chosen rather than what a run is."""
    return re.split(r"[.@]", split_override(text)[0])[0] in _SWEEP_KEYS


def timed(run: Callable[[], JobReturn]) -> tuple[JobReturn, float]:
    """A job's return and the seconds it took."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def to_job(
    result: JobReturn, number: int, overrides: Sequence[str], objectives: Sequence[Objective], seconds: float | None
) -> Job:
    """What a job returned, in our words.

    The task function returns a dict with ``metrics`` (and ``run_id``, ``run_dir``, ``name``, ``status``), one
    number for a single objective, or one number for each objective.
    """
    returned = job_outcome(result)
    common: dict[str, Any] = {"number": number, "overrides": list(overrides), "seconds": seconds}
    if isinstance(returned, (Pruned, Paused)):
        status = PRUNED if isinstance(returned, Pruned) else PAUSED
        return Job(status=status, metrics=dict(returned.metrics), **common)
    if result.status is not JobStatus.COMPLETED:
        file = (job_folder(result) or Path()) / TRACEBACK
        return Job(status=FAILED, reason=describe(returned), traceback=str(file) if file.is_file() else None, **common)
    fields = returned if isinstance(returned, Mapping) else {}
    metrics = _metrics(returned, objectives)
    status = str(fields.get("status", COMPLETED))
    reason = fields.get("reason")
    return Job(
        status=status if status in (PRUNED, FAILED) else COMPLETED,
        metrics=metrics,
        reason=str(reason) if reason else None,
        values=[metrics[item.metric] for item in objectives if item.metric in metrics],
        **common,
        **_identity(fields),
    )


def describe(error: object) -> str:
    """An exception in one line."""
    if isinstance(error, UserError):
        return error.message
    name = type(error).__name__
    lines = str(error).strip().removeprefix(name).strip().splitlines()
    if not lines and isinstance(error, BaseException) and error.__cause__ is not None:
        # Hydra's composition errors leave the telling to their cause.
        return describe(error.__cause__)
    return f"{name}: {lines[0]}" if lines else name


def refusal_hint(error: Exception) -> str | None:
    """Which key of the launcher to change where a cluster refused a job as it was asked for; None for other errors."""
    text = str(error)
    keys = next((keys for words, keys in _REFUSALS.items() if words.lower() in text.lower()), None)
    return f"change what is asked for: hydra.launcher.{keys}" if keys else None


def is_interruption(error: object) -> bool:
    """Whether an exception is, or came of, somebody stopping the process."""
    while isinstance(error, BaseException):
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def pick_best(jobs: Sequence[Job], objectives: Sequence[Objective]) -> list[Job]:
    """The completed job with the best value, or those no other job beats in every objective.

    Jobs that lack an objective, or hold NaN for one, are left out, as are those that break the sweep's constraints.
    """
    scored = [
        (job, [value if item.maximize else -value for value, item in zip(job.values, objectives, strict=True)])
        for job in jobs
        if job.status == COMPLETED
        and job.feasible is not False
        and len(job.values) == len(objectives)
        and all(map(math.isfinite, job.values))
    ]
    if len(objectives) == 1:
        return [max(scored, key=lambda pair: pair[1][0])[0]] if scored else []
    return [job for job, values in scored if not any(dominates(other, values) for _, other in scored)]


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one list of values, larger being better, is nowhere worse than another and not the same."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)


def _drop_frames(error: BaseException) -> None:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__]


def _metrics(returned: Any, objectives: Sequence[Objective]) -> dict[str, float]:
    if isinstance(returned, Mapping):
        return {str(key): float(value) for key, value in (returned.get("metrics") or {}).items() if _is_number(value)}
    values = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    if len(values) != len(objectives) or not all(map(_is_number, values)):
        return {}
    return {item.metric: float(value) for item, value in zip(objectives, values, strict=True)}


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(fields[key]) if fields.get(key) else None for key in ("run_id", "run_dir", "name")}
