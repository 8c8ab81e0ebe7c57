"""Figures of runs, as PNG files. Knows tables and histories; neither MLflow nor models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd


def draw_run(
    folder: Path,
    *,
    history: Sequence[Mapping[str, float]],
    predictions: pd.DataFrame,
    monitor: str,
    best_epoch: int | None,
    threshold: float = 0.5,
) -> list[Path]:
    """Every figure that a training run leaves behind.

    Args:
        folder: Where the PNG files go.
        history: The metrics of each epoch.
        predictions: Of one split, the test split where there is one: ``label``, ``method``, ``score``.
        monitor: The metric that chose the best epoch.
        best_epoch: Counted from 1.
        threshold: The probability from which a sample is called fake.

    Returns:
        The files, in reading order.
    """
    # matplotlib takes most of a second to import: only a run that draws pays for it.
    from deepfake.tracking.figures import curves, profile, scores, spread
    from deepfake.tracking.figures.style import save

    figures = {
        "learning_curves": curves.learning_curves(history, monitor=monitor, best_epoch=best_epoch),
        "roc": scores.roc(predictions, threshold=threshold),
        "precision_recall": scores.precision_recall(predictions, threshold=threshold),
        "confusion_matrix": scores.confusion(predictions, threshold=threshold),
        "score_histogram": spread.histogram(predictions, threshold=threshold),
    }
    times = [profile.recorded(epoch) for epoch in history]
    if any(times):
        figures["profile"] = profile.epoch_times(times, profile.remark(history))
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]
