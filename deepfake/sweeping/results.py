"""What a study leaves behind: tables, files and figures. Knows no tracking.

Optuna draws the figures but for the intermediate values: its own give every trial a colour and a line of the legend,
which outgrows the figure from thirty trials on, and do not tell pruned trials from completed ones.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from hydra.core.config_loader import ConfigLoader
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from deepfake.errors import naming
from deepfake.files import appearing
from deepfake.options import overrides_by_key, split_override
from deepfake.sweeping.budget import seconds_of
from deepfake.sweeping.callbacks import COMPLETED, FAILED, PAUSED, PRUNED, Job, Objective
from deepfake.sweeping.constraints import are_kept
from deepfake.sweeping.facts import HELD, RETRY_OF, is_held, is_paused, steps_of
from deepfake.sweeping.facts import PAUSED as RUNG
from deepfake.sweeping.jobs import is_sweep_override
from deepfake.sweeping.repeats import RUNS, deviation, from_record, is_end
from deepfake.sweeping.schedule import bracket_of, standing
from deepfake.sweeping.search_space import all_points, to_overrides
from deepfake.sweeping.study import directions, quietly
from deepfake.sweeping.study_plan import StudyPlan
from deepfake.sweeping.views import as_pruned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna.importance import FanovaImportanceEvaluator

#: Longer numbers are rounded where overrides are shown.
_LONG = 8
_STATUS = {TrialState.COMPLETE: COMPLETED, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
#: Of Okabe and Ito's palette, which colour-blind readers can read.
_COLOURS = {TrialState.COMPLETE: "#0072B2", TrialState.PRUNED: "#E69F00", TrialState.FAIL: "#D55E00"}
_RUNNING_COLOUR, _PAUSED_COLOUR = "#888888", "#009E73"
_DPI = 150
#: Whether constraints were kept, as tables say it.
FEASIBLE = {True: "yes", False: "no", None: ""}


def trial_to_job(trial: FrozenTrial, plan: StudyPlan) -> Job:
    """A trial that has ended, or is paused, as a job."""
    facts = trial.user_attrs
    chosen = {item.key: trial.params[item.key] for item in plan.parameters if item.key in trial.params}
    metrics = dict(facts.get("metrics") or {})
    halving = plan.promotion
    bracket = None if halving is None else bracket_of(trial, halving)
    rung = -1 if halving is None or bracket is None else halving.rung(steps_of(trial), bracket)
    return Job(
        number=trial.number,
        overrides=to_overrides(chosen),
        status=_STATUS.get(trial.state, PAUSED),
        metrics=metrics,
        run_id=facts.get("run_id"),
        run_dir=facts.get("run_dir"),
        name=facts.get("name"),
        values=list(trial.values or []) if trial.state is TrialState.COMPLETE else [],
        seconds=seconds_of(trial) or None,
        reason=_where_it_waits(trial) if is_paused(trial) else facts.get("reason"),
        traceback=facts.get("traceback"),
        rung=rung if rung >= 0 else None,
        bracket=bracket,
        feasible=are_kept(plan.constraints, metrics) if trial.state is TrialState.COMPLETE else None,
        runs=[from_record(one) for one in facts.get(RUNS, ())] if plan.repeats is not None else [],
    )


def _where_it_waits(trial: FrozenTrial) -> str:
    facts = trial.user_attrs
    where = f"by {facts[HELD]}" if is_held(trial) else f"at rung {facts[RUNG]}"
    return f"{where}, after epoch {steps_of(trial)}"


def finished_jobs(trials: Sequence[FrozenTrial], plan: StudyPlan) -> list[Job]:
    """All that have ended or are paused, and count, in order: a failed trial that was tried again is not among them."""
    return [trial_to_job(trial, plan) for trial in standing(trials) if _is_told(trial)]


def _is_told(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() or is_paused(trial)


def shown(value: float | None) -> str:
    """A metric for a person: four significant digits."""
    return "" if value is None else f"{value:.4g}"


def brief(overrides: Sequence[str]) -> str:
    """Overrides for a person: long numbers rounded to four significant digits."""
    return " ".join(_rounded(text) for text in overrides)


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
    each = 1 if plan.repeats is None else plan.repeats.count
    names = {name for job in jobs if job.status == COMPLETED for name in job.metrics}
    table = []
    for metric in sorted(name for name in names if not is_end(name, names)):
        for chosen, members in groups.items():
            ended = [job for job in members if job.status == COMPLETED]
            runs = [run.metrics for job in ended for run in job.runs or (job,)]
            done = [metrics.get(metric, math.nan) for metrics in runs]
            values = [value for value in done if math.isfinite(value)]
            if values:
                deviation = statistics.stdev(values) if len(values) > 1 else math.nan
                of = each * max(len(members), planned[chosen])
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
    with appearing(path) as partial_file, naming(path), partial_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["metric", "chosen", "mean", "standard_deviation", "runs", "of"])
        for row in found:
            deviation = "" if math.isnan(row.deviation) else row.deviation
            writer.writerow([row.metric, row.chosen, row.mean, deviation, row.runs, row.of])
    return path


def write_trials(trials: Sequence[FrozenTrial], plan: StudyPlan, folder: Path) -> Path:
    """``trials.csv``: a row per ended or paused trial with its state, objectives, what was chosen and where its run is.

    With constraints also what they bound, and whether they were kept; where points are run over several seeds, each
    objective's standard deviation over them, and which are done. Where trials are promoted, also the epochs it has
    done, and its bracket and the highest rung it has reached there.
    """
    again = {trial.user_attrs[RETRY_OF]: trial.number for trial in trials if RETRY_OF in trial.user_attrs}
    keys = [parameter.key for parameter in plan.parameters]
    metrics = [item.metric for item in plan.objectives]
    bound = [name for name in dict.fromkeys(one.metric for one in plan.constraints) if name not in metrics]
    columns = [*bound, "feasible"] if plan.constraints else []
    if plan.repeats is not None:
        columns += [*(f"{name}_deviation" for name in metrics), "seeds"]
    path = folder / "trials.csv"
    with appearing(path) as partial_file, naming(path), partial_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        places = ["epochs", "rung", "bracket"] if plan.promotion is not None else []
        rest = ["seconds", "run_id", "run_dir", "reason", "traceback"]
        writer.writerow(["trial", "status", *metrics, *columns, *keys, *places, *rest])
        for trial in filter(_is_told, trials):
            job = trial_to_job(trial, plan)
            chosen = overrides_by_key(job.overrides)
            row: list[object] = [job.number, job.status, *(job.metrics.get(name, "") for name in metrics)]
            if plan.constraints:
                row += [*(job.metrics.get(name, "") for name in bound), FEASIBLE[job.feasible]]
            if plan.repeats is not None:
                row += [*(deviation(job.runs, name) for name in metrics), " ".join(str(run.seed) for run in job.runs)]
            row += [chosen.get(key, "") for key in keys]
            row += [steps_of(trial), job.rung, job.bracket] if places else []
            reason = f"{job.reason}; tried again as trial {again[job.number]}" if job.number in again else job.reason
            writer.writerow([*row, job.seconds, job.run_id, job.run_dir, reason, job.traceback])
    return path


def write_best(best: Job, plan: StudyPlan, loader: ConfigLoader, folder: Path) -> Path:
    """``best.yaml``: the best trial as an experiment, laid over the same config to run it again."""
    overrides = [text for text in plan.fixed if not is_sweep_override(text)] + best.overrides
    groups, values = [], OmegaConf.create({})
    for text in overrides:
        key, value = split_override(text)
        if loader.get_group_options(key):
            groups.append({f"override /{key}": value})
        else:
            OmegaConf.update(values, key, OmegaConf.create(f"value: {value}").value, force_add=True)
    body: dict[str, Any] = {"defaults": [*groups, "_self_"], **_plain(values)}
    path = folder / "best.yaml"
    scores = ", ".join(f"{o.metric} {shown(v)}" for o, v in zip(plan.objectives, best.values, strict=True))
    head = f"# @package _global_\n# Trial {best.number} of study {plan.name}: {scores}. Holds no trace of the study.\n"
    with appearing(path) as partial_file, naming(path):
        partial_file.write_text(head + OmegaConf.to_yaml(OmegaConf.create(body)), encoding="utf-8")
    return path


def draw_study(trials: Sequence[FrozenTrial], plan: StudyPlan, folder: Path) -> list[Path]:
    """Write the figures for which there is something to show.

    Returns:
        The PNG files.
    """
    from optuna.visualization import matplotlib as figures

    first, metric = plan.objectives[:1], plan.objectives[0].metric
    told = [as_pruned(trial) if is_paused(trial) else trial for trial in trials]
    study = _in_memory(told, first)
    drawings: dict[str, Callable[[], Axes]] = {}
    if any(trial.state is TrialState.COMPLETE for trial in trials):
        drawings["history"] = partial(_history, study, metric)
        drawings["timeline"] = partial(figures.plot_timeline, study)
        drawings["parallel_coordinates"] = partial(_parallel_coordinates, study, first[0])
        drawings["importance"] = partial(
            figures.plot_param_importances, study, evaluator=_evaluator(), target_name=metric
        )
        if len(plan.objectives) > 1:
            names = [item.metric for item in plan.objectives[:2]]
            drawings["pareto_front"] = partial(
                figures.plot_pareto_front,
                _in_memory(told, plan.objectives),
                target_names=names,
                targets=lambda trial: trial.values[:2],
            )
    if any(trial.intermediate_values for trial in trials):
        drawings["intermediate_values"] = partial(_intermediate_values, trials, plan)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in drawings.items():
        path = folder / f"{name}.png"
        with _off_screen(), quietly():
            try:
                figure = draw().get_figure(root=True)
            except (ValueError, RuntimeError):
                if name != "importance":
                    raise
                # Too few completed trials, or all of them alike: no key's importance can be told.
                continue
            assert figure is not None
            with appearing(path) as partial_file, naming(path):
                figure.savefig(partial_file, dpi=_DPI, format="png", bbox_inches="tight")
        files.append(path)
    return files


def importances(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> dict[str, float]:
    """How much of the first objective's variance each key explains (fANOVA; Hutter et al. 2014), the largest first.

    Empty where too few trials completed, or all of them came out alike.
    """
    with quietly(), contextlib.suppress(ValueError, RuntimeError):
        study = _in_memory(trials, objectives[:1])
        found = optuna.importance.get_param_importances(study, evaluator=_evaluator())
        return {key: value for key, value in found.items() if math.isfinite(value)}
    return {}


def importances_of(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The same of runs that no study chose.

    Args:
        rows: What was chosen for each run, by key.
        keys: Which to tell of. One whose values are all numbers counts as a range, on a logarithmic scale where they
            are twentyfold apart, any other as a choice among its values; one without a value for some run is left
            out, as is one whose values are all the same.
        values: Of the metric.
    """
    spaces: dict[str, BaseDistribution] = {}
    for key in keys:
        found = [row.get(key) for row in rows]
        if len({str(value) for value in found}) < 2 or None in found:
            continue
        numbers = [value for value in found if isinstance(value, float) and math.isfinite(value)]
        if len(numbers) == len(found):
            low, high = min(numbers), max(numbers)
            spaces[key] = FloatDistribution(low, high, log=low > 0 and high / low >= 20)
        else:
            spaces[key] = CategoricalDistribution(sorted({str(value) for value in found}))
    trials = []
    for row, value in zip(rows, values, strict=True):
        chosen = {
            key: row[key] if isinstance(space, FloatDistribution) else str(row[key]) for key, space in spaces.items()
        }
        if math.isfinite(value):
            trials.append(optuna.create_trial(value=value, params=chosen, distributions=spaces))
    return importances(trials, [Objective("value")]) if spaces else {}


