"""Distributions, ROC, precision-recall, calibration and their spread. Knows predictions only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from deepfake import metrics
from deepfake.metrics import Interval
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

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """An interval around a curve: ``low`` and ``high`` at each place of ``x``."""

    x: Array
    low: Array
    high: Array
    level: float = 0.95


def roc(
    predictions: pd.DataFrame, *, threshold: float = 0.5, band: Band | None = None, auc: Interval | None = None
) -> Figure:
    """True positive rate against false positive rate, with the point at the threshold.

    Args:
        predictions: ``label`` (1 is fake) and ``score``; samples without a score are left out and counted.
        threshold: The probability from which a sample is called fake.
        band: An interval of the true positive rate, computed elsewhere.
        auc: The area with its interval; without it the area alone is computed.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, (axis,) = new_figure(4.8, 5.0)
    labels, scores, left_out = scored(predictions)
    title(axis, "ROC", left_out)
    if reason := one_class(labels):
        say_why(axis, f"no ROC curve: {reason}")
        return figure
    false_rate, true_rate, _ = roc_curve(labels, scores)
    area = str(auc) if auc else f"{roc_auc_score(labels, scores):.3f}"
    _draw_band(axis, band)
    axis.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="chance")
    axis.plot(false_rate, true_rate, color=BLUE, linewidth=2, label=f"ROC-AUC {area}", clip_on=False)
    predicted = scores >= threshold
    axis.plot(
        predicted[labels == 0].mean(),
        predicted[labels == 1].mean(),
        "o",
        color=BLACK,
        markersize=6,
        clip_on=False,
        label=f"threshold {threshold:.3g}",
    )
    _unit_square(axis, "false positive rate (real called fake)", "true positive rate (fake called fake)")
    legend(axis, "lower right")
    return figure


def precision_recall(
    predictions: pd.DataFrame, *, threshold: float = 0.5, band: Band | None = None, average: Interval | None = None
) -> Figure:
    """Precision against recall of the class fake; the dotted line is what guessing gives. See :func:`roc`."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    figure, (axis,) = new_figure(4.8, 5.0)
    labels, scores, left_out = scored(predictions)
    title(axis, "Precision and recall", left_out)
    if reason := one_class(labels):
        say_why(axis, f"no precision-recall curve: {reason}")
        return figure
    precision, recall, _ = precision_recall_curve(labels, scores)
    value = str(average) if average else f"{average_precision_score(labels, scores):.3f}"
    prevalence = labels.mean()
    _draw_band(axis, band)
    axis.axhline(prevalence, color=GREY, linestyle=":", linewidth=1, label=f"guessing {prevalence:.2f}")
    axis.plot(
        recall,
        precision,
        color=BLUE,
        linewidth=2,
        drawstyle="steps-post",
        label=f"average precision {value}",
        clip_on=False,
    )
    predicted = scores >= threshold
    if predicted.any():
        point = predicted[labels == 1].mean(), labels[predicted].mean()
        axis.plot(*point, "o", color=BLACK, markersize=6, clip_on=False, label=f"threshold {threshold:.3g}")
    _unit_square(axis, "recall (fakes found)", "precision (called fake and fake)")
    legend(axis, "lower left")
    return figure


def confusion(predictions: pd.DataFrame, *, threshold: float = 0.5) -> Figure:
    """Counts of what was called what, with the share of each true class."""
    labels, scores, left_out = scored(predictions)
    names = [f"{name}\n(n={(labels == label).sum():,})" for label, name in enumerate(("real", "fake"))]
    figure, (axis,) = new_figure(4.4, 4.3, names=names)
    title(axis, f"Confusion matrix at threshold {threshold:.3g}", left_out)
    if not len(labels):
        say_why(axis, "no confusion matrix: no sample has a score")
        return figure
    predicted = (scores >= threshold).astype(int)
    counts = np.zeros((2, 2), dtype=int)
    np.add.at(counts, (labels, predicted), 1)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            shade = "white" if fractions[row, column] > 0.55 else BLACK
            axis.text(
                column, row - 0.06, f"{counts[row, column]:,}", ha="center", va="center", fontsize=17, color=shade
            )
            percent = f"{fractions[row, column]:.1%}" if counts[row].sum() else "none"
            axis.text(column, row + 0.18, percent, ha="center", va="center", fontsize=10, color=shade)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set_xticks([0, 1], ["real", "fake"])
    axis.set_yticks([0, 1], names)
    axis.tick_params(length=0, labelsize=10)
    axis.set_xlabel("called")
    axis.set_ylabel("truth")
    return figure


def scored(predictions: pd.DataFrame) -> tuple[npt.NDArray[np.int64], Array, str]:
    """Labels and scores of the samples that have a score, and a remark on those that have none."""
    counted = predictions[predictions["score"].notna()]
    missing = len(predictions) - len(counted)
    remark = f"{missing:,} of {len(predictions):,} samples have no score and are left out" if missing else ""
    return counted["label"].to_numpy(np.int64), counted["score"].to_numpy(np.float64), remark


def one_class(labels: npt.NDArray[np.int64]) -> str:
    """Why a curve over two classes cannot be drawn; empty where it can."""
    if not len(labels):
        return "no sample has a score"
    present = np.unique(labels)
    return "" if len(present) == 2 else f"all {len(labels):,} samples are {('real', 'fake')[present[0]]}"


def _draw_band(axis: Axes, band: Band | None) -> None:
    if band is not None:
        label = f"{band.level:.0%} interval"
        axis.fill_between(band.x, band.low, band.high, color=BLUE, alpha=0.18, linewidth=0, label=label)


def _unit_square(axis: Axes, across: str, up: str) -> None:
    axis.set(xlim=(0, 1), ylim=(0, 1.005), xlabel=across, ylabel=up)
    axis.set_aspect("equal")


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
    table = metrics.reliability(labels, scores, bins)
    errors = np.clip([table["fraction"] - table["low"], table["high"] - table["fraction"]], 0, None)
    axes[0].plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="perfectly calibrated")
    found = "found" if ece is None else f"found, ECE {ece:.3f}"
    axes[0].errorbar(
        table["score"], table["fraction"], yerr=errors, fmt="o-", color=BLUE, capsize=3, linewidth=1.5, label=found
    )
    axes[0].set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="share that is fake")
    legend(axes[0], "upper left")
    axes[1].bar((table["bin"] + 0.5) / bins, table["n"], width=0.9 / bins, color=BLUE)
    axes[1].set(xlim=(0, 1), xlabel="fake probability", ylabel="samples")
    return figure


def _method_rows(predictions: pd.DataFrame, methods: list[str]) -> list[tuple[str, Array, str]]:
    """Real samples and each method's fakes, where any has a score: name and count, scores, colour."""
    groups = [("real", predictions[predictions["label"] == 0], REAL_COLOUR)]
    groups += [
        (str(m), predictions[(predictions["label"] == 1) & (predictions["method"] == m)], FAKE_COLOUR) for m in methods
    ]
    scores = [(name, rows["score"].dropna().to_numpy(np.float64), colour) for name, rows, colour in groups]
    return [(f"{name} (n={len(values):,})", values, colour) for name, values, colour in scores if len(values)]


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
