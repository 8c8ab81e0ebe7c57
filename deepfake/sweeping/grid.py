"""A plain grid: every combination of the values given, one job each, the failed ones reported at the end.

Knows no study: it chooses nothing, remembers nothing and prunes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from functools import partial

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from deepfake.compat import is_basic_launcher
from deepfake.errors import UserError
from deepfake.sweeping.callbacks import Job, Objective
from deepfake.sweeping.jobs import JobRunner, describe, timed, to_job
from deepfake.sweeping.options import SweepOptions

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
#: Of the ``sweep.*`` keys, those that a plain grid heeds; any other that is asked for makes a study of it.
_OF_A_GRID = ("objective", "direction", "n_jobs")


def is_study(options: SweepOptions, overrides: Sequence[Override], asked: Collection[str]) -> bool:
    """Whether a study runs the jobs: there is something to choose, or to remember, rather than a list to run in order.

    Args:
        asked: The ``sweep.*`` keys that were asked for, ``sampler`` and ``pruner`` among them.
    """
    swept = any(override.is_sweep_override() for override in overrides)
    remembered = any(key not in _OF_A_GRID for key in asked)
    return chooses(options, overrides, asked) or remembered or (options.n_jobs > 1 and swept)


def chooses(options: SweepOptions, overrides: Sequence[Override], asked: Collection[str]) -> bool:
    """Whether points are to be chosen, by a sampler, instead of all tried."""
    continuous = any(override.is_interval_sweep() for override in overrides)
    return bool(options.params) or continuous or options.n_trials is not None or "sampler" in asked


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """All combinations, the last key changing fastest; a key given twice keeps its last value.

    Raises:
        UserError: A continuous interval, which has no list of values.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [str(override.input_line) if override.is_delete() else f"{key}={_text(override)}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not values[key]:
                raise UserError(f"{override.input_line} holds no value", "give at least one value to sweep over")
        else:
            raise UserError(f"{override.input_line} has no list of values", "a grid takes choice(...) or range(...)")
    return [list(point) for point in itertools.product(*values.values())]


def run_grid(
    runner: JobRunner,
    points: Sequence[Sequence[str]],
    swept: Callable[[Sequence[str]], list[str]],
    objectives: Sequence[Objective],
    finished: Callable[[Job], None],
    batch: int | None = None,
) -> list[Sequence[JobReturn]]:
    """Run every point, going on after failures.

    Args:
        points: The overrides of each job.
        swept: Picks out of them what differs between jobs.
        finished: Called after each job; with a launcher that works elsewhere, after the whole batch.
        batch: How many are launched at a time; None for all.

    Returns:
        What the jobs returned, by batch.
    """
    launcher = create_launcher(runner)
    size = batch or max(1, len(points))
    batches: list[Sequence[JobReturn]] = []
    for first in range(0, len(points), size):
        members = points[first : first + size]
        if not is_basic_launcher(launcher):
            batches.append(_launch(launcher, members, first))
            for number, result in enumerate(batches[-1], start=first):
                finished(to_job(result, number, swept(points[number]), objectives, None))
            continue
        results = []
        for number, point in enumerate(members, start=first):
            result, seconds = timed(partial(runner.run, point, number))
            finished(to_job(result, number, swept(point), objectives, seconds))
            results.append(result)
        batches.append(results)
    return batches


def _launch(launcher: Launcher, points: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    try:
        return launcher.launch([list(point) for point in points], initial_job_idx=first)
    except Exception as error:
        if hint := refusal_hint(error):
            raise UserError(f"the launcher gets nothing done: {describe(error)}", hint) from error
        raise


def create_launcher(runner: JobRunner) -> Launcher:
    """The launcher that ``hydra/launcher`` names."""
    return Plugins.instance().instantiate_launcher(
        hydra_context=runner.context, task_function=runner.task, config=runner.config
    )


def refusal_hint(error: Exception) -> str | None:
    """Which key of the launcher to change where a cluster refused a job as it was asked for; None for other errors."""
    text = str(error)
    keys = next((keys for words, keys in _REFUSALS.items() if words.lower() in text.lower()), None)
    return f"change what is asked for: hydra.launcher.{keys}" if keys else None


def _text(override: Override) -> str:
    return override.get_value_element_as_str()
