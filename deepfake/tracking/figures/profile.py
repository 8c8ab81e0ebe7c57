"""A figure of where each epoch's time went. Takes seconds by part; measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deepfake.metrics import EPOCH_PARTS
from deepfake.tracking.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    new_figure,
    say_why,
    title,
)

#: Colour and hatching of each part; waiting for data has the alarming one.
_LOOKS = ((VERMILLION, "////"), (ORANGE, "...."), (BLUE, ""), (SKY, ""), (GREEN, ""), (PURPLE, ""), ("#BBBBBB", "xxxx"))
_STYLES = {**dict(zip(EPOCH_PARTS, _LOOKS, strict=True)), "other": ("#E5E5E5", "")}
#: How the metrics of a profiled epoch begin; those that are no seconds say what they are.
_PREFIX = "profile/"
_OTHERS = ("peak_memory_bytes", "flops_per_second", "mfu")


def recorded(epoch: Mapping[str, float]) -> dict[str, float]:
    """Seconds by part from an epoch's metrics; empty where it was not profiled."""
    found = {name.removeprefix(_PREFIX): value for name, value in epoch.items() if name.startswith(_PREFIX)}
    return {part: seconds for part, seconds in found.items() if part not in _OTHERS}


def remark(history: Sequence[Mapping[str, float]]) -> str:
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
