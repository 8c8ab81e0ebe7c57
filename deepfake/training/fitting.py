"""A threshold and a calibrator fitted on validation: what :mod:`deepfake.training.decision` then applies.

Whatever calibrator is fitted is compared with the scores as they are: on the samples it was fitted on it is worse
neither by log loss nor by calibration error. Where a fit is, it is taken back towards the scores, all the way if need
be. Knows tables of predictions; no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from deepfake.errors import UserError, nearest
from deepfake.metrics import check_scores, class_counts, expected_calibration_error
from deepfake.training.calibration import BOUND, Calibrator, Isotonic, Platt, Temperature, log_odds, sigmoid
from deepfake.training.decision import Decision, pooling_name
from deepfake.training.options import EvaluationOptions

#: How far a temperature may go; beyond, scores say nothing at all of the classes, or next to everything.
COLDEST, HOTTEST = 0.05, 20.0
#: How far a slope, in e-folds, and an intercept are expected to lie from those of scores that need no calibration: a
#: slope of 1 and an intercept of 0. A dozen samples of each class outweigh it; a weight of 9 shifts logits by 2.2.
SLOPE_SPREAD, INTERCEPT_SPREAD = 1.0, 2.0
#: How much of a fit is tried before none of it is taken.
_PARTS = (1.0, 0.75, 0.5, 0.25)
#: Slopes that are tried, by their logarithm, before the best one's neighbourhood is searched.
_LOG_SLOPES = np.linspace(-np.log(100), np.log(100), 37)
_GOLDEN = 40


def fit_threshold(labels: np.ndarray, scores: np.ndarray, how: str) -> float:
    """The threshold that is best on these samples.

    Args:
        labels: 0 or 1 [n], of validation samples.
        scores: Probabilities [n].
        how: ``youden`` (largest recall minus false positive rate; Youden 1950) or ``f1``.

    Returns:
        A number halfway between two neighbouring scores, so that new samples near either fall on its side;
        samples at or above it are fake. Of equally good thresholds the one nearest to a half.

    Raises:
        UserError: ``how`` is neither.
        ValueError: One class only, NaN, or scores outside 0..1.

    Example:
        >>> fit_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9]), "youden")
        0.5
    """
    if how not in CRITERIA:
        raise UserError(f"a threshold cannot be fitted by {how!r}", nearest(how, CRITERIA))
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    check_scores(labels, scores)
    distinct, true_positives, false_positives = _positives(labels, scores)
    worth = CRITERIA[how](true_positives, false_positives)
    thresholds = np.r_[distinct[0], (distinct[1:] + distinct[:-1]) / 2]
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - 0.5))]])


def tpr_at_fpr(labels: np.ndarray, scores: np.ndarray, fpr: float) -> float:
    """The largest true positive rate at a false positive rate of at most ``fpr``.

    Only thresholds at scores that exist are considered, none between: with few reals it is a cautious number.

    Args:
        labels: 0 or 1 [n], both present.
        scores: Probabilities [n].
        fpr: In 0..1.

    Raises:
        ValueError: One class only, NaN, or fewer than ``1 / fpr`` reals, which cannot tell such a rate from none.

    Example:
        >>> tpr_at_fpr(np.array([0, 0, 1, 1]), np.array([0.1, 0.7, 0.6, 0.9]), fpr=0.5)
        1.0
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    check_scores(labels, scores)
    _, true_positives, false_positives = _positives(labels, scores)
    if fpr > 0 and false_positives[0] * fpr < 1 - 1e-9:
        raise ValueError(f"{int(false_positives[0])} real samples cannot resolve a false-positive rate of {fpr:g}")
    allowed = false_positives <= fpr * false_positives[0] + 1e-9
    return float(true_positives[allowed].max(initial=0.0) / true_positives[0])


