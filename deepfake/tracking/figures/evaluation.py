"""Figures of an evaluation: metrics by group, robustness against severity, the samples most wrongly scored.

Draws numbers and crops computed elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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


def group_bars(groups: pd.DataFrame, *, metric: str, by: str = "method", macro: float | None = None) -> Figure:
    """One bar for each group, with its interval and how many samples it stands on.

    Args:
        groups: ``group``, ``value`` (NaN where undefined), ``n``, and where known ``low`` and ``high``.
        metric: The metric's name, for the axis.
        by: What the groups are.
        macro: The mean over groups, drawn as a line.
    """
    figure, (axis,) = new_figure(6.0, 1.5 + 0.36 * max(len(groups), 1), fitted=True)
    title(axis, f"{metric} by {by}")
    known = groups[groups["value"].notna()]
    if known.empty:
        say_why(axis, f"no {metric} by {by}: it is defined for none of {len(groups)} groups")
        return figure
    places = np.arange(len(groups))
    axis.barh(places, groups["value"].fillna(0), height=0.62, color=BLUE, alpha=0.55, edgecolor=BLUE)
    if {"low", "high"} <= set(groups.columns):
        width = np.clip([groups["value"] - groups["low"], groups["high"] - groups["value"]], 0, None)
        axis.errorbar(groups["value"], places, xerr=np.nan_to_num(width), fmt="none", color=BLACK, capsize=3)
    for place, value in zip(places, groups["value"], strict=True):
        text = "not defined" if math.isnan(value) else f"{value:.3f}"
        axis.annotate(text, (0, place), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    if macro is not None:
        axis.axvline(macro, color=BLACK, linestyle="--", linewidth=1, label=f"mean over groups {macro:.3f}")
        axis.legend(loc="lower left", bbox_to_anchor=(0.5, 1.0), fontsize=8.5, frameon=False)
    axis.set_yticks(places, [f"{name} (n={n:,})" for name, n in zip(groups["group"], groups["n"], strict=True)])
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.02 if groups["value"].max() <= 1 else None), xlabel=metric)
    axis.grid(False, axis="y")
    return figure


def robustness(curves: Mapping[str, pd.DataFrame], *, metric: str = "ROC-AUC", clean: float | None = None) -> Figure:
    """A metric against the severity of each kind of damage, one panel each on a common scale.

    Args:
        curves: For each kind: ``severity`` (number or text, mildest first), ``value``, and where known ``low``
            and ``high``. The frame's ``attrs["unit"]`` names the severity's axis.
        metric: The metric's name.
        clean: Its value on untouched samples, drawn as a line.
    """
    columns = min(3, max(len(curves), 1))
    rows = max(1, math.ceil(len(curves) / columns))
    figure, axes = new_figure(3.3 * columns + 0.4, 2.7 * rows + 0.3, columns, rows, fitted=True)
    if not curves:
        say_why(axes[0], "no robustness curves: no kind of damage was tried")
        return figure
    values = pd.concat([curve["value"] for curve in curves.values()]).dropna()
    bottom = max(0.0, min([*values, 0.5 if clean is None else clean]) - 0.06)
    for axis, (kind, curve) in zip(axes, curves.items(), strict=False):
        title(axis, kind)
        places = np.arange(len(curve))
        if clean is not None:
            axis.axhline(clean, color=GREY, linestyle="--", linewidth=1, label=f"untouched {clean:.3f}")
        if {"low", "high"} <= set(curve.columns):
            axis.fill_between(
                places, curve["low"], curve["high"], color=BLUE, alpha=0.18, linewidth=0, label="interval"
            )
        axis.plot(places, curve["value"], "o-", color=BLUE, linewidth=1.8, markersize=4.5)
        axis.set_xticks(places, [f"{s:g}" if isinstance(s, (int, float)) else str(s) for s in curve["severity"]])
        axis.set(ylim=(bottom, 1.01), xlabel=str(curve.attrs.get("unit", "severity")))
        axis.yaxis.set_major_locator(MaxNLocator(6))
    for axis in axes[::columns]:
        axis.set_ylabel(metric)
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    legend(axes[0], "lower left")
    return figure


def contact_sheet(
    crops: Sequence[npt.NDArray[np.uint8]],
    samples: pd.DataFrame,
    *,
    heading: str = "Most wrong samples",
    columns: int = 6,
) -> Figure:
    """Crops of samples with what they are and what they were scored, framed in their true class's colour.

    Args:
        crops: uint8 [H, W, 3] RGB, one for each row of ``samples``.
        samples: ``sample_id``, ``label``, ``score``, and where known ``method``; worst first.
        heading: What the sheet is of.
        columns: Crops in a row.
    """
    if not crops:
        figure, (axis,) = new_figure(5, 2)
        title(axis, heading)
        say_why(axis, "no sample to show: none was scored wrongly")
        return figure
    columns = min(columns, len(crops))
    rows = math.ceil(len(crops) / columns)
    figure, axes = new_figure(1.75 * columns, 2.3 * rows + 0.55, columns, rows, fitted=True)
    figure.suptitle(heading, fontsize=11, x=0.02, ha="left")
    for axis, crop, (_, row) in zip(axes, crops, samples.iterrows(), strict=False):
        fake = row["label"] == 1
        axis.imshow(crop)
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set(visible=True, color=FAKE_COLOUR if fake else REAL_COLOUR, linewidth=3)
        truth = f"fake, {row['method']}" if fake and "method" in samples.columns else ("fake" if fake else "real")
        axis.set_title(f"{truth}\nscored {row['score']:.3f}", fontsize=8)
        axis.set_xlabel(_shortened(str(row["sample_id"])), fontsize=6.5)
    for axis in axes[len(crops) :]:
        axis.set_axis_off()
    return figure


def _shortened(name: str, length: int = 26) -> str:
    return name if len(name) <= length else f"…{name[1 - length :]}"
