"""Figures of how scores are spread and how far they can be believed. Takes a predictions table; knows no runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from deepfake.tracking.figures.scores import Array, scored
from deepfake.tracking.figures.style import (
    BLACK,
    BLUE,
    FAKE_COLOUR,
    GREY,
    REAL_COLOUR,
    legend,
    new_figure,
    say_why,
    title,
)


def histogram(predictions: pd.DataFrame, *, threshold: float = 0.5, most: int = 6) -> Figure:
    """How scores are spread: by class above, by method below, where the ``most`` largest methods have a line each."""
    methods = predictions.loc[predictions["label"] == 1, "method"].value_counts().index[:most]
    rows = _method_rows(predictions, list(methods))
    figure, axes = new_figure(6.0, 3.4 + 0.36 * (len(methods) + 1), rows=2, names=[name for name, _, _ in rows])
    labels, scores, left_out = scored(predictions)
    title(axes[0], "Scores by class", left_out)
    if not len(labels):
        say_why(axes[0], "no scores to show: no sample has one")
        axes[1].set_axis_off()
        return figure
    edges = np.linspace(0, 1, 26).tolist()
    for label, name, colour, hatch in ((0, "real", REAL_COLOUR, ""), (1, "fake", FAKE_COLOUR, "////")):
        chosen = scores[labels == label]
        if len(chosen):
            weights = np.full(len(chosen), 1 / len(chosen))
            axes[0].hist(
                chosen,
                edges,
                weights=weights,
                histtype="stepfilled",
                label=f"{name} (n={len(chosen):,})",
                facecolor=(*to_rgb(colour), 0.4),
                edgecolor=colour,
                hatch=hatch,
            )
    axes[0].axvline(threshold, color=BLACK, linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")
    axes[0].set(xlim=(0, 1), ylabel="share of the class")
    legend(axes[0], "upper center")
    _draw_rows(axes[1], rows, threshold)
    return figure


def reliability(predictions: pd.DataFrame, *, bins: int = 10, ece: float | None = None) -> Figure:
    """How often samples called fake with a probability are fake, against that probability; below, how many."""
    figure, axes = new_figure(4.8, 5.2, rows=2, fitted=True, heights=(3, 1))
    labels, scores, left_out = scored(predictions)
    title(axes[0], "Reliability", left_out)
    if not len(labels):
        say_why(axes[0], "no reliability diagram: no sample has a score")
        axes[1].set_axis_off()
        return figure
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.digitize(scores, edges[1:-1]), 0, bins - 1)
    filled = np.unique(which)
    counts = np.array([(which == b).sum() for b in filled])
    mean_score = np.array([scores[which == b].mean() for b in filled])
    share = np.array([labels[which == b].mean() for b in filled])
    axes[0].plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="perfectly calibrated")
    # Wilson's interval: it stays inside [0, 1] and has a width where all samples agree.
    low, high = _wilson(share, counts)
    errors = np.clip([share - low, high - share], 0, None)
    found = "found" if ece is None else f"found, ECE {ece:.3f}"
    axes[0].errorbar(mean_score, share, yerr=errors, fmt="o-", color=BLUE, capsize=3, linewidth=1.5, label=found)
    axes[0].set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share that is fake")
    legend(axes[0], "upper left")
    axes[1].bar((edges[:-1] + edges[1:])[filled] / 2, counts, width=0.9 / bins, color=BLUE)
    axes[1].set(xlim=(0, 1), xlabel="fake probability", ylabel="samples")
    return figure


def _method_rows(predictions: pd.DataFrame, methods: list[str]) -> list[tuple[str, Array, str]]:
    """Real samples and each method's fakes, where any has a score: name and count, scores, colour."""
    groups = [("real", predictions[predictions["label"] == 0], REAL_COLOUR)]
    groups += [
        (str(m), predictions[(predictions["label"] == 1) & (predictions["method"] == m)], FAKE_COLOUR) for m in methods
    ]
    kept = [(name, rows["score"].dropna().to_numpy(np.float64), colour) for name, rows, colour in groups]
    return [(f"{name} (n={len(values):,})", values, colour) for name, values, colour in kept if len(values)]


def _draw_rows(axis: Axes, rows: list[tuple[str, Array, str]], threshold: float) -> None:
    for place, (_, values, colour) in enumerate(rows):
        # A tick for each sample, spread a little so that equal scores show as a thicker mark.
        spread = (np.arange(len(values)) % 7 - 3) * 0.07
        size, alpha = 5 if len(values) < 200 else 2, max(0.15, min(0.8, 60 / len(values)))
        axis.plot(values, place + spread, "o", color=colour, markeredgewidth=0, markersize=size, alpha=alpha)
        axis.plot([np.median(values)] * 2, [place - 0.36, place + 0.36], color=BLACK, linewidth=2)
    axis.axvline(threshold, color=BLACK, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axis.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel="fake probability")
    axis.grid(False, axis="y")
    title(axis, "Scores by method (bar: median)")


def _wilson(share: Array, counts: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Wilson 1927, at 95 %."""
    z = 1.959963984540054
    centre = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = z * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2)) / (1 + z**2 / counts)
    return centre - half, centre + half
