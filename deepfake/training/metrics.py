"""A predictions table to numbers, per sample. Knows no model; tests hold every metric against scikit-learn's.

A number that is not defined (one class only, say) is reported as not available with the reason, never as 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from deepfake.training.weighted import ECE_BINS, WeightedMetrics

#: Every metric, and whether less is better.
LESS_IS_BETTER: dict[str, bool] = {
    "accuracy": False,
    "balanced_accuracy": False,
    "f1": False,
    "precision": False,
    "recall": False,
    "roc_auc": False,
    "average_precision": False,
    "eer": True,
    "log_loss": True,
    "brier": True,
    "ece": True,
}

#: Metrics that compare real with fake and so need both.
NEEDS_BOTH = frozenset({"balanced_accuracy", "roc_auc", "average_precision", "eer"})
#: Metrics that ask how fakes fared and so need some.
NEEDS_FAKE = frozenset({"f1", "precision", "recall"})


@dataclass
class Metrics:
    """What could be computed, and why the rest could not.

    Attributes:
        values: Name to number.
        unavailable: Name to reason.
    """

    values: dict[str, float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def sample_metrics(table: pd.DataFrame, threshold: float = 0.5) -> Metrics:
    """All metrics of :data:`LESS_IS_BETTER` over a table of predictions.

    Args:
        table: ``label`` (1 is fake) and ``score`` in 0..1; with a ``status`` column, only rows that say ``ok``
            count (the others were never scored: no face, cannot be decoded).
        threshold: Scores at or above it count as fake in accuracy, F1, precision and recall.

    Raises:
        ValueError: A row that counts has a NaN score, a score outside 0..1, or a label other than 0 and 1.
    """
    counted = table[table["status"] == "ok"] if "status" in table else table
    labels = counted["label"].to_numpy(dtype=np.int64)
    scores = counted["score"].to_numpy(dtype=np.float64)
    check_scores(labels, scores)
    unavailable = {name: _missing(name, labels, scores, threshold) for name in LESS_IS_BETTER}
    unavailable = {name: reason for name, reason in unavailable.items() if reason}
    if len(unavailable) == len(LESS_IS_BETTER):
        return Metrics({}, unavailable)
    found = WeightedMetrics(labels, scores, threshold)(np.ones((1, len(labels))))
    return Metrics({name: float(found[name][0]) for name in LESS_IS_BETTER if name not in unavailable}, unavailable)


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> float:
    """Where as many reals are called fake as fakes real, read off the ROC curve with straight lines between points.

    Args:
        labels: 0 or 1 [n], both present.
        scores: [n], higher is more fake.
    """
    return float(WeightedMetrics(labels, scores)(np.ones((1, len(labels))))["eer"][0])


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray, bins: int = ECE_BINS) -> float:
    """The mean gap between score and share of fakes, over equally wide bins of the score, weighted by their size.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities of fake [n].
        bins: How many. Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".
    """
    which = np.minimum((scores * bins).astype(np.int64), bins - 1)
    gap = np.bincount(which, weights=scores - labels, minlength=bins)
    return float(np.abs(gap).sum() / len(scores))


def check_scores(labels: np.ndarray, scores: np.ndarray) -> None:
    """Refuse what no metric is defined on.

    Raises:
        ValueError: Labels other than 0 and 1, NaN scores, or scores outside 0..1.
    """
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 and 1, found {sorted(set(labels.tolist()))}")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN")
    if ((scores < 0) | (scores > 1)).any():
        raise ValueError("scores must be probabilities in 0..1")


def _missing(name: str, labels: np.ndarray, scores: np.ndarray, threshold: float) -> str:
    if len(labels) == 0:
        return "no sample was scored"
    if name in NEEDS_BOTH and labels.min() == labels.max():
        return f"only {('real', 'fake')[labels[0]]} samples"
    if name in NEEDS_FAKE and not labels.any():
        return "only real samples"
    if name == "precision" and not (scores >= threshold).any():
        return "no sample was called fake"
    return ""
