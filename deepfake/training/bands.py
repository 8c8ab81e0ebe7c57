"""How far ROC and precision-recall curves would move on other samples: bands by drawing groups again. No figure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepfake.training.bootstrap import group_weights
from deepfake.training.intervals import effective, share_bounds, too_few
from deepfake.training.options import EvaluationOptions

#: The places along the curve's own axis at which a band is told.
PLACES = np.linspace(0, 1, 101)

Curve = Callable[[np.ndarray, np.ndarray], np.ndarray]


def roc_band(
    labels: np.ndarray, scores: np.ndarray, codes: np.ndarray, options: EvaluationOptions
) -> tuple[np.ndarray, np.ndarray] | None:
    """The true positive rate's interval at each false positive rate of :data:`PLACES`.

    Args:
        labels: 0 or 1 [n].
        scores: [n].
        codes: What each sample is drawn with [n].
        options: Draws and confidence.

    Returns:
        Low and high [101], or None where a class is missing or its groups are too few.
    """

    def curve(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        # From nothing called fake, with straight lines between, as the curve is drawn.
        return np.interp(PLACES, np.r_[0, alarms / alarms[-1]], np.r_[0, hits / hits[-1]])

    return _band(labels, scores, codes, options, curve)


def precision_band(
    labels: np.ndarray, scores: np.ndarray, codes: np.ndarray, options: EvaluationOptions
) -> tuple[np.ndarray, np.ndarray] | None:
    """The precision's interval at each recall of :data:`PLACES`; see :func:`roc_band`."""

    def curve(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        # The first cut that reaches a recall, as steps.
        first = np.searchsorted(hits / hits[-1], np.clip(PLACES, 1e-9, 1 - 1e-9))
        return hits[first] / np.maximum(hits[first] + alarms[first], 1)

    return _band(labels, scores, codes, options, curve)


def _band(
    labels: np.ndarray, scores: np.ndarray, codes: np.ndarray, options: EvaluationOptions, curve: Curve
) -> tuple[np.ndarray, np.ndarray] | None:
    if len(labels) == 0 or labels.min() == labels.max() or too_few(labels, codes):
        return None
    order = np.argsort(-scores, kind="stable")
    fakes, falling = labels[order].astype(np.float64), scores[order]
    starts = np.flatnonzero(np.r_[True, falling[1:] != falling[:-1]])

    def curves(weights: np.ndarray) -> list[np.ndarray]:
        sorted_weights = weights[:, order].astype(np.float64)
        hits = np.cumsum(np.add.reduceat(sorted_weights * fakes, starts, axis=1), axis=1)
        alarms = np.cumsum(np.add.reduceat(sorted_weights * (1 - fakes), starts, axis=1), axis=1)
        both = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
        return [curve(*rows) for rows in zip(hits[both], alarms[both], strict=True)]

    (whole,) = curves(np.ones((1, len(labels))))
    drawn = [row for weights in group_weights(codes, options.resamples, 0, labels) for row in curves(weights)]
    if len(drawn) < options.resamples / 2:
        return None
    units = effective(labels, codes)
    # Where no draw differs, as at a perfect score, the band has a width all the same.
    variance = np.var(np.stack(drawn), axis=0) * units.fewest / (units.fewest - 1)
    return share_bounds(whole, variance, units.fewest, units.freedom, options.level)
