"""A predictions table to numbers, per sample, by scikit-learn on scores. Knows no model.

A number that is not defined (one class only, say) is reported as not available with the reason, never as 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

ECE_BINS = 15

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
    metrics = Metrics()
    for name, compute in _METRICS.items():
        reason = _missing(name, labels, scores, threshold)
        if reason:
            metrics.unavailable[name] = reason
        else:
            metrics.values[name] = float(compute(labels, scores, threshold))
    return metrics


def equal_error_rate(labels: np.ndarray, scores: np.ndarray) -> float:
    """Where as many reals are called fake as fakes real, read off the ROC curve with straight lines between points.

    Args:
        labels: 0 or 1 [n], both present.
        scores: [n], higher is more fake.
    """
    from sklearn.metrics import roc_curve

    false_alarms, hits, _ = roc_curve(labels, scores, drop_intermediate=False)
    misses = 1 - hits
    # false_alarms - misses rises from -1 to 1; the rate lies where it crosses 0.
    after = int(np.argmax(false_alarms >= misses))
    x0, x1 = false_alarms[after - 1], false_alarms[after]
    y0, y1 = misses[after - 1], misses[after]
    share = (y0 - x0) / ((x1 - x0) + (y0 - y1))
    return float(x0 + share * (x1 - x0))


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


def _by_sklearn(name: str, *, thresholded: bool, **options: object) -> Callable[[np.ndarray, np.ndarray, float], float]:
    def compute(labels: np.ndarray, scores: np.ndarray, threshold: float) -> float:
        import sklearn.metrics

        given = (scores >= threshold).astype(np.int64) if thresholded else scores
        return float(getattr(sklearn.metrics, name)(labels, given, **options))

    return compute


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "accuracy": _by_sklearn("accuracy_score", thresholded=True),
    "balanced_accuracy": _by_sklearn("balanced_accuracy_score", thresholded=True),
    "f1": _by_sklearn("f1_score", thresholded=True, zero_division=0.0),
    "precision": _by_sklearn("precision_score", thresholded=True),
    "recall": _by_sklearn("recall_score", thresholded=True),
    "roc_auc": _by_sklearn("roc_auc_score", thresholded=False),
    "average_precision": _by_sklearn("average_precision_score", thresholded=False),
    "eer": lambda labels, scores, threshold: equal_error_rate(labels, scores),
    "log_loss": _by_sklearn("log_loss", thresholded=False, labels=[0, 1]),
    "brier": lambda labels, scores, threshold: float(np.mean((scores - labels) ** 2)),
    "ece": lambda labels, scores, threshold: expected_calibration_error(labels, scores),
}