def _evaluator() -> FanovaImportanceEvaluator:
    """Of a fixed seed: the same trials give the same numbers, in the figure as on the page."""
    # It takes scikit-learn, which a study's beginning need not pay for.
    from optuna.importance import FanovaImportanceEvaluator

    return FanovaImportanceEvaluator(seed=0)


@contextlib.contextmanager
def _off_screen() -> Iterator[None]:
    """pyplot, with which Optuna draws, without a screen; no figure, style or backend stays behind."""
    import matplotlib
    from matplotlib import pyplot

    backend, before = matplotlib.get_backend(), set(pyplot.get_fignums())
    with matplotlib.rc_context():
        pyplot.switch_backend("agg")
        try:
            yield
        finally:
            for number in set(pyplot.get_fignums()) - before:
                pyplot.close(number)
            # One that cannot be loaded here was never in use.
            with contextlib.suppress(ImportError):
                pyplot.switch_backend(backend)


def _in_memory(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> optuna.Study:
    """The trials as a study of these objectives, the first ones of the trials' own; it waits for no storage."""
    study = optuna.create_study(directions=directions(objectives))
    for trial in trials:
        one = copy.copy(trial)
        if trial.state is TrialState.COMPLETE:
            one.values = trial.values[: len(objectives)]
        study.add_trial(one)
    return study


def _history(study: optuna.Study, metric: str) -> Axes:
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization.matplotlib import plot_optimization_history

    axes = plot_optimization_history(study, target_name=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return axes


def _parallel_coordinates(study: optuna.Study, objective: Objective) -> Axes:
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    axes = plot_parallel_coordinate(study, target_name=objective.metric)
    for lines in axes.collections:
        # Optuna's own colours end in white, on which the worst trials are lost; the best is the darkest.
        lines.set_cmap("viridis_r" if objective.maximize else "viridis")
    return axes


def _intermediate_values(trials: Sequence[FrozenTrial], plan: StudyPlan) -> Axes:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    axes = Figure(figsize=(7.2, 4.2)).add_subplot()
    labelled: set[str] = set()
    for trial in trials:
        if trial.intermediate_values:
            epochs, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
            word = PAUSED if is_paused(trial) else _STATUS.get(trial.state, "running")
            colour = _PAUSED_COLOUR if word == PAUSED else _COLOURS.get(trial.state, _RUNNING_COLOUR)
            label = None if word in labelled else word
            axes.plot(epochs, values, color=colour, alpha=0.7, lw=1.2, marker=".", ms=4, label=label)
            labelled.add(word)
    for place, name in _rungs(trials, plan).items():
        axes.axvline(place, color=_RUNNING_COLOUR, lw=0.8, ls=":")
        axes.annotate(name, (place, 1.0), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=plan.objectives[0].metric, title="Intermediate Values Plot")
    axes.legend()
    return axes


def _rungs(trials: Sequence[FrozenTrial], plan: StudyPlan) -> dict[int, str]:
    """The epochs of the rungs that a trial has reached, with their names."""
    halving = plan.promotion
    if halving is None:
        return {}
    reached = {(bracket_of(trial, halving), steps_of(trial)) for trial in trials}
    several = len({bracket for bracket, _ in reached}) > 1
    names: dict[int, list[str]] = {}
    for bracket in sorted({bracket for bracket, _ in reached}):
        most = max(steps for other, steps in reached if other == bracket)
        for rung in range(halving.rung(most, bracket) + 1):
            name = f"rung {rung}" + (f" of bracket {bracket}" if several else "")
            names.setdefault(halving.epochs(rung, bracket), []).append(name)
    return {epochs: ", ".join(found) for epochs, found in names.items()}


def _but_seed(overrides: Sequence[str]) -> str:
    return " ".join(text for text in overrides if split_override(text)[0] != "seed")


def _rounded(text: str) -> str:
    key, _, value = text.partition("=")
    try:
        return f"{key}={float(value):.4g}" if len(value) > _LONG and "." in value else text
    except ValueError:
        return text


def _plain(values: Any) -> Mapping[str, Any]:
    plain = OmegaConf.to_container(values)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
