"""What figures and pages show of a run: which of its curves, which of its samples. Needs no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepfake.metrics import READS, metric_names

History = Sequence[Mapping[str, float]]

#: The losses and the validation metrics that are drawn over epochs, beside the metric that chooses the epoch.
LOSSES = ("train/loss", "val/loss", "val/log_loss")
SHOWN = tuple(f"val/{name}" for reads in READS for name in metric_names(reads, curve=True))


def series(history: History, key: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The epochs, counted from 1, at which a metric has a finite value, and those values."""
    points = [(row.get("epoch", place) + 1, row.get(key)) for place, row in enumerate(history)]
    finite = [(epoch, value) for epoch, value in points if value is not None and np.isfinite(value)]
    return np.array([epoch for epoch, _ in finite], float), np.array([value for _, value in finite], float)


def most_wrong(predictions: pd.DataFrame, count: int, threshold: float = 0.5) -> pd.DataFrame:
    """The samples on the wrong side of the threshold, the furthest from their class first.

    Args:
        predictions: ``label`` and ``score``.
        count: At most so many.
        threshold: The probability from which a sample is called fake.
    """
    wrong = (predictions["score"] >= threshold) != (predictions["label"] == 1)
    errors = predictions[wrong & predictions["score"].notna()]
    distance = (errors["score"] - errors["label"]).abs()
    return errors.loc[distance.sort_values(ascending=False, kind="stable").index].head(count)


def most_typical(predictions: pd.DataFrame, count: int, threshold: float = 0.5) -> pd.DataFrame:
    """Samples on the right side of the threshold whose score is nearest to the median of these, of both classes.

    Args:
        predictions: ``label`` and ``score``.
        count: At most so many; half of them of each class, as far as there are.
        threshold: The probability from which a sample is called fake.
    """
    right = (predictions["score"] >= threshold) == (predictions["label"] == 1)
    hits = predictions[right & predictions["score"].notna()]
    distance = (hits["score"] - hits.groupby("label")["score"].transform("median")).abs()
    nearest = hits.loc[distance.sort_values(kind="stable").index]
    # Whoever is first of its class, then the second ones: one class alone fills all places.
    turn = nearest.groupby("label").cumcount()
    return nearest.loc[turn.sort_values(kind="stable").index].head(count).sort_values("label", kind="stable")
