"""What ``-m`` does: tells a grid from a study, runs it, and says by the exit status whether jobs failed.

The one entry of this room for Hydra; what a callback is called with is in :mod:`deepfake.sweeping.callbacks`.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from deepfake.compat import config_repository, is_basic_launcher
from deepfake.errors import UserError
from deepfake.installation import typed_command
from deepfake.options import split_override
from deepfake.presence import at_work
from deepfake.sweeping.callbacks import (
    DELETING,
    LOCK,
    Job,
    Objective,
    SweepCallback,
    SweepInfo,
    SweepResult,
    create_callback,
    notify,
)
from deepfake.sweeping.jobs import JobRunner, describe, is_sweep_override, pick_best, refusal_hint, timed, to_job
from deepfake.sweeping.options import SweepOptions, join_sweeper_keys, load_options, sweeper_space

#: Typed keys that say how jobs are chosen or remembered. ``search=`` does by what it holds.
_ASKS = ("sweep.", "sampler", "pruner")
#: Of the ``sweep.*`` keys, those that a plain grid heeds; any other that is asked for makes a study of it.
_OF_A_GRID = ("objective", "direction", "n_jobs")


class SweepFailed(SystemExit):
    """Some jobs failed; ends the process with status 1 after the others have run.

    Args:
        result: How the sweep ended.
    """

    def __init__(self, result: SweepResult) -> None:
        super().__init__(1)
        self.result = result
        self.jobs = result.failed
        self.total = len(result.jobs)

    def __str__(self) -> str:
        lines = [f"error: {len(self.jobs)} of {self.total} jobs failed"]
        for job in self.jobs:
            where = f" ({job.traceback})" if job.traceback else ""
            lines.append(f"  #{job.number} {' '.join(job.overrides)}: {job.reason}{where}")
        return "\n".join(lines)


class Batches(list[Sequence[JobReturn]]):
    """What a grid's jobs returned, by batch, as Hydra's basic sweeper does; ``result`` says how the grid ended."""

    def __init__(self, batches: Sequence[Sequence[JobReturn]], result: SweepResult) -> None:
        super().__init__(batches)
        self.result = result


def sweep(
    context: HydraContext, task: TaskFunction, config: DictConfig, arguments: list[str], settings: Mapping[str, Any]
) -> Batches | SweepResult:
    """Run every job that the command line and the config ask for.

    Args:
        arguments: The command line's overrides, without those of Hydra itself.
        settings: The ``hydra.sweeper`` node: ``observer``, the dotted path of a callback; ``objective``, what the app
            calls what its jobs return; ``max_batch_size`` and ``params`` as in Hydra's basic sweeper; and the keys of
            hydra-optuna-sweeper, each of which stands for one of ``sweep``.

    Returns:
        For a grid what Hydra's basic sweeper returns, what each job returned by batch; of a study, how it ended.

    Raises:
        UserError: Nothing could be started.
        SweepFailed: At least one job failed.
    """
    freeze(context.config_loader)
    node = OmegaConf.select(config, "sweep")
    runner = JobRunner(context, task, config)
    typed = [split_override(text)[0] for text in (*arguments, *runner.hydra_overrides)]
    plain = cast("dict[str, Any]", (node and OmegaConf.to_container(node, resolve=True)) or {})
    plain, asked = join_sweeper_keys(plain, settings, typed)
    options = load_options(plain)
    asked |= {key.removeprefix("sweep.").split(".")[0] for key in typed if key.startswith(_ASKS)}
    if "budget" in asked and "n_trials" not in asked:
        # A search file's total is for searches that count trials.
        options.n_trials = None
    overrides = _parse(runner, sweeper_space(settings), arguments)
    _check_searchable(options, overrides)
    callback = create_callback(settings.get("observer"), config)
    searching = chooses(options, overrides, asked)
    batches: list[Sequence[JobReturn]] | None = None
    if is_study(options, overrides, asked):
        if settings.get("max_batch_size") is not None:
            raise UserError("hydra.sweeper.max_batch_size is given, and a study has no batches", "say sweep.n_jobs")
        # Where every point was asked for by name, none is less than another.
        keep = options.keep if searching or "keep" in asked else None
        result = _study(runner, options, overrides, callback, searching, keep)
        # Failed trials are part of a search; a search that stopped because of them is not a success.
        failed = bool(result.failed) and not (searching and result.best and result.status != "stopped")
    else:
        result, batches = _grid(runner, options, overrides, callback, settings.get("max_batch_size"))
        failed = bool(result.failed)
    if failed:
        failure = SweepFailed(result)
        print(failure, file=sys.stderr)
        raise failure
    return result if batches is None else Batches(batches, result)


def _parse(runner: JobRunner, space: Mapping[str, str], arguments: Sequence[str]) -> list[Override]:
    """What the config and then the command line override; a key that both name is the command line's."""
    parser = OverridesParser.create(config_loader=runner.context.config_loader)
    overrides: list[Override] = parser.parse_overrides(list(arguments))
    given = {override.key_or_group for override in overrides}
    added: list[Override] = parser.parse_overrides([f"{key}={text}" for key, text in space.items()])
    return [*(override for override in added if override.key_or_group not in given), *overrides]


