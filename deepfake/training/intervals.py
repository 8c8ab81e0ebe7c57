"""A metric and how much it varies to the bounds it lies between: right for few units, and at a perfect score.

ROC-AUCs have the variance of DeLong, DeLong & Clarke-Pearson 1988, "Comparing the areas under two or more correlated
receiver operating characteristic curves", by midranks (Sun & Xu 2014, "Fast implementation of DeLong's algorithm");
where several samples share a source, their parts are added up first (Obuchowski 1997, "Nonparametric analysis of
clustered ROC curve data"). Rates are read as a count of events among as many samples as would vary alike (Kish 1965;
Korn & Graubard 1998), with exact mid-p bounds (Lancaster 1961; Agresti & Gottard 2007), which at a perfect score are
the rule of three. Knows values, variances and units; draws nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, ndtri, stdtrit

from deepfake.metrics import Interval

#: Fewer units than this of a class say too little of how units vary.
MIN_UNITS = 10
#: A unit with a larger fraction of a class than this is most of what there is to see.
MAX_FRACTION = 0.2
#: Below this a variance is rounding.
_NOTHING = 1e-12
_HALVINGS = 50


@dataclass(frozen=True)
class Effective:
    """How many units of equal size would say as much (Kish 1965): of the reals, of the fakes, of all samples."""

    real: float
    fake: float
    all: float

    @property
    def fewest(self) -> float:
        """Of the class that has fewer, of those that are there."""
        return min(count for count in (self.real, self.fake) if count)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a number that both classes make (Welch 1947), or fewer where units hold both."""
        real = self.fake / (self.real + self.fake)  # the fraction of the variance
        parts = ((real, self.real), (1 - real, self.fake))
        return min(1 / sum(part**2 / max(count - 1, _NOTHING) for part, count in parts), self.all - 1)

    def ranked(self, area: np.ndarray | float) -> np.ndarray:
        """The size of a sample in which a fraction would vary as a ROC-AUC does over so many units of each class.

        By Hanley & McNeil 1982, whose scores are exponential.
        """
        a = np.clip(np.maximum(area, 1 - np.asarray(area)), None, 1 - 1e-9)
        above, below = a / (2 - a) - a**2, 2 * a**2 / (1 + a) - a**2
        spread = 1 + ((self.fake - 1) * above + (self.real - 1) * below) / (a - a**2)
        size: np.ndarray = self.real * self.fake / spread
        return size


def effective(labels: np.ndarray, units: np.ndarray) -> Effective:
    """Count the units of each class by their sizes.

    Args:
        labels: 0 or 1 [n].
        units: What each sample belongs to [n], any values that compare equal within a unit.

    Example:
        >>> effective(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]))
        Effective(real=2.0, fake=1.0, all=2.6666666666666665)
    """
    real, fake = _sizes(labels, units)
    return Effective(*(float(s.sum() ** 2 / max((s**2).sum(), 1)) for s in (real, fake, real + fake)))


def too_few(labels: np.ndarray, units: np.ndarray, name: str = "groups") -> str:
    """Why units are too few to give an interval, or empty: each class that is there needs its own.

    Args:
        labels: 0 or 1 [n].
        units: See :func:`effective`.
        name: What the units are, for people.
    """
    for sizes, text in zip(_sizes(labels, units), ("real", "fake"), strict=True):
        held, count = int(np.count_nonzero(sizes)), sizes.sum()
        if 0 < held < MIN_UNITS:
            what = f"{text} samples" if name == "samples" else f"{name} with {text} samples"
            return f"{held} {what} are too few to draw from, at least {MIN_UNITS} are needed"
        if count and sizes.max() > MAX_FRACTION * count:
            fraction = sizes.max() / count
            return f"one of the {name} holds {fraction:.0%} of the {text} samples, at most {MAX_FRACTION:.0%} may"
    return ""


