"""Predictions resampled by the groups that share footage, to intervals and bands of curves. Knows tables only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy.special import ndtri, stdtrit

from deepfake.metrics import METRICS, Interval, WeightedMetrics, check_scores
from deepfake.training.intervals import Effective, effective, fraction_bounds, too_few
from deepfake.training.options import EvaluationOptions

#: Rows of weights computed at once; more would only leave the processor's cache.
_BLOCK = 64
#: Of a sample that was called with 99 % and wrongly.
_LARGE_LOSS = float(-np.log(0.01))
#: How far the bins' errors are shrunk or stretched to find those that the one seen could come from.
_STRETCHES = np.linspace(0, 4, 81)


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
    """Intervals of every metric by a bootstrap over groups.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities [n].
        groups: What each sample belongs to [n], any values that compare equal within a group.
        threshold: Scores at or above it count as fake.
        resamples: How many times groups are drawn, as many of them as there are.
        level: Confidence.
        seed: Fixes the draws.

    Returns:
        Intervals by metric, and for the rest why there is none: groups of a class that are too few, say.

    Raises:
        ValueError: NaN scores, scores outside 0..1, odd labels, or arrays of unequal length.

    Example:
        >>> labels = np.tile([0, 1], 100)
        >>> scores = 0.1 + 0.8 * np.where(np.arange(200) % 5 == 0, 1 - labels, labels)
        >>> found, unavailable = group_intervals(labels, scores, np.arange(200) // 4, resamples=200)
        >>> print(found["accuracy"])
        0.800 [0.770, 0.828]
    """
    labels, scores = _checked(labels, scores, groups)
    if len(labels) == 0:
        return {}, dict.fromkeys(METRICS, "no sample was scored")
    metrics = WeightedMetrics(labels, scores, threshold)
    whole = {name: float(value[0]) for name, value in metrics().items()}
    reason = too_few(labels, groups)
    unavailable = {name: reason for name in whole if reason}
    unavailable |= {name: "not defined on these samples" for name, value in whole.items() if not np.isfinite(value)}
    wanted = [name for name in whole if name not in unavailable]
    if not wanted:
        return {}, unavailable
    blocks = [metrics(weights) for weights in group_weights(groups, resamples, seed, labels)]
    # How well scores fit depends on how many fakes there happen to be, so here the classes are drawn too.
    gaps = [_gaps(metrics, None), *(_gaps(metrics, weights) for weights in group_weights(groups, resamples, seed))]
    draws = {name: np.concatenate([block[name] for block in blocks]) for name in wanted}
    for name, drawn in draws.items():
        defined = int(np.isfinite(drawn).sum())
        if defined < resamples / 2:
            unavailable[name] = f"not defined in {resamples - defined} of {resamples} draws: too few groups"
    units, largest_loss = effective(labels, groups), float(np.max(_log_losses(labels, scores)))
    intervals = {}
    for name in wanted:
        if name in unavailable:
            continue
        if name == "balanced_accuracy":
            low, high = _balanced(whole, draws, units, level)
        elif name == "ece":
            low, high = _calibration_error(whole[name], np.concatenate(gaps), units, level)
        else:
            # A log loss has no upper end; the largest that was seen takes its place.
            start, end = METRICS[name].low, METRICS[name].high
            scale = (end if np.isfinite(end) else max(largest_loss, _LARGE_LOSS)) - start
            value, drawn = (whole[name] - start) / scale, (draws[name] - start) / scale
            low, high = (start + scale * bound for bound in _bounds(name, value, drawn, units, level))
        intervals[name] = Interval(whole[name], low, high)
    return intervals, unavailable


def drawn_covariance(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    groups: np.ndarray,
    *,
    metric: str,
    threshold: float,
    resamples: int,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A metric of several detectors on the same samples, and how it varies together over the same draws of groups.

    Args:
        labels: 0 or 1 [n].
        scores: Probabilities [n] by detector.
        groups: See :func:`group_intervals`.
        metric: One of :data:`deepfake.metrics.METRICS`.
        threshold: For metrics that need one.
        resamples: How many draws.
        seed: Fixes the draws.

    Returns:
        The metric [k] in the order of the detectors, and its covariance [k, k].

    Raises:
        ValueError: As :func:`group_intervals`; or the metric is not defined here.
    """
    values, drawn = [], []
    for detector in scores.values():
        checked, probabilities = _checked(labels, detector, groups)
        metrics = WeightedMetrics(checked, probabilities, threshold)
        values.append(float(metrics()[metric][0]) if len(checked) else np.nan)
        if not np.isfinite(values[-1]):
            raise ValueError(f"{metric} is not defined on these samples")
        drawn.append(np.concatenate([metrics(w)[metric] for w in group_weights(groups, resamples, seed, labels)]))
    rows = np.stack(drawn)
    rows = rows[:, np.isfinite(rows).all(0)]
    covariance = np.atleast_2d(np.cov(rows, bias=True)) if rows.shape[1] > 1 else np.zeros((len(rows), len(rows)))
    return np.array(values), covariance * _widened(metric, effective(checked, groups))


def freedom_of(metric: str, units: Effective) -> float:
    """Degrees of freedom of a metric's variance over these units."""
    counted = METRICS[metric].units
    return units.all - 1 if counted == "all" else units.fake - 1 if counted == "fake" else units.freedom


def group_weights(
    groups: np.ndarray, resamples: int, seed: int, labels: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Blocks of rows [r, n] that say how often each sample was drawn with its group.

    Args:
        groups: See :func:`group_intervals`.
        resamples: How many rows in all.
        seed: Fixes the draws.
        labels: Where they are given and no group holds both classes, each class's groups are drawn among themselves:
            how many there are of each was chosen, not found.
    """
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    count = int(members.max()) + 1
    generator = np.random.default_rng(seed)
    strata = [np.arange(count)]
    if labels is not None:
        fake, real = (np.unique(members[np.asarray(labels) == label]) for label in (1, 0))
        if not np.intersect1d(fake, real, assume_unique=True).size:
            strata = [stratum for stratum in (real, fake) if len(stratum)]
    for start in range(0, resamples, _BLOCK):
        rows = min(_BLOCK, resamples - start)
        drawn = [stratum[generator.integers(0, len(stratum), (rows, len(stratum)))] for stratum in strata]
        places = np.concatenate(drawn, axis=1) + count * np.arange(rows)[:, None]
        counts = np.bincount(places.ravel(), minlength=rows * count).reshape(rows, count)
        yield counts[:, members]


def _bounds(name: str, value: float, drawn: np.ndarray, units: Effective, level: float) -> tuple[float, float]:
    """Of one metric between 0 and 1, from what was drawn of it."""
    variance = np.var(drawn[np.isfinite(drawn)]) * _widened(name, units)
    least = float(units.ranked(value)) if METRICS[name].units == "ranked" else _count(name, units)
    low, high = fraction_bounds(np.array(value), variance, least, freedom_of(name, units), level, METRICS[name].trust)
    return float(low), float(high)


def _balanced(
    whole: Mapping[str, float], draws: Mapping[str, np.ndarray], units: Effective, level: float
) -> tuple[float, float]:
    """Of the mean of two rates, from the bounds of each (Zou & Donner 2008): one of them may be perfect."""
    fakes, reals = whole["recall"], 2 * whole["balanced_accuracy"] - whole["recall"]
    drawn = np.stack([draws["recall"], 2 * draws["balanced_accuracy"] - draws["recall"]])
    drawn = drawn[:, np.isfinite(drawn).all(0)]
    turned = Effective(units.fake, units.real, units.all)
    found, spared = _bounds("recall", fakes, drawn[0], units, level), _bounds("recall", reals, drawn[1], turned, level)
    together = np.corrcoef(drawn)[0, 1] if (np.std(drawn, axis=1) > 1e-12).all() else 0.0
    reach = []
    for end in (0, 1):
        a, b = abs(found[end] - fakes), abs(spared[end] - reals)
        reach.append(float(np.sqrt(max(a**2 + b**2 + 2 * together * a * b, 0.0))) / 2)
    value = whole["balanced_accuracy"]
    return max(value - reach[0], 0.0), min(value + reach[1], 1.0)


def _calibration_error(error: float, gaps: np.ndarray, units: Effective, level: float) -> tuple[float, float]:
    """Of the calibration error, which chance alone makes larger: true errors for which the one seen is not unlikely.

    Args:
        error: The one seen.
        gaps: The bins' signed errors [1 + r, bins]: those seen, then those of each draw.
        units: How many there are.
        level: Confidence.
    """
    seen, noise = gaps[0], gaps[1:] - gaps[0]
    student = float(stdtrit(units.all - 1, 0.5 + level / 2))
    noise = noise * np.sqrt(_widened("ece", units)) * student / ndtri(0.5 + level / 2)
    drawn = np.abs(_STRETCHES[:, None, None] * seen + noise).sum(2)  # [stretches, r]
    least, most = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2], axis=1)
    low, high = (np.interp(error, np.maximum.accumulate(ends), _STRETCHES) for ends in (most, least))
    # What was seen is too large by as much as chance adds, or hardly where all bins err alike, and then varies as
    # their sum does: either is allowed for.
    varied = (np.abs(seen + noise).sum(1), noise @ np.sign(seen), noise.sum(1))
    reach = float(ndtri(0.5 + level / 2) * max(np.std(total) for total in varied))
    return max(0.0, min(float(low) * error, error - reach)), max(float(high) * error, error + reach)


def _count(name: str, units: Effective) -> float:
    """How many units a metric is made of."""
    counted = METRICS[name].units
    return units.all if counted == "all" else units.fake if counted == "fake" else units.fewest


def _gaps(metrics: WeightedMetrics, weights: np.ndarray | None) -> np.ndarray:
    """The calibration error's signed gaps as fractions of all samples [r, bins]."""
    weighted = metrics.weighted(weights)
    fractions: np.ndarray = weighted.gaps / weighted.n[:, None]
    return fractions


def _widened(name: str, units: Effective) -> float:
    """What a variance among so few is to be multiplied with, as their own mean is taken off."""
    count = _count(name, units)
    return count / (count - 1) if count > 1 else 1.0


def _log_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    eps = np.finfo(np.float64).eps
    losses: np.ndarray = -np.log(np.clip(np.where(labels == 1, scores, 1 - scores), eps, 1))
    return losses


def _checked(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if not len(labels) == len(scores) == len(groups):
        raise ValueError(f"{len(labels)} labels, {len(scores)} scores and {len(groups)} groups do not belong together")
    check_scores(labels, scores)
    return labels, scores


#: The places along the curve's own axis at which a band is computed.
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

    def curve(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
        # From nothing called fake, with straight lines between, as the curve is drawn.
        return np.interp(
            PLACES, np.r_[0, false_positives / false_positives[-1]], np.r_[0, true_positives / true_positives[-1]]
        )

    return _band(labels, scores, codes, options, curve)


def precision_band(
    labels: np.ndarray, scores: np.ndarray, codes: np.ndarray, options: EvaluationOptions
) -> tuple[np.ndarray, np.ndarray] | None:
    """The precision's interval at each recall of :data:`PLACES`; see :func:`roc_band`."""

    def curve(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
        # The highest threshold that reaches a recall, as steps.
        first = np.searchsorted(true_positives / true_positives[-1], np.clip(PLACES, 1e-9, 1 - 1e-9))
        return true_positives[first] / np.maximum(true_positives[first] + false_positives[first], 1)

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
        true_positives = np.cumsum(np.add.reduceat(sorted_weights * fakes, starts, axis=1), axis=1)
        false_positives = np.cumsum(np.add.reduceat(sorted_weights * (1 - fakes), starts, axis=1), axis=1)
        both = (true_positives[:, -1] > 0) & (false_positives[:, -1] > 0)
        return [curve(*rows) for rows in zip(true_positives[both], false_positives[both], strict=True)]

    (whole,) = curves(np.ones((1, len(labels))))
    drawn = [row for weights in group_weights(codes, options.resamples, 0, labels) for row in curves(weights)]
    if len(drawn) < options.resamples / 2:
        return None
    units = effective(labels, codes)
    # Where no draw differs, as at a perfect score, the band has a width all the same.
    variance = np.var(np.stack(drawn), axis=0) * units.fewest / (units.fewest - 1)
    return fraction_bounds(whole, variance, units.fewest, units.freedom, options.level)
