"""Figures over epochs: the losses and validation metrics of one run. Takes a history; knows no loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deepfake.metrics import READS, metric_names
from deepfake.tracking.figures.style import BLACK, LINES, MARKERS, PALETTE, legend, new_figure, say_why, title

History = Sequence[Mapping[str, float]]

#: What the right panel shows besides the metric that chooses the epoch.
SHOWN = tuple(f"val/{name}" for reads in READS for name in metric_names(reads, curve=True))
LOSSES = ("train/loss", "val/loss", "val/log_loss")


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


def series(history: History, key: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The epochs, counted from 1, at which a metric has a finite value, and those values."""
    points = [(row.get("epoch", place) + 1, row.get(key)) for place, row in enumerate(history)]
    kept = [(epoch, value) for epoch, value in points if value is not None and np.isfinite(value)]
    return np.array([epoch for epoch, _ in kept], float), np.array([value for _, value in kept], float)


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
