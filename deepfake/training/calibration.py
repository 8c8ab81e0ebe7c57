"""Scores to calibrated probabilities by plain numbers; how these are found, :mod:`deepfake.training.fitting` knows.

Knows arrays only: it works where neither torch nor tables are installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

#: No nearer to certainty, where a logarithm is taken.
BOUND = 1e-12


# SciPy's expit and logit, and its root finders in place of the searches below, round the last digits otherwise: scores
# and metrics would no longer be those of runs of the past.
def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logits to probabilities, in the form that neither overflows nor warns at either end."""
    probabilities: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Probabilities to logits, finite at either end: no nearer to certainty than 1e-12."""
    bounded = np.clip(np.asarray(scores, dtype=np.float64), BOUND, 1 - BOUND)
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
    if not np.isfinite(numbers).all() or not ((found >= 0) & (found <= 1)).all() or (np.diff(found) < -BOUND).any():
        raise ValueError(f"no calibrator has {values}")
    return calibrator


_KINDS: dict[str, Any] = {"platt": Platt, "temperature": Temperature, "isotonic": Isotonic}
