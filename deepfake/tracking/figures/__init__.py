"""Figures of runs, as PNG files. Knows tables and histories; neither MLflow nor models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from deepfake.metrics import Interval
    from deepfake.tracking.figures.scores import Band


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
        history: The metrics of each epoch; none of a run that was not trained, which has no learning curves.
        predictions: Of one split, the test split where there is one: ``label``, ``method``, ``score``.
        monitor: The metric that chose the best epoch.
        best_epoch: Counted from 1.
        threshold: The probability from which a sample is called fake.

    Returns:
        The files, in reading order.
    """
    # matplotlib takes most of a second to import: only a run that draws pays for it.
    from deepfake.tracking.figures import curves, scores
    from deepfake.tracking.figures.style import save

    learnt = {"learning_curves": curves.learning_curves(history, monitor=monitor, best_epoch=best_epoch)}
    figures = {
        **(learnt if history else {}),
        "roc": scores.roc(predictions, threshold=threshold),
        "precision_recall": scores.precision_recall(predictions, threshold=threshold),
        "confusion_matrix": scores.confusion(predictions, threshold=threshold),
        "score_histogram": scores.histogram(predictions, threshold=threshold),
    }
    times = [curves.part_seconds(epoch) for epoch in history]
    if any(times):
        figures["profile"] = curves.epoch_times(times, curves.speed_remark(history))
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


@dataclass
class EvaluationNumbers:
    """What the figures of one evaluation draw; every number is computed elsewhere.

    Attributes:
        predictions: ``sample_id``, ``label``, ``method``, ``score``, and ``calibrated`` where there is a calibrator.
        thresholds: Where a confusion matrix is wanted, by the name of its file.
        threshold: The one in use.
        auc: ROC-AUC with its interval; ``average`` likewise the average precision.
        roc_band: And ``precision_band``: bands about the curves.
        ece: Before and after calibration, where known.
        breakdowns: By column: the table that :func:`deepfake.tracking.figures.evaluation.group_bars` draws.
        macro: The ROC-AUC's mean over methods.
        wrong: The most wrong samples, with a crop of each.
        robustness: Curves by kind of corruption.
    """

    predictions: pd.DataFrame
    thresholds: Mapping[str, float]
    threshold: float
    auc: Interval | None = None
    average: Interval | None = None
    roc_band: Band | None = None
    precision_band: Band | None = None
    ece: tuple[float | None, float | None] = (None, None)
    breakdowns: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    macro: float | None = None
    wrong: tuple[pd.DataFrame, Sequence[npt.NDArray[np.uint8]]] | None = None
    robustness: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def draw_evaluation(folder: Path, numbers: EvaluationNumbers) -> list[Path]:
    """Every figure of an evaluation, as PNG files in a folder; returns them in reading order."""
    from deepfake.tracking.figures import evaluation, scores
    from deepfake.tracking.figures.style import save

    table, threshold = numbers.predictions, numbers.threshold
    figures = {
        "roc": scores.roc(table, threshold=threshold, band=numbers.roc_band, auc=numbers.auc),
        "precision_recall": scores.precision_recall(
            table, threshold=threshold, band=numbers.precision_band, average=numbers.average
        ),
        **{name: scores.confusion(table, threshold=value) for name, value in numbers.thresholds.items()},
        "score_histogram": scores.histogram(table, threshold=threshold),
        "reliability": scores.reliability(table, ece=numbers.ece[0]),
    }
    if "calibrated" in table and table["calibrated"].notna().any():
        calibrated = table.assign(score=table["calibrated"])
        figures["reliability_calibrated"] = scores.reliability(calibrated, ece=numbers.ece[1])
    for column, groups in numbers.breakdowns.items():
        macro = numbers.macro if column == "method" else None
        figures[f"by_{column}"] = evaluation.group_bars(groups, metric="ROC-AUC", by=column, macro=macro)
    if numbers.wrong is not None:
        figures["most_wrong"] = evaluation.contact_sheet(numbers.wrong[1], numbers.wrong[0])
    if numbers.robustness:
        clean = None if numbers.auc is None else numbers.auc.value
        figures["robustness"] = evaluation.robustness(numbers.robustness, clean=clean)
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]