def _positives(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, rising, and the true and false positives at each as a threshold.

    As counts: scikit-learn's ``roc_curve`` gives rates, from which they come back rounded.
    """
    if len(labels) == 0 or labels.min() == labels.max():
        raise ValueError("a threshold needs both real and fake samples")
    distinct, run = np.unique(scores, return_inverse=True)
    fakes = np.bincount(run, weights=labels, minlength=len(distinct))
    reals = np.bincount(run, weights=1 - labels, minlength=len(distinct))
    return distinct, np.cumsum(fakes[::-1])[::-1], np.cumsum(reals[::-1])[::-1]


#: What a threshold can be best at, from the true and false positives at rising ones: at the lowest, all samples.
CRITERIA: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "youden": lambda true, false: true / true[0] - false / false[0],
    "f1": lambda true, false: 2 * true / (true + false + true[0]),
}


def fit_decision(predictions: pd.DataFrame, options: EvaluationOptions, default: float, data: str) -> Decision:
    """Fit a threshold and a calibrator.

    Args:
        predictions: Of the validation split: ``label``, ``score`` and ``status``.
        options: By what criterion, and which calibrator.
        default: The threshold that was set.
        data: What the predictions are of, for the record.

    Returns:
        With reasons instead of numbers where validation lacks a class.

    Raises:
        ValueError: NaN scores, or scores outside 0..1.
    """
    counted = predictions[predictions["status"] == "ok"]
    labels = counted["label"].to_numpy(np.int64)
    scores = counted["score"].to_numpy(np.float64)
    check_scores(labels, scores)
    fitted_on = {"data": data, "n": len(labels), **class_counts(labels)}
    reason = _lacking(labels)
    unavailable = {}
    threshold, calibrator = None, None
    if options.threshold == "fixed":
        threshold = default
    elif reason:
        unavailable["threshold"] = reason
    else:
        threshold = fit_threshold(labels, scores, options.threshold)
    if options.calibration == "none":
        unavailable["calibrator"] = "evaluation.calibration=none"
    elif reason:
        unavailable["calibrator"] = reason
    else:
        calibrator = fit_calibrator(labels, scores, options.calibration)
    return Decision(default, threshold, options.threshold, calibrator, pooling_name(options), fitted_on, unavailable)


def _lacking(labels: np.ndarray) -> str:
    if len(labels) == 0:
        return "no validation sample was scored"
    return "" if labels.min() != labels.max() else f"validation holds only {('real', 'fake')[labels[0]]} samples"


def fit_calibrator(labels: np.ndarray, scores: np.ndarray, method: str) -> Calibrator:
    """A calibrator for scores like these.

    Args:
        labels: 0 or 1 [n], of validation samples, both present.
        scores: Probabilities [n].
        method: ``platt`` (a slope and an intercept), ``temperature`` (a slope alone: right where both classes are
            equally frequent and weigh the same) or ``isotonic`` (any rising shape; needs hundreds).

    Returns:
        Worse on these samples than the scores as they are neither by log loss nor by calibration error.

    Raises:
        UserError: ``method`` is none of these.
        ValueError: One class only, NaN, or scores outside 0..1.
    """
    if method not in _FITS:
        raise UserError(f"scores cannot be calibrated by {method!r}", nearest(method, _FITS))
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    check_scores(labels, scores)
    if len(labels) == 0 or labels.min() == labels.max():
        raise ValueError("calibration needs both real and fake samples")
    raw = _losses(labels, scores)
    fits = iter(_FITS[method](labels, scores))
    found = next(fits)
    # The last one changes no score, and needs no comparison.
    for gentler in fits:
        if all(new <= old + 1e-12 for new, old in zip(_losses(labels, found(scores)), raw, strict=True)):
            break
        found = gentler
    return found


def _fit_platt(labels: np.ndarray, scores: np.ndarray) -> Iterable[Platt]:
    """The likeliest slope and intercept, given that scores are expected to need neither; then ever less of both.

    The expectation (normal, about slope 1 in its logarithm and intercept 0) says how far a handful of samples is
    believed: a split that happens to be separated would otherwise give probabilities of 0 and 1, and softening its
    labels (as Platt does) makes a good detector doubt itself. It costs the likelihood least where nothing is changed,
    so what is found is never less likely than the scores as they are.
    """
    z, y = log_odds(scores), labels.astype(np.float64)

    def best(log_slope: float) -> tuple[float, float]:
        """The least penalised loss with this slope, and its intercept."""
        slope = float(np.exp(log_slope))
        intercept = _intercept(slope * z, y)
        logits = slope * z + intercept
        loss = float(np.sum(np.logaddexp(0, logits) - y * logits))
        return loss + 0.5 * (log_slope / SLOPE_SPREAD) ** 2 + 0.5 * (intercept / INTERCEPT_SPREAD) ** 2, intercept

    place = int(np.argmin([best(float(point))[0] for point in _LOG_SLOPES]))
    low, high = (float(_LOG_SLOPES[np.clip(place + side, 0, len(_LOG_SLOPES) - 1)]) for side in (-1, 1))
    log_slope = _least(lambda point: best(point)[0], low, high)
    slope, intercept = float(np.exp(log_slope)), best(log_slope)[1]
    # Along this line the loss is convex and no larger at its end than at its beginning.
    return [Platt(1 + part * (slope - 1), part * intercept) for part in (*_PARTS, 0.0)]


def _intercept(z: np.ndarray, labels: np.ndarray) -> float:
    """The intercept of the least penalised loss: Newton's steps, kept within what brackets it."""
    far = float(np.abs(z).max()) + 40
    low, high, found = -far, far, 0.0
    for _ in range(100):
        p = sigmoid(z + found)
        rise = float(np.sum(p - labels)) + found / INTERCEPT_SPREAD**2
        low, high = (low, found) if rise > 0 else (found, high)
        step = found - rise / (float(np.sum(p * (1 - p))) + 1 / INTERCEPT_SPREAD**2)
        step = step if low < step < high else (low + high) / 2
        if abs(step - found) < 1e-12:
            return step
        found = step
    return found


def _least(of: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley between two points is least, by golden sections (Kiefer 1953)."""
    ratio = (5**0.5 - 1) / 2
    for _ in range(_GOLDEN):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if of(left) < of(right) else (left, high)
    return (low + high) / 2


def _fit_temperature(labels: np.ndarray, scores: np.ndarray) -> Iterable[Temperature]:
    """The likeliest factor of the logits: the log loss is convex in it, so its slope is halved in to zero.

    Labels are softened by what so few samples leave open (Platt 1999, "Probabilistic outputs for support vector
    machines", 2.2). A validation split that happens to be separated perfectly would otherwise be a licence to be
    certain, for there the colder is always the likelier. Then ever less of it.
    """
    z = log_odds(scores)
    reals, fakes = class_counts(labels).values()
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def slope(factor: float) -> float:
        return float(np.sum((sigmoid(factor * z) - targets) * z))

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    factor = (low + high) / 2
    return [Temperature(1 / (1 + part * (factor - 1))) for part in (*_PARTS, 0.0)]


def _fit_isotonic(labels: np.ndarray, scores: np.ndarray) -> Iterable[Isotonic]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1).fit(scores, labels)
    points = fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
    return [
        Isotonic(tuple(points[0]), tuple(points[1]), bound=1 / (len(labels) + 2)),
        Isotonic((0.0, 1.0), (0.0, 1.0), bound=BOUND),
    ]


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Log loss and calibration error."""
    bounded = np.clip(probabilities, BOUND, 1 - BOUND)
    likelihood = np.where(labels == 1, bounded, 1 - bounded)
    return float(-np.log(likelihood).mean()), expected_calibration_error(labels, probabilities)


#: Each gives a fit, then gentler ones down to one that changes nothing.
_FITS: dict[str, Callable[[np.ndarray, np.ndarray], Iterable[Calibrator]]] = {
    "platt": _fit_platt,
    "temperature": _fit_temperature,
    "isotonic": _fit_isotonic,
}
