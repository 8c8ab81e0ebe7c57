"""Figures of several runs at once: their ROC curves and learning curves over one another.

Takes predictions and histories by run name.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deepfake.tracking.figures.curves import History, series
from deepfake.tracking.figures.scores import Interval, one_class, scored
from deepfake.tracking.figures.style import GREY, LINES, MARKERS, PALETTE, legend, new_figure, say_why, title

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
