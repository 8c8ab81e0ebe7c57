"""A study's trials to figures: history, importance, parallel coordinates, intermediate values, timeline, front.

Draws on figures of its own, never on a screen; knows nothing of how trials were run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from deepfake.errors import naming
from deepfake.files import appearing
from deepfake.sweeping.jobs import pick_best
from deepfake.sweeping.results import trial_to_job
from deepfake.sweeping.search_space import Parameter
from deepfake.sweeping.study_plan import StudyPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

# Okabe and Ito's colours, told apart by colour-blind readers and in grey.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#888888"
_COLOURS = {TrialState.COMPLETE: _BLUE, TrialState.PRUNED: _ORANGE, TrialState.FAIL: _RED, TrialState.RUNNING: _GREY}
_WORDS = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_DPI = 150
_PATCH = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}


def draw_study(
    trials: Sequence[FrozenTrial],
    plan: StudyPlan,
    folder: Path,
    importance: Callable[[], Mapping[str, float]] = dict,
) -> list[Path]:
    """Write the figures for which there is something to show.

    Args:
        importance: Says which share of the objective's variance each key explains; empty where it is not known.

    Returns:
        The PNG files.
    """
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    drawings: dict[str, Callable[[Axes], None]] = {}
    if completed:
        drawings["history"] = lambda axes: _history(axes, completed, plan)
        drawings["timeline"] = lambda axes: _timeline(axes, trials)
        drawings["parallel_coordinates"] = lambda axes: _parallel(axes, completed, plan)
    if shares := importance():
        drawings["importance"] = lambda axes: _importance(axes, shares, plan)
    if any(trial.intermediate_values for trial in trials):
        drawings["intermediate_values"] = lambda axes: _intermediate(axes, trials, plan)
    if len(plan.objectives) > 1 and completed:
        drawings["pareto_front"] = lambda axes: _front(axes, completed, plan)
    folder.mkdir(parents=True, exist_ok=True)
    return [_draw(folder / f"{name}.png", draw) for name, draw in drawings.items()]


def _draw(path: Path, draw: Callable[[Axes], None]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    with appearing(path) as partial, naming(path):
        figure.savefig(partial, dpi=_DPI, format="png")
    return path


def _whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True))


def _history(axes: Axes, completed: Sequence[FrozenTrial], plan: StudyPlan) -> None:
    objective = plan.objectives[0]
    numbers = [trial.number for trial in completed]
    values = [trial.values[0] for trial in completed]
    best = list(itertools.accumulate(values, max if objective.maximize else min))
    axes.scatter(numbers, values, color=_BLUE, s=24, label="trial", zorder=3)
    axes.step(numbers, best, where="post", color=_RED, label="best so far")
    _whole_numbers(axes.xaxis)
    axes.set(xlabel="trial", ylabel=objective.metric, title=f"{plan.name}: {len(completed)} completed trials")
    axes.legend(frameon=False)


def _importance(axes: Axes, importance: Mapping[str, float], plan: StudyPlan) -> None:
    items = sorted(importance.items(), key=lambda item: item[1])
    bars = axes.barh([key for key, _ in items], [share for _, share in items], color=_BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel=f"share of the variance of {plan.objectives[0].metric}", title="which keys mattered")


def _parallel(axes: Axes, completed: Sequence[FrozenTrial], plan: StudyPlan) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    objective = plan.objectives[0]
    values = np.array([trial.values[0] for trial in completed])
    norm = Normalize(values.min(), values.max() if values.max() > values.min() else values.min() + 1e-9)
    # The best is the darkest: yellow is lost on white paper.
    colours = colormaps["viridis_r" if objective.maximize else "viridis"]
    parameters = [item for item in plan.parameters if any(item.key in trial.params for trial in completed)]
    order = np.argsort(values if objective.maximize else -values)
    for index in order:
        trial = completed[index]
        heights = [_height(item, trial.params[item.key]) if item.key in trial.params else np.nan for item in parameters]
        axes.plot(range(len(parameters)), heights, color=colours(norm(values[index])), marker="o", ms=4, lw=1.2)
    for place, item in enumerate(parameters):
        axes.axvline(place, color=_GREY, lw=0.6, zorder=0)
        for text, height in _ticks(item):
            axes.text(place, height, f" {text}", fontsize=8, va="bottom", bbox=_PATCH)
    axes.set_xticks(range(len(parameters)), [item.key for item in parameters], rotation=20, ha="right")
    axes.set(yticks=[], ylim=(-0.05, 1.1), title="what was tried, coloured by the objective")
    axes.figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=objective.metric)


def _height(parameter: Parameter, value: Any) -> float:
    """Where a value lies between the bottom (0) and the top (1) of its axis."""
    kind = parameter.distribution
    if isinstance(kind, CategoricalDistribution):
        return kind.choices.index(value) / max(1, len(kind.choices) - 1)
    assert isinstance(kind, (IntDistribution, FloatDistribution))
    scale = np.log if kind.log else float
    low, high = scale(kind.low), scale(kind.high)
    return float((scale(value) - low) / (high - low)) if high > low else 0.0


def _ticks(parameter: Parameter) -> list[tuple[str, float]]:
    kind = parameter.distribution
    if isinstance(kind, CategoricalDistribution):
        return [(str(choice), _height(parameter, choice)) for choice in kind.choices]
    assert isinstance(kind, (IntDistribution, FloatDistribution))
    return [(f"{value:g}", _height(parameter, value)) for value in (kind.low, kind.high)]


def _intermediate(axes: Axes, trials: Sequence[FrozenTrial], plan: StudyPlan) -> None:
    seen: set[TrialState] = set()
    for trial in trials:
        if trial.intermediate_values:
            epochs, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
            label = None if trial.state in seen else _WORDS.get(trial.state, "running")
            axes.plot(epochs, values, color=_COLOURS[trial.state], alpha=0.7, lw=1.2, marker=".", ms=4, label=label)
            seen.add(trial.state)
    _whole_numbers(axes.xaxis)
    axes.set(xlabel="epoch", ylabel=plan.objectives[0].metric, title="each trial's way")
    axes.legend(frameon=False)


def _timeline(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    begun = [trial for trial in trials if trial.datetime_start is not None]
    start = min(trial.datetime_start for trial in begun if trial.datetime_start is not None)
    seen: set[TrialState] = set()
    for trial in begun:
        assert trial.datetime_start is not None
        end = trial.datetime_complete or datetime.now()
        label = None if trial.state in seen else _WORDS.get(trial.state, "running")
        seen.add(trial.state)
        offset = (trial.datetime_start - start).total_seconds()
        length = (end - trial.datetime_start).total_seconds()
        axes.barh(trial.number, length, left=offset, color=_COLOURS[trial.state], label=label)
    axes.invert_yaxis()
    _whole_numbers(axes.yaxis)
    axes.set(xlabel="seconds since the first trial", ylabel="trial", title="when trials ran")
    axes.legend(frameon=False)


def _front(axes: Axes, completed: Sequence[FrozenTrial], plan: StudyPlan) -> None:
    first, second = plan.objectives[:2]
    jobs = [trial_to_job(trial, plan.parameters) for trial in completed]
    front = sorted(pick_best(jobs, plan.objectives), key=lambda job: job.values[0])
    axes.scatter([job.values[0] for job in jobs], [job.values[1] for job in jobs], color=_GREY, s=20, label="trial")
    axes.plot(
        [job.values[0] for job in front], [job.values[1] for job in front], color=_RED, marker="o", label="Pareto front"
    )
    axes.set(xlabel=first.metric, ylabel=second.metric, title="no trial is better in both")
    axes.legend(frameon=False)
