"""Scores to predicted classes and calibrated probabilities: what was fitted on validation and saved with a run.

How it is fitted, :mod:`deepfake.training.fitting` knows. Knows arrays only; no table, no model and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from deepfake.errors import UserError, refuse_newer
from deepfake.training.calibration import AtPrior, Calibrator, load_calibrator

if TYPE_CHECKING:
    from deepfake.training.options import EvaluationOptions


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


def meaning(decision: Decision) -> str:
    """What a probability means that is read from a decision, in a sentence or two; empty where there is none."""
    if decision.calibrator is None:
        return "A score is no probability: the run has no calibration. It only puts files in order."
    fitted, on = decision.fitted_prior, decision.fitted_on
    if fitted is None:
        return "P(fake) was calibrated on samples of which the run does not say how many are fake."
    counted = f"{on['fake']} of {on['n']} samples of {on['data']} are fake"
    said = f"P(fake) is how often files with this score are fake where {_percent(decision.prior or fitted)} of all are"
    if decision.prior != fitted:
        said += f", as was stated; it was calibrated where {_percent(fitted)} are ({counted}) and moved by Bayes' rule"
    else:
        said += f", as in its calibration ({counted}); where fakes are rarer it is lower (--prior)"
    return f"{said}. It holds for files like those of the run's data, and for no others."


def document(decision: Decision, run: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Results with all that they are to be read by, as ``deepfake predict --json`` prints it.

    Args:
        decision: By which they were made.
        run: ``name`` and ``id`` of the run.
        results: One for each file. ``schema`` changes when a field of theirs, or one here, changes its meaning or goes.
    """
    return {
        "schema": "deepfake/predict/1",
        "run": dict(run),
        "threshold": decision.applied_threshold,
        "threshold_probability": decision.applied_probability,
        "threshold_fitted_by": None if decision.threshold is None else decision.method,
        "calibration": None if decision.calibrator is None else decision.calibrator.to_dict()["method"],
        "unavailable": dict(decision.unavailable),
        "prior": {"stated": decision.prior, "fitted": decision.fitted_prior},
        "probability_means": meaning(decision),
        "pooling": decision.pooling,
        "results": list(results),
    }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def load_decision(saved: Mapping[str, Any]) -> Decision:
    """What :meth:`Decision.to_dict` gave, as a decision again.

    Raises:
        UserError: It is damaged, or a newer version wrote it.
    """
    refuse_newer(saved.get("format"), FORMAT, "the run's calibration")
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
