"""ROC-AUC with its variance, and tests of the difference between two of them on the same samples.

DeLong, DeLong & Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
characteristic curves", by the midranks of Sun & Xu 2014, "Fast implementation of DeLong's algorithm". Where several
samples share a source, their parts are added up first: Obuchowski 1997, "Nonparametric analysis of clustered ROC curve
data".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepfake.metrics import Interval
from deepfake.training.intervals import effective, fraction_bounds


@dataclass(frozen=True)
class Comparison:
    """The difference between two ROC-AUCs on the same samples.

    Attributes:
        difference: First minus second.
        variance: Of the difference.
        z: The difference in standard errors; 0 where the two rank all pairs alike.
        p: Two-sided: how often chance alone gives a difference as large.
    """

    difference: float
    variance: float
    z: float
    p: float


def auc_covariance(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """ROC-AUCs of several detectors on the same samples, and how they vary together.

    Args:
        labels: 0 or 1 [n], at least two of each.
        scores: [k, n], higher is more fake; any scale.
        groups: What each sample belongs to [n]; None takes samples for independent.

    Returns:
        ROC-AUCs [k] and their covariance [k, k].

    Raises:
        ValueError: Fewer than two samples of a class, other labels, or NaN.
    """
    from scipy.stats import rankdata  # half a second that only evaluations pay for

    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    labels = np.asarray(labels)
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 and 1")
    fakes, reals = scores[:, labels == 1], scores[:, labels == 0]
    m, n = fakes.shape[1], reals.shape[1]
    if m < 2 or n < 2:
        raise ValueError(f"a variance needs two samples of each class, found {n} real and {m} fake")
    both = np.concatenate([fakes, reals], axis=1)
    ranks = rankdata(both, axis=1)
    # For each fake the fraction of reals below it, for each real the fraction of fakes above it.
    below = (ranks[:, :m] - rankdata(fakes, axis=1)) / n
    above = 1 - (ranks[:, m:] - rankdata(reals, axis=1)) / m
    if groups is None:
        return below.mean(1), np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n
    units = effective(labels, groups)
    parts = np.zeros(scores.shape)
    for label, fractions, count in ((1, below, units.fake), (0, above, units.real)):
        # As among single samples, where the class's own mean is taken off.
        widened = math.sqrt(count / (count - 1)) if count > 1 else 1.0
        parts[:, labels == label] = widened * (fractions - fractions.mean(1, keepdims=True)) / fractions.shape[1]
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.stack([np.bincount(codes, row) for row in parts])
    return below.mean(1), sums @ sums.T


def auc_interval(
    labels: np.ndarray, scores: np.ndarray, level: float = 0.95, groups: np.ndarray | None = None
) -> Interval:
    """ROC-AUC with bounds by DeLong's variance: not the normal ones, which leave 0..1 and vanish at a perfect score.

    Args:
        labels: 0 or 1 [n], at least two of each.
        scores: [n].
        level: Confidence.
        groups: See :func:`auc_covariance`.
    """
    (value,), ((variance,),) = auc_covariance(labels, scores, groups)
    units = effective(labels, np.arange(len(labels)) if groups is None else groups)
    low, high = fraction_bounds(value, variance, units.ranked(value), units.freedom, level)
    return Interval(float(value), float(low), float(high))


def compare_aucs(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Comparison:
    """Whether two detectors' ROC-AUCs on the same samples differ by more than chance.

    Args:
        labels: 0 or 1 [n], at least two of each.
        first: Scores [n].
        second: Scores [n] of the same samples in the same order.
    """
    values, covariance = auc_covariance(labels, np.stack([first, second]))
    difference = float(values[0] - values[1])
    variance = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    # Rounding leaves a trace of variance between detectors that rank alike.
    if math.sqrt(variance) < 1e-12:
        return (
            Comparison(difference, 0.0, 0.0, 1.0)
            if abs(difference) < 1e-12
            else Comparison(difference, 0.0, math.copysign(math.inf, difference), 0.0)
        )
    z = difference / math.sqrt(variance)
    return Comparison(difference, variance, z, math.erfc(abs(z) / math.sqrt(2)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being many (Holm 1979), in the order given; NaN refused."""
    if any(math.isnan(p) for p in p_values):
        raise ValueError("a p-value is NaN")
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
