"""Figures over epochs: curves of one run and of several, and where each epoch's time went. Knows numbers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deepfake.metrics import EPOCH_PARTS, Interval
from deepfake.tracking.figures.scores import one_class, scored
from deepfake.tracking.figures.selection import LOSSES, SHOWN, History, series
from deepfake.tracking.figures.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LINES,
    MARKERS,
    ORANGE,
    PALETTE,
    PURPLE,
    SKY,
    VERMILLION,
    legend,
    new_figure,
    say_why,
    title,
)


def learning_curves(history: History, *, monitor: str, best_epoch: int | None = None) -> Figure:
    """Loss on the left, validation metrics on the right, the best epoch marked.

    Args:
        history: One mapping per epoch from metric names to values; ``epoch`` counts from 0, as loops do.
        monitor: The metric that chose the best epoch; drawn in the strongest line.
        best_epoch: The epoch whose weights were kept, counted from 1, as people do.
    """
    figure, (left, right) = new_figure(9.0, 3.8, columns=2)
    title(left, "Loss")
    title(right, "Validation")
    names = list(dict.fromkeys([monitor, *(name for name in SHOWN if name != monitor)]))
    for axis, keys, what in ((left, LOSSES, "loss"), (right, names, "validation metric")):
        if not _draw(axis, history, keys, strong=monitor):
            say_why(axis, f"no {what} was recorded in {len(history)} epochs")
            continue
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        # A single epoch would otherwise get an axis of fractions.
        axis.set_xlim(min(axis.get_xlim()[0], 0.7), max(axis.get_xlim()[1], 1.3))
        if best_epoch is not None:
            axis.axvline(best_epoch, color=BLACK, linestyle=":", linewidth=1.2, label=f"best epoch {best_epoch}")
        legend(axis, "best")
    return figure


def _draw(axis: Axes, history: History, keys: Sequence[str], strong: str) -> bool:
    drawn = False
    for place, key in enumerate(keys):
        epochs, values = series(history, key)
        if not len(epochs):
            continue
        style = place % len(PALETTE)
        axis.plot(
            epochs,
            values,
            color=PALETTE[style],
            linestyle=LINES[style],
            marker=MARKERS[style] if len(epochs) < 40 else None,
            markersize=4,
            linewidth=2.2 if key == strong else 1.3,
            label=key.replace("_", " "),
        )
        drawn = True
    return drawn


#: Beyond this many, lines can no longer be told apart.
MOST = len(PALETTE)


def overlaid_roc(runs: Mapping[str, pd.DataFrame], areas: Mapping[str, Interval] | None = None) -> Figure:
    """The ROC curves of several runs, the first :data:`MOST` of them.

    Args:
        runs: Predictions by run name, best first; see :func:`deepfake.tracking.figures.scores.roc`.
        areas: ROC-AUC with its interval by run name; without it the area alone is computed.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, (axis,) = new_figure(5.6, 5.8)
    _heading(axis, "ROC", len(runs))
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    reasons = {}
    for place, (name, predictions) in enumerate(list(runs.items())[:MOST]):
        labels, scores, _ = scored(predictions)
        if reason := one_class(labels):
            reasons[name] = reason
            continue
        false_rate, true_rate, _ = roc_curve(labels, scores)
        area = str(areas[name]) if areas and name in areas else f"{roc_auc_score(labels, scores):.3f}"
        axis.plot(
            false_rate,
            true_rate,
            color=PALETTE[place],
            linestyle=LINES[place],
            linewidth=1.8,
            label=f"{name}  {area}",
            clip_on=False,
        )
    if len(reasons) == min(len(runs), MOST):
        say_why(axis, "no ROC curves: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        return figure
    axis.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false positive rate", ylabel="true positive rate")
    axis.set_aspect("equal")
    legend(axis, "lower right")
    return figure


def overlaid_learning(runs: Mapping[str, History], *, metric: str) -> Figure:
    """Training loss and one validation metric of several runs, epoch by epoch, the first :data:`MOST` of them."""
    figure, (left, right) = new_figure(10.0, 4.2, columns=2)
    for axis, key, name in ((left, "train/loss", "Training loss"), (right, metric, metric)):
        _heading(axis, name, len(runs))
        drawn = [
            _curve(axis, place, run, history, key) for place, (run, history) in enumerate(list(runs.items())[:MOST])
        ]
        if not any(drawn):
            say_why(axis, f"no run recorded {key}")
            continue
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(right if right.axison else left)
    return figure


def _curve(axis: Axes, place: int, name: str, history: History, key: str) -> bool:
    epochs, values = series(history, key)
    if not len(epochs):
        return False
    marker = MARKERS[place] if len(epochs) < 40 else None
    axis.plot(epochs, values, color=PALETTE[place], linestyle=LINES[place], marker=marker, markersize=4, label=name)
    return True


def _heading(axis: Axes, text: str, runs: int) -> None:
    title(axis, text, f"the first {MOST} of {runs} runs" if runs > MOST else "")


#: Colour and hatching of each part; waiting for data has the most striking one.
_LOOKS = ((VERMILLION, "////"), (ORANGE, "...."), (BLUE, ""), (SKY, ""), (GREEN, ""), (PURPLE, ""), ("#BBBBBB", "xxxx"))
_STYLES = {**dict(zip(EPOCH_PARTS, _LOOKS, strict=True)), "other": ("#E5E5E5", "")}
#: How the metrics of a profiled epoch begin; those that are no seconds say what they are.
_PREFIX = "profile/"
_OTHERS = ("peak_memory_bytes", "flops_per_second", "mfu")


def part_seconds(epoch: Mapping[str, float]) -> dict[str, float]:
    """Seconds by part from an epoch's metrics; empty where it was not profiled."""
    found = {name.removeprefix(_PREFIX): value for name, value in epoch.items() if name.startswith(_PREFIX)}
    return {part: seconds for part, seconds in found.items() if part not in _OTHERS}


def speed_remark(history: Sequence[Mapping[str, float]]) -> str:
    """Speed and memory of the last epoch, as far as they were recorded."""
    last = history[-1] if history else {}
    shown: dict[str, Callable[[float], str]] = {
        "samples_per_second": lambda value: f"{value:.0f} clips/s",
        "profile/peak_memory_bytes": lambda value: f"{value / 1e9:.1f} GB at most",
        "profile/flops_per_second": lambda value: f"{value / 1e9:.0f} GFLOP/s",
        "profile/mfu": lambda value: f"MFU {value:.0%}",
    }
    return ", ".join(say(last[name]) for name, say in shown.items() if name in last)


def epoch_times(epochs: Sequence[Mapping[str, float]], remark: str = "") -> Figure:
    """A bar for each epoch, made of the seconds each part took, and the fraction of each over all epochs.

    Args:
        epochs: Seconds by part for each epoch; parts other than ``metrics.EPOCH_PARTS`` are added up as ``other``.
        remark: A line below the title, such as samples a second, peak memory and MFU.
    """
    figure, (axis,) = new_figure(7.2, 3.9, fitted=True)
    title(axis, "Where the time went", remark)
    if not epochs or not any(sum(epoch.values()) > 0 for epoch in epochs):
        say_why(axis, "no times were recorded: set trainer.profile=true")
        return figure
    known = [{part: float(epoch.get(part, 0.0)) for part in EPOCH_PARTS} for epoch in epochs]
    for parts, epoch in zip(known, epochs, strict=True):
        parts["other"] = sum(epoch.values()) - sum(parts.values())
    total = sum(sum(epoch.values()) for epoch in epochs)
    bottom = np.zeros(len(epochs))
    places = np.arange(1, len(epochs) + 1)
    for part, (colour, hatch) in _STYLES.items():
        seconds = np.array([epoch[part] for epoch in known])
        if not seconds.any():
            continue
        label = f"{part.replace('_', ' ')} {seconds.sum() / total:.1%}"
        axis.bar(
            places,
            seconds,
            width=0.75,
            bottom=bottom,
            label=label,
            color=colour,
            edgecolor=GREY,
            linewidth=0.5,
            hatch=hatch,
        )
        bottom += seconds
    axis.set(xlabel="epoch", ylabel="seconds")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(False, axis="x")
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8.5, frameon=False)
    return figure
