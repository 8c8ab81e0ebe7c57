"""Scores to probabilities that mean what they say, fitted on validation and kept as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deepfake.errors import UserError, nearest
from deepfake.training.metrics import check_scores

#: How far a temperature may go; beyond, scores say nothing at all of the classes, or next to everything.
COLDEST, HOTTEST = 0.05, 20.0


class Calibrator(Protocol):
    """Maps scores to probabilities, never changing which of two samples scores higher."""

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [n] from scores [n] in 0..1; NaN stays NaN."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :func:`load_calibrator` reads."""


@dataclass(frozen=True)
class Temperature:
    """Logits divided by a number (Guo et al. 2017, arXiv:1706.04599)."""

    temperature: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        return 0.5 * (1 + np.tanh(0.5 * _logits(scores) / self.temperature))

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


def fit_calibrator(labels: np.ndarray, scores: np.ndarray, method: str) -> Calibrator:
    """A calibrator for scores like these.

    Args:
        labels: 0 or 1 [n], of validation samples, both present.
        scores: Probabilities [n].
        method: ``temperature`` (one number; for small splits) or ``isotonic`` (any rising shape; needs hundreds).

    Raises:
        UserError: ``method`` is neither.
        ValueError: One class only, NaN, or scores outside 0..1.
    """
    if method not in _FITS:
        raise UserError(f"scores cannot be calibrated by {method!r}", nearest(method, _FITS))
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    check_scores(labels, scores)
    if len(labels) == 0 or labels.min() == labels.max():
        raise ValueError("calibration needs both real and fake samples")
    calibrator: Calibrator = _FITS[method](labels, scores)
    return calibrator


def load_calibrator(saved: dict[str, Any]) -> Calibrator:
    """What a calibrator's ``to_dict`` gave, as a calibrator again."""
    kind = _KINDS[saved["method"]]
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items() if name != "method"}
    calibrator: Calibrator = kind(**values)
    return calibrator


def _fit_temperature(labels: np.ndarray, scores: np.ndarray) -> Temperature:
    """The likeliest factor of the logits: the log loss is convex in it, so its slope is halved in to zero.

    Labels are softened by what so few samples leave open (Platt 1999, "Probabilistic outputs for support vector
    machines", 2.2). A validation split that happens to be separated perfectly would otherwise be a licence to be
    certain, for there the colder is always the likelier.
    """
    z = _logits(scores)
    fakes, reals = int(labels.sum()), int((1 - labels).sum())
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def slope(factor: float) -> float:
        return float(np.sum((0.5 * (1 + np.tanh(0.5 * factor * z)) - targets) * z))

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Temperature(2 / (low + high))


def _fit_isotonic(labels: np.ndarray, scores: np.ndarray) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1).fit(scores, labels)
    points = fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
    return Isotonic(tuple(points[0]), tuple(points[1]), bound=1 / (len(labels) + 2))


def _logits(scores: np.ndarray) -> np.ndarray:
    bounded = np.clip(np.asarray(scores, dtype=np.float64), 1e-12, 1 - 1e-12)
    logits: np.ndarray = np.log(bounded) - np.log1p(-bounded)
    return logits


_FITS: dict[str, Any] = {"temperature": _fit_temperature, "isotonic": _fit_isotonic}
_KINDS: dict[str, Any] = {"temperature": Temperature, "isotonic": Isotonic}
