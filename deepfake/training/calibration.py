"""Scores to calibrated probabilities, fitted on validation and kept as plain numbers.

Whatever is fitted is compared with the scores as they are: on the samples it was fitted on it is worse neither by log
loss nor by calibration error. Where a fit is, it is taken back towards the scores, all the way if need be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deepfake.errors import UserError, nearest
from deepfake.metrics import check_scores, class_counts, expected_calibration_error

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
#: No nearer to certainty, where a logarithm is taken.
_BOUND = 1e-12


# SciPy's expit and logit, and its root finders in place of the searches below, round the last digits otherwise: scores
# and metrics would no longer be those of runs of the past.
def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits to probabilities, in the form that neither overflows nor warns at either end."""
    probabilities: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Probabilities to logits, finite at either end: no nearer to certainty than 1e-12."""
    bounded = np.clip(np.asarray(scores, dtype=np.float64), _BOUND, 1 - _BOUND)
    logits: np.ndarray = np.log(bounded) - np.log1p(-bounded)
    return logits


class Calibrator(Protocol):
    """Maps scores to probabilities, never changing which of two samples scores higher."""

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [n] from scores [n] in 0..1; NaN stays NaN."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :func:`load_calibrator` reads."""


@dataclass(frozen=True)
class Platt:
    """Logits times a slope plus an intercept (Platt 1999).

    The intercept is what a temperature lacks: a detector trained with ``trainer.balance=pos_weight``, or on other
    shares of fakes than it will see, has its logits shifted by a constant.
    """

    slope: float
    intercept: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return sigmoid(self.slope * log_odds(scores) + self.intercept)

    def to_dict(self) -> dict[str, Any]:
        return {"method": "platt", "slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True)
class Temperature:
    """Logits divided by a number (Guo et al. 2017, arXiv:1706.04599)."""

    temperature: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return sigmoid(log_odds(scores) / self.temperature)

    def to_dict(self) -> dict[str, Any]:
        return {"method": "temperature", "temperature": self.temperature}


@dataclass(frozen=True)
class Isotonic:
    """A rising line through points (Zadrozny & Elkan 2002), level beyond them.

    No probability comes nearer to 0 or 1 than ``bound``: a single wrong sample there would make the log loss infinite.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]
    bound: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return np.clip(np.interp(scores, self.scores, self.probabilities), self.bound, 1 - self.bound)

    def to_dict(self) -> dict[str, Any]:
        points = {"scores": list(self.scores), "probabilities": list(self.probabilities)}
        return {"method": "isotonic", **points, "bound": self.bound}


@dataclass(frozen=True)
class AtPrior:
    """Probabilities of a calibrator as they are where another fraction of files is fake, by Bayes' rule.

    Nothing else may differ: fakes and reals there look like those of before, only their numbers are others (Saerens et
    al. 2002).

    Attributes:
        calibrator: Fitted on samples of which the fraction ``fitted`` is fake.
        fitted: See ``calibrator``.
        prior: The fraction where the probabilities are to hold.

    Example:
        >>> AtPrior(Temperature(1.0), fitted=0.5, prior=0.01)(np.array([0.5, 0.99])).round(3).tolist()
        [0.01, 0.5]
    """

    calibrator: Calibrator
    fitted: float
    prior: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        shift = log_odds(np.array(self.prior)) - log_odds(np.array(self.fitted))
        return sigmoid(log_odds(self.calibrator(scores)) + shift)

    def to_dict(self) -> dict[str, Any]:
        """Those of the calibrator: what is kept of a run holds at its own prior."""
        return self.calibrator.to_dict()


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


def load_calibrator(saved: dict[str, Any]) -> Calibrator:
    """What a calibrator's ``to_dict`` gave, as a calibrator again.

    Raises:
        KeyError, TypeError, ValueError: It is nothing of the kind, or would not keep scores in order.
    """
    kind = _KINDS[saved["method"]]
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "method"}
    numbers = np.asarray([n for v in values.values() for n in (v if isinstance(v, tuple) else (v,))], dtype=np.float64)
    calibrator: Calibrator = kind(**values)
    with np.errstate(all="ignore"):
        found = calibrator(np.linspace(0, 1, 101))
    if not np.isfinite(numbers).all() or not ((found >= 0) & (found <= 1)).all() or (np.diff(found) < -_BOUND).any():
        raise ValueError(f"no calibrator has {values}")
    return calibrator


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
        Isotonic((0.0, 1.0), (0.0, 1.0), bound=_BOUND),
    ]


def _losses(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Log loss and calibration error."""
    bounded = np.clip(probabilities, _BOUND, 1 - _BOUND)
    likelihood = np.where(labels == 1, bounded, 1 - bounded)
    return float(-np.log(likelihood).mean()), expected_calibration_error(labels, probabilities)


#: Each gives a fit, then gentler ones down to one that changes nothing.
_FITS: dict[str, Callable[[np.ndarray, np.ndarray], Iterable[Calibrator]]] = {
    "platt": _fit_platt,
    "temperature": _fit_temperature,
    "isotonic": _fit_isotonic,
}
_KINDS: dict[str, Any] = {"platt": Platt, "temperature": Temperature, "isotonic": Isotonic}
