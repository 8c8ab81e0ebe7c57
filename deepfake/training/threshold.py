"""Where to cut scores into real and fake, fitted on validation and kept; and what a cut costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepfake.errors import UserError, nearest
from deepfake.metrics import check_scores


def fit_threshold(labels: np.ndarray, scores: np.ndarray, how: str) -> float:
    """The cut that is best on these samples.

    Args:
        labels: 0 or 1 [n], of validation samples.
        scores: Probabilities [n].
        how: ``youden`` (largest recall minus false alarms; Youden 1950) or ``f1``.

    Returns:
        A number halfway between two neighbouring scores, so that new samples near either fall on its side;
        samples at or above it are fake. Of equally good cuts the one nearest to a half.

    Raises:
        UserError: ``how`` is neither.
        ValueError: One class only, NaN, or scores outside 0..1.
    """
    if how not in CRITERIA:
        raise UserError(f"a threshold cannot be fitted by {how!r}", nearest(how, CRITERIA))
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    check_scores(labels, scores)
    distinct, hits, alarms = _cuts(labels, scores)
    worth = CRITERIA[how](hits, alarms, float(hits[0]), float(alarms[0]))
    cuts = np.r_[distinct[0], (distinct[1:] + distinct[:-1]) / 2]
    best = np.flatnonzero(worth >= worth.max() - 1e-12)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])


def tpr_at_fpr(labels: np.ndarray, scores: np.ndarray, fpr: float) -> float:
    """The largest share of fakes found while at most a share ``fpr`` of reals is called fake.

    Only cuts that exist are considered, none between: with few reals it is a cautious number.

    Args:
        labels: 0 or 1 [n], both present.
        scores: Probabilities [n].
        fpr: In 0..1.

    Raises:
        ValueError: One class only, NaN, or fewer than ``1 / fpr`` reals, which cannot tell such a rate from none.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    check_scores(labels, scores)
    _, hits, alarms = _cuts(labels, scores)
    if fpr > 0 and alarms[0] * fpr < 1 - 1e-9:
        raise ValueError(f"{int(alarms[0])} real samples cannot resolve a false-positive rate of {fpr:g}")
    allowed = alarms <= fpr * alarms[0] + 1e-9
    return float(hits[allowed].max(initial=0.0) / hits[0])


def _cuts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, rising, and how many fakes and reals lie at or above each."""
    if len(labels) == 0 or labels.min() == labels.max():
        raise ValueError("a cut needs both real and fake samples")
    distinct, run = np.unique(scores, return_inverse=True)
    fakes = np.bincount(run, weights=labels, minlength=len(distinct))
    reals = np.bincount(run, weights=1 - labels, minlength=len(distinct))
    return distinct, np.cumsum(fakes[::-1])[::-1], np.cumsum(reals[::-1])[::-1]


def _youden(hits: np.ndarray, alarms: np.ndarray, fakes: float, reals: float) -> np.ndarray:
    return hits / fakes - alarms / reals


def _f1(hits: np.ndarray, alarms: np.ndarray, fakes: float, reals: float) -> np.ndarray:
    return 2 * hits / (hits + alarms + fakes)


#: What a cut can be best at, from fakes and reals at or above it and how many there are of each.
CRITERIA: dict[str, Callable[[np.ndarray, np.ndarray, float, float], np.ndarray]] = {"youden": _youden, "f1": _f1}
