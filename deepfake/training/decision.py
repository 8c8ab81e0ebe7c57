"""Scores to calls and calibrated probabilities: what is fitted on validation and goes with a run from then on.

Knows tables of predictions; no model and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from deepfake.errors import UserError
from deepfake.metrics import check_scores
from deepfake.training.calibration import Calibrator, fit_calibrator, load_calibrator
from deepfake.training.options import EvaluationOptions
from deepfake.training.threshold import fit_threshold

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
    def cut(self) -> float:
        """The threshold that calls are made at, in raw scores: the fitted one where there is one."""
        return self.default if self.threshold is None else self.threshold

    @property
    def cut_probability(self) -> float | None:
        """The same threshold as a calibrated probability; None without a calibrator.

        A calibrator never swaps two scores, so what is called fake is at least this probable and what is called real
        at most. Both may be this probable where the calibrator is level at the threshold: there the score decides.
        """
        return None if self.calibrator is None else float(self.calibrator(np.array([self.cut]))[0])

    def calls(self, scores: np.ndarray) -> np.ndarray:
        """True [n] where a raw score [n] is called fake."""
        return np.asarray(scores) >= self.cut

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
    fitted_on = {"data": data, "n": len(labels), "real": int((labels == 0).sum()), "fake": int((labels == 1).sum())}
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
            default=_share(saved["default_threshold"]),
            threshold=None if saved["threshold"] is None else _share(saved["threshold"]),
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


def _share(value: object) -> float:
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