def _check_searchable(options: SweepOptions, overrides: Sequence[Override]) -> None:
    """Refuse several values for a key that is read once, before any run.

    Raises:
        UserError: Names the first such key.
    """
    swept = [str(override.input_line) for override in overrides if override.is_sweep_override()]
    swept += [f"{key}={text}" for key, text in options.params.items()]
    for text in swept:
        key = split_override(text)[0]
        if is_sweep_override(text) or key.partition(".")[0].partition("/")[0] == "hydra":
            raise UserError(f"{text}: {key} says how runs are chosen, and cannot itself be searched", "give one value")


def _study(
    runner: JobRunner,
    options: SweepOptions,
    overrides: Sequence[Override],
    callback: SweepCallback,
    searching: bool,
    keep: int | None,
) -> SweepResult:
    # Optuna takes a second to import, which a plain grid need not pay.
    from deepfake.sweeping.runner import run_study
    from deepfake.sweeping.study_plan import make_plan

    plan = make_plan(runner, options, overrides, searching, callback.check)
    with at_work_on(plan.folder):
        return run_study(runner, plan, options, callback, lambda info: start(info, callback, runner.config), keep)


def _grid(
    runner: JobRunner,
    options: SweepOptions,
    overrides: Sequence[Override],
    callback: SweepCallback,
    batch: int | None,
) -> tuple[SweepResult, list[Sequence[JobReturn]]]:
    points = expand(overrides)
    for point in points:
        callback.check(runner.compose(point))
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
    with at_work_on(runner.folder):
        start(info, callback, runner.config)
        jobs: list[Job] = []
        status = "interrupted"

        def finished(job: Job) -> None:
            jobs.append(job)
            notify(f"job {job.number}", lambda: callback.job_finished(info, job))

        try:
            batches = run_grid(runner, points, swept, options.objectives, finished, batch)
            status = "finished"
        finally:
            result = SweepResult(info, jobs, pick_best(jobs, options.objectives), status)
            notify("the end of the sweep", lambda: callback.sweep_finished(result))
    return result, batches


def start(info: SweepInfo, callback: SweepCallback, config: DictConfig) -> None:
    """Make the sweep's folder and call the callback, one process at a time."""
    info.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(info.folder / LOCK)):
        OmegaConf.save(config, info.folder / "multirun.yaml")
        callback.sweep_started(info)


@contextmanager
def at_work_on(folder: Path) -> Iterator[None]:
    """Be noticed by who would delete a sweep, while it runs.

    Raises:
        UserError: Its deletion was begun.
    """
    with at_work(folder):
        if (folder / DELETING).exists():
            raise UserError(
                f"{folder} is what a deletion that was cut short has left of a sweep",
                f"finish it: {typed_command('sweep', folder.name, '--delete')}; or give sweep.name=<new name>",
            )
        yield


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
            values[key] = [
                str(override.input_line) if override.is_delete() else f"{key}={override.get_value_element_as_str()}"
            ]
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
    launcher = runner.create_launcher()
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


def freeze(loader: ConfigLoader) -> None:
    """From now on this loader reads each config file once, also in the processes it is sent to."""
    repository = config_repository(loader)
    if repository is not None and not isinstance(repository, Snapshot):
        loader.repository = Snapshot(repository)  # type: ignore[attr-defined]


class Snapshot:
    """A repository of configs that remembers what it has read."""

    def __init__(self, repository: Any) -> None:
        self._repository = repository
        self._read: dict[str, ConfigResult | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Snapshot:
        # Hydra copies its repository for every job; what this one hands out are copies already.
        return self

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._read:
            self._read[config_path] = self._repository.load_config(config_path)
        return copy.deepcopy(self._read[config_path])

    def get_schema_source(self) -> ConfigSource:
        return self._repository.get_schema_source()

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        self._repository.initialize_sources(config_search_path)

    def group_exists(self, config_path: str) -> bool:
        return self._repository.group_exists(config_path)

    def config_exists(self, config_path: str) -> bool:
        return config_path in self._read or self._repository.config_exists(config_path)

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        return self._repository.get_group_options(group_name, results_filter)

    def get_sources(self) -> list[ConfigSource]:
        return self._repository.get_sources()
