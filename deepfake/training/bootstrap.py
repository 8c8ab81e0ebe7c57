"""Confidence intervals by drawing whole groups of samples again: identities or sources, not single samples.

Samples that share a footage are not independent; drawing them one by one gives intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from deepfake.training.delong import Interval
from deepfake.training.metrics import LESS_IS_BETTER, check_scores
from deepfake.training.weighted import WeightedMetrics

#: Rows of weights computed at once; more would only leave the processor's cache.
_BLOCK = 64


def group_intervals(
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[dict[str, Interval], dict[str, str]]:
    """Percentile intervals of every metric (Efron & Tibshirani 1993) by a bootstrap over groups.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities [n].
        groups: What each sample belongs to [n], any values that compare equal within a group.
        threshold: Scores at or above it count as fake.
        resamples: How many times groups are drawn, as many of them as there are.
        level: Confidence.
        seed: Fixes the draws.

    Returns:
        Intervals by metric, and for the rest why there is none.

    Raises:
        ValueError: NaN scores, scores outside 0..1, odd labels, or arrays of unequal length.
    """
    labels, scores = _checked(labels, scores, groups)
    if len(labels) == 0:
        return {}, dict.fromkeys(LESS_IS_BETTER, "no sample was scored")
    metrics = WeightedMetrics(labels, scores, threshold)
    whole = {name: float(value[0]) for name, value in metrics(np.ones((1, len(labels)))).items()}
    draws = [metrics(weights) for weights in group_weights(groups, resamples, seed)]
    intervals, unavailable = {}, {}
    for name, value in whole.items():
        drawn = np.concatenate([block[name] for block in draws])
        defined = drawn[np.isfinite(drawn)]
        if not np.isfinite(value):
            unavailable[name] = "not defined on these samples"
        elif len(defined) < resamples / 2:
            unavailable[name] = f"not defined in {resamples - len(defined)} of {resamples} draws: too few groups"
        else:
            low, high = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2])
            intervals[name] = Interval(value, float(low), float(high))
    return intervals, unavailable


def paired_differences(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray,
    *,
    metric: str = "roc_auc",
    threshold: float = 0.5,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, float]:
    """How far two detectors differ on the same samples, both seeing the same draws of groups.

    Args:
        labels: 0 or 1 [n].
        first: Probabilities [n].
        second: Probabilities [n] of the same samples.
        groups: See :func:`group_intervals`.
        metric: One of ``metrics.LESS_IS_BETTER``.
        threshold: For metrics that need one.
        resamples: How many draws.
        level: Confidence.
        seed: Fixes the draws.

    Returns:
        The difference (first minus second) with its bounds, and a two-sided p: twice the smaller share of draws
        on either side of zero, at least 1 over the number of draws.

    Raises:
        ValueError: As :func:`group_intervals`; or the metric is not defined here.
    """
    labels, first = _checked(labels, first, groups)
    _, second = _checked(labels, second, groups)
    both = [WeightedMetrics(labels, scores, threshold) for scores in (first, second)]

    def difference(weights: np.ndarray) -> np.ndarray:
        return both[0](weights)[metric] - both[1](weights)[metric]

    whole = float(difference(np.ones((1, len(labels))))[0]) if len(labels) else np.nan
    if not np.isfinite(whole):
        raise ValueError(f"{metric} is not defined on these samples")
    drawn = np.concatenate([difference(weights) for weights in group_weights(groups, resamples, seed)])
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    p = 2 * min(np.mean(drawn <= 0), np.mean(drawn >= 0))
    return Interval(whole, float(low), float(high)), float(np.clip(p, 1 / resamples, 1.0))


def group_weights(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of rows [r, n] that say how often each sample was drawn with its group."""
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    count = int(members.max()) + 1
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = generator.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield counts[:, members]


def _checked(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if not len(labels) == len(scores) == len(groups):
        raise ValueError(f"{len(labels)} labels, {len(scores)} scores and {len(groups)} groups do not belong together")
    check_scores(labels, scores)
    return labels, scores