def fraction_bounds(
    fraction: np.ndarray,
    variance: np.ndarray,
    least: np.ndarray | float,
    freedom: float,
    level: float,
    trust: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of numbers between 0 and 1, such as rates, areas and mean squared errors.

    A sample of ``fraction * (1 - fraction) / variance`` would vary as much. Where hardly anything went wrong the
    variance is small by chance more often than not, and at a perfect score it is none: so many of the errors as
    ``trust`` says are taken to vary as they would over ``least`` samples.

    Args:
        fraction: The values, any shape.
        variance: Of each.
        least: The sample size that is assumed as prior knowledge.
        freedom: Degrees of freedom of the variances.
        level: Confidence.
        trust: How many errors that prior sample weighs.

    Returns:
        Low and high, between 0 and 1.

    Example:
        >>> low, high = fraction_bounds(np.array(1.0), np.array(0.0), 30, 1e9, 0.95)  # the rule of three
        >>> round(float(1 - low), 3), float(high)
        (0.095, 1.0)
    """
    fraction, variance = np.asarray(fraction, np.float64), np.asarray(variance, np.float64)
    spread, errors = fraction * (1 - fraction), np.minimum(fraction, 1 - fraction)
    # Within rounding of 0 or 1 there is no error to learn from.
    known = (errors > _NOTHING) & (variance > _NOTHING**2)
    size = np.where(known, spread / np.where(known, variance, 1), least)
    events = size * errors
    trusted = (events + trust) / (events / np.maximum(size, _NOTHING) + trust / least)
    size = np.where(known & (size > least), trusted, size)
    # As many fewer as Student's quantile is wider than the normal one.
    size = size * (ndtri(0.5 + level / 2) / stdtrit(freedom, 0.5 + level / 2)) ** 2
    count = np.where(errors > _NOTHING, fraction, np.round(fraction)) * size
    low = np.where(count > 0, _root(count, size, (1 - level) / 2), 0.0)
    high = np.where(size - count > 0, _root(count, size, (1 + level) / 2), 1.0)
    return low, high


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

    Example:
        >>> labels = np.tile([0, 1], 100)
        >>> scores = 0.1 + 0.8 * np.where(np.arange(200) % 5 == 0, 1 - labels, labels)
        >>> print(auc_interval(labels, scores))
        0.800 [0.739, 0.852]
    """
    (value,), ((variance,),) = auc_covariance(labels, scores, groups)
    units = effective(labels, np.arange(len(labels)) if groups is None else groups)
    low, high = fraction_bounds(value, variance, units.ranked(value), units.freedom, level)
    return Interval(float(value), float(low), float(high))


def auc_difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, level: float = 0.95, groups: np.ndarray | None = None
) -> Interval:
    """A ROC-AUC less another on the same samples, with bounds from those of each (Zou & Donner 2008).

    How the two vary together is DeLong's; bounds have a width where both are perfect too.

    Args:
        labels: 0 or 1 [n], at least two of each.
        first: Scores [n], on any scale.
        second: Likewise.
        level: Confidence.
        groups: See :func:`auc_covariance`.

    Example:
        >>> labels = np.tile([0, 1], 100)
        >>> scores = 0.1 + 0.8 * np.where(np.arange(200) % 5 == 0, 1 - labels, labels)
        >>> print(auc_difference(labels, labels, scores))
        0.200 [0.146, 0.261]
    """
    (a, b), covariance = auc_covariance(labels, np.stack([first, second]), groups)
    one, other = (auc_interval(labels, scores, level, groups) for scores in (first, second))
    scale = math.sqrt(covariance[0, 0] * covariance[1, 1])
    together = 2 * float(np.clip(covariance[0, 1] / scale, -1, 1)) if scale > _NOTHING else 0.0
    below, above = one.value - one.low, one.high - one.value
    less, more = other.value - other.low, other.high - other.value
    low = math.sqrt(max(below**2 + more**2 - together * below * more, 0.0))
    high = math.sqrt(max(above**2 + less**2 - together * above * less, 0.0))
    return Interval(float(a - b), float(a - b) - low, float(a - b) + high)


def _sizes(labels: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many reals, and how many fakes, each unit holds."""
    _, codes = np.unique(units, return_inverse=True)
    fakes = np.bincount(codes, np.asarray(labels) == 1) if len(codes) else np.zeros(0)
    return (np.bincount(codes) - fakes if len(codes) else fakes), fakes


def _root(count: np.ndarray, size: np.ndarray, tail: float) -> np.ndarray:
    """The rate at which a count as large or larger, the same one counted half, comes with this probability."""
    low, high = np.zeros(np.shape(count)), np.ones(np.shape(count))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = _at_least(count, size, middle) < tail
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _at_least(count: np.ndarray, size: np.ndarray, rate: np.ndarray) -> np.ndarray:
    rest = size - count
    some = np.where(count > 0, betainc(np.where(count > 0, count, 1), rest + 1, rate), 1.0)
    more = np.where(rest > 0, betainc(count + 1, np.where(rest > 0, rest, 1), rate), 0.0)
    return (some + more) / 2
