"""What ``-m`` does: tells a grid from a study, runs it, and ends with an honest exit status.

The only door of this room for Hydra; everything a listener hears goes through :mod:`deepfake.sweeping.observer`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from deepfake.sweeping.grid import chooses, expand, is_study, run_grid
from deepfake.sweeping.jobs import JobRunner, is_sweep_override, pick_best
from deepfake.sweeping.observer import LOCK, Job, SweepInfo, SweepObserver, SweepResult, create_observer, tell
from deepfake.sweeping.options import SweepOptions, load_options
from deepfake.sweeping.snapshot import freeze


class SweepFailed(SystemExit):
    """Some jobs failed; ends the process with status 1 after the others have run.

    Args:
        jobs: The failed ones.
        total: How many ran.
    """

    def __init__(self, jobs: Sequence[Job], total: int) -> None:
        super().__init__(1)
        self.jobs = list(jobs)
        self.total = total

    def __str__(self) -> str:
        lines = [f"error: {len(self.jobs)} of {self.total} jobs failed"]
        lines += [f"  #{job.number} {' '.join(job.overrides)}: {job.reason}" for job in self.jobs]
        return "\n".join(lines)


def sweep(
    context: HydraContext, task: TaskFunction, config: DictConfig, arguments: list[str], observer: str | None
) -> SweepResult:
    """Run every job that the command line and the config ask for.

    Args:
        arguments: The command line's overrides, without those of Hydra itself.
        observer: Dotted path of a listener, or None.

    Returns:
        What ran and how it ended.

    Raises:
        UserError: Nothing could be started.
        SweepFailed: At least one job failed.
    """
    freeze(context.config_loader)
    node = OmegaConf.select(config, "sweep")
    options = load_options(cast("dict[str, Any] | None", node and OmegaConf.to_container(node, resolve=True)))
    overrides = OverridesParser.create(config_loader=context.config_loader).parse_overrides(arguments)
    runner = JobRunner(context, task, config)
    listener = create_observer(observer, config)
    if is_study(options, overrides):
        result = _study(runner, options, overrides, listener)
        # Failed trials are part of a search; a search that stopped because of them is not a success.
        searched = chooses(options, overrides) and result.best and result.status != "stopped"
        failed = bool(result.failed) and not searched
    else:
        result = _grid(runner, options, overrides, listener)
        failed = bool(result.failed)
    if failed:
        failure = SweepFailed(result.failed, len(result.jobs))
        print(failure, file=sys.stderr)
        raise failure
    return result


def _study(
    runner: JobRunner, options: SweepOptions, overrides: Sequence[Override], listener: SweepObserver
) -> SweepResult:
    # Optuna takes a second to import, which a plain grid need not pay.
    from deepfake.sweeping.conduct import conduct
    from deepfake.sweeping.planning import make_plan

    plan = make_plan(runner, options, overrides, listener.check)
    return conduct(
        runner, plan, options.n_jobs, options.report, listener, lambda info: start(info, listener, runner.config)
    )


def _grid(
    runner: JobRunner, options: SweepOptions, overrides: Sequence[Override], listener: SweepObserver
) -> SweepResult:
    points = expand(overrides)
    for point in points:
        listener.check(runner.compose(point))
    keys = {override.get_key_element(): override for override in overrides if override.is_sweep_override()}

    def swept(point: Sequence[str]) -> list[str]:
        return [text for text in point if text.partition("=")[0] in keys]

    info = SweepInfo(
        name=options.name or runner.folder.name,
        kind="grid",
        folder=runner.folder,
        total=len(points),
        objectives=options.objectives,
        overrides=[text for text in points[0] if text not in swept(points[0]) and not is_sweep_override(text)],
        space={key: override.get_value_string() for key, override in keys.items()},
    )
    start(info, listener, runner.config)
    jobs: list[Job] = []
    status = "interrupted"

    def finished(job: Job) -> None:
        jobs.append(job)
        tell(f"job {job.number}", lambda: listener.job_finished(info, job))

    try:
        run_grid(runner, points, swept, options.objectives, finished)
        status = "finished"
    finally:
        result = SweepResult(info, jobs, pick_best(jobs, options.objectives), status)
        tell("the end of the sweep", lambda: listener.sweep_finished(result))
    return result


def start(info: SweepInfo, listener: SweepObserver, config: DictConfig) -> None:
    """Make the sweep's folder and tell the listener, one process at a time."""
    info.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(info.folder / LOCK)):
        OmegaConf.save(config, info.folder / "multirun.yaml")
        listener.sweep_started(info)
