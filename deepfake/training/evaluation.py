"""Predictions to every number that is told of them, with intervals and reasons. Knows tables; no model and no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from deepfake.data.groups import components
from deepfake.metrics import METRICS, Metrics, metric_names, sample_metrics
from deepfake.training.bootstrap import group_intervals
from deepfake.training.decision import Decision
from deepfake.training.delong import auc_interval
from deepfake.training.intervals import Interval, too_few
from deepfake.training.options import EvaluationOptions
from deepfake.training.threshold import tpr_at_fpr

#: False-positive rates at which the share of fakes found is told.
RATES = (0.01, 0.001)


@dataclass
class Evaluation(Metrics):
    """Metrics, with how their intervals were made.

    Attributes:
        intervals: Metric to method, such as ``bootstrap over 40 groups``; the ends are ``<metric>_low`` and ``_high``.
        confusion: For the thresholds ``default`` and ``fitted``: ``threshold``, ``real_as_real``, ``real_as_fake``,
            ``fake_as_real``, ``fake_as_fake``.
    """

    intervals: dict[str, str] = field(default_factory=dict)
    confusion: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Units:
    """What a bootstrap draws: samples that share footage or people come and go together.

    Attributes:
        codes: int64 [n], equal within a unit.
        name: What the units are, for people.
    """

    codes: np.ndarray
    name: str

    def __len__(self) -> int:
        """How many there are."""
        return len(np.unique(self.codes))


def evaluate_predictions(
    predictions: pd.DataFrame,
    decision: Decision,
    options: EvaluationOptions,
    units: Units | None = None,
    intervals: Sequence[str] | None = None,
) -> Evaluation:
    """Every number of one table of predictions.

    Args:
        predictions: ``label``, ``score``, ``status``; only rows that say ``ok`` count.
        decision: Thresholds and calibrator.
        options: Draws and confidence of the intervals.
        units: Of all rows; None takes each for a unit of its own.
        intervals: Metrics that get ``<metric>_low`` and ``<metric>_high``; None for all of them.

    Returns:
        The metrics of ``sample_metrics`` at the default threshold; ``<metric>_fitted`` at the fitted one;
        ``<metric>_calibrated``; ``tpr_at_fpr_0.01`` and ``_0.001``; the intervals, DeLong's as ``roc_auc_delong_low``.

    Raises:
        ValueError: As :func:`deepfake.metrics.sample_metrics`.
    """
    counted = (predictions["status"] == "ok").to_numpy()
    table = predictions[counted]
    found = Evaluation(**vars(sample_metrics(table, decision.default)))
    _at_fitted(found, table, decision)
    _calibrated(found, table, decision)
    labels, scores = table["label"].to_numpy(np.int64), table["score"].to_numpy(np.float64)
    _at_rates(found, labels, scores)
    codes = np.arange(len(table)) if units is None else units.codes[counted]
    name = "samples" if units is None else units.name
    _intervals(
        found,
        labels,
        scores,
        Units(codes, name),
        decision.default,
        options,
        METRICS if intervals is None else intervals,
    )
    return found


def _at_fitted(found: Evaluation, table: pd.DataFrame, decision: Decision) -> None:
    cuts = {"default": decision.default, "fitted": decision.threshold}
    for name, cut in cuts.items():
        if cut is not None:
            called = table["score"] >= cut
            counts = {
                f"{truth}_as_{call}": float(((table["label"] == label) & (called == fake)).sum())
                for truth, label in (("real", 0), ("fake", 1))
                for call, fake in (("real", False), ("fake", True))
            }
            found.confusion[name] = {"threshold": cut, **counts}
    if decision.threshold is None:
        reason = decision.unavailable.get("threshold", "no threshold was fitted")
        found.unavailable |= {f"{name}_fitted": reason for name in metric_names("calls")}
        return
    again = sample_metrics(table, decision.threshold)
    found.values |= {f"{name}_fitted": again.values[name] for name in metric_names("calls") if name in again.values}
    found.unavailable |= {
        f"{name}_fitted": again.unavailable[name] for name in metric_names("calls") if name in again.unavailable
    }


def _calibrated(found: Evaluation, table: pd.DataFrame, decision: Decision) -> None:
    if decision.calibrator is None:
        reason = decision.unavailable.get("calibrator", "no calibrator was fitted")
        found.unavailable |= {f"{name}_calibrated": reason for name in metric_names("probabilities")}
        return
    again = sample_metrics(table.assign(score=decision.calibrated(table["score"].to_numpy())), decision.default)
    for name in metric_names("probabilities"):
        if name in again.values:
            found.values[f"{name}_calibrated"] = again.values[name]
        else:
            found.unavailable[f"{name}_calibrated"] = again.unavailable[name]


def _at_rates(found: Evaluation, labels: np.ndarray, scores: np.ndarray) -> None:
    for rate in RATES:
        name = f"tpr_at_fpr_{rate:g}"
        try:
            found.values[name] = tpr_at_fpr(labels, scores, rate)
        except ValueError as error:
            found.unavailable[name] = found.unavailable.get("roc_auc", str(error))


def _intervals(
    found: Evaluation,
    labels: np.ndarray,
    scores: np.ndarray,
    units: Units,
    threshold: float,
    options: EvaluationOptions,
    wanted: Iterable[str],
) -> None:
    reason = too_few(labels, units.codes, units.name)
    count = len(units)
    if "roc_auc" in found.values:
        if reason:
            found.unavailable["roc_auc_delong"] = reason
        else:
            delong = auc_interval(labels, scores, options.level, units.codes)
            found.values |= {"roc_auc_delong_low": delong.low, "roc_auc_delong_high": delong.high}
            found.intervals["roc_auc_delong"] = f"DeLong over {count} {units.name}"
    drawn: dict[str, Interval] = {}
    undrawn = dict.fromkeys(wanted, reason)
    if not reason:
        drawn, undrawn = group_intervals(
            labels,
            scores,
            units.codes,
            threshold=threshold,
            resamples=options.resamples,
            level=options.level,
        )
    for name in wanted:
        if name in drawn:
            found.values |= {f"{name}_low": drawn[name].low, f"{name}_high": drawn[name].high}
            found.intervals[name] = f"bootstrap over {count} {units.name}, {options.resamples} draws"
        elif name in found.values:
            found.unavailable[f"{name}_low"] = undrawn.get(name, "not defined on these samples")


def resampling_units(groups: pd.Series, labels: np.ndarray | None = None) -> Units:
    """What a bootstrap over samples with these groups draws.

    Args:
        groups: A tuple of footages or people for each sample.
        labels: 0 or 1 of each; None takes all for one class.

    Returns:
        Whole components of shared groups. Where these are too few in a class, or one of them is most of it, because
        groups chain nearly everything together: the first group of each sample instead, which is less than all that
        samples share, and the name says so. Components again where the first groups are too few as well.
    """
    if len(groups) == 0:
        return Units(np.zeros(0, np.int64), "groups")
    classes = np.ones(len(groups), np.int64) if labels is None else np.asarray(labels)
    chains = components(groups).to_numpy(np.int64)
    if too_few(classes, chains):
        first, _ = pd.factorize(groups.map(lambda own: own[0]))
        if not too_few(classes, first):
            return Units(first.astype(np.int64), "groups (each sample's first)")
    return Units(chains, "groups")
