"""How well something simpler than a detector tells a set's classes apart, with an interval: what is solved before.

A baseline is fitted on the training part and scored on the test part, or in folds of whole groups over all samples
where either part is too small for that. Knows numbers and groups; no pictures and no files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepfake.metrics import Interval
from deepfake.training.evaluation import resampling_units
from deepfake.training.intervals import auc_interval, too_few

#: Samples of a class without which a part is too small to be fitted on, or scored.
FEWEST = 10
_FOLDS = 5
_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of which held-out folds choose; weights of standardised features are small
_TREES = 200

#: From features [n, D] and labels [n], and the features [m, D] of others, to scores [m]; groups [n] are not torn apart.
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Baseline:
    """What a simple model made of a set.

    Attributes:
        roc_auc: With bounds by DeLong over groups, NaN where there are none; None where it cannot be had.
        how: What it was fitted and scored on.
        reason: Why there is no number, or no interval; else empty.
        scores: By sample id, of the samples that were scored.
    """

    roc_auc: Interval | None = None
    how: str = ""
    reason: str = ""
    scores: pd.Series | None = None


def baseline(features: np.ndarray, samples: pd.DataFrame, fit: Fit, level: float = 0.95) -> Baseline:
    """Fit a simple model and say how well it tells the classes apart.

    Args:
        features: Of each sample, float [n, D].
        samples: ``sample_id``, ``label``, ``groups`` and ``split`` of each.
        fit: :func:`linear` or :func:`trees`.
        level: The interval's confidence.
    """
    samples = samples.reset_index(drop=True)
    labels = samples["label"].to_numpy(np.int64)
    parts = {name: (samples["split"] == name).to_numpy() for name in ("train", "test")}
    codes, _ = pd.factorize(samples["groups"].map(lambda names: names[0]))
    if all(_fewest(labels[part]) >= FEWEST for part in parts.values()):
        train, scored = parts["train"], np.flatnonzero(parts["test"])
        scores = fit(features[train], labels[train], features[scored], codes[train])
        how = f"train ({int(train.sum())}) to test ({len(scored)})"
    else:
        units = resampling_units(samples["groups"], labels).codes
        if _fewest_groups(labels, units) < _FOLDS or _fewest(labels) < 2 * FEWEST:
            return Baseline(reason=f"fewer than {2 * FEWEST} samples, or {_FOLDS} groups, of one class")
        scored, scores = np.arange(len(labels)), _in_folds(features, labels, units, fit)
        how = f"{_FOLDS} folds of whole groups over all {len(labels)}"
    return _told(samples.iloc[scored].reset_index(drop=True), scores, how, level)


def linear(features: np.ndarray, labels: np.ndarray, others: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Logistic regression on standardised features, as strong as folds of whole groups choose: log odds [m]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    mean, spread = features.mean(0), features.std(0)
    # What hardly varies here is no direction to go by elsewhere.
    varies = spread > 1e-6
    known, asked = (((x - mean) / np.maximum(spread, 1e-6))[:, varies] for x in (features, others))
    if not varies.any():
        return np.zeros(len(others))

    def fitted(strength: float, rows: np.ndarray) -> LogisticRegression:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that is not quite done ranks alike
            return LogisticRegression(C=strength, max_iter=200, class_weight="balanced").fit(known[rows], labels[rows])

    losses = dict.fromkeys(_STRENGTHS, 0.0)
    for train, held in _folds(labels, groups, 3):
        for strength in _STRENGTHS:
            found = fitted(strength, train).predict_proba(known[held])[:, 1]
            losses[strength] += float(log_loss(labels[held], found, labels=[0, 1]))
    chosen = fitted(min(losses, key=lambda strength: losses[strength]), np.arange(len(labels)))
    return np.asarray(chosen.decision_function(asked), np.float64)


def trees(features: np.ndarray, labels: np.ndarray, others: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """A random forest, for columns whose order, steps and combinations may all tell: probabilities [m]."""
    from sklearn.ensemble import RandomForestClassifier

    leaf = max(2, len(labels) // 200)
    forest = RandomForestClassifier(_TREES, min_samples_leaf=leaf, class_weight="balanced", random_state=0)
    return np.asarray(forest.fit(features, labels).predict_proba(others)[:, 1], np.float64)


def _told(samples: pd.DataFrame, scores: np.ndarray, how: str, level: float) -> Baseline:
    labels = samples["label"].to_numpy(np.int64)
    units = resampling_units(samples["groups"], labels)
    found = auc_interval(labels, scores, level, units.codes)
    reason = too_few(labels, units.codes, units.name)
    if reason:
        found = Interval(found.value, float("nan"), float("nan"))
    return Baseline(found, how, reason, pd.Series(scores, samples["sample_id"].to_numpy(), name="score"))


def _in_folds(features: np.ndarray, labels: np.ndarray, groups: np.ndarray, fit: Fit) -> np.ndarray:
    """Each sample's score by a model that saw none of its group, as its rank among the others of its fold."""
    scores = np.zeros(len(labels))
    for train, held in _folds(labels, groups, _FOLDS):
        found = fit(features[train], labels[train], features[held], groups[train])
        # Models of different folds have scales of their own.
        scores[held] = pd.Series(found).rank(pct=True).to_numpy()
    return scores


def _folds(labels: np.ndarray, groups: np.ndarray, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # groups that make uneven folds
        folds = StratifiedGroupKFold(count, shuffle=True, random_state=0).split(labels, labels, groups)
        return [(train, held) for train, held in folds if _fewest(labels[train]) and len(held)]


def _fewest(labels: np.ndarray) -> int:
    """Samples of the class that has fewer."""
    return int(np.bincount(labels, minlength=2).min())


def _fewest_groups(labels: np.ndarray, groups: np.ndarray) -> int:
    return min(len(np.unique(groups[labels == label])) for label in (0, 1))
