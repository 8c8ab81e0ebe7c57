"""Scores to predicted classes and calibrated probabilities: what is fitted on validation and saved with a run.

Knows tables of predictions; no model and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from deepfake.errors import UserError, nearest
from deepfake.metrics import check_scores, class_counts
from deepfake.training.calibration import AtPrior, Calibrator, fit_calibrator, load_calibrator
from deepfake.training.options import EvaluationOptions


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


#: Raised with every change that an older reader would misread.
FORMAT = 2


@dataclass(frozen=True)
class Decision:
    """How scores are read.

    Attributes:
        default: The threshold that was set (``trainer.threshold``).
        threshold: The one fitted on validation, in raw scores; None where none could be.
        method: What it was fitted by: ``youden``, ``f1`` or ``fixed``.
        calibrator: Raw scores to probabilities; None where none was asked for or could be fitted.
        pooling: How a video's score is made of its clips'.
        fitted_on: What it was fitted on, and how many samples: ``data``, ``n``, ``real``, ``fake``.
        unavailable: Why ``threshold`` or ``calibrator`` is missing.
    """

    default: float
    threshold: float | None
    method: str
    calibrator: Calibrator | None
    pooling: str
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)

    @property
    def applied_threshold(self) -> float:
        """The threshold from which samples are called fake, in raw scores: the fitted one where there is one."""
        return self.default if self.threshold is None else self.threshold

    @property
    def applied_probability(self) -> float | None:
        """The same threshold as a calibrated probability; None without a calibrator.

        A calibrator never swaps two scores, so what is called fake is at least this probable and what is called real
        at most. Both may be this probable where the calibrator is level at the threshold: there the score decides.
        """
        return None if self.calibrator is None else float(self.calibrator(np.array([self.applied_threshold]))[0])

    @property
    def fitted_prior(self) -> float | None:
        """The fraction of fakes among the samples that the calibrator was fitted on; None where it is not known."""
        n, fake = self.fitted_on.get("n", 0), self.fitted_on.get("fake", 0)
        return fake / n if n and 0 < fake < n else None

    @property
    def prior(self) -> float | None:
        """The fraction of fakes at which probabilities hold: a stated one, else that of validation."""
        return self.calibrator.prior if isinstance(self.calibrator, AtPrior) else self.fitted_prior

    def at_prior(self, prior: float) -> Decision:
        """The same with probabilities as they are where such a fraction of files is fake; classes stay as they are.

        Raises:
            UserError: It is no fraction between 0 and 1, there is no calibrator, or the one at which it was fitted is
                not known.
        """
        if not 0 < prior < 1:
            raise UserError(f"a prior of {prior:g} leaves nothing to find out", "give a fraction between 0 and 1")
        if self.calibrator is None:
            why = self.unavailable.get("calibrator", "none was fitted")
            raise UserError(f"a prior changes calibrated probabilities, and the run has none: {why}", "leave it out")
        fitted = self.fitted_prior
        if fitted is None:
            raise UserError("the run does not say which fraction of its validation samples was fake", "leave it out")
        own = self.calibrator.calibrator if isinstance(self.calibrator, AtPrior) else self.calibrator
        return replace(self, calibrator=AtPrior(own, fitted, prior))

    def predicts_fake(self, scores: np.ndarray) -> np.ndarray:
        """True [n] where a raw score [n] lies at or above the applied threshold."""
        return np.asarray(scores) >= self.applied_threshold

    def calibrated(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [n] from raw scores [n]; NaN everywhere without a calibrator."""
        scores = np.asarray(scores, dtype=np.float64)
        return np.full(len(scores), np.nan) if self.calibrator is None else self.calibrator(scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :func:`load_decision` reads."""
        return {
            "format": FORMAT,
            "threshold": self.threshold,
            "method": self.method,
            "default_threshold": self.default,
            "calibrator": None if self.calibrator is None else self.calibrator.to_dict(),
            "pooling": self.pooling,
            "fitted_on": dict(self.fitted_on),
            "unavailable": dict(self.unavailable),
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


def load_decision(saved: Mapping[str, Any]) -> Decision:
    """What :meth:`Decision.to_dict` gave, as a decision again.

    Raises:
        UserError: It is damaged, or a newer version wrote it.
    """
    version = saved.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"the run's calibration was written in format {version}, this version reads up to {FORMAT}",
            "update the program",
        )
    try:
        calibrator = None if saved["calibrator"] is None else load_calibrator(saved["calibrator"])
        decision = Decision(
            default=_fraction(saved["default_threshold"]),
            threshold=None if saved["threshold"] is None else _fraction(saved["threshold"]),
            method=str(saved["method"]),
            calibrator=calibrator,
            pooling=str(saved["pooling"]),
            fitted_on={key: value if key == "data" else int(value) for key, value in saved["fitted_on"].items()},
            unavailable={str(key): str(value) for key, value in saved["unavailable"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the run's calibration.json is damaged: {type(error).__name__}: {error}",
            "restore it, or delete it: threshold and calibration are then fitted anew on the run's own predictions",
        ) from error
    return decision


def _fraction(value: object) -> float:
    """A threshold: a number that some score may pass."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no threshold")
    return float(value)


def pooling_name(options: EvaluationOptions) -> str:
    """How a video's score is made, in a word: ``mean``, or ``topk 2`` with its number."""
    return f"topk {options.top_k}" if options.clips == "topk" else options.clips


def _lacking(labels: np.ndarray) -> str:
    if len(labels) == 0:
        return "no validation sample was scored"
    return "" if labels.min() != labels.max() else f"validation holds only {('real', 'fake')[labels[0]]} samples"
