"""Which of several detectors differ by more than chance, on the same samples. Knows predictions; no runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from deepfake.metrics import Interval
from deepfake.training.bootstrap import drawn_covariance, freedom_of
from deepfake.training.intervals import auc_covariance, effective, too_few

#: Up to so many detectors every pair is tested; of more, the first with each of the others.
EVERY_PAIR = 5
#: How often the largest difference is drawn, as far as the number of pairs allows.
_DRAWS, _FEWEST_DRAWS, _NUMBERS, _BLOCK_NUMBERS = 20_000, 2_000, 20_000_000, 1_000_000
#: A standard error below this is rounding.
_NOTHING = 1e-12


@dataclass(frozen=True)
class Difference:
    """Two detectors on the same samples.

    Attributes:
        first: Its name.
        second: The other's.
        difference: First minus second, with bounds that hold for all pairs at once.
        p: Two-sided: how often the largest difference of any pair is as large among equal detectors.
        p_delong: The same of the ROC-AUCs by DeLong's variance; None where the metric is another one.
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_delong: float | None

    def real(self, level: float) -> bool:
        """Whether chance alone would give as much less often than 1 - ``level``."""
        return self.p < 1 - level


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which pairs are tested: all, or with more than :data:`EVERY_PAIR` the first with each of the others."""
    if len(names) <= EVERY_PAIR:
        return list(itertools.combinations(names, 2))
    return [(names[0], other) for other in names[1:]]


def compare_pairs(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    units: np.ndarray,
    *,
    metric: str,
    threshold: float,
    resamples: int,
    level: float,
) -> list[Difference]:
    """Test the pairs of :func:`pairs_of`, whichever of the detectors came out best.

    The one that is best on these samples is in part the luckiest, so a test against it must allow for all that it was
    chosen from: each pair is compared with the largest difference of *any* pair (Tukey's test for correlated detectors
    of unequal variance, the max-t test of Hothorn, Bretz & Westfall 2008).

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities [n] by detector, best first.
        units: What the bootstrap draws [n], equal within a group of samples that share footage or people.
        metric: One of ``metrics.LESS_IS_BETTER``.
        threshold: Scores at or above it count as fake, for metrics that need one.
        resamples: Draws of the variances.
        level: Confidence of the bounds.

    Raises:
        ValueError: The metric is not defined on these samples, or units of a class are too few.
    """
    values, covariance = drawn_covariance(
        labels, scores, units, metric=metric, threshold=threshold, resamples=resamples
    )
    reason = too_few(labels, units)
    if reason:
        raise ValueError(reason)
    freedom = freedom_of(metric, effective(labels, units))
    names = list(scores)
    places = {name: place for place, name in enumerate(names)}
    tested_pairs = [(places[one], places[other]) for one, other in pairs_of(names)]
    tested = _together(values, covariance, tested_pairs, freedom, level)
    delong: list[float | None] = [None] * len(tested_pairs)
    if metric == "roc_auc":
        areas, theirs = auc_covariance(labels, np.stack(list(scores.values())), units)
        delong = [p for _, p in _together(areas, theirs, tested_pairs, freedom, level)]
    return [
        Difference(names[one], names[other], interval, p, p_delong)
        for (one, other), (interval, p), p_delong in zip(tested_pairs, tested, delong, strict=True)
    ]


def _together(
    values: np.ndarray, covariance: np.ndarray, tested_pairs: Sequence[tuple[int, int]], freedom: float, level: float
) -> list[tuple[Interval, float]]:
    """Differences with bounds and p that hold for all pairs of the values at once."""
    variances = np.diag(covariance)
    errors = np.sqrt(np.maximum(variances[:, None] + variances[None] - 2 * covariance, 0))  # [k, k]
    largest = None if len(values) == 2 else _largest(covariance, errors, freedom)
    reach = float(stdtrit(freedom, 0.5 + level / 2) if largest is None else np.quantile(largest, level))
    found = []
    for one, other in tested_pairs:
        difference, error = float(values[one] - values[other]), float(errors[one, other])
        t = abs(difference) / error if error > _NOTHING else 0.0 if abs(difference) < _NOTHING else np.inf
        if largest is None:
            p = float(2 * stdtr(freedom, -t))
        else:
            p = float((1 + np.count_nonzero(largest >= t)) / (1 + len(largest))) if t else 1.0
        found.append((Interval(difference, difference - reach * error, difference + reach * error), p))
    return found


def _largest(covariance: np.ndarray, errors: np.ndarray, freedom: float, seed: int = 0) -> np.ndarray:
    """What the largest difference of any pair is, in standard errors, among detectors that vary so and are equal."""
    k = len(covariance)
    one, other = np.triu_indices(k, 1)
    known = errors[one, other] > _NOTHING
    one, other = one[known], other[known]
    inverse = 1 / errors[one, other]
    roots, vectors = np.linalg.eigh(covariance)
    mixing = vectors * np.sqrt(np.maximum(roots, 0))  # [k, k]
    generator = np.random.default_rng(seed)
    pairs = max(1, len(one))
    draws = int(np.clip(_NUMBERS // pairs, _FEWEST_DRAWS, _DRAWS))
    block = max(1, _BLOCK_NUMBERS // pairs)
    largest = []
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = generator.standard_normal((rows, k)) @ mixing.T
        # One error of the variances for all pairs, as they come from the same units.
        drawn /= np.sqrt(generator.chisquare(freedom, (rows, 1)) / freedom)
        apart = np.abs(drawn[:, one] - drawn[:, other]) * inverse
        largest.append(apart.max(1, initial=0.0))
    return np.concatenate(largest)
